-- Rejected duplicates are kept one by one for some days (setting history_duplicates_ms), then added up per idempotency key and layer: the
-- sums stay exact, and a key that is repeated a million times ends as five rows at most.
create table duplicate_sums (
    source text collate "C" not null,
    event_id text collate "C" not null,
    layer text collate "C" not null check (layer in ('batch', 'redis', 'ledger', 'operation', 'quarantine')),
    copies bigint not null check (copies >= 1),
    first_seen_at timestamptz not null,
    last_seen_at timestamptz not null,
    -- The event comes first, as in the ledger: it tells keys apart in its first bytes.
    primary key (event_id, source, layer)
)
with (fillfactor = 80);
comment on table duplicate_sums is 'Rejected duplicates that are no longer kept one by one, per idempotency key and layer.';
comment on table duplicates is 'Rejected duplicates: a row per batch, idempotency key and layer, for some days; then in duplicate_sums.';

-- Rows go away at the old end, so the pages of the table are used again: a summary per range of pages would soon say "any time" of each.
-- New rows come at the right end of a tree, which is its cheapest insert.
drop index duplicates_seen_at;
create index duplicates_seen_at on duplicates (seen_at);

-- All of them, however old.
create view duplicates_of_keys as
    select source, event_id, layer, copies, seen_at as first_seen_at, seen_at as last_seen_at from duplicates
    union all
    select source, event_id, layer, copies, first_seen_at, last_seen_at from duplicate_sums;

-- At most `rows_max` rows that are older than `kept`, into the sums. Returns how many it took. Whoever may call it can add rows up early,
-- which changes no sum.
create function add_up_duplicates(kept interval, rows_max bigint) returns bigint
language sql security definer set search_path = public, pg_temp as $$
    with old as (
        delete from duplicates
        where ctid = any(array(
            select ctid from duplicates where seen_at < now() - kept order by seen_at limit rows_max))
        returning source, event_id, layer, copies, seen_at
    ),
    sums as (
        insert into duplicate_sums as s (source, event_id, layer, copies, first_seen_at, last_seen_at)
        select source, event_id, layer, sum(copies), min(seen_at), max(seen_at) from old group by 1, 2, 3
        on conflict (event_id, source, layer) do update
            set copies = s.copies + excluded.copies, first_seen_at = least(s.first_seen_at, excluded.first_seen_at),
                last_seen_at = greatest(s.last_seen_at, excluded.last_seen_at)
    )
    select count(*) from old
$$;
revoke all on function add_up_duplicates(interval, bigint) from public;
