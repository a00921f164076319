//! Lists as files: CSV for spreadsheets, NDJSON for programs. What must not live here: what is in a list.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;

use super::{Answer, Problem, finance::as_csv};
use crate::{
    answers,
    ops::access::{Action, Visitor},
    parameters::Parameters,
    reports::{ROWS_MAX, Table},
    shown::safe_json,
};

/// A list as a file needs more than to see it page by page.
pub(super) fn may_export(visitor: &Visitor) -> Result<(), Problem> {
    visitor.need(Action::Export).map_err(|words| Problem::Refused(StatusCode::FORBIDDEN, None, words))
}

/// The form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Export {
    /// RFC 4180.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

impl Export {
    /// `None`: an answer in JSON, page by page.
    pub(in crate::ops) fn asked(parameters: &Parameters, visitor: &Visitor) -> Result<Option<Self>, Problem> {
        let form = |text: &str| match text {
            "csv" => Some(Self::Csv),
            "ndjson" => Some(Self::Ndjson),
            _ => None,
        };
        let asked = parameters.choice("export", form, "csv, ndjson")?;
        if asked.is_some() {
            may_export(visitor)?;
        }
        Ok(asked)
    }

    /// The file of these rows, of which `limit` were asked for.
    pub(super) fn file<T: Serialize>(
        self,
        rows: &[T],
        table: impl FnOnce(&[T]) -> Table<'_>,
        name: &str,
    ) -> Answer {
        if i64::try_from(rows.len()).is_ok_and(|rows| rows > ROWS_MAX) {
            let words =
                format!("more than {ROWS_MAX} rows, which is as many as one file may have: use filters");
            return Err(Problem::Refused(StatusCode::UNPROCESSABLE_ENTITY, None, words));
        }
        match self {
            Self::Csv => as_csv(&table(rows), name),
            Self::Ndjson => {
                let mut text = String::new();
                for row in rows {
                    let value = answers::answer(row).map_err(|error| Problem::Wrong(error.to_string()))?;
                    text.push_str(&safe_json(&value.to_string()));
                    text.push('\n');
                }
                let headers = [
                    (header::CONTENT_TYPE, "application/x-ndjson".to_owned()),
                    (header::CONTENT_DISPOSITION, format!("attachment; filename=\"payonce-{name}.ndjson\"")),
                ];
                Ok((headers, Body::from(text)).into_response())
            }
        }
    }
}
