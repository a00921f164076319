//! The search over the operators' API: by id or reference, or by amount and time. What must not live here: how it is looked for.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use serde_json::{Value, json};

use super::{Answer, answer, rows};
use crate::{
    answers,
    ops::Pool,
    parameters::{Parameters, Wrong},
    reports::asked::moments,
    store::{
        amounts::{self, Wanted},
        find::{self, Kind},
        references::Within,
    },
};

/// What is looked for.
pub(in crate::ops) enum Search {
    /// By its amount.
    Amount(Wanted),
    /// By an id, or, in some time, by a reference.
    Text(Within),
}

/// # Errors
/// Words, where a parameter cannot be used.
pub(in crate::ops) fn wanted(parameters: &Parameters) -> Result<Search, Wrong> {
    let (since, until) = moments(parameters.single("from")?, parameters.single("to")?).map_err(Wrong)?;
    let has_id = parameters.single("id")?.is_some();
    let Some(text) = parameters.single("amount")? else {
        let within = Within { since, before: until };
        return match has_id || within.is_always() {
            true => Ok(Search::Text(within)),
            false => Err(Wrong(
                "id, amount: one of them is missing; from and to say when it was recorded".to_owned(),
            )),
        };
    };
    if has_id {
        return Err(Wrong("id, amount: expected one of them, not both".to_owned()));
    }
    let (amount, currency) =
        answers::money_of(text).map_err(|expected| Wrong(format!("amount: {expected}")))?;
    Ok(Search::Amount(Wanted { amount, currency, since, until }))
}

pub(in crate::ops) async fn search(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let parameters = Parameters::of_query(query.as_deref(), &["id", "amount", "from", "to", "limit"])?;
    let limit = rows(&parameters)?;
    let within = match wanted(&parameters)? {
        Search::Amount(wanted) => {
            let read = pool.reader.run(async |connection| amounts::find(connection, wanted, limit).await);
            return answer(&read.await?);
        }
        Search::Text(within) => within,
    };
    let id = parameters.required_id("id")?;
    let found = pool.reader.run(async |connection| find::find(connection, id, within, limit).await).await?;
    let pairs = |kind: Kind, name: &'static str| -> Vec<Value> {
        let hits = found.of(kind);
        hits.map(|hit| {
            let mut thing = json!(hit.facts);
            if thing.is_null() {
                thing = json!({});
            }
            thing["source"] = json!(hit.source);
            thing[name] = json!(hit.id);
            thing["exact"] = json!(hit.is_exact);
            if let Some(reference) = &hit.reference {
                thing["reference"] = json!(reference);
            }
            thing
        })
        .collect()
    };
    answer(&json!({
        "events": pairs(Kind::Event, "event_id"),
        "payments": pairs(Kind::Payment, "payment_id"),
        "accounts": found.of(Kind::Account).map(|hit| json!(hit.id)).collect::<Vec<_>>(),
        "has_more": found.has_more,
    }))
}
