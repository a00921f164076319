//! Who works on which cases, and notes about them, over the operators' API. What must not live here: how that is kept.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;

use super::{
    Answer, Problem,
    acts::{begun, key, line},
};
use crate::{
    ops::{Pool, access::Visitor, actions},
    parameters::checked_id,
    store::{
        actions::Via,
        case_work::{CaseWork, CaseWorker},
        quarantine,
        requests::Start,
    },
};

/// Which cases, and whose they are from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ops) struct Taking {
    ids: Vec<i64>,
    /// Whoever asks, where nobody is named.
    assignee: Option<String>,
    why: Option<String>,
}

pub(in crate::ops) async fn take(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(Taking { ids, assignee, why }): Json<Taking>,
) -> Answer {
    let assignee = assignee.unwrap_or_else(|| visitor.name.clone());
    checked_id("assignee", &assignee)?;
    work(&pool, (&visitor, &headers), &ids, CaseWork::Take(&assignee), why).await
}

/// Which cases are nobody's from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ops) struct HandingBack {
    ids: Vec<i64>,
    why: Option<String>,
}

pub(in crate::ops) async fn hand_back(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(HandingBack { ids, why }): Json<HandingBack>,
) -> Answer {
    work(&pool, (&visitor, &headers), &ids, CaseWork::HandBack, why).await
}

/// What is noted about which cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ops) struct Noting {
    ids: Vec<i64>,
    text: String,
}

pub(in crate::ops) async fn note(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    Json(Noting { ids, text }): Json<Noting>,
) -> Answer {
    work(&pool, (&visitor, &headers), &ids, CaseWork::Note, Some(text)).await
}

async fn work(
    pool: &Arc<Pool>,
    (visitor, headers): (&Visitor, &HeaderMap),
    ids: &[i64],
    work: CaseWork<'_>,
    why: Option<String>,
) -> Answer {
    if ids.is_empty() {
        return Err(Problem::Wrong("ids: expected at least one case".to_owned()));
    }
    let member = if work == CaseWork::Note { "text" } else { "why" };
    let why = why.map_or_else(|| Ok(work.why().to_owned()), |why| actions::words(&why));
    let why = why.map_err(|words| Problem::Wrong(format!("{member}: {words}")))?;
    let known = pool.reader.run(async |connection| quarantine::states(connection, ids).await).await?;
    if let Some(unknown) = ids.iter().find(|id| !known.contains_key(id)) {
        let words = format!("there is no case {unknown}; nothing was done");
        return Err(Problem::Refused(StatusCode::NOT_FOUND, None, words));
    }
    let key = key(headers)?;
    let worker = CaseWorker { who: &visitor.name, via: Via::Api, why: &why, key: key.as_deref() };
    match actions::work_cases(pool, ids, work, worker).await? {
        Start::Begun(action) => line(pool, action).await,
        other @ (Start::Before(_)
        | Start::Proposed(_)
        | Start::Ended(_)
        | Start::OtherContent(_)
        | Start::Refused(_)) => begun(other),
    }
}
