-- One row per account. Opened by its first deposit, in that deposit's currency.
create table accounts (
    account_id text collate "C" primary key
        check (octet_length(account_id) between 1 and 200),
    currency text collate "C" not null check (currency ~ '^[A-Z]{3}$'),
    -- Minor units. No event may spend what is not there, so a balance never goes below zero.
    balance bigint not null check (balance >= 0),
    -- What authorizations hold of the balance. `balance - held` is available.
    held bigint not null check (held >= 0 and held <= balance),
    -- Starts at 0, grows by one per ledger row. Every update names the version it was decided on.
    version bigint not null check (version >= 0),
    -- Grows by one per quarantine case about it: the second half of the guard, so that of two rivals who decide copies of one
    -- callback, one to apply it and one to quarantine it, the later looks again.
    cases bigint not null default 0 check (cases >= 0)
)
-- Room on each page for new row versions: balances are updated all the time and no index covers what changes, so that
-- updates can stay on their page (heap-only tuples) and leave the index alone.
with (fillfactor = 50);

comment on table accounts is 'Balances in minor units; changed only together with ledger rows.';
