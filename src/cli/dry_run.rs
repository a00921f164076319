//! What dry runs print, and `payonce quarantine replay --dry-run`. What must not live here: how anything is decided.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use serde::Serialize;

use super::{Failure, quarantine, table};
use crate::{
    answers, app,
    config::Config,
    ledger::{Callback, CaseId, Entry, Leg, Reason},
    operators::{
        case_actions::is_looked_at_again,
        dry_run::{DryRun, End, Fate, Of},
        reverify::Trust,
    },
    store::{
        self,
        actions::Verb,
        engine::REPLAY_BATCH_MAX,
        quarantine::{Filter, Page},
    },
};

/// Where a callback stands that a line is about.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Place {
    /// In a file.
    Line {
        /// As it was given.
        file: Arc<str>,
        /// From 1.
        line: u64,
    },
    /// In quarantine.
    Case {
        /// Its id.
        case: i64,
    },
}

/// What is said of one callback. What does not apply is absent.
#[derive(Debug, Clone, Serialize)]
struct Line {
    #[serde(flatten)]
    place: Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// Minor units.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
    /// `applied`, `waiting`, `case`, `duplicate` or `refused`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// Of that account, minor units: after its row, or as it is then.
    #[serde(skip_serializing_if = "Option::is_none")]
    balance_after: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_after: Option<i64>,
    /// Of a transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Receiver>,
}

#[derive(Debug, Clone, Serialize)]
struct Receiver {
    account: String,
    balance_after: i64,
    held_after: i64,
}

/// Money in minor units: 64 bits may not hold the sums.
#[derive(Debug, Default, Serialize)]
struct Money {
    credited: i128,
    debited: i128,
    held: i128,
}

impl Money {
    fn add(&mut self, leg: &Leg) {
        let delta = i128::from(leg.balance_delta);
        self.credited = self.credited.saturating_add(delta.max(0));
        self.debited = self.debited.saturating_add(delta.min(0).saturating_neg());
        self.held = self.held.saturating_add(i128::from(leg.held_delta));
    }
}

/// All of it, in sum.
#[derive(Debug, Default, Serialize)]
struct Sums {
    applied: u64,
    waiting: BTreeMap<&'static str, u64>,
    cases: BTreeMap<&'static str, u64>,
    duplicates: BTreeMap<&'static str, u64>,
    refused: u64,
    money: BTreeMap<String, Money>,
}

/// Prints a line for each callback once it is known how it ends, and the sums at the end. Kept in memory are only lines that may still
/// change: of callbacks that wait, or need a person.
pub(super) struct Report {
    json: bool,
    has_printed: bool,
    pending: BTreeMap<CaseId, Line>,
    sums: Sums,
}

impl Report {
    pub(super) fn begin(json: bool) -> Self {
        if json {
            say!("{{\"dry_run\":true,\"callbacks\":[");
        } else {
            say!("Dry run: nothing is written.");
        }
        Self { json, has_printed: false, pending: BTreeMap::new(), sums: Sums::default() }
    }

    /// Lines that were refused: they would not be published.
    pub(super) fn refused(&self) -> u64 {
        self.sums.refused
    }

    /// A line that would not be published.
    pub(super) fn refuse(&mut self, place: Place, problem: String) -> Result<(), Failure> {
        self.sums.refused += 1;
        let line = Line { outcome: "refused", detail: Some(problem), ..empty(place) };
        self.print(&line)
    }

    /// A message that becomes a case without being decided.
    pub(super) fn undecided(
        &mut self,
        place: Place,
        callback: Option<&Callback>,
        (reason, detail): (Reason, String),
    ) -> Result<(), Failure> {
        let line = callback.map_or_else(|| empty(place.clone()), |callback| of(place.clone(), callback));
        self.count_case(reason);
        self.print(&Line { outcome: "case", reason: Some(reason.as_str()), detail: Some(detail), ..line })
    }

    /// What became of a batch of these callbacks.
    pub(super) fn add(&mut self, callbacks: &[(Place, Callback)], fates: Vec<Fate>) -> Result<(), Failure> {
        for fate in fates {
            let line = match fate.of {
                Of::Callback(at) => {
                    let Some((place, callback)) = callbacks.get(at) else { continue };
                    of(place.clone(), callback)
                }
                Of::Case(id) => match (self.pending.remove(&id), &fate.end) {
                    (Some(line), _) => line,
                    // A stored one that nobody asked about.
                    (None, End::Applied(entry)) => of(Place::Case { case: id.0 }, &entry.callback),
                    (None, End::Known(_)) => empty(Place::Case { case: id.0 }),
                    (None, End::Duplicate(_) | End::Case { .. }) => continue,
                },
            };
            self.end(line, fate)?;
        }
        Ok(())
    }

    fn end(&mut self, line: Line, fate: Fate) -> Result<(), Failure> {
        let line = Line {
            account: fate.account_id.map(|id| id.as_str().to_owned()).or(line.account),
            balance_after: fate.account.map(|account| account.balance),
            held_after: fate.account.map(|account| account.held),
            reason: None,
            detail: None,
            ..line
        };
        match fate.end {
            End::Applied(entry) => {
                self.sums.applied += 1;
                let money = self.sums.money.entry(entry.callback.currency.as_str().to_owned()).or_default();
                entry.legs().for_each(|leg| money.add(leg));
                self.print(&applied(line, &entry))
            }
            End::Duplicate(layer) => {
                *self.sums.duplicates.entry(layer.as_str()).or_default() += 1;
                self.print(&Line { outcome: "duplicate", layer: Some(layer.as_str()), ..line })
            }
            End::Known(why) => {
                *self.sums.duplicates.entry("operation").or_default() += 1;
                self.print(&Line { outcome: "duplicate", detail: Some(why), ..line })
            }
            End::Case { id, reason, detail } => {
                let outcome = if reason.is_waiting() { "waiting" } else { "case" };
                let line = Line { outcome, reason: Some(reason.as_str()), detail: Some(detail), ..line };
                self.pending.insert(id, line);
                Ok(())
            }
        }
    }

    /// A stored case that is asked about.
    fn ask(&mut self, case: &store::report::CaseRow) {
        let line = Line {
            source: case.source.clone(),
            id: case.event_id.clone(),
            outcome: if case.state == "waiting" { "waiting" } else { "case" },
            reason: Reason::parse(&case.reason).map(Reason::as_str),
            detail: Some(case.detail.clone()),
            ..empty(Place::Case { case: case.id })
        };
        if let btree_map::Entry::Vacant(entry) = self.pending.entry(CaseId(case.id)) {
            entry.insert(line);
        }
    }

    fn count_case(&mut self, reason: Reason) {
        let counts = if reason.is_waiting() { &mut self.sums.waiting } else { &mut self.sums.cases };
        *counts.entry(reason.as_str()).or_default() += 1;
    }

    /// Prints what is left, and the sums.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        for line in std::mem::take(&mut self.pending).into_values() {
            if let Some(reason) = line.reason.and_then(Reason::parse) {
                self.count_case(reason);
            }
            self.print(&line)?;
        }
        if self.json {
            let sums = serde_json::to_string(&self.sums).map_err(|error| Failure::No(error.to_string()))?;
            say!("],{}", sums.get(1..).unwrap_or("}"));
            return Ok(());
        }
        let Sums { applied, waiting, cases, duplicates, refused, money } = &self.sums;
        say!(
            "{applied} applied, {} waiting, {} cases, {} duplicates, {refused} lines refused.",
            in_all(waiting),
            in_all(cases),
            in_all(duplicates)
        );
        for (names, counts) in [("waiting", waiting), ("cases", cases), ("duplicates", duplicates)] {
            for (name, count) in counts {
                say!("  {names}: {count} {name}");
            }
        }
        for (currency, Money { credited, debited, held }) in money {
            let [credited, debited, held] =
                [*credited, *debited, *held].map(|sum| answers::money(sum, currency));
            say!("  {credited} credited, {debited} debited, held changed by {held}");
        }
        Ok(())
    }

    fn print(&mut self, line: &Line) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string(line).map_err(|error| Failure::No(error.to_string()))?;
            let comma = if std::mem::replace(&mut self.has_printed, true) { "," } else { "" };
            say!("{comma}{}", crate::shown::safe_json(&text));
            return Ok(());
        }
        say!("{}", table::safe(&words(line)));
        Ok(())
    }
}

fn in_all(counts: &BTreeMap<&'static str, u64>) -> u64 {
    counts.values().sum()
}

fn empty(place: Place) -> Line {
    Line {
        place,
        source: None,
        id: None,
        kind: None,
        amount: None,
        currency: None,
        outcome: "case",
        layer: None,
        reason: None,
        detail: None,
        account: None,
        balance_after: None,
        held_after: None,
        to: None,
    }
}

fn of(place: Place, callback: &Callback) -> Line {
    Line {
        source: Some(callback.key.source.as_str().to_owned()),
        id: Some(callback.key.event_id.as_str().to_owned()),
        kind: Some(callback.kind.as_str()),
        amount: Some(callback.amount.minor_units()),
        currency: Some(callback.currency.as_str().to_owned()),
        account: callback.named_account().map(|id| id.as_str().to_owned()),
        ..empty(place)
    }
}

fn applied(line: Line, entry: &Entry) -> Line {
    let to = entry.second_leg.as_ref().map(|leg| Receiver {
        account: leg.account_id.as_str().to_owned(),
        balance_after: leg.balance_after,
        held_after: leg.held_after,
    });
    let of_callback = of(line.place, &entry.callback);
    Line {
        outcome: "applied",
        account: Some(entry.leg.account_id.as_str().to_owned()),
        balance_after: Some(entry.leg.balance_after),
        held_after: Some(entry.leg.held_after),
        to,
        ..of_callback
    }
}

fn words(line: &Line) -> String {
    let place = match &line.place {
        Place::Line { file, line } => format!("{file} line {line}"),
        Place::Case { case } => format!("case {case}"),
    };
    let mut text = format!("{place}: {}", line.outcome);
    for name in line.layer.iter().chain(&line.reason) {
        text.push_str(&format!(", {name}"));
    }
    if let Some(id) = &line.id {
        text.push_str(&format!("; event {id}"));
    }
    if let (Some(kind), Some(amount), Some(currency)) = (line.kind, line.amount, &line.currency) {
        text.push_str(&format!(", {kind} {}", answers::money(amount, currency)));
    }
    let mut add_account = |account: &str, balance: Option<i64>, held: Option<i64>| match balance.zip(held) {
        Some((balance, held)) => {
            let code = line.currency.as_deref().unwrap_or_default();
            let (balance, held) = (answers::money(balance, code), answers::money(held, code));
            text.push_str(&format!("; account {account}: balance {balance}, held {held}"));
        }
        None => text.push_str(&format!("; account {account}: not open")),
    };
    if let Some(account) = &line.account {
        add_account(account, line.balance_after, line.held_after);
    }
    if let Some(to) = &line.to {
        add_account(&to.account, Some(to.balance_after), Some(to.held_after));
    }
    if let Some(detail) = &line.detail {
        text.push_str(&format!("; {detail}"));
    }
    text
}

/// Begins a dry run on the database of the configuration.
pub(super) async fn begin(config: &Config, application_name: &str) -> Result<DryRun, Failure> {
    let database = app::database(config, application_name)?;
    let mut run = DryRun::begin(&database, config.worker.policy().rules).await?;
    store::check_schema(run.connection()).await?;
    Ok(run)
}

/// `payonce quarantine replay --dry-run`: what a replay of these cases would do now.
pub(super) async fn replay(config: &Config, mut filter: Filter, json: bool) -> Result<(), Failure> {
    let keyring = app::case_keys(config)?.current();
    let endpoints = app::case_endpoints(config);
    let trust = Trust { keyring: &keyring, endpoints: &endpoints, references: &config.worker.references };
    let mut run = begin(config, "payonce").await?;
    let states = store::quarantine::states(run.connection(), &filter.ids).await?;
    let absent = quarantine::absent(&filter.ids, &states, Verb::Replay);
    filter.states = Verb::Replay.states().to_vec();
    let mut report = Report::begin(json);
    let (mut last, mut asked) = (0, 0_usize);
    loop {
        let page = Page::After(last, REPLAY_BATCH_MAX);
        let cases = store::quarantine::list(run.connection(), &filter, page).await?;
        let Some(newest) = cases.last() else { break };
        last = newest.id;
        asked += cases.len();
        cases.iter().for_each(|case| report.ask(case));
        let (unproven, decoded): (Vec<_>, Vec<_>) =
            cases.iter().partition(|case| is_looked_at_again(&case.reason));
        let decoded: Vec<CaseId> = decoded.iter().map(|case| CaseId(case.id)).collect();
        report.add(&[], run.decide_again(&decoded).await?)?;
        let unproven: Vec<(CaseId, Reason)> = unproven
            .iter()
            .filter_map(|case| Some((CaseId(case.id), Reason::parse(&case.reason)?)))
            .collect();
        report.add(&[], run.reverify(&unproven, &trust).await?)?;
    }
    report.finish()?;
    match absent {
        Some(words) => Err(Failure::No(words)),
        None if asked == 0 => Err(Failure::No("no case fits that is open or waiting".to_owned())),
        None => Ok(()),
    }
}
