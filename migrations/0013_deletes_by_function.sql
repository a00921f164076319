-- What removes rows runs with the owner's rights, in functions that can do nothing else: so no role needs DELETE on any table. Whoever may
-- call them can add counts up early, which changes no sum.

-- Rows of lanes to rows of minutes, and into the totals, at most `rows_max` of those older than `kept`. Returns how many it took.
create function add_up_lanes(kept interval, rows_max bigint, sources_max bigint) returns bigint
language sql security definer set search_path = public, pg_temp as $$
    with old as (
        -- A row that a lane updates between the look and the delete is another version by then, and is left for the next time.
        delete from tallies
        where ctid = any(array(
            select ctid from tallies
            where grain = 'lane' and minute < date_trunc('minute', now()) - kept
            order by minute limit rows_max))
        returning minute, kind, source, label, n
    ),
    named as (select distinct source from tally_totals where source not in ('', 'other')),
    admitted as (
        select source from old
        where kind in ('applied', 'released') and source <> '' and source not in (select source from named)
        group by source order by sum(n) desc, source
        limit greatest(0, sources_max - (select count(*) from named))
    ),
    sums as (
        select minute, kind, label, sum(n)::bigint as n,
               case when source = '' or source in (table named) or source in (table admitted) then source
                    else 'other' end as source
        from old group by 1, 2, 3, 5
    ),
    totals as (
        insert into tally_totals as t (kind, source, label, n)
        select kind, source, label, sum(n) from sums group by 1, 2, 3
        on conflict (kind, source, label) do update set n = t.n + excluded.n
    ),
    minutes as (
        insert into tallies as t (minute, writer, grain, kind, source, label, n)
        select minute, 'minute', 'minute', kind, source, label, n from sums
        on conflict (minute, writer, kind, source, label) do update set n = t.n + excluded.n
    )
    select count(*) from old
$$;

-- Rows of one grain to rows of the next, at most `rows_max` of those older than `kept`.
create function add_up_counts(from_grain text, to_grain text, kept interval, rows_max bigint) returns bigint
language sql security definer set search_path = public, pg_temp as $$
    with old as (
        delete from tallies
        where from_grain <> 'lane' and ctid = any(array(
            select ctid from tallies
            where grain = from_grain and minute < now() - kept
            order by minute limit rows_max))
        returning minute, kind, source, label, n
    ),
    sums as (
        insert into tallies as t (minute, writer, grain, kind, source, label, n)
        select case to_grain when 'total' then timestamptz 'epoch' else date_trunc(to_grain, minute, 'UTC') end,
               to_grain, to_grain, kind, source, label, sum(n)
        from old group by 1, 4, 5, 6
        on conflict (minute, writer, kind, source, label) do update set n = t.n + excluded.n
    )
    select count(*) from old
$$;

-- Reports of workers that have been silent for a day.
create function forget_silent_workers() returns void
language sql security definer set search_path = public, pg_temp as $$
    delete from workers where last_seen_at < now() - interval '1 day'
$$;

-- By default everybody may call a function.
revoke all on function add_up_lanes(interval, bigint, bigint), add_up_counts(text, text, interval, bigint), forget_silent_workers() from public;
