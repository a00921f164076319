//! The invariants that audits check, each as SQL that returns violations.

use super::{payment_facts::PAYMENTS_FOLLOW_FROM_ROWS, row_deltas::DELTAS_FIT_THE_TYPE};

/// One invariant.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it promises.
    pub promise: &'static str,
    /// Returns one text per violation.
    pub(super) sql: &'static str,
    /// The same for what was recorded since `$1`.
    pub(super) since: Since,
}

/// How a check is narrowed to what is new, on a ledger too big to read whole every day.
#[derive(Debug, Clone, Copy)]
pub(super) enum Since {
    /// It does not read the ledger from end to end: it runs whole.
    Whole,
    /// It is about the whole ledger only; the narrowed audit skips it, and says so.
    Skipped,
    /// This in its place.
    Sql(&'static str),
}

/// Every check, in the order they run.
pub const CHECKS: &[Check] = &[
    Check {
        name: "balance_is_ledger_sum",
        promise: "each account's balance and held are the sums of its ledger rows; no row is without its account",
        sql: "select format('account %s: balance %s, held %s; ledger sums %s, %s', coalesce(a.account_id, l.account_id), a.balance,
                            a.held, l.balance, l.held)
              from accounts a
              full join (select account_id, sum(balance_delta) as balance, sum(held_delta) as held from ledger group by account_id) l
                     on l.account_id = a.account_id
              where a.account_id is null or a.balance <> coalesce(l.balance, 0) or a.held <> coalesce(l.held, 0)",
        // Every account, not only those with a new row: a balance that somebody changes behind the ledger has none. One look into the
        // index per account. `$1` is not needed, but bound.
        since: Since::Sql(
            "select format('account %s: version %s, balance %s, held %s; its last row says %s, %s, %s', a.account_id, a.version,
                    a.balance, a.held, l.account_version, l.balance_after, l.held_after)
             from accounts a
             left join lateral (select account_version, balance_after, held_after from ledger
                                where account_id = a.account_id order by account_version desc limit 1) l on true
             where $1::timestamptz is not null
               and (a.version <> coalesce(l.account_version, 0) or a.balance <> coalesce(l.balance_after, 0)
                    or a.held <> coalesce(l.held_after, 0))",
        ),
    },
    Check {
        name: "total_is_ledger_sum",
        promise: "over all accounts of a currency, balances and holds are the sums of the ledger",
        sql: "select format('%s: accounts %s, held %s; ledger %s, %s', coalesce(a.currency, l.currency), a.balance, a.held,
                            l.balance, l.held)
              from (select currency, sum(balance) as balance, sum(held) as held from accounts group by currency) a
              full join (select currency, sum(balance_delta) as balance, sum(held_delta) as held from ledger group by currency) l
                     on l.currency = a.currency
              where coalesce(a.balance, 0) <> coalesce(l.balance, 0) or coalesce(a.held, 0) <> coalesce(l.held, 0)",
        since: Since::Skipped,
    },
    Check {
        name: "versions_are_gapless",
        promise: "each account's versions are 1 to n, and n is the account's version",
        sql: "select format('account %s: version %s; ledger has %s rows, versions %s to %s', a.account_id, a.version, l.rows,
                            l.first, l.last)
              from accounts a
              left join (select account_id, count(*) as rows, min(account_version) as first, max(account_version) as last
                         from ledger group by account_id) l on l.account_id = a.account_id
              where a.version <> coalesce(l.last, 0) or a.version <> coalesce(l.rows, 0) or coalesce(l.first, 1) <> 1",
        since: Since::Sql(
            "select format('account %s: version %s has none before it, or its account is not at it or behind', l.account_id,
                    l.account_version)
             from ledger l
             left join accounts a on a.account_id = l.account_id
             left join ledger b on b.account_id = l.account_id and b.account_version = l.account_version - 1
             where l.recorded_at >= $1
               and (a.version is null or a.version < l.account_version or (b.account_id is null and l.account_version > 1))",
        ),
    },
    Check {
        name: "each_row_follows_the_one_before",
        promise: "each balance_after and held_after is the one before plus the delta",
        sql: "select format('account %s version %s: balance %s + %s is not %s, or held %s + %s is not %s', account_id,
                            account_version, balance_before, balance_delta, balance_after, held_before, held_delta, held_after)
              from (select account_id, account_version, balance_delta, balance_after, held_delta, held_after,
                           lag(balance_after, 1, 0::bigint) over versions as balance_before,
                           lag(held_after, 1, 0::bigint) over versions as held_before
                    from ledger window versions as (partition by account_id order by account_version)) l
              where balance_before::numeric + balance_delta <> balance_after or held_before::numeric + held_delta <> held_after",
        since: Since::Sql(
            "select format('account %s version %s: balance %s, delta %s, before it %s', l.account_id, l.account_version,
                    l.balance_after, l.balance_delta, b.balance_after)
             from ledger l
             left join ledger b on b.account_id = l.account_id and b.account_version = l.account_version - 1
             where l.recorded_at >= $1
               and (coalesce(b.balance_after, 0)::numeric + l.balance_delta <> l.balance_after
                    or coalesce(b.held_after, 0)::numeric + l.held_delta <> l.held_after)",
        ),
    },
    Check {
        name: "bounds_hold_at_every_version",
        promise: "no row leaves a hold below 0, or less than nothing available unless its type may or it does not lower it; 0 <= amount <= 9007199254740991",
        sql: "select format('%s %s: balance %s, held %s, amount %s', source, event_id, balance_after, held_after, amount)
              from ledger
              where held_after < 0 or amount not between 0 and 9007199254740991
                 or (balance_after < held_after and balance_delta < held_delta
                     and type not in ('deposit.refunded', 'deposit.disputed', 'refund.failed', 'fee.charged', 'adjustment.posted'))",
        since: Since::Sql(
            "select format('%s %s: balance %s, held %s, amount %s', source, event_id, balance_after, held_after, amount)
              from ledger
              where recorded_at >= $1 and (held_after < 0 or amount not between 0 and 9007199254740991
                 or (balance_after < held_after and balance_delta < held_delta
                     and type not in ('deposit.refunded', 'deposit.disputed', 'refund.failed', 'fee.charged', 'adjustment.posted')))",
        ),
    },
    DELTAS_FIT_THE_TYPE,
    Check {
        name: "currencies_agree",
        promise: "each row is in its account's currency",
        sql: "select format('%s %s: %s in an account in %s', l.source, l.event_id, l.currency, a.currency)
              from ledger l join accounts a on a.account_id = l.account_id
              where l.currency <> a.currency",
        since: Since::Sql(
            "select format('%s %s: %s in an account in %s', l.source, l.event_id, l.currency, a.currency)
              from ledger l join accounts a on a.account_id = l.account_id
              where l.recorded_at >= $1 and (l.currency <> a.currency)",
        ),
    },
    Check {
        name: "keys_are_unique",
        promise: "no (source, event_id) is applied twice, no leg of it either",
        sql: "select format('%s %s: %s rows', source, event_id, count(*)) from ledger group by source, event_id, leg having count(*) > 1",
        since: Since::Sql(
            "select format('%s %s: %s rows', l.source, l.event_id, count(*))
             from (select distinct source, event_id, leg from ledger where recorded_at >= $1) n
             join ledger l on l.source = n.source and l.event_id = n.event_id and l.leg = n.leg
             group by l.source, l.event_id, l.leg having count(*) > 1",
        ),
    },
    Check {
        name: "operations_are_unique",
        promise: "no (source, type, operation_id) is applied twice; of what happens once per payment its id stands in for a missing one",
        sql: "select format('%s %s %s: %s rows', source, type, coalesce(operation_id, payment_id), count(*))
              from ledger
              where leg = 0 and (operation_id is not null or payment_id is not null
                                 and type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))
                    -- Two deposits with one payment id were allowed before schema 14.
                    and (repeats_payment_id is null
                         or recorded_at >= (select installed_on from _sqlx_migrations where version = 14))
              group by source, type, coalesce(operation_id, payment_id) having count(*) > 1",
        since: Since::Sql(
            "select format('%s %s %s: %s rows', l.source, l.type, coalesce(l.operation_id, l.payment_id), count(*))
             from (select distinct source, type, coalesce(operation_id, payment_id) as operation_id from ledger
                   where recorded_at >= $1 and leg = 0
                     and (operation_id is not null or payment_id is not null
                          and type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))) n
             join ledger l on l.source = n.source and l.type = n.type and coalesce(l.operation_id, l.payment_id) = n.operation_id
                  and l.leg = 0 and (l.operation_id is not null or l.payment_id is not null
                                     and l.type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))
                  and (l.repeats_payment_id is null
                       or l.recorded_at >= (select installed_on from _sqlx_migrations where version = 14))
             group by l.source, l.type, coalesce(l.operation_id, l.payment_id) having count(*) > 1",
        ),
    },
    Check {
        name: "payments_are_ledger_sums",
        promise: "each payment's sums are those of its ledger rows, as its rows say",
        sql: "select format('payment %s %s: authorized %s, captured %s, refunded %s; ledger %s, %s, %s',
                            coalesce(p.source, l.source), coalesce(p.payment_id, l.payment_id), p.authorized, p.captured,
                            p.refunded, l.authorized, l.captured, l.refunded)
              from payments p
              full join (select source, payment_id,
                            coalesce((array_agg(amount order by occurred_at desc, amount desc)
                                      filter (where type = 'payment.authorization_adjusted'))[1],
                                     sum(amount) filter (where type = 'payment.authorized'), 0) as authorized,
                            greatest(coalesce(sum(amount) filter (where type = 'payment.captured' and not cumulative), 0),
                                     coalesce(max(amount) filter (where type = 'payment.captured' and cumulative), 0))
                            - coalesce(sum(amount) filter (where type = 'payment.capture_failed'), 0)
                            + coalesce(sum(amount) filter (where type = 'payment.succeeded'), 0) as captured,
                            greatest(coalesce(sum(amount) filter (where type = 'refund.succeeded' and not cumulative), 0),
                                     coalesce(max(amount) filter (where type = 'refund.succeeded' and cumulative), 0))
                            - coalesce(sum(amount) filter (where type = 'refund.failed'), 0) as refunded
                     from (select l.*, coalesce(l.members ? 'cumulative', false) as cumulative from ledger l
                           where l.leg = 0 and (l.type like 'payment.%' or l.type like 'refund.%')) l
                     group by source, payment_id) l
                     on l.source = p.source and l.payment_id = p.payment_id
              where p.authorized is distinct from l.authorized or p.captured is distinct from l.captured
                 or p.refunded is distinct from l.refunded",
        since: Since::Sql(
            "select format('payment %s %s: authorized %s, captured %s, refunded %s; ledger %s, %s, %s',
                            t.source, t.payment_id, p.authorized, p.captured, p.refunded, l.authorized, l.captured, l.refunded)
              from (select distinct source, payment_id from ledger l
                    where recorded_at >= $1 and l.leg = 0 and (l.type like 'payment.%' or l.type like 'refund.%')) t
              left join payments p on p.source = t.source and p.payment_id = t.payment_id
              left join lateral (select source, payment_id,
                            coalesce((array_agg(amount order by occurred_at desc, amount desc)
                                      filter (where type = 'payment.authorization_adjusted'))[1],
                                     sum(amount) filter (where type = 'payment.authorized'), 0) as authorized,
                            greatest(coalesce(sum(amount) filter (where type = 'payment.captured' and not cumulative), 0),
                                     coalesce(max(amount) filter (where type = 'payment.captured' and cumulative), 0))
                            - coalesce(sum(amount) filter (where type = 'payment.capture_failed'), 0)
                            + coalesce(sum(amount) filter (where type = 'payment.succeeded'), 0) as captured,
                            greatest(coalesce(sum(amount) filter (where type = 'refund.succeeded' and not cumulative), 0),
                                     coalesce(max(amount) filter (where type = 'refund.succeeded' and cumulative), 0))
                            - coalesce(sum(amount) filter (where type = 'refund.failed'), 0) as refunded
                     from (select l.*, coalesce(l.members ? 'cumulative', false) as cumulative from ledger_of_payments l
                           where l.source = t.source and l.payment_id = t.payment_id and l.leg = 0 and (l.type like 'payment.%' or l.type like 'refund.%')) l
                     group by source, payment_id) l on true
              where p.authorized is distinct from l.authorized or p.captured is distinct from l.captured
                 or p.refunded is distinct from l.refunded",
        ),
    },
    PAYMENTS_FOLLOW_FROM_ROWS,
    Check {
        name: "payments_stay_in_one_account",
        promise: "each ledger row of a payment is booked to the payment's account",
        sql: "select format('%s %s: %s of payment %s is booked to account %s, the payment is of %s', l.source, l.event_id, l.type,
                            l.payment_id, l.account_id, p.account_id)
              from ledger l join payments p on p.source = l.source and p.payment_id = l.payment_id
              where l.leg = 0 and (l.type like 'payment.%' or l.type like 'refund.%') and l.account_id <> p.account_id",
        since: Since::Sql(
            "select format('%s %s: %s of payment %s is booked to account %s, the payment is of %s', l.source, l.event_id, l.type,
                            l.payment_id, l.account_id, p.account_id)
              from ledger l join payments p on p.source = l.source and p.payment_id = l.payment_id
              where l.recorded_at >= $1
                and l.leg = 0 and (l.type like 'payment.%' or l.type like 'refund.%') and l.account_id <> p.account_id",
        ),
    },
    Check {
        name: "holds_are_open_authorizations",
        promise: "what an account holds is what its open authorizations have not captured or released",
        sql: "select format('account %s: held %s, open authorizations %s', a.account_id, a.held, coalesce(p.held, 0))
              from accounts a
              left join (select p.account_id, sum(greatest(p.authorized - p.captured - coalesce(l.gone, 0), 0)) as held
                         from payments p
                         left join lateral (select sum(l.amount) as gone from ledger_of_payments l
                                            where p.facts is not null and l.source = p.source and l.payment_id = p.payment_id
                                              and l.leg = 0 and (l.type = 'payment.capture_failed'
                                                                 or l.type = 'payment.voided' and l.members ->> 'final' = 'false')) l on true
                         where p.state = 'authorized' group by p.account_id) p on p.account_id = a.account_id
              where a.held <> coalesce(p.held, 0)",
        since: Since::Whole,
    },
    Check {
        name: "refunds_within_captures",
        promise: "refunds never exceed all that was captured or debited, captures what was authorized (and over_capture_percent of it)",
        sql: "select format('payment %s %s: authorized %s, captured %s, refunded %s', p.source, p.payment_id, p.authorized, p.captured,
                            p.refunded)
              from payments p
              left join lateral (select sum(l.amount) filter (where l.type = 'payment.capture_failed') as failed,
                                        sum(l.amount) filter (where l.type = 'payment.authorized') as authorized,
                                        max(l.amount) filter (where l.type = 'payment.authorization_adjusted') as adjusted
                                 from ledger_of_payments l
                                 where p.facts is not null and l.source = p.source and l.payment_id = p.payment_id and l.leg = 0) l on true
              where p.refunded > p.captured + coalesce(l.failed, 0)
                 or (p.state <> 'succeeded' and not exists (select from ledger_of_payments l where l.source = p.source
                                                            and l.payment_id = p.payment_id and l.type = 'payment.succeeded')
                     and p.captured::numeric * 100 > greatest(l.authorized, l.adjusted, p.authorized)::numeric
                                            * (100 + current_setting('payonce.over_capture_percent')::integer))",
        since: Since::Whole,
    },
    Check {
        name: "sides_sum_to_zero",
        promise: "both sides of every callback sum to 0 per currency, in the journal",
        sql: "select format('%s %s: %s %s', source, event_id, sum(amount), currency) from journal
              group by source, event_id, currency having sum(amount) <> 0",
        since: Since::Sql(
            "select format('%s %s: %s %s', source, event_id, sum(amount), currency) from journal
             where recorded_at >= $1 group by source, event_id, currency having sum(amount) <> 0",
        ),
    },
    Check {
        name: "one_place_per_callback",
        promise: "nothing is both in the ledger and in an open or waiting case",
        sql: "select format('%s %s: in the ledger and in case %s', q.source, q.event_id, q.id)
              from quarantine q
              join ledger l on l.source = q.source and l.event_id = q.event_id and l.payload_sha256 = q.fingerprint and l.leg = 0
              where q.state in ('open', 'waiting')",
        since: Since::Whole,
    },
    Check {
        name: "replayed_cases_are_applied",
        promise: "each replayed case has its ledger row",
        sql: "select format('case %s: replayed, but %s %s is not in the ledger', q.id, q.source, q.event_id)
              from quarantine q
              where q.state = 'replayed'
                and not exists (select from ledger l where l.source = q.source and l.event_id = q.event_id)",
        since: Since::Whole,
    },
    Check {
        name: "cases_are_counted",
        promise: "each account has counted every case about it, those included that were removed, and nothing else but what operators did to it",
        // An account that opens counts the cases that are there: those that were removed before are not. Whoever opens, closes or freezes an
        // account, or assigns a case, raises the count of one by one, since it is half of a guard.
        sql: "select format('account %s: counts %s cases; has at least %s and, with what operators did, at most %s', a.account_id, a.cases,
                            coalesce(q.least, 0), coalesce(q.most, 0) + o.acts)
              from accounts a
              cross join (select count(*) filter (where action in ('open', 'close', 'freeze', 'assign'))
                                 + coalesce(sum(cases) filter (where action = 'assign'), 0) as acts
                          from operator_actions) o
              left join (select account_id, sum(least) as least, sum(most) as most
                         from (select account_id, count(*) as least, count(*) as most
                               from quarantine where account_id is not null group by account_id
                               union all
                               select r.account_id, case when r.removed_at > l.recorded_at then r.n else 0 end, r.n
                               from removed_cases r
                               left join ledger l on l.account_id = r.account_id and l.account_version = 1
                               where r.account_id is not null) c
                         group by account_id) q
                     on q.account_id = a.account_id
              where a.cases < coalesce(q.least, 0) or a.cases > coalesce(q.most, 0) + o.acts",
        since: Since::Whole,
    },
    Check {
        name: "debts_are_listed",
        promise: "each account whose available money is below zero is listed with what it owes, and no other",
        sql: "select format('account %s: owes %s, listed with %s', coalesce(a.account_id, d.account_id),
                            greatest(a.held - a.balance, 0), coalesce(d.debt, 0))
              from (select account_id, currency, balance, held from accounts where balance < held) a
              full join debts d on d.account_id = a.account_id
              where a.account_id is null or d.debt is distinct from a.held - a.balance or d.currency <> a.currency",
        since: Since::Whole,
    },
    Check {
        name: "cases_add_up",
        promise: "the kept numbers and sums of open and waiting cases are those of the cases",
        sql: "select format('%s %s, source %s, currency %s: %s cases of %s; kept %s of %s', state, reason, source, currency, sum(found),
                            sum(found_amount), sum(kept), sum(kept_amount))
              from (select state, reason, coalesce(source, '') as source,
                           case when amount is null then '' else coalesce(currency, '') end as currency,
                           1 as found, coalesce(amount, 0) as found_amount, 0 as kept, 0 as kept_amount
                    from quarantine where state in ('open', 'waiting')
                    union all
                    select state, reason, source, currency, 0, 0, cases, amount from case_changes
                    union all
                    select state, reason, source, currency, 0, 0, cases, amount from case_sums) c
              group by state, reason, source, currency
              having sum(found) <> sum(kept) or sum(found_amount) <> sum(kept_amount)",
        since: Since::Whole,
    },
    Check {
        name: "counts_match_rows",
        promise: "as many callbacks are counted as applied and quarantined as there are rows, and removed cases",
        sql: "select format('counted applied %s, quarantined %s; rows %s, %s', t.applied, t.quarantined, l.rows, q.rows)
              from (select coalesce(sum(n) filter (where kind in ('applied', 'released')), 0) as applied,
                           coalesce(sum(n) filter (where kind = 'quarantined'), 0) as quarantined from tallies) t,
                   (select count(*) as rows from ledger where leg = 0) l,
                   (select count(*) + (select coalesce(sum(n), 0) from removed_cases) as rows from quarantine) q
              where t.applied <> l.rows or t.quarantined <> q.rows",
        since: Since::Skipped,
    },
    Check {
        name: "totals_match_history",
        promise: "the kept totals are the sums of the counts that were added up",
        sql: "select format('%s %s %s: history sums %s, total %s', coalesce(h.kind, t.kind), coalesce(h.source, t.source),
                            coalesce(h.label, t.label), h.n, t.n)
              from (select kind, source, label, sum(n) as n from tallies where grain <> 'lane' group by kind, source, label) h
              full join tally_totals t on t.kind = h.kind and t.source = h.source and t.label = h.label
              where h.n is distinct from t.n",
        since: Since::Whole,
    },
    Check {
        name: "versions_rise_with_transactions",
        promise: "no version of an account was written by an older transaction than the version before it, so that feeds read them in order",
        sql: "select format('account %s version %s: transaction %s, after %s', account_id, account_version, txn, before)
              from (select account_id, account_version, txn, lag(txn) over (partition by account_id order by account_version) as before
                    from ledger) l
              where txn < before",
        since: Since::Sql(
            "select format('account %s version %s: transaction %s, after %s', l.account_id, l.account_version, l.txn, b.txn)
             from ledger l
             join ledger b on b.account_id = l.account_id and b.account_version = l.account_version - 1
             where l.recorded_at >= $1 and l.txn < b.txn",
        ),
    },
];
