//! What must hold of ledger and accounts whatever the plan was, each in one statement that returns the violations.

use anyhow::Context;
use sqlx::PgConnection;

use super::Audit;

/// Each account's rows are a chain: versions without gap, each balance the one before plus the delta.
const CHAINS: [(&str, &str); 7] = [
    (
        "versions_have_no_gap",
        "select account_id || ' version ' || account_version from (
             select account_id, account_version, row_number() over (partition by account_id order by account_version) as place
             from ledger) rows where place <> account_version",
    ),
    (
        "each_balance_follows_the_one_before",
        "select account_id || ' version ' || account_version from (
             select account_id, account_version, balance_after,
                    sum(balance_delta::numeric) over (partition by account_id order by account_version) as running
             from ledger) rows where running <> balance_after",
    ),
    (
        "each_hold_follows_the_one_before",
        "select account_id || ' version ' || account_version from (
             select account_id, account_version, held_after,
                    sum(held_delta::numeric) over (partition by account_id order by account_version) as running
             from ledger) rows where running <> held_after or held_after < 0",
    ),
    (
        "only_what_has_happened_already_leaves_a_debt",
        "select account_id || ' version ' || account_version from ledger
         where balance_after < held_after and balance_delta < held_delta
           and type not in ('deposit.refunded', 'deposit.disputed', 'refund.failed', 'fee.charged', 'adjustment.posted')",
    ),
    (
        "balances_are_the_ledgers_sums",
        "select a.account_id from accounts a left join (
             select account_id, sum(balance_delta::numeric) as balance, sum(held_delta::numeric) as held, count(*) as rows
             from ledger group by account_id) l using (account_id)
         where (a.balance, a.held, a.version) is distinct from (coalesce(l.balance, 0), coalesce(l.held, 0), coalesce(l.rows, 0))",
    ),
    (
        "operations_moved_money_once",
        "select source || ' ' || type || ' ' || coalesce(operation_id, payment_id) from ledger
         where leg = 0 and (operation_id is not null
               or payment_id is not null and type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded'))
         group by source, type, coalesce(operation_id, payment_id) having count(*) > 1",
    ),
    (
        "keys_moved_money_once",
        "select source || ' ' || event_id || ' leg ' || leg from ledger group by source, event_id, leg having count(*) > 1",
    ),
];

/// Double entry: the sides of every callback sum up to nothing, and so do all accounts with the other side of all that came and went.
const JOURNAL: [(&str, &str); 3] = [
    (
        "both_sides_of_every_callback_sum_up_to_0",
        "select source || ' ' || event_id || ' ' || currency from journal
         group by source, event_id, currency having sum(amount::numeric) <> 0",
    ),
    (
        "the_trial_balance_is_0",
        "select currency || ' ' || sum(amount) from (
             select currency, balance::numeric as amount from accounts
             union all
             select currency, amount from journal where account = 'clearing:' || source) sides
         group by currency having sum(amount) <> 0",
    ),
    (
        "the_journal_has_every_balance",
        "select a.account_id from accounts a left join (
             select account, currency, sum(amount::numeric) as balance from journal group by account, currency) j
             on j.account = a.account_id and j.currency = a.currency
         where a.balance <> coalesce(j.balance, 0)",
    ),
];

pub async fn check(database: &mut PgConnection, audit: &mut Audit) -> anyhow::Result<()> {
    run(database, &CHAINS, audit).await
}

pub async fn check_journal(database: &mut PgConnection, audit: &mut Audit) -> anyhow::Result<()> {
    run(database, &JOURNAL, audit).await
}

async fn run(
    database: &mut PgConnection,
    checks: &[(&'static str, &'static str)],
    audit: &mut Audit,
) -> anyhow::Result<()> {
    for (name, sql) in checks {
        audit.check(name, sqlx::query_scalar(*sql).fetch_all(&mut *database).await.context(*name)?);
    }
    Ok(())
}
