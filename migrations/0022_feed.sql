-- The ledger is its own outbox. Each row knows the transaction that wrote it, so that a feed can read what has settled since it last
-- looked: below the oldest transaction still at work nothing appears any more. A sequence or a clock would not do: rows that commit late
-- would stand behind a cursor that has passed them. Per account the order of transactions is that of versions: whoever writes version n + 1
-- has seen version n committed before its own first write.
-- `pg_current_xact_id` is stable, so that old rows get this migration's number without being rewritten.
alter table ledger add column txn bigint not null default (pg_current_xact_id()::text::bigint);
comment on column ledger.txn is
    'The transaction that wrote the row: its id, plus ledger_clock.ahead as it was then. Rises with account_version.';
-- Rows are appended nearly in this order, so a summary per range of pages is enough: 1 % more WAL and no measurable time, where a B-tree or
-- a table of its own cost 10 % (docs/decisions/feed.md). The feed has new ranges summarized itself: autovacuum would be a minute behind.
create index ledger_txn on ledger using brin (txn) with (pages_per_range = 64);

-- What is added to transaction ids. A ledger that was restored from a dump into another cluster has rows of transactions which that cluster
-- has yet to reach; `payonce migrate` then raises this, and the default of ledger.txn with it.
create table ledger_clock (
    only_row boolean primary key default true check (only_row),
    ahead bigint not null check (ahead >= 0)
);
insert into ledger_clock (ahead) values (0);

-- How far each reader of the ledger is: the feed to the broker, the balance cache, each subscriber.
create table feeds (
    name text collate "C" primary key check (octet_length(name) between 1 and 200),
    -- All rows of transactions before this one are sent, and of this one those up to (account_id, account_version), or all where that is null.
    txn bigint not null default 0,
    account_id text collate "C",
    account_version bigint,
    -- Rows confirmed since the feed was first run; copies count.
    sent bigint not null default 0,
    -- The history of the database that these were rows of; empty before the first.
    epoch text collate "C" not null default '',
    -- Who may send now, and until when unless it says so again.
    holder text,
    lease_until timestamptz,
    updated_at timestamptz not null default clock_timestamp(),
    -- Why it does not go on; null where it does.
    last_error text,
    check ((account_id is null) = (account_version is null))
)
with (fillfactor = 50);
comment on table feeds is 'How far each reader of the ledger is, and who works for it.';

-- Only an owner may summarize an index, and no role of payonce is one. Waits for its lock for a shorter time than it takes to cancel an
-- autovacuum (deadlock_timeout, 1 s): what is not summarized now is read without a summary, and is summarized later.
create function summarize_ledger_txn() returns integer
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '50ms' as $$
begin
    return brin_summarize_new_values('ledger_txn');
exception when lock_not_available then
    return 0;
end
$$;
revoke all on function summarize_ledger_txn() from public;
