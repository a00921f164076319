//! What a server and a session must be for payonce's promises to hold: the settings, and the history that the server continues. Checked
//! after connecting, because what was only asked for can be dropped on the way, and again in each transaction that settles, because a
//! session can be another one then. What must not live here: how to connect, and what is done with the session.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use sqlx::{
    PgConnection, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tracing::warn;

use super::StoreError;

/// A setting's name, and its value as `pg_settings.setting` has it: in the unit that is shown there, without the unit.
pub(super) type Setting = (&'static str, String);

/// What payonce cannot set, and needs: name, value, and what would happen otherwise.
const NEEDED: [(&str, &str, &str); 3] = [
    ("fsync", "on", "a crash could lose payments that are acknowledged, or all data"),
    ("full_page_writes", "on", "a crash could tear pages that hold payments"),
    (
        "server_encoding",
        "UTF8",
        "a callback with a character that the database cannot hold could be stored nowhere; make the database with: create database \
         NAME encoding 'UTF8' template template0",
    ),
];

macro_rules! session {
    () => {
        "payonce.session"
    };
}

/// The session's own name, by which it knows itself again.
const SESSION: &str = session!();

/// What [`confirm`] selects: one row, in a transaction that can be committed.
macro_rules! confirmation {
    () => {
        concat!(
            "system_identifier::text as system, left(pg_walfile_name(pg_current_wal_lsn()), 8) as timeline,
             (pg_current_wal_flush_lsn() - '0/0')::bigint as log_bytes,
             current_setting('synchronous_commit') as synchronous_commit,
             current_setting('transaction_isolation') as transaction_isolation,
             coalesce(current_setting('",
            $crate::server::session!(),
            "', true), '') <> '' as is_prepared
             from pg_control_system()"
        )
    };
}
pub(crate) use {confirmation, session};

/// How far the writable server of each cluster has come, by system identifier, as far as this process has seen. It holds one entry for each
/// cluster that an address of this process has ever led to.
static SEEN: Mutex<BTreeMap<String, Position>> = Mutex::new(BTreeMap::new());

/// Where a writable server is in its history: a later promotion has a higher timeline, a later commit a higher place on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    timeline: u32,
    /// Bytes of log since the beginning of the cluster that are on disk: a crash does not take them back.
    log_bytes: i64,
}

/// Gives the session its settings and `name`, and reads all of them back: a pooler can drop what is sent when a session begins, and one in
/// transaction mode puts each transaction into a session of its choice. What is asked here is asked once, and not kept as a prepared
/// statement.
///
/// # Errors
/// [`StoreError::Unfit`] names the first setting that is not what it must be.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    name: &str,
    settings: &[Setting],
) -> Result<(), StoreError> {
    let (names, values): (Vec<&str>, Vec<&str>) =
        settings.iter().map(|(name, value)| (*name, value.as_str())).chain([(SESSION, name)]).unzip();
    sqlx::query(
        "select set_config(s.name, s.value, false) from unnest($1::text[], $2::text[]) as s(name, value)",
    )
    .bind(&names)
    .bind(&values)
    .persistent(false)
    .execute(&mut *connection)
    .await?;
    if session_name(connection).await?.as_deref() != Some(name) {
        return Err(in_transaction_mode());
    }
    let asked: Vec<&str> =
        settings.iter().map(|(name, _)| *name).chain(NEEDED.map(|(name, ..)| name)).collect();
    let rows = sqlx::query("select name, setting from pg_settings where name = any($1)")
        .bind(&asked)
        .persistent(false)
        .fetch_all(&mut *connection)
        .await?;
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for row in rows {
        found.insert(row.try_get("name")?, row.try_get("setting")?);
    }
    let is = |name: &str| found.get(name).map_or("not known to this server", String::as_str);
    for (name, needed, otherwise) in NEEDED {
        if is(name) != needed {
            return Err(StoreError::Unfit(format!(
                "{name} is {}, and must be {needed}: otherwise {otherwise}",
                is(name)
            )));
        }
    }
    for (name, set) in settings {
        if is(name) != set {
            return Err(StoreError::Unfit(format!(
                "{name} is {} although payonce has just set it to {set}: something between payonce and the server changes its session; \
                 connect directly, or by a pooler in session mode",
                is(name)
            )));
        }
    }
    Ok(())
}

/// Whether the session is still the one that was given this name, with all that was set in it.
///
/// # Errors
/// [`StoreError::Unfit`] where it is another.
pub(super) async fn check_name(connection: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    if session_name(connection).await?.as_deref() == Some(name) { Ok(()) } else { Err(in_transaction_mode()) }
}

async fn session_name(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar("select current_setting($1, true)")
        .bind(SESSION)
        .persistent(false)
        .fetch_one(connection)
        .await?)
}

/// For words that PostgreSQL and poolers have for it: a statement that was prepared in another session, or is there already.
pub(super) fn in_transaction_mode() -> StoreError {
    StoreError::Unfit(
        "payonce's session was given to somebody else between two transactions, as a pooler in transaction mode does (PgBouncer: pool_mode = \
         transaction). Its settings, and what they promise, would be lost: connect directly, or use pool_mode = session"
            .to_owned(),
    )
}

/// Refuses a server that a promotion has left behind. Where the history goes back on one timeline, as after a restore from a disk snapshot,
/// the server is used, and a warning says that commits were lost.
///
/// `may_be_standby`: for those who only read. A standby has no history of its own.
///
/// # Errors
/// [`StoreError::Unavailable`] for a former primary and, unless it may be one, for a standby.
pub(super) async fn check_history(
    connection: &mut PgConnection,
    may_be_standby: bool,
) -> Result<(), StoreError> {
    let before = seen();
    let row = sqlx::query(
        "select system_identifier::text as system,
                case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end as timeline,
                case when not pg_is_in_recovery() then (pg_current_wal_flush_lsn() - '0/0')::bigint end as log_bytes
         from pg_control_system()",
    )
    .persistent(false)
    .fetch_one(connection)
    .await?;
    let timeline: Option<String> = row.try_get("timeline")?;
    let timeline = timeline.and_then(|digits| u32::from_str_radix(&digits, 16).ok());
    match timeline.zip(row.try_get("log_bytes")?) {
        Some((timeline, log_bytes)) => {
            compare(&before, row.try_get("system")?, Position { timeline, log_bytes })
        }
        None if may_be_standby => Ok(()),
        None => Err(StoreError::Unavailable("no host of the address is a writable primary".to_owned())),
    }
}

/// For the last statement of a transaction that settles: that it will be durable, saw what others have committed, and is written to the history
/// that goes on. In a transaction that PostgreSQL has aborted it fails, as any statement does; COMMIT would not.
///
/// # Errors
/// [`StoreError::Unfit`] or [`StoreError::Unavailable`]; the transaction must not be committed then.
pub(super) async fn confirm(transaction: &mut PgConnection) -> Result<(), StoreError> {
    confirm_with(transaction, sqlx::query(concat!("select ", confirmation!()))).await.map(drop)
}

/// As [`confirm`], by a statement that does more and ends with [`confirmation`]: what it does costs no round trip of its own. Returns its row.
///
/// # Errors
/// As [`confirm`].
pub(super) async fn confirm_with(
    transaction: &mut PgConnection,
    last: Query<'_, Postgres, PgArguments>,
) -> Result<PgRow, StoreError> {
    let before = seen();
    let row = last.fetch_one(transaction).await?;
    if !row.try_get::<bool, _>("is_prepared")? {
        return Err(in_transaction_mode());
    }
    for (name, needed) in [("synchronous_commit", "on"), ("transaction_isolation", "read committed")] {
        let found: &str = row.try_get(name)?;
        if found != needed {
            warn!(setting = name, found, needed, "a transaction was not committed");
            return Err(in_transaction_mode());
        }
    }
    let timeline = u32::from_str_radix(row.try_get("timeline")?, 16)
        .map_err(|_| StoreError::Unavailable("the server shows no timeline".to_owned()))?;
    compare(&before, row.try_get("system")?, Position { timeline, log_bytes: row.try_get("log_bytes")? })?;
    Ok(row)
}

fn seen() -> BTreeMap<String, Position> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// `before`: what was seen before the server was asked. What other sessions have seen since may be further, and says nothing.
fn compare(before: &BTreeMap<String, Position>, system: String, now: Position) -> Result<(), StoreError> {
    let before = before.get(&system).copied().unwrap_or(now);
    if now.timeline < before.timeline {
        return Err(StoreError::Unavailable(format!(
            "the address leads to a former primary (timeline {}; a server that was promoted later has reached {}). Stop it, or make it a \
             standby; if it was restored on purpose, start payonce again",
            now.timeline, before.timeline
        )));
    }
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let furthest = seen.entry(system).or_insert(now);
    if now < before {
        warn!(
            lost_log_bytes = before.log_bytes.saturating_sub(now.log_bytes),
            "PostgreSQL has gone back, as after a restore from a snapshot: what was committed since is lost until its providers send it again; \
             `payonce audit` names what Redis remembers of it (markers_have_rows)"
        );
        *furthest = now;
    } else {
        *furthest = now.max(*furthest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_timeline_is_refused_and_a_history_that_goes_back_is_followed() {
        let system = || "a cluster of this test".to_owned();
        let at = |timeline, log_bytes| Position { timeline, log_bytes };
        let furthest = || seen().get(&system()).copied();
        assert!(compare(&seen(), system(), at(1, 100)).is_ok());
        // A session that asked earlier and is heard later says nothing of a restore.
        let before = seen();
        assert!(compare(&seen(), system(), at(1, 300)).is_ok());
        assert!(compare(&before, system(), at(1, 200)).is_ok());
        assert_eq!(furthest(), Some(at(1, 300)));
        // A snapshot is started again.
        assert!(compare(&seen(), system(), at(1, 50)).is_ok());
        assert_eq!(furthest(), Some(at(1, 50)));
        // A standby that lagged is promoted, and the former primary comes back.
        assert!(compare(&seen(), system(), at(2, 40)).is_ok());
        let refused = compare(&seen(), system(), at(1, 60)).expect_err("a former primary");
        assert!(
            matches!(&refused, StoreError::Unavailable(words) if words.contains("former primary")),
            "{refused}"
        );
        assert_eq!(furthest(), Some(at(2, 40)));
    }
}
