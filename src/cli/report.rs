//! `payonce report`: a period closed, for finance.

use clap::ValueEnum;
use time::{Date, OffsetDateTime};

use super::{Failure, print_bytes, print_json, table, with_database};
use crate::{
    answers::money,
    config::Config,
    reports::{
        Part, Table,
        asked::{self, Days},
        csv, report_json,
    },
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

/// The days of a report or a statement.
#[derive(Debug, clap::Args)]
pub(super) struct DaysArgs {
    /// A whole month, `YYYY-MM`.
    #[arg(long, value_parser = asked::month, value_name = "MONTH", conflicts_with_all = ["from", "to"])]
    month: Option<(Date, Date)>,
    /// The first day, `YYYY-MM-DD`.
    #[arg(long, value_parser = asked::day, value_name = "DAY")]
    from: Option<Date>,
    /// The last day, one of them. Without it: the first day alone.
    #[arg(long, value_parser = asked::day, value_name = "DAY", requires = "from")]
    to: Option<Date>,
    /// In which days begin and end: a name such as Europe/Berlin [default: UTC].
    #[arg(long, value_name = "NAME")]
    time_zone: Option<String>,
}

impl DaysArgs {
    /// `None`: none are given.
    pub(super) fn days(&self) -> Result<Option<Days>, Failure> {
        let days = Days::new(self.month, self.from, self.to, self.time_zone.as_deref());
        let days = days.map_err(Failure::Usage)?;
        match days {
            None if self.time_zone.is_some() => Err(Failure::Usage(
                "--time-zone says in which days begin and end: give it with --month, or --from and --to"
                    .to_owned(),
            )),
            None | Some(_) => Ok(days),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A month of Adyen's clearing account: payonce report --month 2026-10 --time-zone Europe/Berlin\n\
                        The same again, whatever was recorded since: add --at 2026-11-01T00:00:00Z\n\
                        One account: payonce account ID --month 2026-10"
)]
pub(super) struct Args {
    #[command(flatten)]
    days: DaysArgs,
    /// Which time books a callback on a day.
    #[arg(long, value_enum, default_value = "recorded")]
    by: By,
    /// Without what was recorded at this time or later: an RFC 3339 timestamp. Makes a report again as it was.
    #[arg(long, value_parser = asked::at, value_name = "TIME")]
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
    let Some(days) = args.days.days()? else {
        return Err(Failure::Usage("of which days? Give --month, or --from and --to".to_owned()));
    };
    let booking = match args.by {
        By::Recorded => Booking::Recorded,
        By::Occurred => Booking::Occurred,
    };
    let period = asked::period(days, booking, args.at);
    let report = with_database(config, async |connection| {
        if !finance::is_time_zone(connection, &period.time_zone).await? {
            return Ok(None);
        }
        // Whoever has the database's address may ask for as much as there is.
        finance::report(connection, &period, i64::MAX).await.map(Some)
    });
    let Some(report) = report.await? else {
        return Err(Failure::Usage(asked::days(&period).unknown_time_zone()));
    };
    let part = args.csv.map(|csv| match csv {
        Csv::Movements => Part::Movements,
        Csv::Balances => Part::Balances,
        Csv::Clearing => Part::Clearing,
    });
    match part {
        Some(part) => print_bytes(&csv(&part.table(&report)).map_err(Failure::No)?),
        None if args.json => {
            print_json(&report_json(&report, &period).map_err(|error| Failure::No(error.to_string()))?)?;
        }
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

fn print(report: &Report, period: &Period) {
    let days = asked::days(period).in_words();
    let (zone, booked) = (table::safe(&period.time_zone), period.booking.as_str());
    say!("{days} ({zone}), booked by {booked}, of what was recorded before {}", table::time(report.as_of));
    if report.preliminary {
        say!(
            "This report is preliminary: the period was not over then, or only just, and may get more rows."
        );
    }
    for part in Part::ALL {
        say!("\n{}", part.title());
        print_table(&part.table(report));
    }
}

/// A table as text.
pub(super) fn print_table(of: &Table<'_>) {
    let mut rows = table::new(of.headings);
    for row in &of.rows {
        rows.add_row(row.iter().map(|cell| table::safe(&cell.text())));
    }
    let is_number = |at: usize| of.rows.iter().any(|row| row.get(at).is_some_and(|cell| cell.is_number()));
    let numbers: Vec<usize> = (0..of.headings.len()).filter(|at| is_number(*at)).collect();
    table::align_right(&mut rows, &numbers);
    say!("{rows}");
}
