//! `payonce feed`, and `payonce feed subscribers list|enable|disable|replay|forget`.

use std::net::SocketAddr;

use clap::Subcommand;

use super::{Failure, print_json, table, values};
use crate::{
    app,
    config::{Config, SubscriberConfig},
    feed::feed_of,
    store::{
        self,
        actions::{Act, Line, Via},
        subscribers::{self, WebhookRow},
    },
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every ledger row, after its commit, once or more, to the topic exchange payment.events with the account id as routing \
                  key; per account in the order of versions. Any number may run; one at a time works.\n\nSubscribers over HTTPS stand in the configuration \
                  file, as [[feed.subscriber]]: docs/webhooks.md."
)]
pub(super) struct Args {
    /// Serve /healthz, /readyz and /metrics here.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Send all rows again, from the first; then go on.
    #[arg(long)]
    from_beginning: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who gets events over HTTPS.
    #[command(subcommand)]
    Subscribers(Subscribers),
}

#[derive(Debug, Subcommand)]
enum Subscribers {
    /// Lists them: enabled or not, how many accounts are behind, and why.
    List {
        /// One JSON object per line in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Sends to a disabled subscriber again, and to accounts whose retries are exhausted: all that it has not taken, at once.
    Enable {
        /// The subscriber's name in the configuration file.
        name: String,
        #[command(flatten)]
        by: By,
    },
    /// Sends nothing more to a subscriber until it is enabled. All that it has not taken is kept.
    Disable {
        /// The subscriber's name in the configuration file.
        name: String,
        #[command(flatten)]
        by: By,
    },
    /// Sends an account's events again, from a version on. The subscriber gets copies of what it knows.
    Replay {
        /// The subscriber's name in the configuration file.
        name: String,
        /// The account.
        #[arg(long, value_parser = values::id, value_name = "ID", allow_hyphen_values = true)]
        account: String,
        /// The first version to send.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
        from_version: i64,
        #[command(flatten)]
        by: By,
    },
    /// Forgets a subscriber that the configuration file does not name any more, with all that it has not taken.
    Forget {
        /// The name that it had.
        name: String,
        #[command(flatten)]
        by: By,
    },
}

/// Who does it, and why.
#[derive(Debug, clap::Args)]
struct By {
    /// Who does this, kept in the audit log.
    #[arg(long, env = "USER", default_value = "operator", value_parser = values::name, value_name = "NAME")]
    by: String,
    /// Kept in the audit log.
    #[arg(long, default_value = "by hand", value_parser = values::words, value_name = "TEXT")]
    why: String,
}

impl By {
    fn line<'a>(&'a self, act: Act, chosen: &'a str) -> Line<'a> {
        Line {
            who: &self.by,
            via: Via::CommandLine,
            action: act.as_str(),
            why: &self.why,
            chosen,
            key: None,
            proposed_by: None,
        }
    }
}

pub(super) async fn run(config: Config, args: Args) -> Result<(), Failure> {
    match args.command {
        Some(Command::Subscribers(_)) if args.listen.is_some() || args.from_beginning => {
            Err(Failure::Usage("--listen and --from-beginning are for `payonce feed` itself".to_owned()))
        }
        None => Ok(app::run_feed(config, args.listen, args.from_beginning).await?),
        Some(Command::Subscribers(command)) => work_subscribers(&config, command).await,
    }
}

async fn work_subscribers(config: &Config, command: Subscribers) -> Result<(), Failure> {
    let mut connection = app::database(config, "payonce")?.connect().await?;
    store::check_schema(&mut connection).await?;
    match command {
        Subscribers::List { json } => list(config, subscribers::list(&mut connection).await?, json),
        Subscribers::Enable { name, by } => {
            let feed = feed_of(&config.feed.name, &name);
            let chosen = format!("subscriber {feed}");
            match subscribers::enable(&mut connection, &feed, &by.line(Act::Enable, &chosen)).await? {
                Some(true) => {
                    say!("{name} is enabled; a running feed sends what it has not taken");
                    Ok(())
                }
                Some(false) => Err(Failure::No(format!(
                    "{name} was enabled already, and nothing of it waits to be tried again"
                ))),
                None => Err(unknown(&name)),
            }
        }
        Subscribers::Disable { name, by } => {
            let feed = feed_of(&config.feed.name, &name);
            let chosen = format!("subscriber {feed}");
            match subscribers::disable(&mut connection, &feed, &by.line(Act::Disable, &chosen)).await? {
                Some(true) => {
                    say!(
                        "{name} is disabled; what it has not taken is kept until `payonce feed subscribers enable`"
                    );
                    Ok(())
                }
                Some(false) => Err(Failure::No(format!("{name} was disabled already"))),
                None => Err(unknown(&name)),
            }
        }
        Subscribers::Replay { name, account, from_version, by } => {
            let Some(subscriber) = config.feed.subscribers.iter().find(|one| one.name == name) else {
                let words = "not in the configuration file (--config), which says what it may get";
                return Err(Failure::Usage(format!("subscriber {name:?}: {words}")));
            };
            if !subscriber.accounts.is_empty()
                && !subscriber.accounts.iter().any(|one| account.starts_with(one))
            {
                let words =
                    "the subscriber gets no events of this account: its `accounts` have no prefix of it";
                return Err(Failure::Usage(format!("--account {account}: {words}")));
            }
            let feed = feed_of(&config.feed.name, &name);
            let chosen = format!("subscriber {feed}; account {account} from version {from_version}");
            let (wanted, line) = ((account.as_str(), from_version), by.line(Act::Resend, &chosen));
            match subscribers::replay(&mut connection, &feed, wanted, &line).await? {
                Some(last) => {
                    say!(
                        "versions {from_version} to {last} of {} are sent to {name} again",
                        table::safe(&account)
                    );
                    Ok(())
                }
                None => Err(Failure::No(format!(
                    "nothing to send: account {account} has no version {from_version}, or no feed has worked for {name} yet"
                ))),
            }
        }
        Subscribers::Forget { name, by } => {
            if config.feed.subscribers.iter().any(|one: &SubscriberConfig| one.name == name) {
                let words = "the configuration file names it still, so that it would begin anew";
                return Err(Failure::Usage(format!("subscriber {name:?}: {words}; take it out first")));
            }
            let feed = feed_of(&config.feed.name, &name);
            let chosen = format!("subscriber {feed}");
            if subscribers::forget(&mut connection, &feed, &by.line(Act::Forget, &chosen)).await? {
                say!("{name} is forgotten");
                return Ok(());
            }
            Err(Failure::No(format!("{name}: there is no such subscriber, or a feed works for it still")))
        }
    }
}

fn unknown(name: &str) -> Failure {
    Failure::No(format!(
        "{name}: no feed has worked for such a subscriber; `payonce feed subscribers list` shows all"
    ))
}

fn list(config: &Config, rows: Vec<WebhookRow>, json: bool) -> Result<(), Failure> {
    if json {
        return rows.iter().try_for_each(print_json);
    }
    let mut shown = table::new(&[
        "Feed",
        "State",
        "Taken",
        "Accounts behind",
        "Retries exhausted",
        "Last taken",
        "Last error",
    ]);
    table::align_right(&mut shown, &[2, 3, 4]);
    for row in rows {
        let is_known =
            config.feed.subscribers.iter().any(|one| feed_of(&config.feed.name, &one.name) == row.name);
        let state = match (row.disabled_at, is_known) {
            (Some(_), _) => "disabled",
            (None, true) => "enabled",
            (None, false) => "not configured here",
        };
        shown.add_row([
            table::safe(&row.name),
            state.to_owned(),
            row.delivered.to_string(),
            row.accounts_behind.to_string(),
            row.accounts_exhausted.to_string(),
            table::optional(row.delivered_at.map(table::time)),
            table::optional(row.disabled_why.or(row.last_error)),
        ]);
    }
    say!("{shown}");
    Ok(())
}
