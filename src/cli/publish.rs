//! `payonce publish FILE…`.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, IsTerminal},
    path::PathBuf,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Failure, print_json};
use crate::{
    app,
    broker::{self, Confirm, Names, PublishError, Publisher},
    config::Config,
    shown::safe,
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
    let connection = broker::connect(app::amqp_url(config)?.expose(), "payonce-publish").await?;
    broker::topology::declare(&connection, &names).await?;
    let mut sending = Sending {
        publisher: Publisher::open(&connection, &names).await?,
        unconfirmed: VecDeque::new(),
        published: 0,
        refused: Vec::new(),
        progress: progress_bar(),
        unchecked: args.unchecked,
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
    unconfirmed: VecDeque<(Confirm, String, u64)>,
    published: u64,
    refused: Vec<RefusedLine>,
    progress: ProgressBar,
    unchecked: bool,
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
            let routing_key = match wire::decode(body) {
                Ok(callback) => callback.account_id.as_str().to_owned(),
                Err(_) if self.unchecked => String::new(),
                Err(error) => {
                    self.refuse(&file, line, error.to_string());
                    continue;
                }
            };
            let confirm = self.publisher.publish(&routing_key, body).await?;
            self.unconfirmed.push_back((confirm, file.clone(), line));
            self.wait_until(UNCONFIRMED_MAX).await?;
        }
        Ok(())
    }

    /// Waits until at most `left` messages are unconfirmed.
    async fn wait_until(&mut self, left: usize) -> Result<(), Failure> {
        while self.unconfirmed.len() > left {
            let Some((confirm, file, line)) = self.unconfirmed.pop_front() else { break };
            match confirm.wait().await {
                Ok(()) => {
                    self.published += 1;
                    self.progress.inc(1);
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
        count => Err(Failure::No(format!("{count} lines were refused and are not on the queue"))),
    }
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is a constant; with a mistake in it the bar falls back to indicatif's own.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} confirmed, {per_sec}") {
        bar.set_style(style);
    }
    bar
}
