//! `payonce find TEXT`.

use serde_json::json;

use super::{Failure, print_json, table, values, with_database};
use crate::{
    config::Config,
    store::find::{self, Kind},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads what was settled: a callback that is on the queue still is not found. Upper and lower case differ. Then:\n\
                        payonce event SOURCE ID, payonce payment SOURCE ID, payonce account ID. Exits 1 where nothing is found."
)]
pub(super) struct Args {
    /// An event, operation, payment or account id, or a reference (reference_fields), or the beginning of one.
    #[arg(value_parser = values::id, allow_hyphen_values = true)]
    text: String,
    /// How many events, payments and accounts to show, of each.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000), value_name = "N")]
    limit: u16,
    /// One JSON object a line in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let limit = i64::from(args.limit);
    let found =
        with_database(config, async |connection| find::find(connection, &args.text, limit).await).await?;
    if args.json {
        for hit in &found.hits {
            print_json(&json!(hit))?;
        }
    }
    if found.hits.is_empty() {
        return Err(Failure::No(format!(
            "nothing that was settled has an id or a reference that begins with {}. It may still be on the queue; a message that could not be read has no id: \
             `payonce quarantine list --reason malformed`",
            table::safe(&args.text)
        )));
    }
    if args.json {
        return Ok(());
    }
    let has_references = found.hits.iter().any(|hit| hit.reference.is_some());
    let mut rows = match has_references {
        true => table::new(&["found", "id", "source", "by"]),
        false => table::new(&["found", "id", "source"]),
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
        let row = [kind.to_owned(), table::safe(&hit.id), table::optional(hit.source.as_ref()), by];
        rows.add_row(row.into_iter().take(if has_references { 4 } else { 3 }));
    }
    say!("{rows}");
    if found.has_more {
        say!("There are more: give more of the id, or a larger --limit.");
    }
    Ok(())
}
