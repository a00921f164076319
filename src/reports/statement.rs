//! The statement of one account as a table and as JSON.

use std::borrow::Cow;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Cell, Table, asked::Days};
use crate::{
    answers,
    store::{
        finance::Booking,
        statement::{Standing, Statement},
    },
};

/// Ledger rows of one statement at most; of more days there is another one.
pub const ENTRIES_MAX: i64 = 100_000;

/// What the account had before, each row, what it had after. The first and the last row have no change, so that a column of changes can be
/// summed up.
#[must_use]
pub fn statement_table(statement: &Statement) -> Table<'_> {
    let currency = statement.currency.as_str();
    let text = |text| Cell::Text(Cow::Borrowed(text));
    let money = |amount| Cell::money(amount, currency);
    let standing = |what: &'static str, at: OffsetDateTime, had: Standing| {
        vec![
            Cell::Number(had.version),
            Cell::Time(at),
            Cell::Absent,
            text(what),
            text(currency),
            Cell::Absent,
            money(had.balance),
            Cell::Absent,
            money(had.held),
            money(had.available),
            Cell::Absent,
            Cell::Absent,
            Cell::Absent,
        ]
    };
    let entries = statement.entries.iter().map(|entry| {
        let row = &entry.row;
        vec![
            Cell::Number(row.account_version),
            Cell::Time(row.recorded_at),
            row.occurred_at.map_or(Cell::Absent, Cell::Time),
            text(row.kind.as_str()),
            text(&row.currency),
            money(row.balance_delta),
            money(row.balance_after),
            money(row.held_delta),
            money(row.held_after),
            money(entry.available_after),
            Cell::optional(row.payment_id.as_deref()),
            text(&row.event_id),
            text(&row.source),
        ]
    });
    let opening = standing("opening", statement.begins, statement.opening);
    let closing = standing("closing", statement.ends, statement.closing);
    Table {
        headings: &[
            "version",
            "recorded_at",
            "occurred_at",
            "type",
            "currency",
            "balance_delta",
            "balance",
            "held_delta",
            "held",
            "available",
            "payment_id",
            "event_id",
            "source",
        ],
        rows: [opening].into_iter().chain(entries).chain([closing]).collect(),
    }
}

/// The statement as JSON, with what was asked for.
///
/// # Errors
/// What cannot be JSON.
pub fn statement_json(statement: &Statement, days: &Days) -> Result<Value, serde_json::Error> {
    let mut value = answers::answer(statement)?;
    let about = json!({
        "from": days.first.to_string(), "to": days.last.to_string(), "time_zone": days.time_zone,
        "booked_by": Booking::Recorded.as_str(),
    });
    if let (Some(value), Value::Object(about)) = (value.as_object_mut(), about) {
        value.extend(about);
    }
    Ok(value)
}
