//! `payonce publish FILE…`.

mod dry_run;
mod follow;
mod lines;

use std::{
    collections::VecDeque,
    fs::Metadata,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use indicatif::ProgressBar;
use serde_json::json;

use super::{
    Failure, print_json, progress,
    style::{self, Style},
    table,
};
use crate::{
    app,
    broker::{self, Confirm, Names, PublishError, Publisher},
    config::Config,
    keys::Keyring,
    ledger::{Fingerprint, Key},
    shown::safe,
    signature::Headers,
    wire,
};
use follow::{Followed, Outcome};
use lines::Line;

/// Messages that may be on their way to the broker without its confirm.
const UNCONFIRMED_MAX: usize = 1_000;
/// Lines that are taken at once.
const LINES_PER_TURN_MAX: usize = 256;
/// After so long without anything settled, `--wait` says so.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// How often a wait for the broker is looked at.
const PATIENCE_LOOK: Duration = Duration::from_secs(1);
/// Cases that are shown one by one.
const CASES_SHOWN_MAX: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files with one callback per line; `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Send lines that are not callbacks too. Workers quarantine them.
    #[arg(long)]
    unchecked: bool,
    /// Wait until workers have settled each callback (at most publish_wait_max_ms), and say what became of it.
    #[arg(long)]
    wait: bool,
    /// Send nothing: say what would become of each callback now, and of the money, were one worker to take them in this order. At most a
    /// million callbacks.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Send without a signature, even where workers will refuse that.
    #[arg(long)]
    unsigned: bool,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

/// A line that is not on the queue.
#[derive(serde::Serialize)]
struct RefusedLine {
    file: String,
    line: u64,
    problem: String,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    if args.dry_run {
        let Args { files, unchecked, unsigned, json, .. } = args;
        return dry_run::run(config, dry_run::Asked { files, unchecked, unsigned, json }).await;
    }
    let names = Names::new(&config.prefix);
    // First, so that nothing is published where nobody could say what became of it.
    let followed = if args.wait { Some(Followed::open(config).await?) } else { None };
    let connection = broker::connect(app::amqp_url(config)?.expose(), "payonce-publish", &config.tls).await?;
    broker::topology::declare(&connection, &names).await?;
    let mut sending = Sending {
        publisher: Publisher::open(&connection, &names).await?,
        deadline: config.publish_deadline,
        has_warned: false,
        unconfirmed: VecDeque::new(),
        published: 0,
        unfollowed: 0,
        refused: Vec::new(),
        followed,
        progress: progress_bar(&args.files),
        unchecked: args.unchecked,
        keyring: if args.unsigned { Arc::new(Keyring::empty(false)) } else { app::keys(config)?.current() },
    };
    let sent = tokio::select! {
        sent = sending.send(args.files) => sent,
        () = interrupted() => Err(Failure::No("interrupted".to_owned())),
    };
    sending.progress.finish_and_clear();
    if let Err(failure) = sent {
        return Err(sending.stopped(failure, args.json));
    }
    let outcome = match sending.followed.take() {
        None => None,
        Some(mut followed) => Some(settle(&mut followed, config.publish_wait_max).await?),
    };
    report(&sending, outcome.as_ref(), args.json)
}

/// Ctrl-C. Where that cannot be heard of, never: it then ends the program as it would any other.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

async fn settle(followed: &mut Followed, wait_max: Duration) -> Result<Outcome, Failure> {
    let total = u64::try_from(followed.total()).ok();
    let progress = progress::bar(total, "{wide_bar} {pos}/{len} settled, {elapsed}");
    let told = progress.clone();
    // Whoever waits for workers that do not run has to hear of it before publish_wait_max_ms is over.
    let tell = async {
        tokio::time::sleep(QUIET_MAX).await;
        if told.position() == 0 {
            told.suspend(|| {
                eprintln!(
                    "Nothing is settled after {} s. Does a worker run? Waiting for up to {} s (publish_wait_max_ms); Ctrl-C ends the wait, not the callbacks.",
                    QUIET_MAX.as_secs(),
                    wait_max.as_secs()
                );
            });
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = tell => {}
        waited = followed.wait(wait_max, |n| told.set_position(n.try_into().unwrap_or(0))) => waited?,
        () = interrupted() => {}
    }
    progress.finish_and_clear();
    followed.outcome().await
}

struct Sending {
    publisher: Publisher,
    /// How long the broker may take over the next message.
    deadline: Duration,
    /// It was said that the broker takes no messages.
    has_warned: bool,
    /// In the order they were sent.
    unconfirmed: VecDeque<Sent>,
    published: u64,
    /// Of these: what is no callback, and has no key by which anybody could say what became of it.
    unfollowed: u64,
    refused: Vec<RefusedLine>,
    /// What is to be waited for; `None`: nothing.
    followed: Option<Followed>,
    progress: ProgressBar,
    unchecked: bool,
    /// Who signs for which source.
    keyring: Arc<Keyring>,
}

/// A line that can be sent.
struct Ready {
    file: Arc<str>,
    line: u64,
    bytes_read: usize,
    body: Vec<u8>,
    routing_key: String,
    signature: Headers,
    /// Key and content; `None`: it is no callback.
    callback: Option<(Key, Fingerprint)>,
}

/// A line on its way.
struct Sent {
    confirm: Confirm,
    file: Arc<str>,
    line: u64,
    bytes_read: usize,
    callback: Option<(Key, Fingerprint)>,
}

impl Sending {
    /// Sends every line of these files, and waits for every confirm.
    async fn send(&mut self, files: Vec<PathBuf>) -> Result<(), Failure> {
        let mut lines = lines::read(files);
        let mut taken = Vec::with_capacity(LINES_PER_TURN_MAX);
        while lines.recv_many(&mut taken, LINES_PER_TURN_MAX).await > 0 {
            let mut ready = Vec::with_capacity(taken.len());
            let mut unreadable = None;
            for line in taken.drain(..) {
                match line {
                    Ok(line) => ready.extend(self.prepare(line)),
                    Err(problem) => unreadable = Some(problem),
                }
            }
            if let Some(followed) = &mut self.followed {
                let keys = ready.iter().filter_map(|ready| ready.callback.as_ref()).map(|(key, _)| key);
                followed.begin(keys).await?;
            }
            for ready in ready {
                self.publish(ready).await?;
            }
            if let Some(problem) = unreadable {
                return Err(Failure::Usage(problem));
            }
        }
        self.wait_until(0).await
    }

    /// `None`: the line is refused.
    fn prepare(&mut self, line: Line) -> Option<Ready> {
        let Line { file, number, bytes_read, body } = line;
        let prepared = body.and_then(|body| {
            let (routing_key, signature, callback) = match wire::decode(&body) {
                Ok(callback) => {
                    let signature = self.sign(&callback.key, &body)?;
                    let account = callback.routing_key().to_owned();
                    (account, signature, Some((callback.key, callback.fingerprint)))
                }
                Err(_) if self.unchecked => Default::default(),
                Err(error) => return Err(error.to_string()),
            };
            Ok((body, routing_key, signature, callback))
        });
        match prepared {
            Ok((body, routing_key, signature, callback)) => {
                Some(Ready { file, line: number, bytes_read, body, routing_key, signature, callback })
            }
            Err(problem) => {
                self.refuse(&file, number, problem);
                None
            }
        }
    }

    async fn publish(&mut self, ready: Ready) -> Result<(), Failure> {
        let Ready { file, line, bytes_read, body, routing_key, signature, callback } = ready;
        let sending = self.publisher.publish_signed(&routing_key, &body, &signature);
        let confirm = patient(&self.publisher, self.deadline, &mut self.has_warned, sending).await?;
        let confirm = confirm.map_err(Failure::from)?;
        self.unconfirmed.push_back(Sent { confirm, file, line, bytes_read, callback });
        self.wait_until(UNCONFIRMED_MAX).await
    }

    fn sign(&self, key: &Key, body: &[u8]) -> Result<Headers, String> {
        let signed = self.keyring.sign(key.source.as_str(), key.event_id.as_str(), now_s(), body)?;
        Ok(signed.unwrap_or_default())
    }

    /// Waits until at most `left` messages are unconfirmed.
    async fn wait_until(&mut self, left: usize) -> Result<(), Failure> {
        while self.unconfirmed.len() > left {
            // Taken out only when the answer is there: until then it counts as unconfirmed.
            let Some(sent) = self.unconfirmed.front_mut() else { break };
            let answer =
                patient(&self.publisher, self.deadline, &mut self.has_warned, sent.confirm.answer()).await?;
            let refused = match answer {
                Ok(()) => None,
                // It stays among the unconfirmed: nobody knows whether it is on the queue.
                Err(PublishError::Broker(error)) => return Err(error.into()),
                Err(
                    error
                    @ (PublishError::Unroutable(_) | PublishError::Refused | PublishError::NotConfirmed),
                ) => Some(error.to_string()),
            };
            let Some(sent) = self.unconfirmed.pop_front() else { break };
            if let Some(problem) = refused {
                self.refuse(&sent.file, sent.line, problem);
                continue;
            }
            self.published += 1;
            match (&mut self.followed, &sent.callback) {
                (Some(followed), Some((key, content))) => followed.confirmed(key, *content),
                (Some(_), None) => self.unfollowed += 1,
                (None, _) => {}
            }
            self.progress.inc(sent.bytes_read as u64);
            if !self.progress.is_hidden() {
                self.progress.set_message(self.published.to_string());
            }
        }
        Ok(())
    }

    /// Says how far things are where they ended early.
    fn stopped(&self, failure: Failure, json: bool) -> Failure {
        if self.published == 0 && self.unconfirmed.is_empty() {
            return failure;
        }
        let sent = match self.unconfirmed.front() {
            None => String::new(),
            Some(first) => format!(
                ", {} more sent without an answer, from {} line {} on",
                self.unconfirmed.len(),
                safe(&first.file),
                first.line
            ),
        };
        if json {
            let done = json!({
                "published": self.published, "unconfirmed": self.unconfirmed.len(), "refused": self.refused,
            });
            // What ended it is what is reported.
            drop(print_json(&done));
        }
        let add = |text: String| {
            format!(
                "{text}; {} confirmed{sent}. Publish the same files again: duplicates are rejected",
                self.published
            )
        };
        match failure {
            Failure::No(text) => Failure::No(add(text)),
            Failure::Usage(text) => Failure::Usage(add(text)),
            Failure::Unreachable(text) => Failure::Unreachable(add(text)),
        }
    }

    fn refuse(&mut self, file: &str, line: u64, problem: String) {
        self.progress.suspend(|| eprintln!("{} line {line}: {}", safe(file), safe(&problem)));
        self.refused.push(RefusedLine { file: file.to_owned(), line, problem });
    }
}

/// Seconds since 1970 by this machine's clock, for signatures.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Waits for the broker, but not for ever. One that is short of memory or disk says so and takes nothing until that is over.
async fn patient<T>(
    publisher: &Publisher,
    deadline: Duration,
    has_warned: &mut bool,
    request: impl Future<Output = T>,
) -> Result<T, Failure> {
    let mut request = std::pin::pin!(tokio::time::timeout(deadline, request));
    loop {
        tokio::select! {
            answer = &mut request => return answer.map_err(|_| {
                let within = format!("within {} ms (publish_deadline_ms)", deadline.as_millis());
                Failure::Unreachable(if publisher.is_blocked() {
                    format!(
                        "RabbitMQ has a resource alarm (memory or disk) and took no message {within}; `rabbitmq-diagnostics alarms` says \
                         which, and publishing goes on when it is over"
                    )
                } else {
                    format!("RabbitMQ neither took nor confirmed a message {within}")
                })
            }),
            () = tokio::time::sleep(PATIENCE_LOOK) => {
                if publisher.is_blocked() && !*has_warned {
                    *has_warned = true;
                    eprintln!(
                        "payonce: RabbitMQ has a resource alarm (memory or disk) and takes no messages for now; waiting up to {} ms",
                        deadline.as_millis()
                    );
                }
            }
        }
    }
}

fn report(sending: &Sending, outcome: Option<&Outcome>, json: bool) -> Result<(), Failure> {
    if json {
        let mut report = json!({ "published": sending.published, "refused": sending.refused });
        if let Some(outcome) = outcome {
            report["settled"] = json!(outcome);
            report["settled"]["unfollowed"] = json!(sending.unfollowed);
        }
        print_json(&report)?;
    } else {
        say!("Published {}, confirmed by the broker.", table::count(sending.published, "callback"));
        outcome.into_iter().for_each(print_outcome);
        if sending.unfollowed > 0 {
            say!(
                "Not followed: {} without a key, because what was sent is no callback. `payonce quarantine list --reason malformed` shows what became of them.",
                table::count(sending.unfollowed, "line")
            );
        }
    }
    let mut problems = Vec::new();
    if !sending.refused.is_empty() {
        problems.push(format!(
            "{} refused, not on the queue. Fix what was refused and publish the files again: duplicates are rejected",
            table::count(sending.refused.len(), "line")
        ));
    }
    if let Some(outcome) = outcome.filter(|outcome| outcome.unsettled > 0) {
        problems.push(format!(
            "{} on the queue and not settled yet. Does a worker run? `payonce event SOURCE ID` says what becomes of each",
            table::count(outcome.unsettled, "callback")
        ));
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::No(problems.join("\n"))) }
}

fn print_outcome(outcome: &Outcome) {
    say!(
        "Settled: {} applied, {} rejected as {}, {} waiting, {} in quarantine.",
        outcome.applied,
        outcome.duplicates,
        if outcome.duplicates == 1 { "a duplicate" } else { "duplicates" },
        outcome.waiting,
        outcome.quarantined
    );
    for case in outcome.cases.iter().take(CASES_SHOWN_MAX) {
        say!(
            "  {}  {} of {}: case {}, {}, {}: {}",
            style::out(Style::Attention, "not applied"),
            safe(&case.id),
            safe(&case.source),
            case.case,
            case.state,
            case.reason,
            safe(&case.detail)
        );
    }
    if outcome.cases.len() > CASES_SHOWN_MAX {
        say!("  and {} more: `payonce quarantine list`", outcome.cases.len() - CASES_SHOWN_MAX);
    }
}

/// By bytes, where all files have a size.
fn progress_bar(files: &[PathBuf]) -> ProgressBar {
    let sizes =
        files.iter().map(|path| path.metadata().ok().filter(Metadata::is_file).map(|file| file.len()));
    let total: Option<u64> = sizes.sum();
    let template = if total.is_some() {
        "{wide_bar} {percent} %, {msg} confirmed, {elapsed}, {eta} left"
    } else {
        "{spinner} {msg} confirmed, {elapsed}"
    };
    progress::bar(total, template)
}
