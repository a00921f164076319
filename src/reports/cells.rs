//! A table before anybody knows whether it becomes text, a page or CSV.

use std::borrow::Cow;

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::answers;

/// A place in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// A text of ours or of others: whoever shows it makes it safe.
    Text(Cow<'a, str>),
    /// Things.
    Number(i64),
    /// Minor units, and the ISO 4217 code of their currency.
    Money(i128, &'a str),
    /// A time.
    Time(OffsetDateTime),
    /// Nothing.
    Absent,
}

impl<'a> Cell<'a> {
    /// A text that may be absent.
    #[must_use]
    pub fn optional(text: Option<&'a str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(Cow::Borrowed(text)))
    }

    /// Money of 64 bits.
    #[must_use]
    pub fn money(minor_units: i64, currency: &'a str) -> Self {
        Self::Money(minor_units.into(), currency)
    }

    /// Read from the right.
    #[must_use]
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Money(..))
    }

    /// In plain characters: money as decimal text without its code, times in UTC as RFC 3339, what is absent as nothing.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Money(minor_units, currency) => Cow::Owned(answers::decimal_of(*minor_units, currency)),
            Self::Time(at) => Cow::Owned(at.to_offset(UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()),
            Self::Absent => Cow::Borrowed(""),
        }
    }
}

/// Headings and rows. Each row has as many cells as there are headings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<'a> {
    /// One for each column, fixed: spreadsheets and scripts go by them.
    pub headings: &'static [&'static str],
    /// From the first to the last.
    pub rows: Vec<Vec<Cell<'a>>>,
}
