//! The search over the operators' API: by id or reference, or by amount and time. What must not live here: how it is looked for.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
    response::IntoResponse,
};
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
    },
};

/// What is looked for by its amount; `None`: it is not looked for so.
///
/// # Errors
/// Words, where a parameter cannot be used.
pub(in crate::ops) fn wanted(parameters: &Parameters) -> Result<Option<Wanted>, Wrong> {
    let (since, until) = moments(parameters.single("from")?, parameters.single("to")?).map_err(Wrong)?;
    let Some(text) = parameters.single("amount")? else {
        return match (since, until) {
            (None, None) => Ok(None),
            (Some(_), _) | (_, Some(_)) => {
                Err(Wrong("amount: missing; from and to are for a search by amount".to_owned()))
            }
        };
    };
    if parameters.single("id")?.is_some() {
        return Err(Wrong("id, amount: expected one of them, not both".to_owned()));
    }
    let (amount, currency) =
        answers::money_of(text).map_err(|expected| Wrong(format!("amount: {expected}")))?;
    Ok(Some(Wanted { amount, currency, since, until }))
}

pub(in crate::ops) async fn search(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let parameters = Parameters::of_query(query.as_deref(), &["id", "amount", "from", "to", "limit"])?;
    let limit = rows(&parameters)?;
    if let Some(wanted) = wanted(&parameters)? {
        let read = pool.reader.run(async |connection| amounts::find(connection, wanted, limit).await);
        return answer(&read.await?);
    }
    let id = parameters.required_id("id")?;
    let found = pool.reader.run(async |connection| find::find(connection, id, limit).await).await?;
    let pairs = |kind: Kind, name: &'static str| -> Vec<Value> {
        let hits = found.of(kind);
        hits.map(|hit| {
            let mut thing = json!({ "source": hit.source, name: hit.id, "exact": hit.is_exact });
            if let Some(reference) = &hit.reference {
                thing["reference"] = json!(reference);
            }
            thing
        })
        .collect()
    };
    Ok(Json(json!({
        "events": pairs(Kind::Event, "event_id"),
        "payments": pairs(Kind::Payment, "payment_id"),
        "accounts": found.of(Kind::Account).map(|hit| json!(hit.id)).collect::<Vec<_>>(),
        "has_more": found.has_more,
    }))
    .into_response())
}
