//! `payonce publish FILE…`.

use std::{
    collections::VecDeque,
    fs::{File, Metadata},
    io::{BufRead, BufReader},
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use indicatif::ProgressBar;
use serde_json::json;

use super::{Failure, print_json, progress};
use crate::{
    app,
    broker::{self, Confirm, Names, PublishError, Publisher},
    config::Config,
    keys::Keyring,
    ledger::Key,
    shown::safe,
    signature::Headers,
    wire,
};

/// Messages that may be on their way to the broker without its confirm.
const UNCONFIRMED_MAX: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files with one callback per line; `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Send lines that are not callbacks too. Workers quarantine them.
    #[arg(long)]
    unchecked: bool,
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
    let names = Names::new(&config.prefix);
    let connection = broker::connect(app::amqp_url(config)?.expose(), "payonce-publish", &config.tls).await?;
    broker::topology::declare(&connection, &names).await?;
    let mut sending = Sending {
        publisher: Publisher::open(&connection, &names).await?,
        unconfirmed: VecDeque::new(),
        published: 0,
        refused: Vec::new(),
        progress: progress_bar(&args.files),
        unchecked: args.unchecked,
        keyring: if args.unsigned { Arc::new(Keyring::empty(false)) } else { app::keys(config)?.current() },
    };
    for path in &args.files {
        sending.send_file(path).await?;
    }
    sending.wait_until(0).await?;
    sending.progress.finish_and_clear();
    report(&sending, args.json)
}

struct Sending {
    publisher: Publisher,
    /// In the order they were sent.
    unconfirmed: VecDeque<Sent>,
    published: u64,
    refused: Vec<RefusedLine>,
    progress: ProgressBar,
    unchecked: bool,
    /// Who signs for which source.
    keyring: Arc<Keyring>,
}

/// A line on its way.
struct Sent {
    confirm: Confirm,
    file: String,
    line: u64,
    bytes: usize,
}

impl Sending {
    async fn send_file(&mut self, path: &PathBuf) -> Result<(), Failure> {
        let file = path.display().to_string();
        let unreadable = |error: std::io::Error| Failure::Usage(format!("cannot read {file}: {error}"));
        let mut reader: Box<dyn BufRead> = if file == "-" {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
        };
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
                break;
            }
            let body = bytes.trim_ascii();
            if body.is_empty() {
                continue;
            }
            let (routing_key, signature) = match wire::decode(body) {
                Ok(callback) => match self.sign(&callback.key, body) {
                    Ok(signature) => (callback.account_id.as_str().to_owned(), signature),
                    Err(problem) => {
                        self.refuse(&file, line, problem);
                        continue;
                    }
                },
                Err(_) if self.unchecked => Default::default(),
                Err(error) => {
                    self.refuse(&file, line, error.to_string());
                    continue;
                }
            };
            let confirm = self.publisher.publish_signed(&routing_key, body, &signature).await?;
            self.unconfirmed.push_back(Sent { confirm, file: file.clone(), line, bytes: bytes.len() });
            self.wait_until(UNCONFIRMED_MAX).await?;
        }
        Ok(())
    }

    fn sign(&self, key: &Key, body: &[u8]) -> Result<Headers, String> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signed = self.keyring.sign(key.source.as_str(), key.event_id.as_str(), now_s, body)?;
        Ok(signed.unwrap_or_default())
    }

    /// Waits until at most `left` messages are unconfirmed.
    async fn wait_until(&mut self, left: usize) -> Result<(), Failure> {
        while self.unconfirmed.len() > left {
            let Some(Sent { confirm, file, line, bytes }) = self.unconfirmed.pop_front() else { break };
            match confirm.wait().await {
                Ok(()) => {
                    self.published += 1;
                    self.progress.inc(bytes as u64);
                    if !self.progress.is_hidden() {
                        self.progress.set_message(self.published.to_string());
                    }
                }
                Err(PublishError::Broker(error)) => {
                    let unknown = self.unconfirmed.len() + 1;
                    return Err(Failure::Unreachable(format!(
                        "{error}; {} confirmed, {unknown} more sent without an answer, from {file} line {line} on. \
                         Publish the same files again: copies are turned away",
                        self.published
                    )));
                }
                Err(
                    error
                    @ (PublishError::Unroutable(_) | PublishError::Refused | PublishError::NotConfirmed),
                ) => {
                    self.refuse(&file, line, error.to_string());
                }
            }
        }
        Ok(())
    }

    fn refuse(&mut self, file: &str, line: u64, problem: String) {
        self.progress.suspend(|| eprintln!("{} line {line}: {}", safe(file), safe(&problem)));
        self.refused.push(RefusedLine { file: file.to_owned(), line, problem });
    }
}

fn report(sending: &Sending, json: bool) -> Result<(), Failure> {
    if json {
        print_json(&json!({ "published": sending.published, "refused": sending.refused }))?;
    } else {
        say!("Published {} callbacks, each confirmed by the broker.", sending.published);
    }
    match sending.refused.len() {
        0 => Ok(()),
        count => Err(Failure::No(format!(
            "{count} lines were refused and are not on the queue. Mend them and publish the files again: copies are turned away"
        ))),
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
