-- The way to get disk back after a flood: discarded cases go, and are counted out, so that audits stay as sharp as before. The counts of
-- accounts stay, too: they are half of a guard, and a guard never counts down.
create table removed_cases (
    id bigint generated always as identity primary key,
    removed_at timestamptz not null default clock_timestamp(),
    who text not null check (octet_length(who) between 1 and 200),
    why text not null check (octet_length(why) between 1 and 1000),
    reason text collate "C" not null,
    -- Null where the message could not be read that far.
    account_id text collate "C",
    n bigint not null check (n >= 1)
);
create index removed_cases_account on removed_cases (account_id) where account_id is not null;
comment on table removed_cases is 'How many discarded cases were removed, by whom and why; append-only.';

-- At most `rows_max` discarded cases of one reason (and of one source, unless that is null) that ended longer ago than `older_than`. Returns
-- how many it removed. Only for the owner of the tables: no role that runs all day may remove anything.
create function remove_discarded_cases(
    of_reason text, of_source text, older_than interval, who text, why text, rows_max bigint) returns bigint
language sql set search_path = public, pg_temp as $$
    with gone as (
        delete from quarantine
        where id = any(array(
            select id from quarantine
            where state = 'discarded' and reason = of_reason and (of_source is null or source = of_source)
              and resolved_at < now() - older_than
            order by id limit rows_max for update skip locked))
        returning reason, account_id
    ),
    counted as (
        insert into removed_cases (who, why, reason, account_id, n)
        select $4, $5, reason, account_id, count(*) from gone group by reason, account_id
    )
    select count(*) from gone
$$;
revoke all on function remove_discarded_cases(text, text, interval, text, text, bigint) from public;
