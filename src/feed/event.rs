//! The form of what is sent: CloudEvents 1.0 in structured JSON mode (contract §9). Built from the columns of a ledger row alone, so that
//! the same row always gives the same event.

use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use crate::store::{
    Epoch,
    feed::{Entry, Position},
};

/// A ledger row was posted.
pub(super) const POSTED: &str = "payonce.ledger.posted.v1";
/// The database goes on in another history: after a failover or a restore.
pub(super) const HISTORY: &str = "payonce.ledger.history.v1";
/// Routing key of [`HISTORY`]: that of no account, whose ids have at least one byte. A queue bound with `#` gets it.
pub(super) const HISTORY_KEY: &str = "";

/// What an event is about besides its row.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// `urn:payonce:ledger:<feed_name>`.
    pub(super) source: String,
    /// The history that the rows belong to.
    pub(super) epoch: Epoch,
}

impl Origin {
    pub(super) fn new(feed_name: &str, epoch: Epoch) -> Self {
        Self { source: format!("urn:payonce:ledger:{feed_name}"), epoch }
    }
}

#[derive(Serialize)]
struct Posted<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'static str,
    subject: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
    datacontenttype: &'static str,
    sequence: i64,
    epoch: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    source: &'a str,
    event_id: &'a str,
    leg: i16,
    r#type: &'a str,
    account_id: &'a str,
    account_version: i64,
    payment_id: Option<&'a str>,
    operation_id: Option<&'a str>,
    amount: i64,
    currency: &'a str,
    balance_delta: i64,
    held_delta: i64,
    balance_after: i64,
    held_after: i64,
    payload_sha256: String,
    #[serde(with = "time::serde::rfc3339::option")]
    occurred_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    recorded_at: OffsetDateTime,
    cause: Cause<'a>,
}

#[derive(Serialize)]
struct Cause<'a> {
    source: &'a str,
    id: &'a str,
    r#type: &'a str,
}

/// `<account_version>:<account id>`: the same for every copy.
pub(super) fn id(entry: &Entry) -> String {
    format!("{}:{}", entry.account_version, entry.account_id)
}

/// The event of a row.
///
/// # Errors
/// A time that RFC 3339 cannot hold; the database takes none (contract §2).
pub(super) fn posted(origin: &Origin, entry: &Entry) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Posted {
        specversion: "1.0",
        id: &id(entry),
        source: &origin.source,
        r#type: POSTED,
        subject: &entry.account_id,
        time: entry.recorded_at,
        datacontenttype: "application/json",
        sequence: entry.account_version,
        epoch: origin.epoch.as_str(),
        data: Data {
            source: &entry.source,
            event_id: &entry.event_id,
            leg: entry.leg,
            r#type: &entry.kind,
            account_id: &entry.account_id,
            account_version: entry.account_version,
            payment_id: entry.payment_id.as_deref(),
            operation_id: entry.operation_id.as_deref(),
            amount: entry.amount,
            currency: &entry.currency,
            balance_delta: entry.balance_delta,
            held_delta: entry.held_delta,
            balance_after: entry.balance_after,
            held_after: entry.held_after,
            payload_sha256: hex(&entry.payload_sha256),
            occurred_at: entry.occurred_at,
            recorded_at: entry.recorded_at,
            cause: Cause { source: &entry.source, id: &entry.event_id, r#type: &entry.kind },
        },
    })
}

/// The id of the news that the history is another.
pub(super) fn history_id(origin: &Origin) -> String {
    format!("history:{}", origin.epoch)
}

/// The news that the history is another: rows of the one before that came after `position` may be gone, and all that are left come again.
///
/// # Errors
/// Never, with these members.
pub(super) fn history(
    origin: &Origin,
    before: &str,
    position: &Position,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&json!({
        "specversion": "1.0",
        "id": history_id(origin),
        "source": origin.source,
        "type": HISTORY,
        "datacontenttype": "application/json",
        "epoch": origin.epoch.as_str(),
        "data": { "epoch": origin.epoch.as_str(), "epoch_before": before, "resumes_after_txn": position.txn },
    }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
