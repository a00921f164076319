-- One row per applied callback. Append-only: it is the truth that balances, payments and audits are derived from.
create table ledger (
    source text collate "C" not null,
    event_id text collate "C" not null,
    type text collate "C" not null,
    account_id text collate "C" not null,
    account_version bigint not null check (account_version >= 1),
    payment_id text collate "C",
    operation_id text collate "C",
    amount bigint not null check (amount between 1 and 9007199254740991),
    currency text collate "C" not null,
    balance_delta bigint not null,
    held_delta bigint not null,
    balance_after bigint not null check (balance_after >= 0),
    held_after bigint not null check (held_after >= 0 and held_after <= balance_after),
    -- Over the canonical form of what counts: a copy with another hash is a mismatch, not a duplicate.
    payload_sha256 bytea not null check (octet_length(payload_sha256) = 32),
    -- By the provider's clock, where it gave one. Never decided on.
    occurred_at timestamptz,
    -- By this database's clock.
    recorded_at timestamptz not null default clock_timestamp(),

    -- The idempotency key (CloudEvents: equal source and id are the same event). The authority on duplicates; never expires,
    -- because providers retry for up to 30 days and operators replay later still. A partitioned ledger could not keep it.
    -- The event comes first, here and in the indexes below: it tells keys apart in its first bytes, and with `source` leading
    -- nowhere no plan, however old its statistics, can read all rows of a source in place of one.
    constraint ledger_key unique (event_id, source),
    -- Makes a lost or doubled update of a balance impossible to hide: versions are 1..n without gap or repeat.
    constraint ledger_account_version unique (account_id, account_version)
);

-- The second idempotency key: two different events for one money movement. Partial, because it is optional.
create unique index ledger_operation on ledger (operation_id, type, source) where operation_id is not null;
-- A payment's entries, for operators.
create index ledger_payment on ledger (payment_id, source) where payment_id is not null;

-- A statement-level trigger, so that even an update that would touch no row is refused, for the owner as well.
create function ledger_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is append-only: % refused', tg_op using errcode = 'insufficient_privilege';
end
$$;
create trigger ledger_append_only before update or delete or truncate on ledger
    for each statement execute function ledger_is_append_only();

comment on table ledger is 'Applied callbacks, one row each, append-only.';
