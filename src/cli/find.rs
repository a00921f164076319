//! `payonce find TEXT`.

use super::{Failure, print_answer, table, values, with_database};
use crate::{
    answers,
    config::Config,
    ledger::Currency,
    reports::asked::moments,
    store::{
        amounts::{self, ROWS_READ_MAX, Wanted},
        find::{self, Kind},
        references::Within,
    },
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads what was settled: a callback that is on the queue still is not found. Upper and lower case differ. Then:\n\
                        payonce event SOURCE ID, payonce payment SOURCE ID, payonce account ID. Exits 1 where nothing is found."
)]
pub(super) struct Args {
    /// An event, operation, payment or account id, or a reference (reference_fields), or the beginning of one.
    #[arg(value_parser = values::id, allow_hyphen_values = true, required_unless_present = "amount", conflicts_with = "amount")]
    text: Option<String>,
    /// What has exactly this amount in place of an id, such as "634.83 EUR".
    #[arg(long, value_parser = answers::money_of, value_name = "MONEY")]
    amount: Option<(i64, Currency)>,
    /// Recorded on this day or later, or at this time: 2026-11-25, or 2026-11-25T14:00:00Z. Of an amount two days back where nothing is said; else only events with
    /// just this reference are looked for.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Recorded on this day or earlier, or before this time.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How many events, payments and accounts to show, of each.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000), value_name = "N")]
    limit: u16,
    /// One JSON object a line in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let limit = i64::from(args.limit);
    if let Some(wanted) = args.amount {
        return by_amount(config, wanted, &args, limit).await;
    }
    let (since, before) = moments(args.from.as_deref(), args.to.as_deref()).map_err(Failure::Usage)?;
    let within = Within { since, before };
    let text = args.text.as_deref().unwrap_or_default();
    let found =
        with_database(config, async |connection| find::find(connection, text, within, limit).await).await?;
    if args.json {
        for hit in &found.hits {
            print_answer(hit)?;
        }
    }
    if found.hits.is_empty() && !within.is_always() {
        return Err(Failure::No(format!(
            "no event with just the reference {} was recorded in this time; other ids are looked for without --from and --to",
            table::safe(text)
        )));
    }
    if found.hits.is_empty() {
        return Err(Failure::No(format!(
            "nothing that was settled has an id or a reference that begins with {}. It may still be on the queue; a message that could not be read has no id: \
             `payonce quarantine list --reason malformed`",
            table::safe(text)
        )));
    }
    if args.json {
        return Ok(());
    }
    let has_references = found.hits.iter().any(|hit| hit.reference.is_some());
    let mut rows = match has_references {
        true => table::new(&["found", "id", "recorded", "type", "amount", "state", "source", "by"]),
        false => table::new(&["found", "id", "recorded", "type", "amount", "state", "source"]),
    };
    for hit in &found.hits {
        let kind = match hit.kind {
            Kind::Event => "event",
            Kind::Payment => "payment",
            Kind::Account => "account",
        };
        let by = hit.reference.as_ref().map_or_else(
            || "its id".to_owned(),
            |reference| format!("{} {}", reference.name, table::safe(&reference.value)),
        );
        let facts = hit.facts.as_ref();
        let row = [
            kind.to_owned(),
            table::safe(&hit.id),
            facts.map(|facts| table::time(facts.recorded_at)).unwrap_or_default(),
            facts.and_then(|facts| facts.kind.clone()).unwrap_or_default(),
            facts
                .and_then(|facts| Some(answers::money(facts.amount?, facts.currency.as_deref()?)))
                .unwrap_or_default(),
            facts.map(|facts| facts.state.clone()).unwrap_or_default(),
            table::optional(hit.source.as_ref()),
            by,
        ];
        rows.add_row(row.into_iter().take(if has_references { 8 } else { 7 }));
    }
    say!("{rows}");
    if found.has_more {
        say!("There are more: give more of the id, or a larger --limit.");
    }
    Ok(())
}

/// What has this amount: with `--json` one object, as the API has it.
async fn by_amount(
    config: &Config,
    (amount, currency): (i64, Currency),
    args: &Args,
    limit: i64,
) -> Result<(), Failure> {
    let (since, until) = moments(args.from.as_deref(), args.to.as_deref()).map_err(Failure::Usage)?;
    let wanted = Wanted { amount, currency, since, until };
    let found =
        with_database(config, async |connection| amounts::find(connection, wanted, limit).await).await?;
    let is_empty = found.entries.is_empty() && found.cases.is_empty();
    let money = answers::money(amount, currency.as_str());
    let span = format!("from {} to {}", table::time(found.since), table::time(found.until));
    if args.json {
        print_answer(&found)?;
    } else if !is_empty {
        let mut rows = table::new(&["recorded", "where", "type", "account", "event", "source"]);
        for row in &found.entries {
            rows.add_row([
                table::time(row.recorded_at),
                "ledger".to_owned(),
                row.kind.clone(),
                table::safe(&row.account_id),
                table::safe(&row.event_id),
                table::safe(&row.source),
            ]);
        }
        for row in &found.cases {
            rows.add_row([
                table::time(row.first_seen_at),
                format!("case {}, {}, {}", row.id, row.state, row.reason),
                table::optional(row.kind.as_ref()),
                table::optional(row.account_id.as_ref()),
                table::optional(row.event_id.as_ref()),
                table::optional(row.source.as_ref()),
            ]);
        }
        say!("{rows}");
        say!("Of {money}, recorded {span}.");
        if found.has_more {
            say!("There are more: give a shorter time, or a larger --limit.");
        }
    }
    if let Some(read_until) = found.read_until {
        return Err(Failure::No(format!(
            "more than {ROWS_READ_MAX} callbacks were recorded {span}; those up to {} were looked at: give a shorter time, or go on with --from",
            table::time(read_until)
        )));
    }
    if is_empty {
        return Err(Failure::No(format!("nothing of {money} was recorded {span}")));
    }
    Ok(())
}
