//! `payonce publish --dry-run`: what would become of each line, were it published and taken now by one worker. Nothing is sent.

use std::{path::PathBuf, sync::Arc};

use super::{
    super::{
        Failure,
        dry_run::{Place, Report, begin},
    },
    LINES_PER_TURN_MAX, lines, now_s,
};
use crate::{
    app,
    config::Config,
    keys::Keyring,
    ledger::{Callback, Reason},
    operators::dry_run::CALLBACKS_MAX,
    wire,
};

/// What the real command would be told.
pub(super) struct Asked {
    pub(super) files: Vec<PathBuf>,
    pub(super) unchecked: bool,
    pub(super) unsigned: bool,
    pub(super) json: bool,
}

/// What a line is before it is decided.
enum Read {
    Callback(Callback),
    /// Workers would make a case of it as it is.
    Case(Option<Callback>, Reason, String),
    /// It would not be sent.
    Refused(String),
}

pub(super) async fn run(config: &Config, asked: Asked) -> Result<(), Failure> {
    let keys = app::keys(config)?.current();
    let signing = if asked.unsigned { Arc::new(Keyring::empty(false)) } else { Arc::clone(&keys) };
    let mut run = begin(config, "payonce-publish").await?;
    let mut lines = lines::read(asked.files);
    let mut report = Report::begin(asked.json);
    let mut taken = Vec::with_capacity(LINES_PER_TURN_MAX);
    let mut callbacks = 0_u64;
    loop {
        // Batches are full, so that what is said does not depend on how fast the lines are read.
        while let room @ 1.. = LINES_PER_TURN_MAX - taken.len() {
            if lines.recv_many(&mut taken, room).await == 0 {
                break;
            }
        }
        if taken.is_empty() {
            break;
        }
        let mut batch: Vec<(Place, Callback)> = Vec::with_capacity(taken.len());
        for line in taken.drain(..) {
            let line = line.map_err(Failure::Usage)?;
            let place = Place::Line { file: line.file, line: line.number };
            match read(line.body, asked.unchecked, &signing, &keys) {
                Read::Callback(callback) => batch.push((place, callback)),
                Read::Case(callback, reason, detail) => {
                    report.undecided(place, callback.as_ref(), (reason, detail))?;
                }
                Read::Refused(problem) => report.refuse(place, problem)?,
            }
        }
        callbacks += batch.len() as u64;
        if callbacks > CALLBACKS_MAX {
            return Err(Failure::Usage(format!(
                "a dry run takes at most {CALLBACKS_MAX} callbacks, because it keeps what each would have written: split the file, or \
                 try its beginning"
            )));
        }
        let decoded: Vec<Callback> = batch.iter().map(|(_, callback)| callback.clone()).collect();
        report.add(&batch, run.decide(&decoded).await?)?;
    }
    report.add(&[], run.sweep().await?)?;
    let refused = report.refused();
    report.finish()?;
    if refused == 0 {
        return Ok(());
    }
    Err(Failure::No(format!("{refused} lines would be refused and not published")))
}

fn read(body: Result<Vec<u8>, String>, unchecked: bool, signing: &Keyring, keys: &Keyring) -> Read {
    let body = match body {
        Ok(body) => body,
        Err(problem) => return Read::Refused(problem),
    };
    let callback = match wire::decode(&body) {
        Ok(callback) => callback,
        Err(error) if unchecked => return Read::Case(None, error.reason, error.detail),
        Err(error) => return Read::Refused(error.to_string()),
    };
    let (source, id) = (callback.key.source.as_str(), callback.key.event_id.as_str());
    match signing.sign(source, id, now_s(), &body) {
        Err(problem) => Read::Refused(problem),
        Ok(signature) => match keys.verify(source, id, &signature.unwrap_or_default(), &body) {
            Ok(()) => Read::Callback(callback),
            Err(refusal) => Read::Case(Some(callback), Reason::BadSignature, refusal.to_string()),
        },
    }
}
