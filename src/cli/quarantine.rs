//! `payonce quarantine list|show|replay|discard|reopen|assign`, and what `case_work` does.

use std::{collections::BTreeMap, io::IsTerminal, sync::Arc};

use clap::{Subcommand, builder::PossibleValuesParser};

use super::{
    Failure, approvals, case_work,
    cases::{self, Form},
    dry_run, print_json, progress, remove, table, values,
    which::Which,
};
use crate::{
    answers::money,
    app,
    config::Config,
    keys::Keyring,
    ledger::AccountId,
    operators::{
        case_actions::{self, Done},
        reverify::Trust,
    },
    store::{
        self,
        actions::{Order, Verb, Via},
        assign::Assignment,
        case_work::CaseWork,
        quarantine::{self, Filter, Page, Replayed, Sums},
        requests::{self, Start},
    },
};

const STATES: [&str; 4] = ["waiting", "open", "replayed", "discarded"];
/// Named cases that are not there, of which a refusal speaks one by one.
const ABSENT_MAX: usize = 10;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists cases, newest first.
    List {
        #[command(flatten)]
        which: Which,
        /// waiting, open, replayed, discarded, or all.
        #[arg(long, default_value = "open", value_parser = PossibleValuesParser::new(["waiting", "open", "replayed", "discarded", "all"]))]
        state: String,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000), value_name = "N")]
        limit: u16,
        /// The page that follows this case id.
        #[arg(long, default_value_t = i64::MAX, hide_default_value = true, value_name = "ID")]
        before: i64,
        /// One JSON object per line in place of a table.
        #[arg(long)]
        json: bool,
        /// CSV (RFC 4180) in place of a table.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// Groups cases by state, reason and source, with their number, their money by currency, and the oldest: what is stuck, and how much.
    Groups {
        #[command(flatten)]
        which: Which,
        /// waiting, open, replayed, discarded, or all.
        #[arg(long, default_value = "open", value_parser = PossibleValuesParser::new(["waiting", "open", "replayed", "discarded", "all"]))]
        state: String,
        /// One JSON object per line in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows one case with its message.
    Show {
        /// The case.
        id: i64,
        /// One JSON object in place of text.
        #[arg(long)]
        json: bool,
    },
    /// Decides open and waiting cases again, against what is known now. Safe to repeat, and beside running workers.
    Replay {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        /// Kept with the cases that this ends.
        #[arg(long, default_value = "replayed by hand", value_parser = values::words, value_name = "TEXT")]
        why: String,
        /// Change nothing: say what would become of each case now, and of the money.
        #[arg(long)]
        dry_run: bool,
    },
    /// Removes discarded cases for good, and counts them out, so that audits stay right. For the owner of the tables.
    Remove(remove::Args),
    /// Ends open and waiting cases without applying them. Asks before, with their number and money.
    Discard {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        /// Kept with the cases.
        #[arg(long, value_parser = values::words, value_name = "TEXT")]
        why: String,
        /// Do not ask. Needed where standard input or error is no terminal.
        #[arg(long)]
        yes: bool,
    },
    /// Takes discards back: the cases are open again, and those that waited wait again or are applied.
    Reopen {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
        /// Kept in the audit log.
        #[arg(long, value_parser = values::words, value_name = "TEXT")]
        why: String,
    },
    /// Takes open and waiting cases: who works on them stands with each, and in lists.
    Take {
        /// The cases.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<i64>,
        /// Who works on them, where that is somebody else.
        #[arg(long, value_parser = values::name, value_name = "NAME")]
        assignee: Option<String>,
        /// Stored in the audit log.
        #[arg(long, value_parser = values::words, value_name = "TEXT")]
        why: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Hands cases back that somebody has taken: nobody works on them.
    HandBack {
        /// The cases.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<i64>,
        /// Stored in the audit log.
        #[arg(long, value_parser = values::words, value_name = "TEXT")]
        why: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Notes something about cases, with name and time: it stands in the audit log, and on the page of each case.
    Note {
        /// The cases.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<i64>,
        /// The note.
        #[arg(long, value_parser = values::words, value_name = "TEXT")]
        text: String,
        #[command(flatten)]
        by: By,
    },
    /// Hands an open or waiting case to the account that it really belongs to, and decides it at once. Its key is used up: a late copy is
    /// a duplicate.
    Assign {
        /// The case. Its message must be a callback.
        id: i64,
        /// The account that it belongs to. It must be open.
        #[arg(long, value_parser = values::account, value_name = "ID", allow_hyphen_values = true)]
        account: AccountId,
        /// Kept with the case, and in the audit log beside both accounts.
        #[arg(long, value_parser = values::words, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        by: By,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Every case in a fitting state that the other filters leave; needed where there is no other.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    by: By,
}

/// Who asks, and how the answer looks.
#[derive(Debug, clap::Args)]
pub(super) struct By {
    /// Who does this, stored in the audit log.
    #[arg(long, env = "USER", default_value = "operator", value_parser = values::name, value_name = "NAME")]
    pub(super) by: String,
    /// Makes it one: the same command with the same key is answered as the first was. 1 to 200 bytes.
    #[arg(long, value_parser = values::name, value_name = "KEY", allow_hyphen_values = true)]
    pub(super) idempotency_key: Option<String>,
    /// One JSON object in place of text.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(config: &Config, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { which, state, limit, before, json, csv } => {
            let states = named(&state);
            let page = Page::Before(before, i64::from(limit));
            let form = if csv { Form::Csv } else { Form::of(json) };
            cases::list(config, &which.filter(config, &states).await?, page, form).await
        }
        Command::Groups { which, state, json } => {
            cases::groups(config, &which.filter(config, &named(&state)).await?, json).await
        }
        Command::Show { id, json } => cases::show(config, id, json).await,
        Command::Replay { which, how, dry_run: true, .. } => {
            dry_run::replay(config, which.chosen(config, Verb::Replay, how.all).await?, how.by.json).await
        }
        Command::Replay { which, how, why, dry_run: false } => {
            work(config, (Verb::Replay, None), which, &how, &why, true).await
        }
        Command::Remove(args) => remove::run(config, args).await,
        Command::Discard { which, how, why, yes } => {
            work(config, (Verb::Discard, None), which, &how, &why, yes).await
        }
        Command::Reopen { which, how, why } => {
            work(config, (Verb::Reopen, None), which, &how, &why, true).await
        }
        Command::Take { ids, assignee, why, by } => {
            let assignee = assignee.unwrap_or_else(|| by.by.clone());
            case_work::run(config, &ids, CaseWork::Take(&assignee), why.as_deref(), &by).await
        }
        Command::HandBack { ids, why, by } => {
            case_work::run(config, &ids, CaseWork::HandBack, why.as_deref(), &by).await
        }
        Command::Note { ids, text, by } => {
            case_work::run(config, &ids, CaseWork::Note, Some(&text), &by).await
        }
        Command::Assign { id, account, why, by } => {
            let which = Which::case(id);
            let how = How { all: false, by };
            work(config, (Verb::Assign, Some(account)), which, &how, &why, true).await
        }
    }
}

/// The states that `--state` means.
fn named(state: &str) -> Vec<&'static str> {
    STATES.into_iter().filter(|name| state == "all" || state == *name).collect()
}

/// Carries out an order as the pages do, into the same audit log; `None` where no case fits. Then says of each named case that is not
/// there why it is not, and that this is no success.
async fn work(
    config: &Config,
    (verb, assign_to): (Verb, Option<AccountId>),
    which: Which,
    how: &How,
    why: &str,
    is_confirmed: bool,
) -> Result<(), Failure> {
    let ages = which.ages();
    let filter = which.chosen(config, verb, how.all).await?;
    let By { by, idempotency_key, json } = &how.by;
    let json = *json;
    let database = Arc::new(app::database(config, "payonce")?);
    let mut reading = database.for_reading().connect().await?;
    store::check_schema(&mut reading).await?;
    // Ages as they were given: the same command a minute later is the same request, and its line says when it began.
    let mut chosen = Filter { seen_before: None, seen_since: None, ..filter.clone() }.to_string();
    chosen.push_str(&ages);
    if let Some(to) = &assign_to {
        chosen.push_str(&format!("; to account {:?}", to.as_str()));
    }
    let mut order = Order {
        who: by.clone(),
        via: Via::CommandLine,
        verb,
        why: why.to_owned(),
        chosen,
        filter,
        assign_to,
        key: idempotency_key.clone(),
    };
    // Before the cases are looked at: what was done with this key then may have left none.
    if let Some(before) = requests::before(&mut reading, &order.line()).await? {
        return approvals::report_start(&before, json);
    }
    let absent = absent(&order.filter.ids, &quarantine::states(&mut reading, &order.filter.ids).await?, verb);
    let sums = quarantine::sums(&mut reading, &order.filter, i64::MAX).await?;
    if sums.cases == 0 {
        report(None, verb, json)?;
        let nothing = || format!("no case fits that is {}", verb.states().join(" or "));
        return Err(Failure::No(absent.unwrap_or_else(nothing)));
    }
    if verb == Verb::Discard && !is_confirmed {
        confirm(&sums)?;
    }
    // Just those that were counted: others may come while somebody thinks.
    order.filter.id_max = sums.id_max;
    // Before the audit log says that anything has begun; only a replay asks for keys.
    let keyring = match verb {
        Verb::Replay => app::case_keys(config)?.current(),
        Verb::Discard | Verb::Reopen | Verb::Assign => Arc::new(Keyring::empty(true)),
    };
    let endpoints = app::case_endpoints(config);
    let trust = Trust { keyring: &keyring, endpoints: &endpoints, references: &config.worker.references };
    let action = match requests::start(&mut reading, &order, config.approvals).await? {
        Start::Begun(action) => action,
        other @ (Start::Before(_)
        | Start::Proposed(_)
        | Start::Ended(_)
        | Start::OtherContent(_)
        | Start::Refused(_)) => {
            return approvals::report_start(&other, json);
        }
    };
    let progress =
        progress::bar(u64::try_from(sums.cases).ok(), "{wide_bar} {pos}/{len} cases, {per_sec}, {eta} left");
    let mut connection = store::Connection::new(database);
    let tell = |cases| progress.inc(cases);
    let done = case_actions::run(&mut connection, &order, action, &trust, config.worker.policy(), tell).await;
    progress.finish_and_clear();
    connection.close().await;
    let done = done?;
    report(Some(done.clone()), verb, json)?;
    let was_idle = match done {
        Done::Replayed(replayed) => {
            replayed == Replayed { untouched: replayed.untouched, ..Replayed::default() }
        }
        Done::Discarded(cases) | Done::Reopened(cases) => cases == 0,
        Done::Assigned(Assignment::Made { .. }, _) => false,
        Done::Assigned(
            refused @ (Assignment::Ended
            | Assignment::NotDecoded
            | Assignment::UnknownAccount(_)
            | Assignment::IsReceiver(_)),
            _,
        ) => return Err(Failure::No(refused.to_string())),
    };
    match absent {
        Some(words) => Err(Failure::No(words)),
        None if was_idle => Err(Failure::No("nothing could be done about these cases".to_owned())),
        None => Ok(()),
    }
}

/// Which of the named cases this is not for, and why; `None` where it is for all of them.
pub(super) fn absent(ids: &[i64], states: &BTreeMap<i64, String>, verb: Verb) -> Option<String> {
    let mut words: Vec<String> = ids
        .iter()
        .filter_map(|id| match states.get(id) {
            None => Some(format!("there is no case {id}")),
            Some(state) if verb.states().contains(&state.as_str()) => None,
            Some(state) => Some(format!("case {id} is {state}, not {}", verb.states().join(" or "))),
        })
        .collect();
    let count = words.len();
    words.truncate(ABSENT_MAX);
    if count > ABSENT_MAX {
        words.push(format!("and so on: {count} in all"));
    }
    (count > 0).then(|| words.join("; "))
}

fn report(done: Option<Done>, verb: Verb, json: bool) -> Result<(), Failure> {
    let done = done.unwrap_or(match verb {
        Verb::Replay => Done::Replayed(Replayed::default()),
        Verb::Discard => Done::Discarded(0),
        Verb::Reopen => Done::Reopened(0),
        Verb::Assign => Done::Assigned(Assignment::Ended, Replayed::default()),
    });
    if json {
        return print_json(&done.outcome());
    }
    match done {
        Done::Replayed(_)
        | Done::Discarded(_)
        | Done::Reopened(_)
        | Done::Assigned(Assignment::Made { .. }, _) => {
            say!("{}", table::safe(&done.to_string()));
            Ok(())
        }
        // Said once, as the reason why this is no success.
        Done::Assigned(..) => Ok(()),
    }
}

/// Asks on a terminal; where nobody can be asked, nothing is discarded.
fn confirm(sums: &Sums) -> Result<(), Failure> {
    let mut parts: Vec<String> = sums.money.iter().map(|(code, amount)| money(*amount, code)).collect();
    parts.extend((sums.unreadable > 0).then(|| format!("{} of an unknown amount", sums.unreadable)));
    let sums = table::safe(&format!("{}: {}", table::count(sums.cases, "case"), parts.join(", ")));
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Failure::Usage(format!(
            "{sums}. Nothing was discarded: there is no terminal to ask on, so say --yes where this is meant"
        )));
    }
    eprint!("{sums}.\nDiscard? They are not applied; `payonce quarantine reopen` takes it back. [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::No("nothing was discarded".to_owned()))
}
