//! What finance asks: a period closed, the statement of an account; as JSON, or one table as CSV.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::{Answer, Pool, Problem, lists::may_export, rows};
use crate::{
    ops::{
        access::Visitor,
        finance::{self, NotMade},
        pages::{reports, statement},
    },
    parameters::{Parameters, Wrong},
    reports::{ENTRIES_MAX, Part, Table, asked, csv, report_json, statement_json, statement_table},
};

/// A table to take away, under a name that says what it is.
pub(in crate::ops) fn as_csv(table: &Table<'_>, name: &str) -> Answer {
    let bytes =
        csv(table).map_err(|words| Problem::Refused(StatusCode::INTERNAL_SERVER_ERROR, None, words))?;
    // Of our words and of dates: nothing that a header could not carry.
    let disposition = format!("attachment; filename=\"payonce-{name}.csv\"");
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, bytes).into_response())
}

fn json(value: Result<serde_json::Value, serde_json::Error>) -> Answer {
    let value = value.map_err(|error| Problem::Wrong(error.to_string()))?;
    Ok(axum::Json(value).into_response())
}

/// `GET /api/report`: the parameters of `payonce report`, with `csv` for the name of one table.
pub(in crate::ops) async fn report(State(pool): State<Arc<Pool>>, RawQuery(query): RawQuery) -> Answer {
    let known = [&reports::NAMES[..], &["csv"]].concat();
    let parameters = Parameters::of_query(query.as_deref(), &known)?;
    let part = parameters.choice("csv", Part::parse, "movements, balances, clearing")?;
    let Some(period) = asked::period_of(&parameters)? else {
        return Err(Wrong(asked::MISSING.to_owned()).into());
    };
    let report = finance::report(&pool, &period).await?;
    match part {
        Some(part) => {
            let name = format!("{}-{}-{}", part.as_str(), period.first, period.last);
            as_csv(&part.table(&report), &name)
        }
        None => json(report_json(&report, &period)),
    }
}

/// `GET /api/account/statement`: an account over days, page by page as JSON (`after_version`, `limit`), or as one CSV (`csv=yes`).
pub(in crate::ops) async fn statement(
    State(pool): State<Arc<Pool>>,
    Extension(visitor): Extension<Visitor>,
    RawQuery(query): RawQuery,
) -> Answer {
    let known = [&statement::NAMES[..], &["after_version", "limit", "csv"]].concat();
    let parameters = Parameters::of_query(query.as_deref(), &known)?;
    let id = parameters.required_id("id")?;
    let after = parameters.number("after_version", 0..=i64::MAX)?.unwrap_or(0);
    let as_file = parameters.choice("csv", |text| (text == "yes").then_some(()), "yes")?.is_some();
    if as_file {
        may_export(&visitor)?;
    }
    let limit = if as_file { ENTRIES_MAX } else { rows(&parameters)? };
    let Some(days) = asked::Days::of(&parameters)? else {
        return Err(Wrong(asked::MISSING.to_owned()).into());
    };
    let Some(found) = finance::statement(&pool, id, &days, after, limit).await? else {
        return Err(Problem::NotFound("account"));
    };
    if !as_file {
        let last = found.entries.last().map(|entry| entry.row.account_version);
        let next = last.filter(|last| *last < found.closing.version);
        let mut value = statement_json(&found, &days).map_err(|error| Problem::Wrong(error.to_string()))?;
        value["next_after_version"] = serde_json::json!(next);
        return json(Ok(value));
    }
    if let Some(not_made) = finance::too_many(found.entries_total) {
        return Err(not_made.into());
    }
    as_csv(&statement_table(&found), &format!("statement-{}-{}", days.first, days.last))
}

/// In an answer for programs.
impl From<NotMade> for Problem {
    fn from(not_made: NotMade) -> Self {
        match not_made {
            NotMade::Wrong(wrong) => wrong.into(),
            NotMade::TooLarge(words) => Self::Refused(StatusCode::UNPROCESSABLE_ENTITY, None, words),
            NotMade::Late(words) => Self::Refused(StatusCode::SERVICE_UNAVAILABLE, None, words),
            NotMade::Store(cause) => Self::Store(cause),
        }
    }
}
