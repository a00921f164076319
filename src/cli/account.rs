//! `payonce account ID`, and `payonce account open|close|freeze ID`.

use clap::Subcommand;
use serde_json::json;

use super::{
    Failure, adjust, print_answer, print_json, report::DaysArgs, statement, table, values, with_database,
};
use crate::{
    answers::money,
    config::Config,
    ledger::{AccountId, AccountStatus, Currency},
    store::{
        accounts::{self, Obstacle, Order, Ordered},
        actions::Via,
        report::{self, AccountStory, LedgerRow},
    },
};

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "A month as a statement, with what it had before and after: payonce account ID --month 2026-10 --time-zone Europe/Berlin\n\
                        An account whose id is the name of a command: `payonce account -- open`."
)]
pub(super) struct Args {
    #[command(subcommand)]
    change: Option<Change>,
    /// The account: CloudEvents `subject`.
    #[arg(value_parser = values::id, allow_hyphen_values = true, required = true)]
    id: Option<String>,
    #[command(flatten)]
    days: DaysArgs,
    /// The statement of these days as CSV (RFC 4180) in place of text.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// The page of entries that follows this version.
    #[arg(long, default_value_t = i64::MAX, hide_default_value = true, value_name = "VERSION",
          conflicts_with_all = ["month", "from"])]
    before: i64,
    /// How many of the last entries to show.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1_000), value_name = "N",
          conflicts_with_all = ["month", "from"])]
    limit: u16,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Opens an account with a balance of 0; opens a frozen or closed one again. What waits for it is applied by the workers.
    Open {
        #[command(flatten)]
        how: How,
        /// ISO 4217 code. Needed for an account that nothing has opened before; it never changes.
        #[arg(value_parser = adjust::currency)]
        currency: Option<Currency>,
    },
    /// Closes an account whose balance is 0 and of which nothing is held: nothing moves its money any more. `open` takes it back.
    Close {
        #[command(flatten)]
        how: How,
    },
    /// Freezes an account: it takes credits, and what has happened already, but nothing that needs available money. `open` lifts it.
    Freeze {
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, clap::Args)]
struct How {
    /// The account.
    #[arg(value_parser = adjust::account_id, allow_hyphen_values = true)]
    id: AccountId,
    /// Kept in the audit log.
    #[arg(long, value_parser = values::words, value_name = "TEXT")]
    why: String,
    /// Who does this, kept in the audit log.
    #[arg(long, env = "USER", default_value = "operator", value_parser = values::name, value_name = "NAME")]
    by: String,
    /// Makes it one: the same command with the same key is answered as the first was. 1 to 200 bytes.
    #[arg(long, value_parser = values::name, value_name = "KEY", allow_hyphen_values = true)]
    idempotency_key: Option<String>,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let id = match (args.change, args.id) {
        (Some(Change::Open { how, currency }), _) => {
            return change(config, &how, AccountStatus::Open, currency).await;
        }
        (Some(Change::Close { how }), _) => return change(config, &how, AccountStatus::Closed, None).await,
        (Some(Change::Freeze { how }), _) => return change(config, &how, AccountStatus::Frozen, None).await,
        (None, Some(id)) => id,
        (None, None) => return Err(Failure::Usage("which account?".to_owned())),
    };
    if let Some(days) = args.days.days()? {
        return statement::run(config, &id, &days, args.csv, args.json).await;
    }
    if args.csv {
        return Err(Failure::Usage("--csv is of a statement: give --month, or --from and --to".to_owned()));
    }
    let limit = i64::from(args.limit);
    let story =
        with_database(config, async |connection| report::account(connection, &id, args.before, limit).await)
            .await?;
    let Some(story) = story else { return Err(not_open(&id)) };
    if args.json {
        return print_answer(&story);
    }
    print(&story);
    Ok(())
}

pub(super) fn not_open(id: &str) -> Failure {
    Failure::No(format!(
        "account {id}: not open. Callbacks for it may still be on the queue, or in `payonce quarantine list --state all --account {id}`; \
         ids are case-sensitive",
        id = table::safe(id)
    ))
}

async fn change(
    config: &Config,
    how: &How,
    to: AccountStatus,
    currency: Option<Currency>,
) -> Result<(), Failure> {
    let order = Order {
        account_id: &how.id,
        to,
        currency,
        who: &how.by,
        via: Via::CommandLine,
        why: &how.why,
        key: how.idempotency_key.as_deref(),
    };
    let ordered =
        with_database(config, async |connection| accounts::change(connection, &order).await).await?;
    let id = &how.id;
    let was = match ordered {
        Ordered::Opened => None,
        Ordered::Changed(from) => Some(from.as_str()),
        Ordered::Refused(obstacle) => return Err(refused(id, to, obstacle)),
        Ordered::OtherContent => {
            return Err(Failure::No(
                "nothing was done: the idempotency key was used for something else".to_owned(),
            ));
        }
    };
    if how.json {
        return print_json(&json!({ "account_id": id.as_str(), "status": to.as_str(), "was": was }));
    }
    let before = was.map(|was| format!(" (was {was})")).unwrap_or_default();
    say!("Account {} is {}{before}.", table::safe(id.as_str()), to.as_str());
    Ok(())
}

fn refused(id: &AccountId, to: AccountStatus, obstacle: Obstacle) -> Failure {
    match obstacle {
        Obstacle::Unknown => Failure::No(format!("account {id}: not open; ids are case-sensitive")),
        Obstacle::Already => Failure::No(format!("account {id} is {} already", to.as_str())),
        Obstacle::NeedsCurrency => Failure::Usage(format!(
            "account {id} is not open yet: name its currency, `payonce account open {id} EUR --why …`"
        )),
        Obstacle::OtherCurrency(currency) => {
            Failure::No(format!("account {id} is in {currency}, and stays in it"))
        }
        Obstacle::Closed => Failure::No(format!("account {id} is closed, which is more than frozen")),
        Obstacle::HasMoney { currency, balance, held } => Failure::No(format!(
            "account {id} has balance {}, held {}: it can be closed when both are 0",
            currency.money(balance),
            currency.money(held)
        )),
    }
}

fn print(story: &AccountStory) {
    say!(
        "Account {}: {}, balance {}, held {}, available {}, debt {}, version {}",
        table::safe(&story.account_id),
        story.status,
        money(story.balance, &story.currency),
        money(story.held, &story.currency),
        money(story.available, &story.currency),
        money(story.debt, &story.currency),
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
            money(row.amount, &row.currency),
            money(row.balance_after, &row.currency),
            money(row.held_after, &row.currency),
            table::optional(row.payment_id.as_ref()),
            table::safe(&row.event_id),
            table::safe(&row.source),
        ]);
    }
    table::align_right(&mut rows, &[0, 3, 4, 5]);
    say!("{rows}");
}
