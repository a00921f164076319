//! Lists that people take away: cases, and the lines of the audit log.

use std::borrow::Cow;

use super::{Cell, Table};
use crate::store::{actions::ActionRow, report::CaseRow};

/// Rows of one list at most; a filter makes it shorter.
pub const ROWS_MAX: i64 = 50_000;

fn text(text: &str) -> Cell<'_> {
    Cell::Text(Cow::Borrowed(text))
}

/// Cases without their messages.
#[must_use]
pub fn cases_table(cases: &[CaseRow]) -> Table<'_> {
    fn row(case: &CaseRow) -> Vec<Cell<'_>> {
        let amount = case.amount.zip(case.currency.as_deref());
        vec![
            Cell::Number(case.id),
            text(&case.state),
            text(&case.reason),
            amount.map_or(Cell::Absent, |(amount, currency)| Cell::money(amount, currency)),
            Cell::optional(case.currency.as_deref()),
            Cell::optional(case.kind.as_deref()),
            Cell::optional(case.account_id.as_deref()),
            Cell::optional(case.payment_id.as_deref()),
            Cell::optional(case.operation_id.as_deref()),
            Cell::optional(case.event_id.as_deref()),
            Cell::optional(case.source.as_deref()),
            Cell::Number(case.attempts.into()),
            Cell::Time(case.first_seen_at),
            Cell::Time(case.last_seen_at),
            text(&case.detail),
            case.resolved_at.map_or(Cell::Absent, Cell::Time),
            Cell::optional(case.resolved_by.as_deref()),
            Cell::optional(case.resolved_why.as_deref()),
            Cell::optional(case.assignee.as_deref()),
        ]
    }
    Table {
        headings: &[
            "case",
            "state",
            "reason",
            "amount",
            "currency",
            "type",
            "account_id",
            "payment_id",
            "operation_id",
            "event_id",
            "source",
            "deliveries",
            "first_seen_at",
            "last_seen_at",
            "detail",
            "resolved_at",
            "resolved_by",
            "resolved_why",
            "assignee",
        ],
        rows: cases.iter().map(row).collect(),
    }
}

/// Lines of the audit log.
#[must_use]
pub fn actions_table(lines: &[ActionRow]) -> Table<'_> {
    fn row(line: &ActionRow) -> Vec<Cell<'_>> {
        vec![
            Cell::Number(line.id),
            Cell::Time(line.began_at),
            line.ended_at.map_or(Cell::Absent, Cell::Time),
            text(&line.who),
            Cell::optional(line.proposed_by.as_deref()),
            text(&line.via),
            text(&line.action),
            text(&line.chosen),
            text(&line.why),
            Cell::Number(line.cases),
            Cell::optional(line.result.as_deref()),
        ]
    }
    Table {
        headings: &[
            "id",
            "began_at",
            "ended_at",
            "who",
            "proposed_by",
            "via",
            "action",
            "selection",
            "why",
            "cases",
            "result",
        ],
        rows: lines.iter().map(row).collect(),
    }
}
