//! Redis: claims and done markers. Advice only, and any failure means "not seen": the ledger's unique key decides.
//!
//! A *claim* says that some worker began with a key. It proves nothing, since its owner may have died before the commit, so
//! nothing is rejected for it. A *done marker* is written after the commit, and proves nothing either: the database may have been
//! restored since, or somebody else may have written it. It says where to look: the transaction that counts the copy looks for the
//! ledger row, and is rolled back where that is missing. What must not live here: any decision to acknowledge.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ErrorKind, ExistenceCheck, Pipeline, RedisError,
    SetExpiry, SetOptions, TlsCertificates, aio::MultiplexedConnection,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{DedupeConfig, TlsConfig},
    hosts::each_host,
    ledger::{EventId, Fingerprint, Key, Source},
    metrics, tls,
};

const DONE: &[u8] = b"done:";
const CLAIM: &str = "claim";

/// Keys that are written to see whether Redis takes keys at all. Names of payonce are spread over the slots of a cluster, and so are these: a node
/// that has some of the slots only refuses one of them, and counts as down from the start, not anew with every batch.
const PROBES: usize = 16;
const PROBE_TTL_MS: u64 = 1_000;

/// What Redis says about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Nobody had claimed it, and now this worker has: probably a callback that was never seen.
    New,
    /// Nothing: somebody has claimed it, which proves nothing, or Redis did not answer.
    Nothing,
    /// A callback with this content was committed, it says. Only the ledger proves it.
    Done(Fingerprint),
}

/// The link to Redis: either a connection that works, or none.
pub struct Dedupe {
    /// One for each host of the address.
    clients: Vec<Client>,
    prefix: String,
    config: DedupeConfig,
    /// `None` while Redis is down: batches then skip it, and pay nothing for waiting.
    connection: Mutex<Option<MultiplexedConnection>>,
    lost: Notify,
}

impl Dedupe {
    /// Does not connect yet: [`Dedupe::keep_connected`] does.
    ///
    /// # Errors
    /// Words for what is wrong with the URL, which they do not repeat.
    pub fn new(url: &str, prefix: &str, config: DedupeConfig) -> Result<Self, String> {
        Self::with_tls(url, prefix, config, &TlsConfig::default())
    }

    /// The same, with these files where the address begins with `rediss://`.
    ///
    /// # Errors
    /// Words for what is wrong with the URL or a file.
    pub fn with_tls(
        url: &str,
        prefix: &str,
        config: DedupeConfig,
        files: &TlsConfig,
    ) -> Result<Self, String> {
        Ok(Self {
            clients: open_clients(url, files)?,
            prefix: prefix.to_owned(),
            config,
            connection: Mutex::new(None),
            lost: Notify::new(),
        })
    }

    /// Connects, and again whenever the connection is lost, until `stop`. Runs beside the lanes, so that they never wait for a
    /// Redis that is down.
    pub async fn keep_connected(&self, probe_pause: Duration, stop: &CancellationToken) {
        metrics::redis_available(false);
        let mut was_available = None;
        loop {
            let available = self.probe().await;
            metrics::redis_available(available.is_ok());
            match &available {
                Ok(()) if was_available != Some(true) => info!("Redis is available"),
                Err(error) if was_available != Some(false) => {
                    warn!(error = %describe(error), "Redis is down; every callback is checked in the ledger alone");
                }
                Ok(()) | Err(_) => {}
            }
            was_available = Some(available.is_ok());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(probe_pause) => {}
                () = self.lost.notified(), if available.is_ok() => {}
            }
        }
    }

    /// Claims each key for this worker, in one round trip, and returns what Redis knew of each.
    pub async fn claim(&self, keys: &[&Key]) -> Vec<Advice> {
        let unknown = || vec![Advice::Nothing; keys.len()];
        let Some(mut connection) = self.connected() else { return unknown() };
        let lease_ms = millis(self.config.claim_lease);
        // NX: an earlier claim or marker stays. GET: the answer is what was there. One trip for both.
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .get(true)
            .with_expiration(SetExpiry::PX(lease_ms));
        let mut pipeline = Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.set_options(self.name(key), CLAIM, options.clone());
        }
        match pipeline.query_async::<Vec<Option<Vec<u8>>>>(&mut connection).await {
            Ok(found) if found.len() == keys.len() => {
                found.iter().map(|value| advice(value.as_deref())).collect()
            }
            Ok(_) => unknown(),
            Err(error) => {
                self.mark_down(&error);
                unknown()
            }
        }
    }

    /// Remembers callbacks whose ledger row is committed.
    pub async fn remember(&self, committed: impl Iterator<Item = (&Key, Fingerprint)>) {
        let Some(mut connection) = self.connected() else { return };
        let options = SetOptions::default().with_expiration(SetExpiry::PX(millis(self.config.marker_ttl)));
        let mut pipeline = Pipeline::new();
        for (key, fingerprint) in committed {
            let value = [DONE, &fingerprint.0[..]].concat();
            pipeline.set_options(self.name(key), value, options.clone()).ignore();
        }
        if pipeline.is_empty() {
            return;
        }
        if let Err(error) = pipeline.query_async::<()>(&mut connection).await {
            self.mark_down(&error);
        }
    }

    /// Reads done markers, some thousand at a time: what it found, and where to go on; `None` at the end. Begin with 0.
    ///
    /// # Errors
    /// The kind of failure, in words.
    pub async fn markers(&self, cursor: u64) -> Result<(Vec<(Key, Fingerprint)>, Option<u64>), String> {
        const KEYS_PER_TRIP: u32 = 5_000;
        self.scan(cursor, KEYS_PER_TRIP).await.map_err(|error| describe(&error))
    }

    async fn scan(
        &self,
        cursor: u64,
        count: u32,
    ) -> Result<(Vec<(Key, Fingerprint)>, Option<u64>), RedisError> {
        if self.connected().is_none() {
            self.probe().await?;
        }
        let Some(mut connection) = self.connected() else { return Ok((Vec::new(), None)) };
        let beginning = self.beginning();
        let pattern: String = beginning
            .chars()
            .flat_map(|c| if "*?[]\\".contains(c) { vec!['\\', c] } else { vec![c] })
            .chain(['*'])
            .collect();
        let (next, names): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(count)
            .query_async(&mut connection)
            .await?;
        let mut found = Vec::new();
        if !names.is_empty() {
            let values: Vec<Option<Vec<u8>>> =
                redis::cmd("MGET").arg(&names).query_async(&mut connection).await?;
            for (name, value) in names.iter().zip(values) {
                let key = name.strip_prefix(&beginning).and_then(key_of);
                found.extend(key.zip(value.as_deref().and_then(done)));
            }
        }
        Ok((found, (next != 0).then_some(next)))
    }

    /// Whether Redis answered last time it was asked.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.connected().is_some()
    }

    /// Writes and connects as the lanes do: a Redis that answers PING but is read-only or full is of no use. Of several hosts
    /// the first that takes a write is used; what a former replica knows can do no harm, because the ledger proves each marker.
    async fn probe(&self) -> Result<(), RedisError> {
        let mut probed = Err(RedisError::from((ErrorKind::Io, "the address names no host")));
        if let Some(connection) = self.connected() {
            probed = self.try_writing(connection).await;
        }
        for client in &self.clients {
            if probed.is_ok() {
                break;
            }
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.config.timeout))
                .set_response_timeout(Some(self.config.timeout));
            probed = match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => self.try_writing(connection).await,
                Err(error) => Err(error),
            };
        }
        let (now, result) = match probed {
            Ok(connection) => (Some(connection), Ok(())),
            Err(error) => (None, Err(error)),
        };
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = now;
        result
    }

    async fn try_writing(
        &self,
        mut connection: MultiplexedConnection,
    ) -> Result<MultiplexedConnection, RedisError> {
        let options = SetOptions::default().with_expiration(SetExpiry::PX(PROBE_TTL_MS));
        let mut pipeline = Pipeline::with_capacity(PROBES);
        for probe in 0..PROBES {
            pipeline
                .set_options(format!("{}payonce:probe:{probe}", self.prefix), 1, options.clone())
                .ignore();
        }
        pipeline.query_async::<()>(&mut connection).await?;
        Ok(connection)
    }

    fn connected(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Any error ends the connection: redis-rs keeps one that timed out, or that leads to a replica which is read-only.
    fn mark_down(&self, error: &RedisError) {
        let was_connected = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take().is_some();
        if was_connected {
            metrics::redis_available(false);
            warn!(error = %describe(error), "Redis failed; going on without it");
            self.lost.notify_one();
        }
    }

    /// `<prefix>payonce:key:<length of source>:<source>:<id>`. The length keeps two pairs of source and id from having one
    /// name, whatever characters they hold.
    fn name(&self, key: &Key) -> String {
        let source = key.source.as_str();
        format!("{}{}:{source}:{}", self.beginning(), source.len(), key.event_id)
    }

    fn beginning(&self) -> String {
        format!("{}payonce:key:", self.prefix)
    }
}

/// One for each host of the address. Connects to none.
///
/// # Errors
/// Words for what is wrong with the URL or a file.
pub fn open_clients(url: &str, files: &TlsConfig) -> Result<Vec<Client>, String> {
    let pem = tls::load(files)?;
    let open = |url: String| {
        if !url.starts_with("rediss:") {
            return Client::open(url);
        }
        let client_tls = pem.identity.clone();
        let client_tls =
            client_tls.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        Client::build_with_tls(url, TlsCertificates { client_tls, root_cert: pem.ca.clone() })
    };
    let clients: Result<Vec<_>, _> = each_host(url).map(open).collect();
    clients.map_err(|error| {
        if error.kind() == ErrorKind::InvalidClientConfig {
            "not a Redis URL: expected redis://user:password@host:port, or rediss:// for TLS".to_owned()
        } else {
            describe(&error)
        }
    })
}

/// The inverse of [`Dedupe::name`], without its beginning.
fn key_of(name: &str) -> Option<Key> {
    let (length, rest) = name.split_once(':')?;
    let (source, event_id) = rest.split_at_checked(length.parse().ok()?)?;
    Some(Key { source: Source::new(source).ok()?, event_id: EventId::new(event_id.strip_prefix(':')?).ok()? })
}

fn advice(value: Option<&[u8]>) -> Advice {
    match value {
        None => Advice::New,
        Some(value) => done(value).map_or(Advice::Nothing, Advice::Done),
    }
}

fn done(value: &[u8]) -> Option<Fingerprint> {
    let hash = value.strip_prefix(DONE)?;
    Some(Fingerprint(hash.try_into().ok()?))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An error's kind, without the server's text: that can quote keys and values. What the network or TLS says quotes neither, and a
/// refused certificate is worth its words.
#[must_use]
pub fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code @ ("MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN")) => format!(
            "{code}: this is a node of a Redis Cluster, which is not supported; name one Redis, or a primary and its replicas"
        ),
        None if error.is_io_error() => error.to_string(),
        Some(code) => format!("{} ({code})", error.category()),
        None => error.category().to_owned(),
    }
}
