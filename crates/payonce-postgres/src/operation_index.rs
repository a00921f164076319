//! The conditions of the indexes over operations, `ledger_operation` and `quarantine_operation_owner`: PostgreSQL uses an index of some rows only for
//! a query that has its condition. In one place, so that none is a word away from its index. What must not live here: whole queries.

/// Whether a row `l` has an operation id, or a payment id that stands in for one (contract §2).
macro_rules! has_operation {
    () => {
        "(l.operation_id is not null or l.payment_id is not null
          and l.type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))"
    };
}

/// Whether a ledger row `l` is in the index `ledger_operation`, by `coalesce(l.operation_id, l.payment_id)`.
macro_rules! in_ledger_operation {
    () => {
        concat!("l.leg = 0 and l.repeats_payment_id is null and ", has_operation!())
    };
}

pub(crate) use {has_operation, in_ledger_operation};
