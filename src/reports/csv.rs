//! CSV (RFC 4180), as spreadsheets read it.

use super::{Cell, Table};

/// A spreadsheet takes a text that begins so for a formula, and sources and ids are chosen by whoever sends callbacks.
const FORMULA_BEGINS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// The table with its headings. A text that a spreadsheet would take for a formula has a `'` before it.
///
/// # Errors
/// Words, where a row cannot be written.
pub fn csv(table: &Table<'_>) -> Result<Vec<u8>, String> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut write = || -> Result<(), csv::Error> {
        writer.write_record(table.headings)?;
        for row in &table.rows {
            writer.write_record(row.iter().map(field))?;
        }
        Ok(())
    };
    write().map_err(|error| error.to_string())?;
    writer.into_inner().map_err(|error| error.to_string())
}

fn field(cell: &Cell<'_>) -> String {
    let text = cell.text();
    match cell {
        Cell::Text(_) if text.starts_with(FORMULA_BEGINS) => format!("'{text}"),
        Cell::Text(_) | Cell::Number(_) | Cell::Money(..) | Cell::Time(_) | Cell::Absent => text.into_owned(),
    }
}
