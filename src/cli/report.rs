//! `payonce report`: a period closed, for finance.

use std::ops::RangeInclusive;

use clap::ValueEnum;
use serde_json::json;
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use super::{Failure, print_bytes, print_json, table, with_database};
use crate::{
    answers::{self, money},
    config::Config,
    store::finance::{self, Booking, Period, Report},
};

/// Which time books a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// When payonce recorded it. A day that is over stays as it is.
    Recorded,
    /// When it happened, by the provider's clock.
    Occurred,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A month of Adyen's clearing account: payonce report --month 2026-10 --time-zone Europe/Berlin\n\
                        The same again, whatever was recorded since: add --at 2026-11-01T00:00:00Z"
)]
pub(super) struct Args {
    /// A whole month, `YYYY-MM`.
    #[arg(long, value_parser = month, value_name = "MONTH", conflicts_with_all = ["from", "to"], required_unless_present = "from")]
    month: Option<(Date, Date)>,
    /// The first day, `YYYY-MM-DD`.
    #[arg(long, value_parser = day, value_name = "DAY")]
    from: Option<Date>,
    /// The last day, part of the report. Without it: the first day alone.
    #[arg(long, value_parser = day, value_name = "DAY", requires = "from")]
    to: Option<Date>,
    /// In which days begin and end: a name such as Europe/Berlin.
    #[arg(long, default_value = "UTC", value_name = "NAME")]
    time_zone: String,
    /// Which time books a callback on a day.
    #[arg(long, value_enum, default_value = "recorded")]
    by: By,
    /// Without what was recorded at this time or later: an RFC 3339 timestamp. Makes a report again as it was.
    #[arg(long, value_parser = at, value_name = "TIME")]
    at: Option<OffsetDateTime>,
    /// One JSON object in place of text: amounts in minor units, and as decimal text beside them.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// One table as CSV (RFC 4180) in place of text.
    #[arg(long, value_enum, value_name = "TABLE")]
    csv: Option<Csv>,
}

/// A table of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Csv {
    /// By day, source, type and currency.
    Movements,
    /// By currency.
    Balances,
    /// By source and currency.
    Clearing,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let (first, last) = match (args.month, args.from) {
        (Some(month), _) => month,
        (None, Some(first)) => (first, args.to.unwrap_or(first)),
        (None, None) => return Err(Failure::Usage("of which days? --month, or --from and --to".to_owned())),
    };
    if last < first {
        return Err(Failure::Usage(format!("--to {last} comes before --from {first}")));
    }
    let booking = match args.by {
        By::Recorded => Booking::Recorded,
        By::Occurred => Booking::Occurred,
    };
    let period = Period { first, last, time_zone: args.time_zone, booking, as_of: args.at };
    let report = with_database(config, async |connection| {
        if !finance::is_time_zone(connection, &period.time_zone).await? {
            return Ok(None);
        }
        finance::report(connection, &period).await.map(Some)
    });
    let Some(report) = report.await? else {
        return Err(Failure::Usage(format!(
            "--time-zone {:?} is none that PostgreSQL knows: a name of the IANA time zone database, such as Europe/Berlin, or UTC",
            period.time_zone
        )));
    };
    match args.csv {
        Some(which) => print_csv(&report, which)?,
        None if args.json => print_json(&as_json(&report, &period)?)?,
        None => print(&report, &period),
    }
    let wrong: Vec<String> =
        report.unbalanced().map(|balance| money(balance.trial_balance, &balance.currency)).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::No(format!(
        "the trial balance is not 0, but {}: run payonce audit, and see docs/operations.md",
        wrong.join(", ")
    )))
}

/// A place in a table.
enum Cell<'a> {
    Text(&'a str),
    Number(i64),
    Money(i128, &'a str),
}

impl Csv {
    fn title(self) -> &'static str {
        match self {
            Self::Movements => "Movements",
            Self::Balances => "Balances of all accounts",
            Self::Clearing => "Clearing accounts (below zero: money that the provider still has to pay out)",
        }
    }

    fn headings(self) -> &'static [&'static str] {
        match self {
            Self::Movements => {
                &["day", "source", "type", "currency", "callbacks", "amount", "balance_delta", "held_delta"]
            }
            Self::Balances => &[
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
            Self::Clearing => &["source", "currency", "opening", "movements", "closing"],
        }
    }

    fn rows(self, report: &Report) -> Vec<Vec<Cell<'_>>> {
        use Cell::{Money, Number, Text};
        match self {
            Self::Movements => report
                .movements
                .iter()
                .map(|moved| {
                    let money = |amount| Money(amount, &moved.currency);
                    vec![
                        Text(&moved.day),
                        Text(&moved.source),
                        Text(&moved.kind),
                        Text(&moved.currency),
                        Number(moved.callbacks),
                        money(moved.amount),
                        money(moved.balance_delta),
                        money(moved.held_delta),
                    ]
                })
                .collect(),
            Self::Balances => report
                .balances
                .iter()
                .map(|balance| {
                    let money = |amount| Money(amount, &balance.currency);
                    vec![
                        Text(&balance.currency),
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
            Self::Clearing => report
                .clearing
                .iter()
                .map(|clearing| {
                    let money = |amount| Money(amount, &clearing.currency);
                    vec![
                        Text(&clearing.source),
                        Text(&clearing.currency),
                        money(clearing.opening),
                        money(clearing.movements),
                        money(clearing.closing),
                    ]
                })
                .collect(),
        }
    }
}

fn print(report: &Report, period: &Period) {
    let days = if period.first == period.last {
        period.first.to_string()
    } else {
        format!("{} to {}", period.first, period.last)
    };
    let (zone, booked) = (table::safe(&period.time_zone), period.booking.as_str());
    say!("{days} ({zone}), booked by {booked}, of what was recorded before {}", table::time(report.as_of));
    if report.preliminary {
        say!(
            "This report is preliminary: the period was not over then, or only just, and may get more rows."
        );
    }
    for which in [Csv::Movements, Csv::Balances, Csv::Clearing] {
        let mut rows = table::new(which.headings());
        for row in which.rows(report) {
            rows.add_row(row.iter().map(|cell| match cell {
                Cell::Text(text) => table::safe(text),
                Cell::Number(number) => number.to_string(),
                Cell::Money(amount, currency) => answers::decimal_of(*amount, currency),
            }));
        }
        if let Some(row) = which.rows(report).first() {
            let numbers: Vec<usize> =
                (0..row.len()).filter(|at| !matches!(row[*at], Cell::Text(_))).collect();
            table::align_right(&mut rows, &numbers);
        }
        say!("\n{}\n{rows}", which.title());
    }
}

fn as_json(report: &Report, period: &Period) -> Result<serde_json::Value, Failure> {
    let mut value = answers::answer(report).map_err(|error| Failure::No(error.to_string()))?;
    let about = json!({
        "from": period.first.to_string(), "to": period.last.to_string(), "time_zone": period.time_zone,
        "booked_by": period.booking.as_str(),
    });
    if let (Some(value), Some(about)) = (value.as_object_mut(), about.as_object()) {
        value.extend(about.clone());
    }
    Ok(value)
}

/// A spreadsheet takes a text that begins so for a formula, and sources are chosen by whoever sends callbacks.
const FORMULA_BEGINS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

fn print_csv(report: &Report, which: Csv) -> Result<(), Failure> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let cell = |cell: &Cell<'_>| match cell {
        Cell::Text(text) if text.starts_with(FORMULA_BEGINS) => format!("'{text}"),
        Cell::Text(text) => (*text).to_owned(),
        Cell::Number(number) => number.to_string(),
        Cell::Money(amount, currency) => answers::decimal_of(*amount, currency),
    };
    let rows = which.rows(report).into_iter().map(|row| row.iter().map(cell).collect());
    let written: Result<(), csv::Error> = [which.headings().iter().map(|name| (*name).to_owned()).collect()]
        .into_iter()
        .chain(rows)
        .try_for_each(|row: Vec<String>| writer.write_record(row));
    let bytes = written.and_then(|()| writer.into_inner().map_err(|error| error.into_error().into()));
    let bytes = bytes.map_err(|error| Failure::No(error.to_string()))?;
    print_bytes(&bytes);
    Ok(())
}

/// Those in which there can be callbacks.
const YEARS: RangeInclusive<i32> = 1970..=9_000;

/// A day, `YYYY-MM-DD`.
fn day(text: &str) -> Result<Date, String> {
    let form = format_description!("[year]-[month]-[day]");
    let day = Date::parse(text, &form).ok().filter(|day| YEARS.contains(&day.year()));
    day.ok_or_else(|| {
        format!("expected a day such as 2026-10-31, of the years {} to {}", YEARS.start(), YEARS.end())
    })
}

/// The first and the last day of a month, `YYYY-MM`.
fn month(text: &str) -> Result<(Date, Date), String> {
    let first = day(&format!("{text}-01")).map_err(|_| "expected a month such as 2026-10".to_owned())?;
    let last = first.replace_day(first.month().length(first.year()));
    last.map(|last| (first, last)).map_err(|error| error.to_string())
}

fn at(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected an RFC 3339 timestamp such as 2026-11-01T00:00:00Z".to_owned())
}
