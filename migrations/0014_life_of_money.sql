-- The whole life of money: debts, legs, holds whose time is up, more that waits, accounts with a status. One transaction: on ten million
-- ledger rows it holds the ledger for as long as two of its indexes take to build.

-- Only what has happened already may take what is available below zero (a chargeback, a fee): that is a debt.
alter table accounts drop constraint accounts_balance_check, drop constraint accounts_check;
alter table accounts add constraint accounts_held_check1 check (held >= 0);
alter table accounts add column status text collate "C" not null default 'open'
    check (status in ('open', 'frozen', 'closed'));
comment on column accounts.status is 'open; frozen: takes nothing that needs available money; closed: takes nothing that moves its money.';

-- A callback has a row per account that it changes: leg 0, and for a transfer leg 1.
alter table ledger add column leg smallint not null default 0 check (leg in (0, 1));
-- Members of the callback that most do not have, and that its hash covers: final, cumulative, expires_at_us, to, direction; subject,
-- where the callback did not name this account (null: it named none).
alter table ledger add column members jsonb;
alter table ledger drop constraint ledger_balance_after_check, drop constraint ledger_check, drop constraint ledger_amount_check;
alter table ledger
    add constraint ledger_amount_range check (amount between 0 and 9007199254740991),
    add constraint ledger_held check (held_after >= 0),
    -- No row leaves less than nothing available, unless it does not lower it, or its type may.
    add constraint ledger_debts check (
        balance_after >= held_after or balance_delta >= held_delta
        or type in ('deposit.refunded', 'deposit.disputed', 'refund.failed', 'fee.charged', 'adjustment.posted'));
alter table ledger drop constraint ledger_key;
alter table ledger add constraint ledger_key unique (event_id, source, leg);
-- The second idempotency key. Of a type that happens once per payment the payment's id stands in for an operation id that it does not
-- have. A database of before may hold rows that this makes equal, as two deposits with one payment id: of these the first has the key.
alter table ledger add column repeats_payment_id boolean
    constraint ledger_repeats_payment_id check (repeats_payment_id is null or repeats_payment_id and operation_id is null);
comment on column ledger.repeats_payment_id is 'Of a row of before schema 14 whose payment id, as its second key, an earlier row has; else null.';
alter table ledger disable trigger ledger_append_only;
update ledger l set repeats_payment_id = true
from (select source, event_id,
             row_number() over (partition by coalesce(operation_id, payment_id), type, source
                                order by operation_id is null, recorded_at, event_id) as place
      from ledger
      where type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded')
        and (operation_id is not null or payment_id is not null)) k
where k.place > 1 and l.event_id = k.event_id and l.source = k.source;
alter table ledger enable trigger ledger_append_only;
drop index ledger_operation;
create unique index ledger_operation on ledger (coalesce(operation_id, payment_id), type, source)
    where leg = 0 and repeats_payment_id is null
      and (operation_id is not null or payment_id is not null
                                       and type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'));

-- What state and sums do not say by themselves: ledger::Facts. Null for most payments.
alter table payments add column facts jsonb;
-- When the hold is released by payonce itself.
alter table payments add column expires_at timestamptz;
alter table payments drop constraint payments_state_check, drop constraint payments_check,
    drop constraint payments_captured_within_authorized, drop constraint payments_captured_check;
alter table payments add constraint payments_state_check
    check (state in ('authorized', 'captured', 'succeeded', 'voided', 'expired', 'failed'));
create index payments_expiring on payments (expires_at) where expires_at is not null and state = 'authorized';

alter table quarantine add column members jsonb;
-- Since when it waits for what its reason says.
alter table quarantine add column waits_since timestamptz not null default clock_timestamp();
update quarantine set waits_since = first_seen_at where state = 'waiting';
alter table quarantine drop constraint quarantine_reason_check, drop constraint quarantine_waiting;
alter table quarantine add constraint quarantine_reason_check check (reason in (
    'malformed', 'unsupported_type', 'bad_signature', 'payload_mismatch', 'unknown_account', 'currency_mismatch',
    'insufficient_funds', 'invalid_transition', 'over_capture', 'over_refund', 'amount_overflow', 'waiting_expired',
    'delivery_limit', 'unmapped', 'waiting_for_payment', 'waiting_for_funds'));
alter table quarantine add constraint quarantine_waiting check (
    (state = 'waiting') = (reason in ('waiting_for_payment', 'waiting_for_funds') and resolved_at is null));
-- What waits for a payment, the oldest first; for money or an account; for the account that a transfer goes to; and how long.
drop index quarantine_waiting_payment;
create index quarantine_waiting_payment on quarantine (payment_id, source, id) where state = 'waiting';
create index quarantine_waiting_account on quarantine (account_id, id)
    where state = 'waiting' and reason = 'waiting_for_funds';
create index quarantine_waiting_receiver on quarantine ((members ->> 'to'), id)
    where state = 'waiting' and reason = 'waiting_for_funds' and members ? 'to';
create index quarantine_waits_since on quarantine (reason, waits_since) where state = 'waiting';

-- Double entry for nothing: each ledger row with its other side, so that the sides of every callback sum to 0 per currency. A transfer's
-- legs are each other's sides; the other side of all else is the derived account `clearing:<source>`, which nobody updates.
create view journal as
    select l.source, l.event_id, l.leg, l.type, l.account_id as account, l.payment_id, l.operation_id, l.currency,
           l.balance_delta as amount, l.recorded_at
    from ledger l
    union all
    select l.source, l.event_id, l.leg, l.type, 'clearing:' || l.source, l.payment_id, l.operation_id, l.currency,
           -l.balance_delta, l.recorded_at
    from ledger l
    where l.type <> 'transfer.succeeded';
comment on view journal is 'Both sides of every ledger row; per callback and currency they sum to 0.';
