-- A row whose payment id stands in for an operation id that it does not have is found by it in ledger_operation already. So the other
-- index leaves it out: most deposits and first rows of payments have an entry less to write. Queries by payment ask the view, which looks
-- in both. This holds the ledger's writers for as long as one small index takes to build, and readers for the moment of the swap at its end.
create index ledger_payment_of_others on ledger (payment_id, source)
    where payment_id is not null
      and (operation_id is not null or repeats_payment_id is not null
           or type not in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'));
drop index ledger_payment;
alter index ledger_payment_of_others rename to ledger_payment;

-- Every ledger row that names a payment, once. For look-ups by (payment_id, source); what reads all rows asks the ledger.
create view ledger_of_payments as
    select source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency, balance_delta, held_delta,
           balance_after, held_after, payload_sha256, occurred_at, recorded_at, members, repeats_payment_id, txn
    from ledger
    where payment_id is not null
      and (operation_id is not null or repeats_payment_id is not null
           or type not in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))
    union all
    select source, event_id, leg, type, account_id, account_version, coalesce(operation_id, payment_id), operation_id, amount, currency,
           balance_delta, held_delta, balance_after, held_after, payload_sha256, occurred_at, recorded_at, members, repeats_payment_id, txn
    from ledger
    where payment_id is not null and leg = 0 and operation_id is null and repeats_payment_id is null
      and type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded');
comment on view ledger_of_payments is 'The ledger rows that name a payment, found by (payment_id, source) in two indexes.';
