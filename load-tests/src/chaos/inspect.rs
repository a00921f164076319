//! What the audit of a chaos run looks at beside ledger and plan: acknowledgements, Redis, row versions, sessions, logs.

use std::{
    collections::{HashMap, HashSet},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    site::{Held, PASSWORD},
    witness::Acked,
};
use crate::{
    audit::Audit,
    body,
    place::Place,
    plan::{Fate, Plan},
};

/// (source, event id, leg) to the transaction that wrote the row.
pub type RowVersions = HashMap<(String, String, i16), String>;

/// The key of each event of a plan that another event of the same fact has, and of that one this.
pub type Twins = HashMap<(String, String), (String, String)>;

/// Those of a plan.
pub fn twins(plan: &Plan) -> Twins {
    let mut twins = Twins::new();
    for one in &plan.distinct {
        if let Fate::Twin(first) = one.fate {
            let (first, second) = (body::key(plan, &plan.distinct[first as usize]), body::key(plan, one));
            twins.insert(first.clone(), second.clone());
            twins.insert(second, first);
        }
    }
    twins
}

/// Which transaction wrote each ledger row.
pub async fn row_versions(database: &mut PgConnection) -> anyhow::Result<RowVersions> {
    let rows: Vec<(String, String, i16, String)> =
        sqlx::query_as("select source, event_id, leg, xmin::text from ledger").fetch_all(database).await?;
    Ok(rows.into_iter().map(|(source, id, leg, version)| ((source, id, leg), version)).collect())
}

/// Adds the rows that are new since; of those that are known the first version counts.
pub async fn add_row_versions(known: &mut RowVersions, database: &mut PgConnection) -> anyhow::Result<()> {
    for (key, version) in row_versions(database).await? {
        known.entry(key).or_insert(version);
    }
    Ok(())
}

/// Rows that are gone or were written again since, but for those that a failover has `lost`.
pub async fn changed_rows(
    database: &mut PgConnection,
    before: RowVersions,
    lost: &HashSet<(String, String)>,
) -> anyhow::Result<Vec<String>> {
    let now = row_versions(database).await?;
    let is_lost = |(source, id, _): &(String, String, i16)| lost.contains(&(source.clone(), id.clone()));
    let changed = before.into_iter().filter(|(key, version)| now.get(key) != Some(version) && !is_lost(key));
    Ok(changed.map(|(key, version)| format!("{key:?}: was {version}, is {:?}", now.get(&key))).collect())
}

/// Messages whose acknowledgement reached the broker before the row that they depend on was committed: of a contradiction or what has no key
/// the one with the same body in quarantine, else the first one with the same key in ledger or quarantine (one that names no account can be
/// stored as waiting at the moment at which its copy is applied); of an event whose fact is applied under another event's key, that one's
/// (`twins`). Keys that a failover has `lost` are left out. Of what was committed while every answer to a COMMIT was `held` back nothing may
/// be acknowledged before that ends.
pub async fn acknowledged_early(
    database: &mut PgConnection,
    acked: Vec<Acked>,
    lost: &LostRows<'_>,
    twins: &Twins,
    held: &[Held],
) -> anyhow::Result<Vec<String>> {
    anyhow::ensure!(!acked.is_empty(), "no acknowledgement was seen");
    let us = |column: &str| format!("(extract(epoch from {column}) * 1000000)::bigint");
    let sql = format!(
        "select source, event_id, null::bytea, {} from ledger
         union all
         select coalesce(source, ''), coalesce(event_id, ''),
                case when event_id is null or reason in ('payload_mismatch', 'bad_signature', 'malformed') then body end, {}
         from quarantine join chaos.cases using (id)",
        us("pg_xact_commit_timestamp(xmin)"),
        us("pg_xact_commit_timestamp(stored_by)"),
    );
    let rows: Vec<(String, String, Option<Vec<u8>>, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(database)
        .await
        .context("commits cannot be read")?;
    let mut by_key: HashMap<(String, String), i64> = HashMap::new();
    let mut by_body: HashMap<Vec<u8>, i64> = HashMap::new();
    for (source, event_id, body, at_us) in rows {
        let first = by_key.entry((source, event_id)).or_insert(at_us);
        *first = at_us.min(*first);
        if let Some(body) = body {
            // Some bad messages have one body.
            let first = by_body.entry(body).or_insert(at_us);
            *first = at_us.min(*first);
        }
    }
    early(acked, &Committed { by_key, by_body }, lost, twins, held)
}

/// What failovers have lost of ledger and quarantine: keys, and bodies of cases.
pub struct LostRows<'a> {
    pub keys: &'a HashSet<(String, String)>,
    pub bodies: &'a HashSet<Vec<u8>>,
}

/// When the rows were committed, in microseconds since 1970, by (source, event id) and by the body of a case.
struct Committed {
    by_key: HashMap<(String, String), i64>,
    by_body: HashMap<Vec<u8>, i64>,
}

fn early(
    acked: Vec<Acked>,
    Committed { by_key, by_body }: &Committed,
    lost: &LostRows<'_>,
    twins: &Twins,
    held: &[Held],
) -> anyhow::Result<Vec<String>> {
    let us = |at: SystemTime| i64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros());
    let held: Vec<(i64, i64)> =
        held.iter().map(|held| Ok((us(held.from)?, us(held.until)?))).collect::<anyhow::Result<_>>()?;
    let is_unanswered = |committed: i64, acked: i64| {
        held.iter().any(|(from, until)| committed > *from && (*from..*until).contains(&acked))
    };
    let mut early = Vec::new();
    for Acked { body, at } in acked {
        let key = key_of(&body);
        let twin = key.as_ref().and_then(|key| twins.get(key));
        if [key.as_ref(), twin].into_iter().flatten().any(|key| lost.keys.contains(key))
            || lost.bodies.contains(&body)
        {
            continue;
        }
        let of_key = || by_key.get(key.as_ref()?).or_else(|| by_key.get(twin?));
        let committed = by_body.get(&body).or_else(of_key).copied();
        let acked_us = us(at)?;
        if committed.is_none_or(|committed| committed > acked_us) {
            early.push(format!("{key:?}: acknowledged at {acked_us}, committed at {committed:?}"));
        } else if committed.is_some_and(|committed| is_unanswered(committed, acked_us)) {
            early.push(format!("{key:?}: acknowledged at {acked_us}, before COMMIT was answered"));
        }
    }
    Ok(early)
}

fn key_of(body: &[u8]) -> Option<(String, String)> {
    let event: Value = serde_json::from_slice(body).ok()?;
    Some((event.get("source")?.as_str()?.to_owned(), event.get("id")?.as_str()?.to_owned()))
}

/// A violation where there are any.
pub fn any(what: &str, count: u64) -> Vec<String> {
    if count == 0 { Vec::new() } else { vec![format!("{count} {what}")] }
}

/// Workers' sessions that are idle inside a transaction.
pub async fn sessions(database: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    sqlx::query_scalar(
        "select application_name || ': ' || state from pg_stat_activity
         where state like 'idle in transaction%' and state_change < clock_timestamp() - interval '1 second'
           and datname = current_database()",
    )
    .fetch_all(database)
    .await
    .context("sessions cannot be read")
}

/// Every done marker has its ledger row, and every key has an end. What a failover has `lost` was sent again, and may have ended as a case:
/// another of its fact or of its key may have come first then, or taken the last of the money.
pub async fn redis(
    place: &Place,
    database: &mut PgConnection,
    lost: &HashSet<(String, String)>,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("select source, event_id from ledger").fetch_all(&mut *database).await?;
    let rows: HashSet<String> =
        rows.iter().chain(lost).map(|(source, id)| format!("{}:{source}:{id}", source.len())).collect();
    let mut connection =
        redis::Client::open(place.redis_url.as_str())?.get_multiplexed_async_connection().await?;
    let names = names_like(&mut connection, &format!("{}payonce:*", place.prefix)).await?;
    let (mut without_row, mut without_end, mut markers) = (Vec::new(), Vec::new(), 0);
    // The mark of the balance cache: one for each prefix.
    for name in names.into_iter().filter(|name| !name.ends_with("payonce:balances")) {
        let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut connection).await?;
        let value: Option<Vec<u8>> = match kind.as_str() {
            "string" => redis::cmd("GET").arg(&name).query_async(&mut connection).await?,
            _ => None,
        };
        let left_ms: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await?;
        // -1: no end; -2: it has ended since it was listed.
        if left_ms == -1 {
            without_end.push(name.clone());
        }
        let is_done = value.is_some_and(|value| value.starts_with(b"done:"));
        let Some((_, key)) = name.split_once("payonce:key:").filter(|_| is_done) else { continue };
        markers += 1;
        if !rows.contains(key) {
            without_row.push(name);
        }
    }
    // The last callbacks of a run leave some, whatever became of those before.
    let none = (markers == 0).then(|| "Redis has no done marker that could be looked at".to_owned());
    audit.check("there_are_done_markers", none.into_iter().collect());
    audit.check("every_done_marker_has_its_ledger_row", without_row);
    audit.check("every_key_in_redis_has_an_end", without_end);
    Ok(())
}

/// In many short steps: others may have millions of keys there.
async fn names_like(
    connection: &mut MultiplexedConnection,
    pattern: &str,
) -> anyhow::Result<HashSet<String>> {
    let (mut names, mut cursor) = (HashSet::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(10_000);
        let (next, found): (u64, Vec<String>) = scan.query_async(connection).await?;
        names.extend(found);
        cursor = next;
        if cursor == 0 {
            return Ok(names);
        }
    }
}

/// Lines that hold the password of an address, or one of these keys.
pub fn secrets(logs: &str, keys: &[String]) -> Vec<String> {
    let secrets: Vec<&str> = keys.iter().map(String::as_str).chain([PASSWORD]).collect();
    let lines = logs.lines().filter(|line| secrets.iter().any(|secret| line.contains(secret)));
    lines.map(|line| secrets.iter().fold(line.to_owned(), |line, it| line.replace(it, "[secret]"))).collect()
}

#[cfg(test)]
pub mod tests {
    //! With the run that the audit's harms are about (`audit::harms`).

    use sqlx::Connection;

    use super::*;

    async fn found_in_redis(place: &Place, database: &mut PgConnection) -> Vec<&'static str> {
        let mut audit = Audit::default();
        redis(place, database, &HashSet::new(), &mut audit).await.unwrap();
        audit.failed()
    }

    /// Each inspection finds what is wrong. The place is one of a run's own, and is not used any more afterwards.
    pub async fn every_inspection_finds_its_harm(place: &Place, database: &mut PgConnection) {
        assert_eq!(found_in_redis(place, database).await, [""; 0]);
        let mut connection = redis::Client::open(place.redis_url.as_str())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let stray = format!("{}payonce:key:2:/a:nobody", place.prefix);
        let value = [b"done:".as_slice(), &[7; 32]].concat();
        redis::cmd("SET")
            .arg(&stray)
            .arg(value)
            .arg("EX")
            .arg(600)
            .query_async::<()>(&mut connection)
            .await
            .unwrap();
        assert_eq!(found_in_redis(place, database).await, ["every_done_marker_has_its_ledger_row"]);
        redis::cmd("SET").arg(&stray).arg("claim").query_async::<()>(&mut connection).await.unwrap();
        assert_eq!(found_in_redis(place, database).await, ["every_key_in_redis_has_an_end"]);
        redis::cmd("DEL").arg(&stray).query_async::<()>(&mut connection).await.unwrap();
        let mut no_markers = place.clone();
        no_markers.prefix.push_str("none.");
        assert_eq!(found_in_redis(&no_markers, database).await, ["there_are_done_markers"]);

        let before = row_versions(database).await.unwrap();
        assert!(!before.is_empty());
        let none = HashSet::new();
        assert_eq!(changed_rows(database, before.clone(), &none).await.unwrap(), [""; 0]);
        for harm in ["delete from ledger where leg = 1", "update ledger set amount = amount where leg = 0"] {
            sqlx::raw_sql("begin; alter table ledger disable trigger ledger_append_only")
                .execute(&mut *database)
                .await
                .unwrap();
            sqlx::raw_sql(harm).execute(&mut *database).await.unwrap();
            let mut known = before.clone();
            add_row_versions(&mut known, database).await.unwrap();
            assert_ne!(changed_rows(database, known, &none).await.unwrap(), [""; 0], "{harm}");
            sqlx::raw_sql("rollback").execute(&mut *database).await.unwrap();
        }

        let mut idle = PgConnection::connect(&place.database_url).await.unwrap();
        sqlx::raw_sql("begin; select 1").execute(&mut idle).await.unwrap();
        let started = tokio::time::Instant::now();
        while sessions(database).await.unwrap().is_empty() {
            assert!(
                started.elapsed() < std::time::Duration::from_secs(30),
                "an idle transaction is not seen"
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    #[test]
    fn an_acknowledgement_before_the_commit_is_found() {
        let key = |id: &str| ("/a".to_owned(), id.to_owned());
        let body = |id: &str| format!("{{\"source\": \"/a\", \"id\": \"{id}\"}}").into_bytes();
        let committed = Committed {
            by_key: HashMap::from([(key("row"), 1_000)]),
            by_body: HashMap::from([(b"no callback".to_vec(), 1_000)]),
        };
        let at = |us: u64| UNIX_EPOCH + std::time::Duration::from_micros(us);
        let held = [Held { from: at(900), until: at(1_100) }, Held { from: at(1_500), until: at(1_600) }];
        let found_held = |held: &[Held], at_us: u64| {
            let acked = vec![Acked { body: body("row"), at: at(at_us) }];
            let lost = LostRows { keys: &HashSet::new(), bodies: &HashSet::new() };
            early(acked, &committed, &lost, &Twins::new(), held).unwrap().len()
        };
        // It was committed at 1 000, while answers were held back for the first time.
        assert_eq!(found_held(&held, 1_050), 1);
        assert_eq!(found_held(&held, 1_100), 0);
        assert_eq!(found_held(&held, 1_550), 0);
        assert_eq!(found_held(&[], 1_050), 0);
        let found = |body: Vec<u8>, at_us: u64, lost: &[(String, String)], twins: &[(&str, &str)]| {
            let at = at(at_us);
            let twins = twins.iter().map(|(one, other)| (key(one), key(other))).collect();
            let (keys, bodies) = (lost.iter().cloned().collect(), HashSet::from([b"lost".to_vec()]));
            let lost = LostRows { keys: &keys, bodies: &bodies };
            early(vec![Acked { body, at }], &committed, &lost, &twins, &[]).unwrap().len()
        };
        assert_eq!(found(body("row"), 1_000, &[], &[]), 0);
        assert_eq!(found(body("row"), 999, &[], &[]), 1);
        assert_eq!(found(body("nowhere"), 2_000, &[], &[]), 1);
        assert_eq!(found(b"no callback".to_vec(), 999, &[], &[]), 1);
        assert_eq!(found(b"no callback".to_vec(), 1_000, &[], &[]), 0);
        assert_eq!(found(body("other"), 1_000, &[], &[("other", "row")]), 0);
        assert_eq!(found(body("other"), 999, &[], &[("other", "row")]), 1);
        assert_eq!(found(body("row"), 999, &[key("row")], &[]), 0);
        assert_eq!(found(b"lost".to_vec(), 999, &[], &[]), 0);
    }

    #[test]
    fn a_password_or_a_key_in_a_log_is_found_and_not_shown() {
        let logs = format!("one\ntwo {PASSWORD} three\nfour whsec_x five\nsix");
        assert_eq!(secrets(&logs, &["whsec_x".to_owned()]), ["two [secret] three", "four [secret] five"]);
    }
}
