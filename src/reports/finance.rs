//! The tables of a closed period.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{Cell, Table};
use crate::{
    answers,
    store::finance::{Period, Report},
};

/// A table of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// By day, source, type and currency.
    Movements,
    /// By currency.
    Balances,
    /// By source and currency.
    Clearing,
}

impl Part {
    /// All, in the order of the report.
    pub const ALL: [Self; 3] = [Self::Movements, Self::Balances, Self::Clearing];

    /// As parameters and files name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Movements => "movements",
            Self::Balances => "balances",
            Self::Clearing => "clearing",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.as_str() == text)
    }

    /// What stands above it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Movements => "Movements",
            Self::Balances => "Balances of all accounts",
            Self::Clearing => {
                "Clearing accounts (below zero: money that the provider still has to pay out; of urn:payonce:operator: corrections by people)"
            }
        }
    }

    /// The table itself.
    #[must_use]
    pub fn table(self, report: &Report) -> Table<'_> {
        use Cell::{Money, Number};
        let text = |text| Cell::Text(Cow::Borrowed(text));
        match self {
            Self::Movements => Table {
                headings: &[
                    "day",
                    "source",
                    "type",
                    "currency",
                    "callbacks",
                    "amount",
                    "balance_delta",
                    "held_delta",
                ],
                rows: (report.movements.iter())
                    .map(|moved| {
                        let money = |amount| Money(amount, &moved.currency);
                        vec![
                            text(moved.day.as_str()),
                            text(&moved.source),
                            text(&moved.kind),
                            text(&moved.currency),
                            Number(moved.callbacks),
                            money(moved.amount),
                            money(moved.balance_delta),
                            money(moved.held_delta),
                        ]
                    })
                    .collect(),
            },
            Self::Balances => Table {
                headings: &[
                    "currency",
                    "opening",
                    "movements",
                    "closing",
                    "held",
                    "debts",
                    "accounts_in_debt",
                    "clearing",
                    "trial_balance",
                ],
                rows: (report.balances.iter())
                    .map(|balance| {
                        let money = |amount| Money(amount, &balance.currency);
                        vec![
                            text(balance.currency.as_str()),
                            money(balance.opening),
                            money(balance.movements),
                            money(balance.closing),
                            money(balance.held),
                            money(balance.debts),
                            Number(balance.accounts_in_debt),
                            money(balance.clearing),
                            money(balance.trial_balance),
                        ]
                    })
                    .collect(),
            },
            Self::Clearing => Table {
                headings: &["source", "currency", "opening", "movements", "closing"],
                rows: (report.clearing.iter())
                    .map(|clearing| {
                        let money = |amount| Money(amount, &clearing.currency);
                        vec![
                            text(clearing.source.as_str()),
                            text(&clearing.currency),
                            money(clearing.opening),
                            money(clearing.movements),
                            money(clearing.closing),
                        ]
                    })
                    .collect(),
            },
        }
    }
}

/// The report as JSON, with what was asked for.
///
/// # Errors
/// What cannot be JSON.
pub fn report_json(report: &Report, period: &Period) -> Result<Value, serde_json::Error> {
    let mut value = answers::answer(report)?;
    let about = json!({
        "from": period.first.to_string(), "to": period.last.to_string(), "time_zone": period.time_zone,
        "booked_by": period.booking.as_str(),
    });
    if let (Some(value), Value::Object(about)) = (value.as_object_mut(), about) {
        value.extend(about);
    }
    Ok(value)
}
