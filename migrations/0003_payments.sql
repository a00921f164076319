-- One row per payment, derived from its ledger rows and changed together with them.
create table payments (
    source text collate "C" not null,
    payment_id text collate "C" not null,
    account_id text collate "C" not null,
    currency text collate "C" not null,
    state text collate "C" not null
        check (state in ('authorized', 'captured', 'succeeded', 'voided', 'failed')),
    authorized bigint not null check (authorized >= 0),
    captured bigint not null check (captured >= 0),
    refunded bigint not null check (refunded >= 0 and refunded <= captured),
    version bigint not null check (version >= 1),
    -- A direct debit has no authorization; all else is captured from one.
    constraint payments_captured_within_authorized check (captured <= authorized or state = 'succeeded'),
    primary key (payment_id, source)
)
with (fillfactor = 80);

comment on table payments is 'Sums and state of each payment, in minor units.';
