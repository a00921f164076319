//! The protocol around `decide`, as a model that is searched exhaustively: two workers, a broker, Redis and PostgreSQL take every
//! step in every order, while workers die, channels are lost, Redis forgets or lies, and a failover or a restore loses commits. The
//! well-known mistakes, made on purpose, must each give a trace.
//!
//! One callback is a batch. The real [`decide`] decides; loading, guards and unique keys are modelled as the store has them.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
};

use payonce_ledger::{Account, Callback, Currency, Kind, Known, Layer, Outcome, Rules, Snapshot, decide};

use crate::draft::Draft;

const AMOUNT: i64 = 10;
const WORKERS: usize = 2;
/// Two copies of key 0, and key 1; behind them what the provider sends again after a failover: keys 0 and 1.
const KEYS: [usize; 5] = [0, 0, 1, 0, 1];
const FIRST_RETRY: usize = 3;

/// A step of the protocol done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    AckOnForeignClaim,
    MarkerBelieved,
    AckBeforeCommit,
    NoVersionGuard,
    NoLedgerKey,
    AckThroughAnotherChannel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Message {
    NotSent,
    Ready,
    /// Delivered to this worker on the channel that it has now.
    Held(usize),
    Acked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mark {
    None,
    Claim,
    Done,
}

/// PostgreSQL: one account and the ledger, rows in the order of their commits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Database {
    balance: i64,
    version: i64,
    rows: Vec<usize>,
    /// How many of the rows the standby has.
    replicated: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Ask,
    /// A done marker was found: the transaction that counts the copy looks for its row.
    Prove,
    /// Whether the ledger is asked for the key: not where Redis takes the callback for new.
    Load(bool),
    /// Has what the database knew: balance, version, whether the key was in the ledger.
    Apply(i64, i64, bool),
    Mark,
    Settle,
}

/// A worker with at most one delivery in work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Worker {
    busy: Option<(usize, Step)>,
}

/// How much may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Faults {
    crashes: u8,
    lost_channels: u8,
    forgettings: u8,
    failovers: u8,
    lies: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    messages: [Message; KEYS.len()],
    workers: [Worker; WORKERS],
    redis: [Mark; 2],
    database: Database,
    /// Keys whose commit a failover has lost, acknowledged or not: that is the database's doing.
    lost: [bool; 2],
    faults: Faults,
}

impl State {
    fn start(faults: Faults) -> Self {
        let mut messages = [Message::Ready; KEYS.len()];
        messages[FIRST_RETRY..].fill(Message::NotSent);
        Self {
            messages,
            workers: [const { Worker { busy: None } }; WORKERS],
            redis: [Mark::None; 2],
            database: Database { balance: 0, version: 0, rows: Vec::new(), replicated: 0 },
            lost: [false; 2],
            faults,
        }
    }
}

fn callback(key: usize) -> Callback {
    Draft::new(if key == 0 { "a" } else { "b" }, Kind::DepositSucceeded, AMOUNT).build()
}

/// What the store would load.
fn snapshot(callback: &Callback, balance: i64, version: i64, is_known: bool) -> Snapshot {
    let mut snapshot = Snapshot::default();
    if version > 0 {
        let currency = Currency::parse("CNY").unwrap();
        let account = Account { balance, version, ..Account::unopened(currency, 0) };
        snapshot.accounts.insert(callback.account_id.clone().unwrap(), account);
    }
    if is_known {
        snapshot.known.insert(callback.key.clone(), vec![Known::Ledger(callback.fingerprint)]);
    }
    snapshot
}

/// The transaction: the plan under its guards. False: a guard failed, nothing is written.
fn commit(database: &mut Database, key: usize, loaded: (i64, i64, bool), mistake: Mistake) -> bool {
    let callback = callback(key);
    let plan = decide(&snapshot(&callback, loaded.0, loaded.1, loaded.2), &[callback], &Rules::default());
    match plan.outcomes.as_slice() {
        [Outcome::Duplicate(Layer::Ledger)] => true,
        [Outcome::Applied] => {
            let [change] = plan.accounts.as_slice() else { panic!("one account changes: {plan:?}") };
            let guard_holds = change.before.version == database.version || mistake == Mistake::NoVersionGuard;
            let key_is_free = !database.rows.contains(&key) || mistake == Mistake::NoLedgerKey;
            if guard_holds && key_is_free {
                database.rows.push(key);
                database.balance = change.after.balance;
                database.version = change.after.version;
            }
            guard_holds && key_is_free
        }
        other => panic!("a deposit is applied or a duplicate: {other:?}"),
    }
}

/// The next states with what leads to each. Faults are told apart, because nothing has to come of them.
fn next(state: &State, mistake: Mistake) -> Vec<(String, bool, State)> {
    let mut found = Vec::new();
    for (at, worker) in state.workers.iter().enumerate() {
        match &worker.busy {
            None => {
                for (number, message) in state.messages.iter().enumerate() {
                    if *message == Message::Ready {
                        let mut after = state.clone();
                        after.messages[number] = Message::Held(at);
                        after.workers[at].busy = Some((number, Step::Ask));
                        found.push((
                            format!("worker {at} takes message {number} (key {})", KEYS[number]),
                            false,
                            after,
                        ));
                    }
                }
            }
            Some((number, step)) => {
                let (what, after) = advance(state, at, *number, step, mistake);
                found.push((format!("worker {at}, message {number}: {what}"), false, after));
            }
        }
    }
    if state.database.replicated < state.database.rows.len() {
        let mut after = state.clone();
        after.database.replicated += 1;
        found.push(("a commit reaches the standby".to_owned(), false, after));
    }
    let all_acked = state.messages[..FIRST_RETRY].iter().all(|message| *message == Message::Acked);
    if all_acked && state.messages[FIRST_RETRY] == Message::NotSent && state.faults.failovers == 0 {
        let mut after = state.clone();
        after.messages[FIRST_RETRY..].fill(Message::Ready);
        found.push(("the provider sends both keys again".to_owned(), false, after));
    }
    found.extend(faults(state));
    found
}

/// One step of a worker.
fn advance(state: &State, at: usize, number: usize, step: &Step, mistake: Mistake) -> (String, State) {
    let key = KEYS[number];
    let mut after = state.clone();
    let (what, next) = match step {
        Step::Ask => match state.redis[key] {
            Mark::None => {
                after.redis[key] = Mark::Claim;
                ("claims the key, which nobody had".to_owned(), Some(Step::Load(false)))
            }
            Mark::Claim if mistake == Mistake::AckOnForeignClaim => {
                ("finds a claim, and takes the callback for a duplicate".to_owned(), Some(Step::Settle))
            }
            Mark::Claim => ("finds a claim, which proves nothing".to_owned(), Some(Step::Load(true))),
            Mark::Done if mistake == Mistake::MarkerBelieved => {
                ("finds a done marker, and believes it".to_owned(), Some(Step::Settle))
            }
            Mark::Done => ("finds a done marker".to_owned(), Some(Step::Prove)),
        },
        Step::Prove if state.database.rows.contains(&key) => {
            ("finds its row: a duplicate".to_owned(), Some(Step::Settle))
        }
        Step::Prove => ("finds no row: the marker proves nothing".to_owned(), Some(Step::Load(true))),
        Step::Load(asks_ledger) => {
            let Database { balance, version, rows, .. } = &state.database;
            let is_known = *asks_ledger && rows.contains(&key);
            let loaded = Step::Apply(*balance, *version, is_known);
            if mistake == Mistake::AckBeforeCommit {
                settle(&mut after, at, number, mistake);
            }
            (format!("loads version {version}, key known: {is_known}"), Some(loaded))
        }
        Step::Apply(balance, version, is_known) => {
            if commit(&mut after.database, key, (*balance, *version, *is_known), mistake) {
                ("commits".to_owned(), Some(Step::Mark))
            } else {
                ("loses a race".to_owned(), Some(Step::Load(true)))
            }
        }
        Step::Mark => {
            after.redis[key] = Mark::Done;
            ("writes the done marker".to_owned(), Some(Step::Settle))
        }
        Step::Settle => {
            settle(&mut after, at, number, mistake);
            ("acknowledges".to_owned(), None)
        }
    };
    after.workers[at].busy = next.map(|step| (number, step));
    (what, after)
}

/// An acknowledgement counts on the channel that the delivery came by; on another it is another delivery's, or nobody's.
fn settle(state: &mut State, at: usize, number: usize, mistake: Mistake) {
    if state.messages[number] == Message::Held(at) {
        state.messages[number] = Message::Acked;
    } else if mistake == Mistake::AckThroughAnotherChannel
        && let Some(other) = state.messages.iter().position(|message| *message == Message::Held(1 - at))
    {
        state.messages[other] = Message::Acked;
    }
}

fn faults(state: &State) -> Vec<(String, bool, State)> {
    let mut found = Vec::new();
    for at in 0..WORKERS {
        let give_back = |after: &mut State| {
            for message in after.messages.iter_mut().filter(|message| **message == Message::Held(at)) {
                *message = Message::Ready;
            }
        };
        if state.faults.crashes > 0 && state.workers[at].busy.is_some() {
            let mut after = state.clone();
            after.faults.crashes -= 1;
            give_back(&mut after);
            after.workers[at] = Worker { busy: None };
            found.push((format!("worker {at} dies"), true, after));
        }
        if state.faults.lost_channels > 0 && state.messages.contains(&Message::Held(at)) {
            let mut after = state.clone();
            after.faults.lost_channels -= 1;
            give_back(&mut after);
            found.push((format!("worker {at} loses its channel, and works on"), true, after));
        }
    }
    if state.faults.forgettings > 0 && state.redis.iter().any(|mark| *mark != Mark::None) {
        let mut after = state.clone();
        after.faults.forgettings -= 1;
        after.redis = [Mark::None; 2];
        found.push(("Redis forgets everything".to_owned(), true, after));
        if state.redis.contains(&Mark::Claim) {
            let mut after = state.clone();
            after.faults.forgettings -= 1;
            let claims = after.redis.iter_mut().filter(|mark| **mark == Mark::Claim);
            claims.for_each(|mark| *mark = Mark::None);
            found.push(("claims expire".to_owned(), true, after));
        }
    }
    for key in [0, 1] {
        if state.faults.lies > 0 && state.redis[key] != Mark::Done {
            let mut after = state.clone();
            after.faults.lies -= 1;
            after.redis[key] = Mark::Done;
            found.push((format!("somebody writes a done marker of key {key}"), true, after));
        }
    }
    if state.faults.failovers > 0 {
        let mut after = state.clone();
        after.faults.failovers -= 1;
        let database = &mut after.database;
        for key in database.rows.drain(database.replicated..) {
            after.lost[key] = true;
        }
        database.version = i64::try_from(database.rows.len()).unwrap();
        database.balance = database.version * AMOUNT;
        // Connections to the old primary are gone, and with them the transactions.
        for worker in &mut after.workers {
            if let Some((_, step @ Step::Apply(..))) = &mut worker.busy {
                *step = Step::Load(true);
            }
        }
        let lost = state.database.rows.len() - state.database.replicated;
        found.push((format!("failover or restore; {lost} commits are lost"), true, after));
    }
    found
}

/// What is wrong with a state.
fn violation(state: &State, is_last: bool) -> Option<String> {
    let Database { rows, balance, version, .. } = &state.database;
    for key in [0, 1] {
        let times = rows.iter().filter(|row| **row == key).count();
        if times > 1 {
            return Some(format!("key {key} is applied {times} times"));
        }
        if is_last && times == 0 {
            return Some(format!("nothing is left to do, and key {key} is not applied"));
        }
    }
    let count = i64::try_from(rows.len()).unwrap();
    if (*balance, *version) != (count * AMOUNT, count) {
        return Some(format!("{count} rows, but balance {balance} and version {version}"));
    }
    let is_unapplied = |number: &usize| {
        let key = KEYS[*number];
        state.messages[*number] == Message::Acked && !rows.contains(&key) && !state.lost[key]
    };
    let unapplied = (0..KEYS.len()).find(is_unapplied)?;
    Some(format!("message {unapplied} is acknowledged and not applied"))
}

struct Search {
    states: usize,
    /// The shortest way to a violation, one step a line.
    trace: Option<String>,
}

fn search(faults: Faults, mistake: Mistake) -> Search {
    let start = State::start(faults);
    let mut seen: HashMap<State, Option<(State, String)>> = HashMap::from([(start.clone(), None)]);
    let mut left = VecDeque::from([start]);
    while let Some(state) = left.pop_front() {
        let following = next(&state, mistake);
        let is_last = following.iter().all(|(_, is_fault, _)| *is_fault);
        if let Some(wrong) = violation(&state, is_last) {
            return Search { states: seen.len(), trace: Some(trace(&seen, &state, &wrong)) };
        }
        for (what, _, after) in following {
            if !seen.contains_key(&after) {
                seen.insert(after.clone(), Some((state.clone(), what)));
                left.push_back(after);
            }
        }
    }
    Search { states: seen.len(), trace: None }
}

fn trace(seen: &HashMap<State, Option<(State, String)>>, end: &State, wrong: &str) -> String {
    let mut steps = Vec::new();
    let mut at = end;
    while let Some(Some((before, what))) = seen.get(at) {
        steps.push(what.as_str());
        at = before;
    }
    let mut text = String::new();
    for (number, what) in steps.iter().rev().enumerate() {
        writeln!(text, "{:3}. {what}", number + 1).unwrap();
    }
    writeln!(text, "  => {wrong}").unwrap();
    text
}

/// No commit is ever lost: the standby is synchronous, or there is no failover.
const DURABLE: Faults = Faults { crashes: 2, lost_channels: 1, forgettings: 1, failovers: 0, lies: 0 };
/// A failover to an asynchronous standby, or a restore; nothing in the database tells it from the one before.
const FAILOVER: Faults = Faults { crashes: 1, lost_channels: 0, forgettings: 0, failovers: 1, lies: 0 };
/// A failover while a channel is lost, or while Redis forgets.
const FAILOVER_AND_MORE: [Faults; 2] = [
    Faults { crashes: 0, lost_channels: 1, forgettings: 0, failovers: 1, lies: 0 },
    Faults { crashes: 0, lost_channels: 0, forgettings: 1, failovers: 1, lies: 0 },
];
/// Redis is written to by somebody else.
const LIES: Faults = Faults { crashes: 1, lost_channels: 0, forgettings: 1, failovers: 0, lies: 2 };

#[test]
fn applied_at_most_once_acknowledged_only_when_applied_and_in_the_end_applied() {
    let search = search(DURABLE, Mistake::None);
    println!("{} states", search.states);
    assert_eq!(search.trace, None, "\n{}", search.trace.as_deref().unwrap_or_default());
    assert!(search.states > 10_000, "only {} states: the model has stopped moving", search.states);
}

#[test]
fn what_a_failover_lost_is_applied_when_it_is_sent_again() {
    let search = search(FAILOVER, Mistake::None);
    println!("{} states", search.states);
    assert_eq!(search.trace, None, "\n{}", search.trace.as_deref().unwrap_or_default());
    assert!(search.states > 10_000, "only {} states: the model has stopped moving", search.states);
}

#[test]
fn what_a_failover_lost_is_applied_also_where_a_channel_is_lost_or_redis_forgets() {
    for faults in FAILOVER_AND_MORE {
        let search = search(faults, Mistake::None);
        println!("{faults:?}: {} states", search.states);
        assert_eq!(search.trace, None, "\n{}", search.trace.as_deref().unwrap_or_default());
        assert!(search.states > 10_000, "only {} states: the model has stopped moving", search.states);
    }
}

#[test]
fn what_redis_says_decides_nothing() {
    let search = search(LIES, Mistake::None);
    println!("{} states", search.states);
    assert_eq!(search.trace, None, "\n{}", search.trace.as_deref().unwrap_or_default());
    assert!(search.states > 10_000, "only {} states: the model has stopped moving", search.states);
}

#[track_caller]
fn gives_a_trace(mistake: Mistake, faults: Faults, expected: &str) {
    let Search { trace, .. } = search(faults, mistake);
    let trace = trace.unwrap_or_else(|| panic!("{mistake:?} is not found"));
    println!("{mistake:?}:\n{trace}");
    assert!(trace.contains(expected), "{mistake:?} gives another violation:\n{trace}");
}

#[test]
fn acknowledging_on_a_foreign_claim_loses_a_payment() {
    gives_a_trace(Mistake::AckOnForeignClaim, DURABLE, "acknowledged and not applied");
}

#[test]
fn a_marker_that_is_believed_hides_what_a_failover_lost() {
    gives_a_trace(Mistake::MarkerBelieved, FAILOVER, "nothing is left to do");
}

#[test]
fn a_marker_that_is_believed_lets_whoever_writes_to_redis_swallow_a_payment() {
    gives_a_trace(Mistake::MarkerBelieved, LIES, "acknowledged and not applied");
}

#[test]
fn an_acknowledgement_before_the_commit_loses_a_payment() {
    gives_a_trace(Mistake::AckBeforeCommit, DURABLE, "acknowledged and not applied");
}

/// Where commits can be lost an acknowledgement before its commit is another loss than theirs.
#[test]
fn an_acknowledgement_before_the_commit_is_told_from_what_a_failover_loses() {
    gives_a_trace(Mistake::AckBeforeCommit, FAILOVER, "acknowledged and not applied");
}

#[test]
fn an_acknowledgement_through_another_channel_is_found_beside_a_failover() {
    gives_a_trace(Mistake::AckThroughAnotherChannel, FAILOVER_AND_MORE[0], "acknowledged and not applied");
}

#[test]
fn without_a_version_guard_an_update_is_lost() {
    gives_a_trace(Mistake::NoVersionGuard, DURABLE, "rows, but balance");
}

#[test]
fn an_acknowledgement_through_another_channel_loses_a_payment() {
    gives_a_trace(Mistake::AckThroughAnotherChannel, DURABLE, "acknowledged and not applied");
}

#[test]
fn without_the_ledgers_key_what_redis_forgot_is_applied_twice() {
    gives_a_trace(Mistake::NoLedgerKey, DURABLE, "is applied 2 times");
}
