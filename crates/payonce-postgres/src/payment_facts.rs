//! The audit's check of what decides about the next callback of a payment: its state, the facts beside it, when its hold ends, currency
//! and version, recomputed in SQL from its ledger rows with nothing of the code that wrote them (`ledger::Facts`).

use super::checks::{Check, Since};

/// The payments that `$of` (a condition on rows `l` of `$rows`, the ledger or its view by payment) chooses, and what does not follow from their rows. A payment with a row of before schema 14 is
/// left out: until then rows did not keep `final`, and a failure closed its payment.
macro_rules! broken {
    // Microseconds since 1970 as numeric, which is exact: an interval times a bigint is a double, and wrong from the year 2255 on.
    ($rows:literal, $of:literal) => {
        concat!(
            "with k as (
                 select l.source, l.payment_id, count(*) as rows, min(l.currency) as currency,
                        coalesce(sum(amount) filter (where type = 'payment.authorized'), 0) as authorizations,
                        (array_agg(amount order by occurred_at desc, amount desc)
                         filter (where type = 'payment.authorization_adjusted'))[1] as adjusted,
                        coalesce(max(amount) filter (where type = 'payment.authorization_adjusted'), 0) as adjusted_max,
                        coalesce(sum(amount) filter (where type = 'payment.captured' and not cumulative), 0) as captures,
                        coalesce(max(amount) filter (where type = 'payment.captured' and cumulative), 0) as captures_total,
                        coalesce(sum(amount) filter (where type = 'payment.capture_failed'), 0) as captures_failed,
                        coalesce(sum(amount) filter (where type = 'payment.succeeded'), 0) as debited,
                        coalesce(sum(amount) filter (where type = 'refund.succeeded' and not cumulative), 0) as refunds,
                        coalesce(max(amount) filter (where type = 'refund.succeeded' and cumulative), 0) as refunds_total,
                        coalesce(sum(amount) filter (where type = 'refund.failed'), 0) as refunds_failed,
                        coalesce(sum(amount) filter (where type = 'payment.voided' and final = 'false'), 0) as released,
                        coalesce(bool_or(type = 'payment.voided' and final is distinct from 'false' and not expiry), false) as is_voided,
                        coalesce(bool_or(type = 'payment.captured' and final = 'true'), false) as is_final,
                        coalesce(max(extract(epoch from occurred_at) * 1000000) filter (where type = 'payment.voided' and expiry)
                                 >= coalesce(max((members ->> 'expires_at_us')::numeric) filter (where type = 'payment.authorized'), '-infinity'),
                                 false) as is_expired,
                        coalesce(bool_or(type = 'payment.failed'), false) as has_failed,
                        max((members ->> 'expires_at_us')::bigint) filter (where type = 'payment.authorized') as expires_at_us
                 from (select l.*, coalesce(l.members ? 'cumulative', false) as cumulative, l.members ->> 'final' as final,
                              l.event_id like 'payonce.expired:%' as expiry
                       from ", $rows, " l
                       where ", $of, " and l.leg = 0 and l.payment_id is not null
                             and (l.type like 'payment.%' or l.type like 'refund.%')) l
                 group by l.source, l.payment_id
                 having min(l.recorded_at) >= (select installed_on from _sqlx_migrations where version = 14)),
             s as (
                 select k.*, greatest(captures, captures_total) + released >= coalesce(adjusted, authorizations) as is_used_up,
                        is_voided or is_expired or is_final as is_closed
                 from k),
             f as (
                 select s.*, case
                     when debited > 0 then case when is_voided then 'voided' else 'succeeded' end
                     when authorizations > 0 and not is_closed and not is_used_up then 'authorized'
                     when greatest(captures, captures_total) - captures_failed > 0 then 'captured'
                     when is_expired and not is_voided then 'expired'
                     when is_closed or released > 0 or authorizations > 0 and is_used_up then 'voided'
                     when has_failed then 'failed' else 'expected' end as state
                 from s)
             select format('payment %s %s: %s, %s version %s; by its rows %s, %s version %s, or its facts or its end differ',
                           f.source, f.payment_id, p.state, p.currency, p.version, f.state, f.currency, f.rows)
             from f left join payments p on p.source = f.source and p.payment_id = f.payment_id
             where p.state is distinct from f.state or p.currency is distinct from f.currency or p.version is distinct from f.rows
                or extract(epoch from p.expires_at) * 1000000 is distinct from f.expires_at_us::numeric
                or case when p.facts is null
                        then f.adjusted is not null or f.captures_total > 0 or f.captures_failed > 0 or f.refunds_total > 0
                             or f.refunds_failed > 0 or f.released > 0 or f.expires_at_us is not null
                             or f.has_failed and f.state <> 'failed' or f.is_voided and f.state not in ('voided', 'failed')
                        else ((facts ->> 'authorizations')::bigint, (facts ->> 'adjusted_to')::bigint, (facts ->> 'adjusted_max')::bigint,
                              (facts ->> 'captures')::bigint, (facts ->> 'captures_total')::bigint, (facts ->> 'captures_failed')::bigint,
                              (facts ->> 'debited')::bigint, (facts ->> 'refunds')::bigint, (facts ->> 'refunds_total')::bigint,
                              (facts ->> 'refunds_failed')::bigint, (facts ->> 'released')::bigint, (facts ->> 'is_voided')::boolean,
                              (facts ->> 'is_final')::boolean, (facts ->> 'is_expired')::boolean, (facts ->> 'has_failed')::boolean,
                              (facts ->> 'expires_at_us')::bigint)
                             is distinct from
                             (f.authorizations, f.adjusted, f.adjusted_max, f.captures, f.captures_total, f.captures_failed, f.debited,
                              f.refunds, f.refunds_total, f.refunds_failed, f.released, f.is_voided, f.is_final, f.is_expired,
                              f.has_failed, f.expires_at_us) end"
        )
    };
}

/// As the module says.
pub(super) const PAYMENTS_FOLLOW_FROM_ROWS: Check = Check {
    name: "payments_follow_from_rows",
    promise: "each payment's state, facts, end of its hold, currency and version follow from its ledger rows",
    sql: broken!("ledger", "true"),
    // The view is asked for one payment at a time: a join with it reads all of it (neither arm of its union takes the join's condition).
    since: Since::Sql(broken!(
        "(select distinct source, payment_id from ledger where recorded_at >= $1 and payment_id is not null) n,
         lateral (select * from ledger_of_payments v where v.payment_id = n.payment_id and v.source = n.source offset 0)",
        "true"
    )),
};
