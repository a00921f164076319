//! Where accounts and payments must end, by the plan and by what of it is applied.

use std::collections::HashMap;

use anyhow::Context;
use sqlx::PgConnection;

use super::{Audit, ledger::Found};
use crate::{
    body,
    plan::{Fate, Kind, Plan},
};

/// What the plan's arithmetic says of its accounts, by number.
pub struct Expected {
    balances: Vec<i128>,
    held: Vec<i128>,
    rows: Vec<i64>,
}

impl Expected {
    pub fn of(plan: &Plan, found: &Found) -> Self {
        let accounts = plan.accounts as usize;
        let mut expected =
            Self { balances: vec![0; accounts], held: vec![0; accounts], rows: vec![0; accounts] };
        let applied = plan.distinct.iter().filter(|one| found.is_applied[one.number as usize]);
        for one in applied {
            let (own, amount) = (one.account as usize, i128::from(one.amount));
            expected.rows[own] += 1;
            match one.kind {
                Kind::Deposit if one.payment.is_none() => expected.balances[own] += amount,
                Kind::Fee | Kind::Transfer => expected.balances[own] -= amount,
                // Summed up by their payments, below.
                Kind::Deposit
                | Kind::DepositRefunded
                | Kind::DepositDisputed
                | Kind::DepositReinstated
                | Kind::Authorized
                | Kind::Adjusted
                | Kind::Captured
                | Kind::CaptureFailed
                | Kind::Voided
                | Kind::Succeeded
                | Kind::Failed
                | Kind::Refunded
                | Kind::RefundFailed => {}
            }
            if let Some(to) = one.to {
                expected.balances[to as usize] += amount;
                expected.rows[to as usize] += 1;
            }
        }
        for (account, rows) in &found.own_rows {
            expected.rows[*account as usize] += rows;
        }
        let numbers: HashMap<String, usize> =
            (0..plan.accounts).map(|number| (body::account(number), number as usize)).collect();
        for story in found.payments.values().chain(found.deposits.values()) {
            if let Some(number) = numbers.get(&story.account) {
                expected.balances[*number] +=
                    i128::from(story.facts.balance()) + i128::from(story.deposit.balance());
                expected.held[*number] += i128::from(story.facts.held());
            }
        }
        expected
    }

    /// Who wanted the last of the money and did not get it would not get it now either.
    pub fn check_contenders(&self, plan: &Plan, found: &Found, audit: &mut Audit) {
        let without = plan
            .distinct
            .iter()
            .filter(|one| one.fate == Fate::Contends && !found.is_applied[one.number as usize]);
        let wrong = without.filter_map(|one| {
            let account = one.account as usize;
            let available = self.balances[account] - self.held[account];
            (available >= i128::from(one.amount))
                .then(|| format!("{:?} wants {}, available {available}", body::key(plan, one), one.amount))
        });
        audit.check("nobody_is_refused_money_that_is_there", wrong.collect());
    }

    pub async fn check_accounts(
        &self,
        database: &mut PgConnection,
        plan: &Plan,
        audit: &mut Audit,
    ) -> anyhow::Result<()> {
        let rows: Vec<(String, String, i64, i64, i64, String)> =
            sqlx::query_as("select account_id, currency, balance, held, version, status from accounts")
                .fetch_all(&mut *database)
                .await
                .context("accounts cannot be read")?;
        let mut found: HashMap<String, _> = rows
            .into_iter()
            .map(|(id, currency, balance, held, version, status)| {
                (id, (currency, i128::from(balance), i128::from(held), version, status))
            })
            .collect();
        let mut wrong = Vec::new();
        let mut total = 0_i128;
        let sums = self.balances.iter().zip(&self.held).zip(&self.rows);
        for (number, ((balance, held), rows)) in (0..plan.accounts).zip(sums) {
            let id = body::account(number);
            let planned = (body::currency(number).to_owned(), *balance, *held, *rows, "open".to_owned());
            total += balance;
            match found.remove(&id) {
                Some(found) if found == planned => {}
                found => wrong.push(format!(
                    "{id}: planned (currency, balance, held, version, status) {planned:?}, found {found:?}"
                )),
            }
        }
        wrong.extend(found.into_keys().map(|id| format!("{id}: exists, but the plan has no such account")));
        audit.check("balances_are_the_plans_sums", wrong);
        let sum: String = sqlx::query_scalar("select coalesce(sum(balance), 0)::text from accounts")
            .fetch_one(database)
            .await?;
        let wrong = (sum != total.to_string()).then(|| format!("planned {total}, found {sum}"));
        audit.check("the_total_is_the_plans_total", wrong.into_iter().collect());
        Ok(())
    }
}

/// A row of `payments`, in the order of the statement that reads it.
type PaymentRow = (String, String, String, String, i64, i64, i64, String, i64);

/// The rows of each payment sum up to what its facts say, and its own row says the same.
pub async fn check_payments(
    database: &mut PgConnection,
    found: &Found,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let sums = found.payments.iter().chain(&found.deposits).filter_map(|(key, story)| {
        let planned = (story.facts.balance() + story.deposit.balance(), story.facts.held());
        let is = (story.balance_deltas, story.held_deltas);
        (is != planned)
            .then(|| format!("{key:?}: planned (balance, held) {planned:?}, rows sum up to {is:?}"))
    });
    audit.check("rows_of_a_payment_sum_up_to_what_is_known_of_it", sums.collect());

    let rows: Vec<PaymentRow> = sqlx::query_as(
        "select source, payment_id, account_id, currency, authorized, captured, refunded, state, version from payments",
    )
    .fetch_all(database)
    .await
    .context("payments cannot be read")?;
    let mut left: HashMap<_, _> = found.payments.iter().collect();
    let mut wrong = Vec::new();
    for (source, id, account, currency, authorized, captured, refunded, state, version) in rows {
        let key = (source, id);
        let Some(story) = left.remove(&key) else {
            wrong.push(format!("{key:?}: exists, but the plan has no such payment"));
            continue;
        };
        let is = (&*account, &*currency, authorized, captured, refunded, &*state, version);
        let facts = &story.facts;
        let sums = (facts.authorized(), facts.captured(), facts.refunded());
        let planned = (&*story.account, story.currency, sums.0, sums.1, sums.2, facts.state(), story.rows);
        if is != planned {
            wrong.push(format!("{key:?}: planned {planned:?}, found {is:?}"));
        }
    }
    wrong.extend(left.into_keys().map(|key| format!("{key:?}: planned, missing")));
    audit.check("payments_end_as_the_plan_says", wrong);
    Ok(())
}
