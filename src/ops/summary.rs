//! The state of the pool as one sentence, with numbers: what the first page says before all else. What must not live here: where the numbers come
//! from.

use std::time::Duration;

use super::{
    layout::{duration, number, rate},
    watch::{Link, Now},
};

/// What the sentence is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Situation {
    postgres: Link,
    broker: Link,
    redis: Link,
    /// Checks of the last audit that found violations.
    failed_checks: Vec<&'static str>,
    /// Workers that report, and those that should: all that have not stopped.
    workers: (usize, usize),
    /// Messages that are ready on the queue; `None`: not known.
    ready: Option<u32>,
    /// How long the oldest of them has waited, about.
    oldest: Option<Duration>,
    /// Callbacks settled per second, over the last seconds.
    per_second: f64,
    /// Until the queue is empty, at this rate.
    drain_s: Option<f64>,
    /// Cases that need a person.
    open: i64,
}

fn counted(n: i128, thing: &str) -> String {
    format!("{} {thing}{}", number(n), if n == 1 { "" } else { "s" })
}

impl Situation {
    pub(super) fn of(now: &Now) -> Self {
        let count =
            |is: fn(&&crate::store::workers::WorkerRow) -> bool| now.workers.iter().filter(is).count();
        Self {
            postgres: now.postgres,
            broker: now.broker,
            redis: now.redis,
            failed_checks: now.audit.last.as_ref().map(|last| last.failed.clone()).unwrap_or_default(),
            workers: (count(|worker| worker.is_up), count(|worker| !worker.is_stopped)),
            ready: now.depths.map(|depths| depths.ready),
            oldest: now.backlog_age,
            per_second: now.rates.1,
            drain_s: now.drain_s(),
            open: now.cases.open.cases,
        }
    }

    /// The sentence, and whether it is good news: `up`, `unknown` or `down`. The worst comes first.
    pub(super) fn words(&self) -> (String, &'static str) {
        let (up, known) = self.workers;
        let waiting = self.waiting();
        let (main, state) = match (self.postgres, self.broker) {
            (Link::Unknown, _) => {
                ("Nothing is known yet: the servers are being asked.".to_owned(), "unknown")
            }
            (Link::Down, _) => (
                format!(
                    "Nothing is processed: PostgreSQL does not answer; {waiting}. Workers keep what they have taken and go on by themselves."
                ),
                "down",
            ),
            (Link::Up, _) if !self.failed_checks.is_empty() => (
                format!(
                    "The audit found violations ({}): do not pay out before they are explained.",
                    self.failed_checks.join(", ")
                ),
                "down",
            ),
            (Link::Up, Link::Down) => (
                "Nothing is received: RabbitMQ does not answer. What is on the queue is safe there."
                    .to_owned(),
                "down",
            ),
            (Link::Up, _) if up == 0 => {
                (format!("Nothing is processed: no worker is up; {waiting}."), "down")
            }
            (Link::Up, _) if self.ready.is_some_and(|ready| ready > 0) && self.per_second == 0.0 => {
                let workers = counted(up as i128, "worker");
                let verb = if up == 1 { "is" } else { "are" };
                (format!("Nothing is processed, though {workers} {verb} up; {waiting}."), "down")
            }
            (Link::Up, _) => {
                let verb = if up == 1 { "processes" } else { "process" };
                let workers = match known.saturating_sub(up) {
                    0 => counted(up as i128, "worker"),
                    missing => format!("{up} of {} ({missing} missing)", counted(known as i128, "worker")),
                };
                let empty = self
                    .drain_s
                    .map_or_else(String::new, |seconds| format!("; empty in about {}", duration(seconds)));
                let words = format!(
                    "{workers} {verb} {} callbacks a second; {waiting}{empty}.",
                    rate(self.per_second)
                );
                (words, if up < known { "down" } else { "up" })
            }
        };
        let redis =
            if self.redis == Link::Down { " Redis is down: slower, and nothing is lost." } else { "" };
        let open = match (self.postgres, self.open) {
            (Link::Up, 0) => " No case needs a person.".to_owned(),
            (Link::Up, 1) => " 1 case needs a person.".to_owned(),
            (Link::Up, open) => format!(" {} cases need a person.", number(open)),
            (Link::Unknown | Link::Down, _) => String::new(),
        };
        (format!("{main}{redis}{open}"), state)
    }

    fn waiting(&self) -> String {
        let oldest =
            self.oldest.map_or_else(String::new, |age| format!(", oldest {}", duration(age.as_secs_f64())));
        match self.ready {
            None => "how many wait is not known".to_owned(),
            Some(0) => "none waits on the queue".to_owned(),
            Some(1) => format!("1 waits{oldest}"),
            Some(ready) => format!("{} wait{oldest}", number(ready)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calm() -> Situation {
        Situation {
            postgres: Link::Up,
            broker: Link::Up,
            redis: Link::Up,
            failed_checks: Vec::new(),
            workers: (3, 3),
            ready: Some(0),
            oldest: None,
            per_second: 120.0,
            drain_s: None,
            open: 0,
        }
    }

    #[test]
    fn the_sentence_names_the_worst_first_with_its_numbers() {
        let behind = Situation { ready: Some(15_000), oldest: Some(Duration::from_secs(121)), ..calm() };
        for (situation, state, words) in [
            (
                calm(),
                "up",
                "3 workers process 120 callbacks a second; none waits on the queue. No case needs a person.",
            ),
            (
                Situation { workers: (1, 1), per_second: 0.0, open: 1, redis: Link::Down, ..calm() },
                "up",
                "1 worker processes 0 callbacks a second; none waits on the queue. Redis is down: slower, and nothing is lost. 1 case needs \
                 a person.",
            ),
            (
                Situation { drain_s: Some(125.0), open: 1_200, ..behind.clone() },
                "up",
                "3 workers process 120 callbacks a second; 15,000 wait, oldest 2 min; empty in about 2 min. 1,200 cases need a person.",
            ),
            (
                Situation { workers: (2, 3), ..calm() },
                "down",
                "2 of 3 workers (1 missing) process 120 callbacks a second; none waits on the queue. No case needs a person.",
            ),
            (
                Situation { workers: (0, 1), ..behind.clone() },
                "down",
                "Nothing is processed: no worker is up; 15,000 wait, oldest 2 min. No case needs a person.",
            ),
            (
                Situation { per_second: 0.0, ready: Some(1), ..behind.clone() },
                "down",
                "Nothing is processed, though 3 workers are up; 1 waits, oldest 2 min. No case needs a person.",
            ),
            (
                Situation { broker: Link::Down, ready: None, ..calm() },
                "down",
                "Nothing is received: RabbitMQ does not answer. What is on the queue is safe there. No case needs a person.",
            ),
            (
                Situation { failed_checks: vec!["balances"], workers: (0, 0), ..calm() },
                "down",
                "The audit found violations (balances): do not pay out before they are explained. No case needs a person.",
            ),
            (
                Situation { postgres: Link::Down, ..behind },
                "down",
                "Nothing is processed: PostgreSQL does not answer; 15,000 wait, oldest 2 min. Workers keep what they have taken and go on by \
                 themselves.",
            ),
            (
                Situation { postgres: Link::Unknown, ..calm() },
                "unknown",
                "Nothing is known yet: the servers are being asked.",
            ),
        ] {
            assert_eq!(situation.words(), (words.to_owned(), state), "{situation:?}");
        }
    }
}
