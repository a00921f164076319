//! What a request of a person begins with: a line of the audit log, a proposal for a second person, or the answer that the same request was
//! given before. What must not live here: anything that is done then.

use std::time::Duration;

use sqlx::PgConnection;

use super::{
    StoreError,
    actions::{self, ActionRow, Begun, Line, Order, Verb},
    proposals::{self, Arguments, CASES_MAX, ProposalRow, Proposed, compared, of_cases, of_key},
    quarantine::{self, Page},
};

/// Which acts of operators another person has to approve.
#[derive(Debug, Clone, Copy)]
pub struct Approvals {
    /// Adjustments.
    pub adjust: bool,
    /// Cases that are handed to another account.
    pub assign: bool,
    /// Every discard.
    pub discard: bool,
    /// A replay, discard or reopening of more than one case by filter.
    pub bulk: bool,
    /// How long a proposal waits.
    pub wait_max: Duration,
}

/// What a request about cases begins with.
#[derive(Debug, Clone)]
pub enum Start {
    /// This line of the audit log stands there, and the order is to be carried out.
    Begun(i64),
    /// It was asked for before with this key: the line says what came of it, or that it is at work or was cut short.
    Before(Box<ActionRow>),
    /// It waits for another person, or was approved by one, now or when it was asked for before.
    Proposed(Box<ProposalRow>),
    /// It was proposed before with this key, and rejected, or expired: nothing is done, nor will be ([`ProposalRow::in_vain`]).
    Ended(Box<ProposalRow>),
    /// Nothing is done: the key was used for something else, which these words say.
    OtherContent(String),
    /// It cannot be proposed, in words.
    Refused(String),
}

impl From<Proposed> for Start {
    fn from(proposed: Proposed) -> Self {
        match proposed {
            Proposed::Waits(row) if row.is_in_vain() => Self::Ended(row),
            Proposed::Waits(row) => Self::Proposed(row),
            Proposed::OtherContent(row) => Self::OtherContent(format!(
                "{} {} (proposal {}, {})",
                row.action, row.chosen, row.id, row.state
            )),
            Proposed::Refused(words) => Self::Refused(words),
        }
    }
}

/// Begins an order, or proposes it where the settings want a second person for it. Nothing of it is done yet.
///
/// # Errors
/// [`StoreError`].
pub async fn start(
    connection: &mut PgConnection,
    order: &Order,
    approvals: Approvals,
) -> Result<Start, StoreError> {
    if let Some(before) = before(connection, &order.line()).await? {
        return Ok(before);
    }
    if needs_second_person(connection, order, approvals).await? {
        let random = format!("{:032x}", rand::random::<u128>());
        let key = order.key.as_deref().unwrap_or(&random);
        return Ok(propose_cases(connection, order, key, approvals.wait_max).await?.into());
    }
    Ok(match actions::begin(connection, &order.line()).await? {
        Begun::New(action) => Start::Begun(action),
        Begun::Before(row) => Start::Before(row),
        Begun::OtherContent(row) => Start::OtherContent(format!("{} {}", row.action, row.chosen)),
    })
}

/// What an earlier request of the same idempotency key was answered; `None`: there was none.
///
/// # Errors
/// [`StoreError`].
pub async fn before(connection: &mut PgConnection, line: &Line<'_>) -> Result<Option<Start>, StoreError> {
    let Some(key) = line.key else { return Ok(None) };
    if let Some(row) = of_key(connection, key).await? {
        return Ok(Some(compared(line.action, line.chosen, row).into()));
    }
    let Some(row) = actions::of_key(connection, key).await? else { return Ok(None) };
    Ok(Some(match line.compared_with(row) {
        Begun::New(action) => Start::Begun(action),
        Begun::Before(row) => Start::Before(row),
        Begun::OtherContent(row) => Start::OtherContent(format!("{} {}", row.action, row.chosen)),
    }))
}

async fn needs_second_person(
    connection: &mut PgConnection,
    order: &Order,
    approvals: Approvals,
) -> Result<bool, StoreError> {
    let always = match order.verb {
        Verb::Assign => approvals.assign,
        Verb::Discard => approvals.discard,
        Verb::Replay | Verb::Reopen => false,
    };
    if always || !approvals.bulk || !order.filter.ids.is_empty() {
        return Ok(always);
    }
    Ok(quarantine::count_up_to(connection, &order.filter, 2).await? > 1)
}

/// Proposes what is to be done to cases: to just those that fit now.
async fn propose_cases(
    connection: &mut PgConnection,
    order: &Order,
    key: &str,
    lifetime: Duration,
) -> Result<Proposed, StoreError> {
    let verb = order.verb;
    // In the states that it is for alone, as it would be carried out.
    let mut filter = order.filter.clone();
    filter.states = match filter.states.as_slice() {
        [] => verb.states().to_vec(),
        asked => verb.states().iter().copied().filter(|state| asked.contains(state)).collect(),
    };
    let found = if filter.states.is_empty() {
        Vec::new()
    } else {
        quarantine::list(connection, &filter, Page::After(0, CASES_MAX + 1)).await?
    };
    let cases: Vec<i64> = found.iter().map(|case| case.id).collect();
    if cases.is_empty() {
        let words = format!("no case fits that is {}", verb.states().join(" or "));
        return Ok(Proposed::Refused(words));
    }
    if i64::try_from(cases.len()).is_ok_and(|cases| cases > CASES_MAX) {
        let words = format!(
            "more than {CASES_MAX} cases fit, which is as many as one proposal may have: choose fewer"
        );
        return Ok(Proposed::Refused(words));
    }
    let sums = quarantine::sums(connection, &of_cases(verb, &cases), CASES_MAX).await?.to_string();
    let account = order.assign_to.as_ref().map(|account| account.as_str().to_owned());
    let arguments = Arguments::Cases { verb: verb.as_str().to_owned(), cases, sums, account };
    proposals::propose(connection, order.line(), key, &arguments, lifetime).await
}
