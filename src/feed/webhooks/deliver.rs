//! The delivering side: takes accounts whose time has come, sends their rows in the order of versions, one request at a time per account, and
//! keeps a version as taken only after its 2xx. Whatever fails waits for a pause that grows; where nothing is taken at all, one request in a
//! while looks whether the subscriber is back.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Subscriber, clock::now_s, history_webhook_id, post::Answer, sink::Shared, webhook_id};
use crate::{
    config::RetryConfig,
    feed::{
        Feed,
        event::{self, Origin},
        tail::sleep_unless,
    },
    metrics,
    retry::{Pauses, pause_after},
    store::{
        PgConnection, StoreError,
        feed::{Entry, Position},
        webhooks::{self, Due, HISTORY_ACCOUNT, Standing, Tried, Which},
    },
};

/// Rows of an account that are sent before what was taken is kept: so many come again at most where the process is killed.
const RUN_ROWS_MAX: usize = 20;
/// Longest time until an account is looked for whose pause has ended, or that a person has asked for.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// The shortest pause after a failure; the next are twice as long, up to `webhook_retry_max_ms`.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// So many accounts fail one after another without one that is taken: the subscriber is down, not an account refused.
const ACCOUNTS_AWAY: usize = 8;
/// Longest pause between two looks whether a subscriber that is down is back.
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often the secrets file is looked at.
const SECRETS_PAUSE: Duration = Duration::from_secs(5);
/// How long requests that were sent may take after a signal to stop.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);

pub(super) struct Deliverer {
    feed: Arc<Feed>,
    subscriber: Arc<Subscriber>,
    connection: Shared,
    news: Arc<Notify>,
    origin: Arc<Origin>,
    pauses: RetryConfig,
    posting: JoinSet<Ended>,
    in_flight: HashMap<Id, Due>,
    /// Accounts that failed since one was taken, at most [`ACCOUNTS_AWAY`].
    failed: HashSet<String>,
    /// Looks since the subscriber is down, and when the next may be.
    looks: u32,
    next_look: Option<Instant>,
    /// It has not been told of another history, and gets nothing else before.
    is_untold: bool,
    /// Acts of people that are known; `None`: nothing is known yet.
    acts: Option<i64>,
}

/// What became of an account's run.
struct Ended {
    tried: Tried,
    attempts: i32,
    answer: Option<Answer>,
}

impl Deliverer {
    pub(super) fn new(
        feed: &Arc<Feed>,
        subscriber: &Arc<Subscriber>,
        connection: &Shared,
        news: &Arc<Notify>,
        origin: Origin,
    ) -> Self {
        let delay_max = feed.config.webhook_pause_max;
        Self {
            feed: Arc::clone(feed),
            subscriber: Arc::clone(subscriber),
            connection: Arc::clone(connection),
            news: Arc::clone(news),
            origin: Arc::new(origin),
            pauses: RetryConfig { delay_min: PAUSE_FIRST.min(delay_max), delay_max },
            posting: JoinSet::new(),
            in_flight: HashMap::new(),
            failed: HashSet::new(),
            looks: 0,
            next_look: None,
            is_untold: false,
            acts: None,
        }
    }

    /// Delivers until `stop`, and then waits for what was sent, for as long as it is let.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut troubles = Pauses::new(self.feed.retry);
        let (mut secrets_at, mut reported) = (Instant::now(), String::new());
        loop {
            if secrets_at.elapsed() >= SECRETS_PAUSE {
                self.subscriber.refresh_secrets(&mut reported);
                secrets_at = Instant::now();
            }
            if let Err(cause) = self.start(&stop).await {
                self.wait_for_database(&mut troubles, &cause, &stop).await;
            } else {
                troubles.reset();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.posting.join_next_with_id(), if !self.posting.is_empty() => {
                    if let Err(cause) = self.settle(ended).await {
                        self.wait_for_database(&mut troubles, &cause, &stop).await;
                    }
                }
                () = self.news.notified() => {}
                () = tokio::time::sleep(LOOK_PAUSE) => {}
            }
        }
        while let Some(ended) = self.posting.join_next_with_id().await {
            if let Err(cause) = self.settle(ended).await {
                warn!(feed = self.subscriber.name, cause = %cause, "what was taken last comes again");
            }
        }
    }

    /// What was taken and could not be kept comes again, but not in a loop.
    async fn wait_for_database(&self, troubles: &mut Pauses, cause: &StoreError, stop: &CancellationToken) {
        let pause = troubles.next_pause();
        warn!(feed = self.subscriber.name, cause = %cause, pause_ms = pause.as_millis(), "deliveries wait for the database");
        sleep_unless(pause, stop).await;
    }

    async fn query<T>(
        &self,
        operation: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.connection.lock().await.run(operation).await
    }

    /// Sends what may be sent now.
    async fn start(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        let name = &self.subscriber.name;
        let room = self.subscriber.in_flight_max.saturating_sub(self.in_flight.len());
        if room == 0 || stop.is_cancelled() {
            return Ok(());
        }
        let (holder, epoch) = (&self.feed.name, &self.origin.epoch);
        let standing =
            self.query(async |connection| webhooks::standing(connection, name, holder, epoch).await).await?;
        let Some(standing) = standing.filter(|standing| standing.may_send) else { return Ok(()) };
        match self.acts.replace(standing.acts) {
            // Who delivered before may have found it down: then one look tells whether it is back, however long each account would wait.
            None => {
                let failed = self
                    .query(async |connection| webhooks::failed(connection, name, ACCOUNTS_AWAY).await)
                    .await?;
                self.failed.extend(failed);
            }
            Some(known) if known != standing.acts => {
                (self.looks, self.next_look) = (0, None);
                self.failed.clear();
            }
            Some(_) => {}
        }
        self.is_untold = standing.history_before.is_some();
        let taken = self.take(room).await?;
        let rows =
            self.query(async |connection| webhooks::rows(connection, &taken, RUN_ROWS_MAX).await).await?;
        let mut rows_of: HashMap<String, Vec<Entry>> = HashMap::new();
        for row in rows {
            rows_of.entry(row.account_id.clone()).or_default().push(row);
        }
        for due in taken {
            let run = Run {
                subscriber: Arc::clone(&self.subscriber),
                origin: Arc::clone(&self.origin),
                rows: rows_of.remove(&due.account_id).unwrap_or_default(),
                standing: standing.clone(),
                pauses: self.pauses,
                stop: stop.clone(),
                due: due.clone(),
            };
            let id = self.posting.spawn(run.deliver()).id();
            self.in_flight.insert(id, due);
        }
        Ok(())
    }

    /// Accounts to try now: half of the room at most for those that failed, so that one that hangs holds up no other.
    async fn take(&mut self, room: usize) -> Result<Vec<Due>, StoreError> {
        let name = &self.subscriber.name;
        let busy: Vec<String> = self.in_flight.values().map(|due| due.account_id.clone()).collect();
        let due = async |which: Which, rows_max: usize| {
            self.query(async |connection| webhooks::due(connection, name, which, &busy, rows_max).await).await
        };
        if self.is_down() {
            let is_time = self.next_look.is_none_or(|at| at <= Instant::now());
            return if is_time && busy.is_empty() { due(Which::Next, 1).await } else { Ok(Vec::new()) };
        }
        let again = self.in_flight.values().filter(|due| due.attempts > 0).count();
        let again_max = (self.subscriber.in_flight_max / 2).max(1).saturating_sub(again).min(room);
        let mut taken = if again_max > 0 { due(Which::Again, again_max).await? } else { Vec::new() };
        let left = room.saturating_sub(taken.len());
        if left > 0 {
            taken.extend(due(Which::First, left).await?);
        }
        Ok(taken)
    }

    /// Keeps what became of what has ended.
    async fn settle(&mut self, first: Result<(Id, Ended), tokio::task::JoinError>) -> Result<(), StoreError> {
        let mut ended = Vec::new();
        let mut next = Some(first);
        while let Some(one) = next {
            match one {
                Ok((id, one)) => {
                    self.in_flight.remove(&id);
                    ended.push(one);
                }
                // It comes again: nothing was kept of it.
                Err(panic) => {
                    self.in_flight.remove(&panic.id());
                    error!(feed = self.subscriber.name, cause = %panic, "a delivery ended unexpectedly");
                }
            }
            next = self.posting.try_join_next_with_id();
        }
        let was_down = self.is_down();
        let is_gone = ended.iter().any(|one| one.answer == Some(Answer::Gone));
        for one in &ended {
            self.learn(one);
        }
        let name = &self.subscriber.name;
        let retry_for = self.feed.config.webhook_retry_for;
        let tried: Vec<Tried> = ended.into_iter().map(|one| one.tried).collect();
        let mut disabled =
            self.query(async |connection| webhooks::keep(connection, name, &tried, retry_for).await).await?;
        if is_gone {
            let why = "it has answered 410: it wants no more";
            disabled |= self.query(async |connection| webhooks::disable(connection, name, why).await).await?;
        }
        if disabled {
            error!(
                feed = name,
                is_gone,
                retry_for_s = retry_for.as_secs(),
                "the subscriber is disabled; what it has not taken is kept until `payonce feed subscribers enable`"
            );
        }
        if was_down && self.failed.is_empty() {
            self.query(async |connection| webhooks::wake(connection, name).await).await?;
        }
        Ok(())
    }

    /// Whether it is only looked at from time to time, with one request: it takes nothing, or has yet to take the news that all else waits for.
    fn is_down(&self) -> bool {
        self.is_untold || self.failed.len() >= ACCOUNTS_AWAY
    }

    /// Whether the subscriber is down is judged by how its last answers were.
    fn learn(&mut self, ended: &Ended) {
        let Ended { tried, attempts, answer } = ended;
        if tried.taken > 0 {
            self.failed.clear();
            (self.looks, self.next_look) = (0, None);
        }
        let Some((words, pause)) = &tried.failure else { return };
        let status = answer.as_ref().map_or("unreadable", Answer::as_str);
        warn!(
            feed = self.subscriber.name,
            account_id = tried.account_id,
            version = tried.upto + 1,
            status,
            cause = words,
            attempts = attempts + 1,
            pause_ms = pause.as_millis(),
            "an event was not taken"
        );
        if self.failed.len() < ACCOUNTS_AWAY {
            self.failed.insert(tried.account_id.clone());
        }
        if self.is_down() {
            let config = RetryConfig { delay_max: self.pauses.delay_max.min(AWAY_PAUSE_MAX), ..self.pauses };
            self.next_look = Some(Instant::now() + pause_after(config, self.looks));
            self.looks = self.looks.saturating_add(1);
        }
    }
}

/// Rows of one account, to be sent one after another.
struct Run {
    subscriber: Arc<Subscriber>,
    origin: Arc<Origin>,
    due: Due,
    rows: Vec<Entry>,
    standing: Standing,
    pauses: RetryConfig,
    stop: CancellationToken,
}

impl Run {
    async fn deliver(self) -> Ended {
        let (was, attempts) = (self.due.delivered, self.due.attempts);
        let mut tried =
            Tried { account_id: self.due.account_id.clone(), was, upto: was, taken: 0, failure: None };
        let mut last = None;
        if self.due.account_id == HISTORY_ACCOUNT {
            if let Some(before) = &self.standing.history_before {
                let position = Position { txn: self.standing.history_txn.unwrap_or(0), within: None };
                let id = history_webhook_id(&self.origin.source, self.origin.epoch.as_str());
                let body = event::history(&self.origin, before, &position);
                last = self.send(&mut tried, &id, body).await;
            }
        } else {
            for row in &self.rows {
                if self.stop.is_cancelled() {
                    return Ended { tried, attempts, answer: last };
                }
                if self.subscriber.wants(row) {
                    let id = webhook_id(&self.origin.source, row);
                    last = self.send(&mut tried, &id, event::posted(&self.origin, row)).await;
                    if tried.failure.is_some() {
                        break;
                    }
                }
                tried.upto = row.account_version;
            }
        }
        if tried.failure.is_none() && self.rows.len() < RUN_ROWS_MAX {
            tried.upto = self.due.wanted;
        }
        Ended { tried, attempts, answer: last }
    }

    /// Sends one event; its answer, where there was one.
    async fn send(
        &self,
        tried: &mut Tried,
        id: &str,
        body: Result<Vec<u8>, serde_json::Error>,
    ) -> Option<Answer> {
        let failed_before = if tried.taken > 0 { 0 } else { u32::try_from(self.due.attempts).unwrap_or(0) };
        let pause = pause_after(self.pauses, failed_before);
        let body = match body {
            Ok(body) => body,
            Err(cause) => {
                tried.failure = Some((format!("the event cannot be written as JSON: {cause}"), pause));
                return None;
            }
        };
        let Some(signed) = self.subscriber.sign(id, now_s(), &body) else {
            tried.failure = Some(("no secret signs".to_owned(), pause));
            return None;
        };
        let started = Instant::now();
        let answer = self.subscriber.address.post(&signed, body).await;
        metrics::webhooks::answered(&self.subscriber.name, answer.as_str(), started.elapsed());
        tried.failure = match &answer {
            Answer::Taken => {
                tried.taken += 1;
                None
            }
            Answer::Gone => Some(("status 410".to_owned(), pause)),
            Answer::Refused(status, wanted) => {
                Some((format!("status {status}"), wanted.map_or(pause, |wanted| pause.max(wanted))))
            }
            Answer::TimedOut => Some(("no answer in time".to_owned(), pause)),
            Answer::Unreachable(problem) => Some((problem.clone(), pause)),
        };
        Some(answer)
    }
}
