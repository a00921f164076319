//! Tables and fields for people.

use std::fmt::Display;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(super) use crate::shown::safe;

/// A table with these headings.
pub(super) fn new(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings);
    table
}

/// Columns of numbers are read from the right.
pub(super) fn align_right(table: &mut Table, columns: &[usize]) {
    for at in columns {
        if let Some(column) = table.column_mut(*at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A number with its noun, in the singular or the plural: `1 callback`, `2 callbacks`.
pub(super) fn count<N: Display + PartialEq + From<u8>>(n: N, noun: &str) -> String {
    let plural = if n == N::from(1) { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

/// A time to the millisecond, in UTC.
pub(super) fn time(time: OffsetDateTime) -> String {
    let millis = time.replace_millisecond(time.millisecond()).unwrap_or(time);
    millis.format(&Rfc3339).unwrap_or_default()
}

/// What is absent shows as a dash. Texts come from whoever writes to the queue: control characters are shown, not sent.
pub(super) fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| safe(&value.to_string()))
}
