//! The audit of a hostile run: the providers' callbacks as in any run, and each hostile message a case, or a counted copy of one.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};

use super::noise::{Expected, Noise};
use crate::{
    audit::{self, Audit},
    plan::Plan,
};

/// What was sent under one body: how often, and what it must end as.
struct Sent {
    times: i64,
    expected: Expected,
}

fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

pub async fn run(
    database: &mut PgConnection,
    plan: &Plan,
    noise: &Noise,
    messages: u32,
) -> anyhow::Result<Audit> {
    // Latency is not what this run is about.
    let mut audit = audit::money(database, plan, &vec![0; plan.distinct.len()]).await?;
    let mut sent: HashMap<u64, Sent> = HashMap::new();
    for number in 0..messages {
        let message = noise.message(number)?;
        let entry = sent.entry(hash(&message.body));
        entry.or_insert(Sent { times: 0, expected: message.expected }).times += 1;
    }
    let (mut invented, mut wrong, mut state_wrong) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows =
        sqlx::query("select id, body, reason, state, attempts from quarantine").fetch(&mut *database);
    while let Some(row) = rows.try_next().await.context("quarantine cannot be read")? {
        let (reason, state): (String, String) = (row.try_get("reason")?, row.try_get("state")?);
        // A provider's callback that waited for another one, and is in the ledger now.
        if reason.starts_with("waiting_for_") && state == "replayed" {
            audit.waited += 1;
            continue;
        }
        let id: i64 = row.try_get("id")?;
        *audit.quarantined.entry(reason.clone()).or_default() += 1;
        match sent.get_mut(&hash(row.try_get("body")?)) {
            None => invented.push(format!("case {id}: nobody sent that")),
            Some(sent) => {
                sent.times -= i64::from(row.try_get::<i32, _>("attempts")?);
                if !sent.expected.allows(&reason) {
                    wrong.push(format!("case {id}: {reason}, expected {:?}", sent.expected));
                }
            }
        }
        if state != "open" {
            state_wrong.push(format!("case {id}: {reason} is {state}"));
        }
    }
    drop(rows);
    audit.check("no_case_is_invented", invented);
    audit.check("every_hostile_message_has_its_reason", wrong);
    audit.check("every_hostile_message_is_an_open_case", state_wrong);
    let uncounted = sent.values().filter(|sent| sent.times != 0);
    audit.check(
        "every_hostile_message_is_a_case_or_a_counted_copy",
        uncounted.map(|sent| format!("{:?}: {} more sent than counted", sent.expected, sent.times)).collect(),
    );
    let duplicates: Vec<(String, i64)> =
        sqlx::query_as("select label, sum(n)::bigint from tallies where kind = 'duplicate' group by label")
            .fetch_all(database)
            .await?;
    audit.duplicates.extend(duplicates.into_iter().map(|(layer, n)| (layer, u64::try_from(n).unwrap_or(0))));
    Ok(audit)
}

/// For each check of [`run`] a harm that only it is there for.
#[cfg(test)]
pub const HARMS: [(&str, &str); 4] = [
    (
        "no_case_is_invented",
        "update quarantine set body = '\\x00' where id = (select min(id) from quarantine where state = 'open')",
    ),
    (
        "every_hostile_message_has_its_reason",
        "update quarantine set reason = 'over_refund' where id = (select min(id) from quarantine where reason = 'malformed')",
    ),
    (
        "every_hostile_message_is_an_open_case",
        "update quarantine set state = 'discarded' where id = (select min(id) from quarantine where state = 'open')",
    ),
    (
        "every_hostile_message_is_a_case_or_a_counted_copy",
        "update quarantine set attempts = attempts + 1 where id = (select min(id) from quarantine where state = 'open')",
    ),
];
