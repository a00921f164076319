//! People at work beside the load: they replay cases, discard some and take that back, rotate keys, migrate and audit. What they do must
//! neither move money twice nor leave anything undone; the run's audit says whether it did.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{pool::Pool, site::Site};
use crate::{body, workers};

/// Exit code of a command that found nothing to do.
const NOTHING_TO_DO: i32 = 1;
/// How long the first case that can be discarded may take to come.
const COMING_DEADLINE: Duration = Duration::from_secs(60);
/// Lines of the audit log that a run of theirs must leave at least: each verb once.
const VERBS: [&str; 3] = ["replay", "discard", "reopen"];

/// Works for about `time`, each act at least once. Returns how many acts the audit log has more, 0 where one of the verbs is missing.
pub async fn work(site: &Site, pool: &Pool, time: Duration) -> anyhow::Result<u64> {
    let mut database = site.connect().await?;
    let before = acts(&mut database).await?;
    let (end, patience) = (Instant::now() + time, Instant::now() + COMING_DEADLINE);
    let mut has_discarded = false;
    loop {
        run(site, pool, &["quarantine", "replay", "--all", "--by", "first operator"]).await?;
        if let Some(case) = open_case(&mut database).await? {
            let id = case.to_string();
            let why = ["--why", "by mistake", "--by", "second operator"];
            run(site, pool, &[&["quarantine", "discard", &id, "--yes"], &why[..]].concat()).await?;
            if run(site, pool, &[&["quarantine", "reopen", &id], &why[..]].concat()).await?.is_none() {
                bail!("case {id} was discarded and cannot be reopened");
            }
            has_discarded = true;
        }
        rotate(site, pool).await?;
        run(site, pool, &["migrate"]).await?;
        if run(site, pool, &["audit"]).await?.is_none() {
            bail!("payonce audit failed beside the load");
        }
        if Instant::now() >= if has_discarded { end } else { patience } {
            break;
        }
    }
    let now = acts(&mut database).await?;
    let more = |verb: &str| {
        let count = |acts: &[(String, i64)]| acts.iter().find(|(act, _)| act == verb).map_or(0, |(_, n)| *n);
        u64::try_from(count(&now) - count(&before)).unwrap_or(0)
    };
    let counts = VERBS.map(more);
    Ok(if counts.contains(&0) { 0 } else { counts.iter().sum() })
}

/// Lines of the audit log by act.
async fn acts(database: &mut PgConnection) -> anyhow::Result<Vec<(String, i64)>> {
    sqlx::query_as("select action, count(*) from operator_actions group by action")
        .fetch_all(database)
        .await
        .context("the audit log cannot be read")
}

/// An open case whose message is no callback: no copy of it is taken for anything else meanwhile.
async fn open_case(database: &mut PgConnection) -> anyhow::Result<Option<i64>> {
    sqlx::query_scalar("select min(id) from quarantine where state = 'open' and reason = 'malformed'")
        .fetch_one(database)
        .await
        .context("cases cannot be read")
}

/// A new key for one provider, which nobody signs with yet, and its end. Publishers go on with the old one.
async fn rotate(site: &Site, pool: &Pool) -> anyhow::Result<()> {
    if site.direct()?.signing().is_none() {
        return Ok(());
    }
    let [source, ..] = body::SOURCES;
    let before = keys(site, pool, source).await?;
    run(site, pool, &["keys", "rotate", source]).await?;
    let now = keys(site, pool, source).await?;
    let new: Vec<&String> = now.iter().filter(|key| !before.contains(key)).collect();
    let [new] = new[..] else { bail!("keys rotate made {} keys", new.len()) };
    run(site, pool, &["keys", "retire", source, new]).await?;
    Ok(())
}

/// The names of a provider's keys.
async fn keys(site: &Site, pool: &Pool, source: &str) -> anyhow::Result<Vec<String>> {
    let said = run(site, pool, &["keys", "list", "--json"]).await?.unwrap_or_default();
    let mut names = Vec::new();
    for line in said.lines() {
        let rule: Value = serde_json::from_str(line).context("keys list --json")?;
        if rule.get("source").and_then(Value::as_str) == Some(source) {
            let keys = rule.get("keys").and_then(Value::as_array).into_iter().flatten();
            names.extend(keys.filter_map(|key| Some(key.get("id")?.as_str()?.to_owned())));
        }
    }
    Ok(names)
}

/// Runs a command; `None` where it found nothing to do.
async fn run(site: &Site, pool: &Pool, arguments: &[&str]) -> anyhow::Result<Option<String>> {
    let mut command = workers::command(pool.program(), &site.direct()?);
    let output = command.args(arguments).stdout(std::process::Stdio::piped()).output().await;
    let output = output.context("payonce does not run")?;
    match output.status.code() {
        Some(0) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Some(NOTHING_TO_DO) => Ok(None),
        code => bail!("payonce {arguments:?}: {code:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}
