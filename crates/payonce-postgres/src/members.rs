//! What most rows do not have, as JSON beside their columns: rare members of callbacks (`ledger.members`, `quarantine.members`) and what
//! is known of a payment besides its state and sums (`payments.facts`). Null where there is nothing to say.

use serde::{Deserialize, Serialize};

use super::{StoreError, columns::unreadable};
use payonce_ledger::{AccountId, Adjustment, Callback, Direction, Facts, Kind};

/// Members of a callback that have no column of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Members {
    /// Where it is not what its type has by default.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    is_final: Option<bool>,
    #[serde(rename = "cumulative", skip_serializing_if = "is_false")]
    is_cumulative: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_us: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reverses: Option<String>,
    /// The account that the callback names, where that is not the row's; null: it names none.
    #[serde(skip_serializing_if = "Option::is_none", with = "nullable")]
    subject: Option<Option<String>>,
    /// A person has assigned the row's account.
    #[serde(rename = "assigned", skip_serializing_if = "is_false")]
    is_assigned: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A member that is absent, null, or a text.
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<String>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<String>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

fn json<T: Serialize + Default + PartialEq>(value: &T) -> Option<String> {
    if *value == T::default() {
        return None;
    }
    // Texts and numbers only: this cannot fail.
    serde_json::to_string(value).ok()
}

/// What a row about `account_id` keeps of the callback.
pub(super) fn of(callback: &Callback, account_id: Option<&AccountId>) -> Option<String> {
    let names = callback.account_id.as_ref();
    let names_the_rows = names.is_some() && names == account_id;
    json(&Members {
        is_final: (callback.is_final != callback.kind.is_final_by_default()).then_some(callback.is_final),
        is_cumulative: callback.is_cumulative,
        expires_at_us: callback.expires_at_us,
        to: callback.to.as_ref().map(|to| to.as_str().to_owned()),
        direction: callback.direction.map(|direction| direction.as_str().to_owned()),
        reverses: callback.reverses.map(|kind| kind.as_str().to_owned()),
        subject: (!names_the_rows).then(|| names.map(|id| id.as_str().to_owned())),
        is_assigned: callback.assigned_to.is_some(),
    })
}

/// Gives a callback its members back. It comes with the row's account in `account_id`.
pub(super) fn restore(callback: &mut Callback, json: Option<&str>) -> Result<(), StoreError> {
    let Some(json) = json else {
        // Voids that were stored before there were partial ones released all.
        callback.is_final |= callback.kind.is_final_by_default();
        return Ok(());
    };
    let members: Members = serde_json::from_str(json).map_err(|_| unreadable("members"))?;
    let account = |text: &str| AccountId::new(text).map_err(|_| unreadable("members"));
    if members.is_assigned {
        callback.assigned_to = callback.account_id.clone();
    }
    if let Some(subject) = &members.subject {
        callback.account_id = subject.as_deref().map(account).transpose()?;
    }
    callback.is_final = members.is_final.unwrap_or(callback.kind.is_final_by_default());
    callback.is_cumulative = members.is_cumulative;
    callback.expires_at_us = members.expires_at_us;
    callback.to = members.to.as_deref().map(account).transpose()?;
    callback.direction = members
        .direction
        .map(|text| Direction::parse(&text).ok_or_else(|| unreadable("members")))
        .transpose()?;
    callback.reverses =
        members.reverses.map(|text| Kind::parse(&text).ok_or_else(|| unreadable("members"))).transpose()?;
    Ok(())
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Known {
    authorizations: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    adjusted_at_us: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adjusted_to: Option<i64>,
    adjusted_max: i64,
    captures: i64,
    captures_total: i64,
    captures_failed: i64,
    debited: i64,
    refunds: i64,
    refunds_total: i64,
    refunds_failed: i64,
    released: i64,
    is_voided: bool,
    is_final: bool,
    is_expired: bool,
    has_failed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_us: Option<i64>,
}

/// What a payment's row keeps of its facts, where its state and sums do not say all.
pub(super) fn facts(facts: &Facts) -> Option<String> {
    if facts.is_plain() {
        return None;
    }
    json(&Known {
        authorizations: facts.authorizations,
        adjusted_at_us: facts.adjusted.map(|adjusted| adjusted.at_us),
        adjusted_to: facts.adjusted.map(|adjusted| adjusted.amount),
        adjusted_max: facts.adjusted_max,
        captures: facts.captures,
        captures_total: facts.captures_total,
        captures_failed: facts.captures_failed,
        debited: facts.debited,
        refunds: facts.refunds,
        refunds_total: facts.refunds_total,
        refunds_failed: facts.refunds_failed,
        released: facts.released,
        is_voided: facts.is_voided,
        is_final: facts.is_final,
        is_expired: facts.is_expired,
        has_failed: facts.has_failed,
        expires_at_us: facts.expires_at_us,
    })
}

/// The facts of a row that has more than its state and sums.
pub(super) fn read_facts(json: &str) -> Result<Facts, StoreError> {
    let known: Known = serde_json::from_str(json).map_err(|_| unreadable("facts"))?;
    Ok(Facts {
        authorizations: known.authorizations,
        adjusted: known
            .adjusted_at_us
            .zip(known.adjusted_to)
            .map(|(at_us, amount)| Adjustment { at_us, amount }),
        adjusted_max: known.adjusted_max,
        captures: known.captures,
        captures_total: known.captures_total,
        captures_failed: known.captures_failed,
        debited: known.debited,
        refunds: known.refunds,
        refunds_total: known.refunds_total,
        refunds_failed: known.refunds_failed,
        released: known.released,
        is_voided: known.is_voided,
        is_final: known.is_final,
        is_expired: known.is_expired,
        has_failed: known.has_failed,
        expires_at_us: known.expires_at_us,
    })
}
