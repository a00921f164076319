//! `payonce approvals list|show|approve|reject`: what waits for a second person.

use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Failure, print_json, table, values, with_database};
use crate::{
    app,
    config::Config,
    operators::{
        approvals::{Approver, approve},
        reverify::Trust,
    },
    store::{
        self,
        actions::{self, ActionRow, Via},
        proposals::{self, ProposalRow},
        requests::Start,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists what waits for another person, newest first.
    List {
        /// Those that were decided or have expired, too.
        #[arg(long)]
        all: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000), value_name = "N")]
        limit: u16,
        /// The page that follows this proposal.
        #[arg(long, default_value_t = i64::MAX, hide_default_value = true, value_name = "ID")]
        before: i64,
        /// One JSON object per line in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows one proposal.
    Show {
        /// The proposal.
        id: i64,
        /// One JSON object in place of text.
        #[arg(long)]
        json: bool,
    },
    /// Carries a proposal of another person out, once.
    Approve {
        /// The proposal.
        id: i64,
        #[command(flatten)]
        who: Who,
    },
    /// Ends a proposal without carrying it out; your own, too.
    Reject {
        /// The proposal.
        id: i64,
        /// Kept with the proposal.
        #[arg(long, value_parser = values::words, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// Who decides, kept in the audit log beside who proposed.
    #[arg(long, env = "USER", default_value = "operator", value_parser = values::name, value_name = "NAME")]
    by: String,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { all, limit, before, json } => list(config, (all, before, limit), json).await,
        Command::Show { id, json } => {
            let row = with_database(config, async |connection| proposals::show(connection, id).await).await?;
            let row = row.ok_or_else(|| Failure::No(format!("there is no proposal {id}")))?;
            if json {
                return print_json(&row);
            }
            print(&row);
            Ok(())
        }
        Command::Approve { id, who } => approve_one(config, id, &who).await,
        Command::Reject { id, why, who } => {
            let objection = with_database(config, async |connection| {
                proposals::reject(connection, id, &who.by, &why).await
            })
            .await?;
            if let Some(objection) = objection {
                return Err(Failure::No(objection.to_string()));
            }
            if who.json {
                return print_json(&json!({ "id": id, "state": "rejected" }));
            }
            say!("Proposal {id} is rejected. Nothing of it was done.");
            Ok(())
        }
    }
}

async fn list(config: &Config, (all, before, limit): (bool, i64, u16), json: bool) -> Result<(), Failure> {
    let rows = with_database(config, async |connection| {
        proposals::list(connection, all, before, i64::from(limit)).await
    })
    .await?;
    if json {
        return rows.iter().try_for_each(print_json);
    }
    let mut listed = table::new(&["proposal", "state", "by", "when", "until", "what", "which", "why"]);
    for row in &rows {
        listed.add_row([
            row.id.to_string(),
            row.state.clone(),
            table::safe(&row.proposed_by),
            table::time(row.proposed_at),
            table::time(row.expires_at),
            row.action.clone(),
            table::safe(&row.chosen),
            table::safe(&row.why),
        ]);
    }
    table::align_right(&mut listed, &[0]);
    say!("{listed}");
    if let Some(last) = rows.last().filter(|_| rows.len() == usize::from(limit)) {
        say!("Next page: --before {}", last.id);
    }
    Ok(())
}

fn print(row: &ProposalRow) {
    say!("Proposal {}: {}, {}: {}", row.id, row.state, row.action, table::safe(&row.chosen));
    say!("  proposed {} by {}", table::time(row.proposed_at), table::safe(&row.proposed_by));
    say!("  why      {}", table::safe(&row.why));
    say!("  until    {}", table::time(row.expires_at));
    if let (Some(at), Some(by)) = (row.decided_at, &row.decided_by) {
        let why = row.decided_why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        say!("  decided  {} by {}{}", table::time(at), table::safe(by), table::safe(&why));
    }
}

async fn approve_one(config: &Config, id: i64, who: &Who) -> Result<(), Failure> {
    let database = Arc::new(app::database(config, "payonce")?);
    let mut reading = database.for_reading().connect().await?;
    store::check_schema(&mut reading).await?;
    let keyring = app::case_keys(config)?.current();
    let endpoints = app::case_endpoints(config);
    let trust = Trust { keyring: &keyring, endpoints: &endpoints, references: &config.worker.references };
    let approver = Approver { name: &who.by, via: Via::CommandLine };
    let mut connection = store::Connection::new(database);
    let objection = approve(&mut connection, id, approver, (&trust, config.worker.policy())).await;
    connection.close().await;
    if let Some(objection) = objection? {
        return Err(Failure::No(objection.to_string()));
    }
    let row = proposals::show(&mut reading, id).await?;
    let action = row.and_then(|row| row.action_id).unwrap_or_default();
    let line = actions::show(&mut reading, action).await?;
    let line = line.ok_or_else(|| Failure::No(format!("the audit log has no line {action}")))?;
    if who.json {
        return print_json(&line);
    }
    say!("{}", table::safe(&in_words(&line)));
    Ok(())
}

fn in_words(line: &ActionRow) -> String {
    let result = line.result.as_deref().unwrap_or("at work, or cut short; the audit log tells");
    format!("{} {}: {result}", line.action, line.chosen)
}

/// Says what a request began with that is not carried out now.
pub(super) fn report_start(start: &Start, json: bool) -> Result<(), Failure> {
    match start {
        Start::Begun(_) => Ok(()),
        Start::Before(line) => {
            if json {
                print_json(&line.outcome())?;
            } else {
                say!("{}", table::safe(&in_words(line)));
            }
            // As the first was.
            if did_something(&line.outcome()) { Ok(()) } else { Err(Failure::No(in_words(line))) }
        }
        Start::Proposed(row) => {
            if json {
                let value = json!({ "outcome": row.state, "proposal": row });
                return print_json(&value);
            }
            let what = table::safe(&format!("{} {}", row.action, row.chosen));
            match row.state.as_str() {
                "proposed" => say!(
                    "Nothing is done yet. Proposal {}: {what}. Another person, until {}: payonce approvals approve {}",
                    row.id,
                    table::time(row.expires_at),
                    row.id
                ),
                state => say!("Proposal {} is {state}: {what}", row.id),
            }
            Ok(())
        }
        Start::Ended(row) => {
            if json {
                print_json(&json!({ "outcome": row.state, "proposal": row }))?;
            }
            Err(Failure::No(row.in_vain()))
        }
        Start::OtherContent(what) => Err(Failure::No(format!(
            "nothing was done: the idempotency key was used for something else: {what}"
        ))),
        Start::Refused(words) => Err(Failure::No(format!("nothing was proposed: {words}"))),
    }
}

/// Whether an act about cases had any to work: else it exits 1.
fn did_something(outcome: &Value) -> bool {
    [
        "applied",
        "duplicates",
        "refused",
        "waiting",
        "discarded",
        "reopened",
        "assigned",
        "taken",
        "handed_back",
        "noted",
    ]
    .iter()
    .any(|name| outcome[*name].as_u64().is_some_and(|cases| cases > 0))
}
