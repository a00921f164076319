//! `payonce account ID`.

use super::{Failure, print_json, table, with_database};
use crate::{
    config::Config,
    store::report::{self, AccountStory, LedgerRow},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account: CloudEvents `subject`.
    #[arg(allow_hyphen_values = true)]
    id: String,
    /// The page of entries that follows this version.
    #[arg(long, default_value_t = i64::MAX, hide_default_value = true, value_name = "VERSION")]
    before: i64,
    /// How many of the last entries to show.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1_000), value_name = "N")]
    limit: u16,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let limit = i64::from(args.limit);
    let story = with_database(config, async |connection| {
        report::account(connection, &args.id, args.before, limit).await
    })
    .await?;
    let Some(story) = story else {
        return Err(Failure::No(format!(
            "account {id}: no ledger row yet. Callbacks for it may still be on the queue, or in `payonce quarantine list --account {id}`; \
             ids are case-sensitive",
            id = table::safe(&args.id)
        )));
    };
    if args.json {
        return print_json(&story);
    }
    print(&story);
    Ok(())
}

fn print(story: &AccountStory) {
    say!(
        "Account {}: balance {}, held {}, available {} {} (minor units), version {}",
        table::safe(&story.account_id),
        story.balance,
        story.held,
        story.available,
        story.currency,
        story.version
    );
    print_entries(&story.entries);
    if let Some(last) = story.entries.last().filter(|last| last.account_version > 1) {
        say!("Next page: --before {}", last.account_version);
    }
}

/// A table of ledger rows.
pub(super) fn print_entries(entries: &[LedgerRow]) {
    let mut rows = table::new(&[
        "version", "recorded", "type", "amount", "balance", "held", "payment", "event", "source",
    ]);
    for row in entries {
        rows.add_row([
            row.account_version.to_string(),
            table::time(row.recorded_at),
            row.kind.clone(),
            row.amount.to_string(),
            row.balance_after.to_string(),
            row.held_after.to_string(),
            table::optional(row.payment_id.as_ref()),
            table::safe(&row.event_id),
            table::safe(&row.source),
        ]);
    }
    table::align_right(&mut rows, &[0, 3, 4, 5]);
    say!("{rows}");
}
