//! The audit of what webhooks have led to: each moved its own money once, on its own account, and none became a case. What must not live
//! here: HTTP, and the answers.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};

use super::front::{ACCOUNT, CURRENCY, PROVIDERS, SOURCES, Webhook};
use crate::audit::{Audit, Copies};

/// What others had left in the database before the run.
#[derive(Debug, Default)]
pub struct Before {
    /// Copies that were rejected, by layer.
    copies: BTreeMap<String, u64>,
    /// Cases that name no source, or one of ours, by reason.
    cases: BTreeMap<String, u64>,
}

/// Reads it.
pub async fn before(database: &mut PgConnection) -> anyhow::Result<Before> {
    Ok(Before { copies: copies(database).await?, cases: cases(database).await? })
}

/// What has come since.
fn since(before: &BTreeMap<String, u64>, now: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let earlier = |label: &str| before.get(label).copied().unwrap_or(0);
    let come = now.into_iter().map(|(label, n)| (label.clone(), n.saturating_sub(earlier(&label))));
    come.filter(|(_, n)| *n > 0).collect()
}

/// Endpoint, account and amount: what tells webhooks apart without any word of how their ids are mapped.
type Money = (usize, String, i64);

/// Compares accounts, ledger and quarantine with the webhooks that were sent. `copies`: how many must have been rejected.
pub async fn run(
    database: &mut PgConnection,
    webhooks: &[Arc<Webhook>],
    before: &Before,
    copies_sent: Copies,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let mut distinct: BTreeMap<&str, &Webhook> = BTreeMap::new();
    for webhook in webhooks {
        distinct.entry(&webhook.id).or_insert(webhook);
    }
    let mut due: BTreeMap<Money, i64> = BTreeMap::new();
    let mut sums: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for webhook in distinct.values() {
        let (account, amount) = (format!("{ACCOUNT}{}", webhook.account), i64::try_from(webhook.amount)?);
        let (balance, version) = sums.entry(account.clone()).or_default();
        (*balance, *version) = (*balance + amount, *version + 1);
        *due.entry((webhook.endpoint, account, amount)).or_default() += 1;
    }
    rows(database, due, audit).await?;
    accounts(database, &sums, audit).await?;
    audit.quarantined = since(&before.cases, cases(database).await?);
    let found = audit.quarantined.iter().map(|(reason, n)| format!("{n} cases of {reason}")).collect();
    audit.check("nothing_is_a_case", found);
    audit.duplicates = since(&before.copies, copies(database).await?);
    let rejected: u64 = audit.duplicates.values().sum();
    let (is_right, expected) = match copies_sent {
        Copies::AsPlanned => {
            let planned = (webhooks.len() - distinct.len()) as u64;
            (rejected == planned, format!("{planned}"))
        }
        Copies::Exactly(planned) => (rejected == planned, format!("{planned}")),
        Copies::AtLeast(least) => (rejected >= least, format!("at least {least}")),
    };
    let wrong = (!is_right).then(|| format!("{rejected} copies were rejected, expected {expected}"));
    audit.check("every_copy_is_rejected_and_counted", wrong.into_iter().collect());
    Ok(())
}

/// Each row is one webhook's money, and each webhook has one.
async fn rows(
    database: &mut PgConnection,
    mut due: BTreeMap<Money, i64>,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let sql = "select source, event_id, type, account_id, amount, currency, balance_delta, held_delta
               from ledger where starts_with(source, $1)";
    let mut rows = sqlx::query(sql).bind(SOURCES).fetch(database);
    let mut invented = Vec::new();
    audit.applied = 0;
    while let Some(row) = rows.try_next().await.context("the ledger cannot be read")? {
        audit.applied += 1;
        let text = |name: &str| row.try_get::<String, _>(name);
        let number = |name: &str| row.try_get::<i64, _>(name);
        let (source, amount) = (text("source")?, number("amount")?);
        let provider = source.strip_prefix(SOURCES).unwrap_or_default();
        let endpoint = PROVIDERS.iter().position(|(name, ..)| *name == provider);
        let left = endpoint.and_then(|at| due.get_mut(&(at, text("account_id").ok()?, amount)));
        let moves = (number("balance_delta")?, number("held_delta")?);
        let says_so = (text("type")?.as_str(), text("currency")?.as_str(), moves)
            == ("deposit.succeeded", CURRENCY, (amount, 0));
        match left {
            Some(left) if says_so && *left > 0 => *left -= 1,
            Some(_) | None => invented.push(format!("{source} {}: no webhook says so", text("event_id")?)),
        }
    }
    audit.check("no_row_is_invented", invented);
    let missing = due.into_iter().filter(|(_, left)| *left > 0);
    let missing = missing.map(|((endpoint, account, amount), left)| {
        let (provider, ..) = PROVIDERS[endpoint];
        format!("{left} of {provider}, {amount} to {account}: no row")
    });
    audit.check("every_webhook_is_a_ledger_row_once", missing.collect());
    Ok(())
}

/// Each account has the money of its webhooks, and there is no other.
async fn accounts(
    database: &mut PgConnection,
    sums: &BTreeMap<String, (i64, i64)>,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let sql = "select account_id, balance, held, version, currency, cases from accounts where starts_with(account_id, $1)";
    let found: Vec<(String, i64, i64, i64, String, i64)> =
        sqlx::query_as(sql).bind(ACCOUNT).fetch_all(database).await.context("accounts cannot be read")?;
    let found: BTreeMap<&str, _> = found
        .iter()
        .map(|(account, balance, held, version, currency, cases)| {
            (account.as_str(), (*balance, *held, *version, currency.as_str(), *cases))
        })
        .collect();
    let mut differ = Vec::new();
    for (account, (balance, version)) in sums {
        let expected = (*balance, 0, *version, CURRENCY, 0);
        if found.get(account.as_str()) != Some(&expected) {
            differ.push(format!("{account}: expected {expected:?}, found {:?}", found.get(account.as_str())));
        }
    }
    let unknown = found.keys().filter(|account| !sums.contains_key(**account));
    differ.extend(unknown.map(|account| format!("{account}: not in the plan")));
    audit.check("every_account_is_the_plans", differ);
    Ok(())
}

/// Copies that were rejected so far, by layer, whoever sent them.
async fn copies(database: &mut PgConnection) -> anyhow::Result<BTreeMap<String, u64>> {
    let sql = "select label, sum(n)::bigint from tallies where kind = 'duplicate' group by label";
    numbers(sqlx::query_as(sql).fetch_all(database).await?)
}

/// Cases by reason, of our sources and of messages that name none.
async fn cases(database: &mut PgConnection) -> anyhow::Result<BTreeMap<String, u64>> {
    let sql = "select reason, count(*) from quarantine where source is null or starts_with(source, $1) group by reason";
    numbers(sqlx::query_as(sql).bind(SOURCES).fetch_all(database).await?)
}

fn numbers(rows: Vec<(String, i64)>) -> anyhow::Result<BTreeMap<String, u64>> {
    rows.into_iter().map(|(label, n)| Ok((label, u64::try_from(n)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        audit::harms::OPEN_UP,
        ingress::{self, IngressArgs, front},
        place::Place,
        workers,
    };

    /// The first row of a provider.
    const ROW: &str = "event_id = (select min(event_id) from ledger where starts_with(source, '/webhooks/'))";

    /// (check, harm); `$ROW` stands for [`ROW`].
    const HARMS: [(&str, &str); 17] = [
        ("no_row_is_invented", "update ledger set amount = amount + 1 where $ROW"),
        ("no_row_is_invented", "update ledger set currency = 'USD' where $ROW"),
        ("no_row_is_invented", "update ledger set type = 'fee.charged' where $ROW"),
        ("no_row_is_invented", "update ledger set balance_delta = 0 where $ROW"),
        ("no_row_is_invented", "update ledger set held_delta = 1 where $ROW"),
        ("no_row_is_invented", "update ledger set source = '/webhooks/nobody' where $ROW"),
        ("no_row_is_invented", "update ledger set account_id = 'web-none' where $ROW"),
        (
            "no_row_is_invented",
            "insert into ledger select (jsonb_populate_record(l, '{\"event_id\": \"other\", \"account_version\": 999}')).* from ledger l where $ROW",
        ),
        ("every_webhook_is_a_ledger_row_once", "delete from ledger where $ROW"),
        // The money of one webhook twice, of another not at all: as many rows as there were.
        (
            "every_webhook_is_a_ledger_row_once",
            "update ledger set (source, account_id, amount, balance_delta) =
                 (select source, account_id, amount, amount from ledger where starts_with(source, '/webhooks/')
                  order by event_id desc limit 1) where $ROW",
        ),
        ("every_account_is_the_plans", "update accounts set balance = balance + 1 where account_id like 'web-%'"),
        ("every_account_is_the_plans", "update accounts set held = 1 where account_id like 'web-%'"),
        ("every_account_is_the_plans", "update accounts set version = version + 1 where account_id like 'web-%'"),
        (
            "every_account_is_the_plans",
            "insert into accounts (account_id, currency, balance, held, version) values ('web-none', 'EUR', 0, 0, 0)",
        ),
        (
            "nothing_is_a_case",
            "insert into quarantine (reason, detail, body, state, attempts, fingerprint) values ('malformed', '', '', 'open', 1, sha256(''))",
        ),
        ("every_copy_is_rejected_and_counted", "delete from tallies where kind = 'duplicate'"),
        (
            "every_copy_is_rejected_and_counted",
            "update tallies set n = n + 1 where ctid = (select min(ctid) from tallies where kind = 'duplicate')",
        ),
    ];

    #[tokio::test(flavor = "multi_thread")]
    async fn every_check_of_the_ingress_audit_finds_the_harm_it_is_there_for() {
        let seed = 47;
        println!("seed {seed}");
        let args = IngressArgs {
            events: 400,
            duplicates: 0.3,
            rate: 0,
            workers: 1,
            hostile: 0,
            idle: 0,
            seed,
            in_place: false,
            json: false,
            payonce: None,
        };
        let program = workers::program(None).await.unwrap();
        let place = Place::prepare(false, seed).await.unwrap();
        let (_, audit) = ingress::measure(&args, &program, &place).await.unwrap();
        assert_eq!(audit.violations(), Vec::<String>::new());
        let mut database = place.connect().await.unwrap();
        let (webhooks, _) = front::plan(args.events, args.duplicates, seed);
        let mut checks = BTreeSet::new();
        for (check, harm) in HARMS {
            let harm = harm.replace("$ROW", ROW);
            for sql in ["begin", OPEN_UP] {
                sqlx::raw_sql(sql).execute(&mut database).await.expect(sql);
            }
            let harmed = sqlx::raw_sql(sqlx::AssertSqlSafe(harm.clone())).execute(&mut database).await;
            assert!(harmed.expect(&harm).rows_affected() > 0, "{harm}");
            let (mut found, before) = (Audit::default(), Before::default());
            run(&mut database, &webhooks, &before, Copies::AsPlanned, &mut found).await.unwrap();
            assert!(found.failed().contains(&check), "{harm}: {check} is not among {:?}", found.failed());
            checks.extend(found.names());
            sqlx::raw_sql("rollback").execute(&mut database).await.unwrap();
        }
        checks.retain(|check| !HARMS.iter().any(|(name, _)| name == check));
        assert!(checks.is_empty(), "no harm shows that {checks:?} can fail");

        // What the database alone does not show: that payonce's own audit is asked, and that the queues are looked at.
        sqlx::raw_sql("update accounts set balance = balance + 1 where account_id like 'web-%'")
            .execute(&mut database)
            .await
            .unwrap();
        assert_eq!(workers::audit(&program, &place).await.unwrap().len(), 1, "payonce audit fails");
        let connection = place.broker().await.unwrap();
        let publisher = payonce::broker::Publisher::open(&connection, &place.names()).await.unwrap();
        publisher.publish("web-1", b"left").await.unwrap().wait().await.unwrap();
        let queue = place.names().queue;
        assert_eq!(crate::replay::messages_left(&place, &[&queue]).await.unwrap().len(), 1);
        drop(database);
        place.remove().await.unwrap();
    }
}
