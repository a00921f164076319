//! The audit's check of what each ledger row moved: balance and hold by no more, and no other way, than its type may (contract §2), in SQL
//! with nothing of the code that decided it.

use super::checks::{Check, Since};

/// Rows of which `$which` is true, and that moved money as their type may not.
macro_rules! broken {
    ($which:literal) => {
        concat!(
            "select format('%s %s: %s of %s moved balance %s, held %s', source, event_id, type, amount, balance_delta, held_delta)
             from ledger
             where ", $which, " and (case
                      when leg = 1 then type <> 'transfer.succeeded' or balance_delta <> amount or held_delta <> 0
                      when type in ('deposit.succeeded', 'deposit.reinstated') then held_delta <> 0
                           or not (balance_delta = amount or balance_delta between 0 and amount and exists (
                               select from ledger_of_payments o where o.payment_id = ledger.payment_id and o.source = ledger.source and o.members ? 'cumulative'
                           ))
                      when type in ('deposit.refunded', 'deposit.disputed') then held_delta <> 0
                           or not (balance_delta = -amount or balance_delta between -amount and 0 and exists (
                               select from ledger_of_payments o where o.payment_id = ledger.payment_id and o.source = ledger.source and o.members ? 'cumulative'
                           ))
                      when type = 'payment.authorized' then balance_delta <> 0
                           -- Its adjustment may stand before it, or its hold have expired before this one prolonged it: then this row
                           -- brings all of the hold.
                           or not (held_delta between 0 and amount or held_delta > amount and exists (
                               select from ledger_of_payments o where o.payment_id = ledger.payment_id and o.source = ledger.source
                                  and (o.type = 'payment.authorization_adjusted' and o.amount >= ledger.held_delta
                                       or o.event_id like 'payonce.expired:%')
                           ))
                      when type = 'payment.authorization_adjusted' then balance_delta <> 0
                      when type = 'payment.captured' then held_delta > 0
                           or not (balance_delta = -amount or balance_delta between -amount and 0 and exists (
                               select from ledger_of_payments o where o.payment_id = ledger.payment_id and o.source = ledger.source and o.members ? 'cumulative'
                           ))
                      when type = 'payment.capture_failed' then balance_delta <> amount or held_delta <> 0
                      when type = 'payment.voided' then balance_delta < 0 or held_delta > 0
                      when type = 'payment.succeeded' then balance_delta not between -amount and 0 or held_delta <> 0
                      when type = 'payment.failed' then balance_delta <> 0 or held_delta > 0
                      when type = 'refund.succeeded' then balance_delta not between 0 and amount or held_delta <> 0
                      when type = 'refund.failed' then balance_delta not between -amount and 0 or held_delta <> 0
                      when type in ('fee.charged', 'transfer.succeeded') then balance_delta <> -amount or held_delta <> 0
                      when type = 'adjustment.posted' then held_delta <> 0
                           or balance_delta <> case members ->> 'direction' when 'credit' then amount else -amount end
                      else true end)"
        )
    };
}

/// As the module says.
pub(super) const DELTAS_FIT_THE_TYPE: Check = Check {
    name: "deltas_fit_the_type",
    promise: "each row moves money only as its type may",
    sql: broken!("true"),
    since: Since::Sql(broken!("recorded_at >= $1")),
};
