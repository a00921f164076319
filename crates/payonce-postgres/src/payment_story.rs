//! What happened to one payment or deposit, as people are shown it. What must not live here: what programs are answered (`reads`).

use serde::Serialize;
use sqlx::PgConnection;

use super::{
    StoreError,
    report::{CaseRow, LedgerRow, case_row},
};

/// All that is known of a payment.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentStory {
    /// The provider.
    pub source: String,
    /// The provider's id of the payment.
    pub payment_id: String,
    /// As in the table `payments`; of a deposit `deposited`, `refunded` (all of it) or `disputed`; null while nothing is applied, as are account
    /// and currency.
    pub state: Option<String>,
    /// The account.
    pub account_id: Option<String>,
    /// ISO 4217 code.
    pub currency: Option<String>,
    /// Minor units.
    pub authorized: i64,
    /// Minor units; of a direct debit, what was debited.
    pub captured: i64,
    /// Minor units.
    pub refunded: i64,
    /// Of a deposit.
    pub deposit: Option<Deposit>,
    /// Its ledger rows, newest first.
    pub entries: Vec<LedgerRow>,
    /// Its cases, ended ones included.
    pub quarantined: Vec<CaseRow>,
}

impl PaymentStory {
    /// The sums that people are shown, each with its name: of what it is, a deposit or a payment.
    #[must_use]
    pub fn sums(&self) -> Vec<(&'static str, i64)> {
        let of_deposit = self.deposit.iter().flat_map(|deposit| {
            [
                ("Deposited", deposit.deposited),
                ("Refunded", deposit.refunded),
                ("Disputed", deposit.disputed),
                ("Reinstated", deposit.reinstated),
            ]
        });
        let of_payment =
            [("Authorized", self.authorized), ("Captured", self.captured), ("Refunded", self.refunded)];
        let has_payment = self.deposit.is_none() || of_payment.iter().any(|(_, amount)| *amount != 0);
        of_deposit.chain(of_payment.into_iter().filter(|_| has_payment)).collect()
    }
}

/// What the callbacks of a deposit changed the balance by, in minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deposit {
    /// What it brought.
    pub deposited: i64,
    /// What was given back of it.
    pub refunded: i64,
    /// What was taken by disputes.
    pub disputed: i64,
    /// What came back of both.
    pub reinstated: i64,
    /// What of that came back of refunds, and ends no dispute.
    #[serde(skip)]
    refunds_undone: i64,
}

impl Deposit {
    /// `entries`: those of its account. `refunds_undone`: what was reinstated of refunds.
    fn of(entries: &[&LedgerRow], refunds_undone: i64) -> Self {
        let of_kind = |kind| {
            entries
                .iter()
                .filter(move |row| row.kind == kind)
                .fold(0, |sum: i64, row| sum.saturating_add(row.balance_delta))
        };
        Self {
            deposited: of_kind("deposit.succeeded"),
            refunded: -of_kind("deposit.refunded"),
            disputed: -of_kind("deposit.disputed"),
            reinstated: of_kind("deposit.reinstated"),
            refunds_undone,
        }
    }

    /// In a word. What was reinstated first ends disputes, but for what says that it undoes a refund.
    const fn state(&self) -> &'static str {
        if self.disputed > self.reinstated.saturating_sub(self.refunds_undone) {
            "disputed"
        } else if self.refunded > 0
            && self.refunded.saturating_add(self.disputed).saturating_sub(self.reinstated) >= self.deposited
        {
            "refunded"
        } else {
            "deposited"
        }
    }
}

/// A payment with its ledger rows and cases. `None`: no callback about it was ever settled.
///
/// # Errors
/// [`StoreError`].
pub async fn show(
    connection: &mut PgConnection,
    source: &str,
    payment_id: &str,
) -> Result<Option<PaymentStory>, StoreError> {
    let found: Option<(String, String, String, i64, i64, i64)> = sqlx::query_as(
        "select state, account_id, currency, authorized, captured, refunded
         from payments where source = $1 and payment_id = $2",
    )
    .bind(source)
    .bind(payment_id)
    .fetch_optional(&mut *connection)
    .await?;
    let entries: Vec<LedgerRow> = sqlx::query_as(
        "select source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency, balance_delta,
                held_delta, balance_after, held_after, occurred_at, recorded_at
         from ledger_of_payments where source = $1 and payment_id = $2 order by account_version desc",
    )
    .bind(source)
    .bind(payment_id)
    .fetch_all(&mut *connection)
    .await?;
    let quarantined: Vec<CaseRow> = sqlx::query_as(concat!(
        "select ",
        case_row!(),
        " from quarantine where source = $1 and payment_id = $2 order by id"
    ))
    .bind(source)
    .bind(payment_id)
    .fetch_all(&mut *connection)
    .await?;
    if found.is_none() && entries.is_empty() && quarantined.is_empty() {
        return Ok(None);
    }
    let (state, account_id, currency, authorized, captured, refunded) = match found {
        Some((state, account_id, currency, authorized, captured, refunded)) => {
            (Some(state), Some(account_id), Some(currency), authorized, captured, refunded)
        }
        None => (None, None, None, 0, 0, 0),
    };
    // Several accounts' deposits can have one payment's id: it is the oldest one's, as where refunds are judged.
    let of_deposit = entries.iter().filter(|row| row.kind.starts_with("deposit."));
    let owner = of_deposit.min_by_key(|row| (row.recorded_at, &row.account_id));
    let deposit = match owner {
        None => None,
        Some(owner) => {
            let of_owner: Vec<&LedgerRow> =
                entries.iter().filter(|row| row.account_id == owner.account_id).collect();
            Some(Deposit::of(&of_owner, refunds_undone(connection, owner, payment_id).await?))
        }
    };
    let shown = owner.or(entries.first());
    Ok(Some(PaymentStory {
        source: source.to_owned(),
        payment_id: payment_id.to_owned(),
        state: state.or_else(|| deposit.as_ref().map(|deposit| deposit.state().to_owned())),
        account_id: account_id.or_else(|| shown.map(|row| row.account_id.clone())),
        currency: currency.or_else(|| shown.map(|row| row.currency.clone())),
        authorized,
        captured,
        refunded,
        deposit,
        entries,
        quarantined,
    }))
}

/// What of the reinstatements of this deposit says that it undoes a refund, in minor units.
async fn refunds_undone(
    connection: &mut PgConnection,
    owner: &LedgerRow,
    payment_id: &str,
) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "select coalesce(sum(balance_delta), 0)::bigint from ledger_of_payments
         where source = $1 and payment_id = $2 and account_id = $3 and type = 'deposit.reinstated'
               and members ->> 'reverses' = 'deposit.refunded'",
    )
    .bind(&owner.source)
    .bind(payment_id)
    .bind(&owner.account_id)
    .fetch_one(connection)
    .await?)
}
