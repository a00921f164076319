//! The balance cache in Redis (contract §9): a hash for each account, written by the feed, read by anybody. An entry is never replaced by an
//! older version of the same epoch, whoever writes in whatever order. Nothing of payonce decides anything on it.
//!
//! How far it is written stands beside it, so that it is lost or goes back together with it: a Redis that was restored from an old copy, or
//! failed over to a replica that was behind, shows it, and the feed writes again from there.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, Script, aio::MultiplexedConnection, cmd};

use crate::{
    config::TlsConfig,
    dedupe::{describe, open_clients},
};

/// Accounts of one script call: Redis does nothing else meanwhile.
const ACCOUNTS_PER_CALL_MAX: usize = 200;

/// Numbers in Lua are doubles: versions are compared below 2^53, amounts are never read as numbers.
const WRITE: &str = "
    local written = 0
    for i, key in ipairs(KEYS) do
        local at = (i - 1) * 4 + 1
        local known = redis.call('HGET', key, 'version')
        if not known or tonumber(known) < tonumber(ARGV[at + 1]) then
            redis.call('HSET', key, 'version', ARGV[at + 1], 'balance', ARGV[at + 2], 'held', ARGV[at + 3], 'currency', ARGV[at + 4])
            written = written + 1
        end
        redis.call('PEXPIRE', key, ARGV[1])
    end
    return written";

/// Only where the mark is still the one that was read: another process may have the lease by now, or Redis have gone back.
const SET_MARK: &str = "
    local known = redis.call('HMGET', KEYS[1], 'epoch', 'txn')
    if (known[1] or '') ~= ARGV[1] or (known[2] or '') ~= ARGV[2] then
        return 0
    end
    local now = redis.call('TIME')
    local at_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
    redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'txn', ARGV[4], 'at_ms', at_ms)
    return 1";

/// What the cache holds of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// The account.
    pub account_id: String,
    /// Minor units.
    pub balance: i64,
    /// Minor units that authorizations hold.
    pub held: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// Of the account: one per ledger row.
    pub version: i64,
}

/// How far the cache is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The history that its entries belong to.
    pub epoch: String,
    /// All rows of transactions up to this one are in it.
    pub txn: i64,
}

/// The cache, from the writer's side.
pub struct Balances {
    clients: Vec<Client>,
    prefix: String,
    timeout: Duration,
    ttl: Duration,
    connection: Option<MultiplexedConnection>,
    write: Script,
    set_mark: Script,
}

impl Balances {
    /// Does not connect yet. `timeout`: when Redis counts as down; `ttl`: how long an account without news is kept.
    ///
    /// # Errors
    /// Words for what is wrong with the URL or a file; they do not repeat it.
    pub fn new(
        url: &str,
        prefix: &str,
        timeout: Duration,
        ttl: Duration,
        files: &TlsConfig,
    ) -> Result<Self, String> {
        let clients = open_clients(url, files)?;
        let (write, set_mark) = (Script::new(WRITE), Script::new(SET_MARK));
        Ok(Self { clients, prefix: prefix.to_owned(), timeout, ttl, connection: None, write, set_mark })
    }

    /// Connects to the first host that takes writes.
    ///
    /// # Errors
    /// The kind of failure, in words.
    pub async fn connect(&mut self) -> Result<(), String> {
        self.connection = None;
        let mut problem = RedisError::from((ErrorKind::Io, "the address names no host"));
        for client in &self.clients {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.timeout))
                .set_response_timeout(Some(self.timeout));
            let opened = async {
                let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
                // A replica answers reads.
                let probe = format!("{}payonce:balances:probe", self.prefix);
                cmd("SET").arg(probe).arg(1).arg("PX").arg(1_000).query_async::<()>(&mut connection).await?;
                Ok(connection)
            };
            match opened.await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(cause) => problem = cause,
            }
        }
        Err(describe(&problem))
    }

    /// How far the cache says that it is written; `None`: it does not say, because it is empty.
    ///
    /// # Errors
    /// The kind of failure, in words.
    pub async fn mark(&mut self) -> Result<Option<Mark>, String> {
        let name = self.mark_name();
        let mut connection = self.connection()?;
        let found: (Option<String>, Option<i64>) = cmd("HMGET")
            .arg(name)
            .arg("epoch")
            .arg("txn")
            .query_async(&mut connection)
            .await
            .map_err(gone)?;
        Ok(found.0.zip(found.1).map(|(epoch, txn)| Mark { epoch, txn }))
    }

    /// Says how far it is written, and when, in place of the mark that was read before. False: there is another one by now, and nothing is
    /// written.
    ///
    /// # Errors
    /// The kind of failure, in words.
    pub async fn set_mark(&mut self, known: Option<&Mark>, mark: &Mark) -> Result<bool, String> {
        let mut connection = self.connection()?;
        let mut call = self.set_mark.key(self.mark_name());
        match known {
            Some(known) => call.arg(&known.epoch).arg(known.txn),
            None => call.arg("").arg(""),
        };
        call.arg(&mark.epoch).arg(mark.txn);
        call.invoke_async::<bool>(&mut connection).await.map_err(gone)
    }

    /// Writes what is newer than what is there.
    ///
    /// # Errors
    /// The kind of failure, in words. Some of it may be written; writing it again is right.
    pub async fn write(&mut self, epoch: &str, balances: &[Balance]) -> Result<(), String> {
        let mut connection = self.connection()?;
        for chunk in balances.chunks(ACCOUNTS_PER_CALL_MAX) {
            let mut call = self.write.prepare_invoke();
            call.arg(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX));
            for one in chunk {
                call.key(self.name(epoch, &one.account_id));
                call.arg(one.version).arg(one.balance).arg(one.held).arg(&one.currency);
            }
            call.invoke_async::<i64>(&mut connection).await.map_err(gone)?;
        }
        Ok(())
    }

    /// An account as the cache has it; `None`: it does not, which says nothing.
    ///
    /// # Errors
    /// The kind of failure, in words.
    pub async fn read(&mut self, epoch: &str, account_id: &str) -> Result<Option<Balance>, String> {
        let name = self.name(epoch, account_id);
        let mut connection = self.connection()?;
        type Fields = (Option<i64>, Option<i64>, Option<i64>, Option<String>);
        let (version, balance, held, currency): Fields = cmd("HMGET")
            .arg(name)
            .arg(&["version", "balance", "held", "currency"])
            .query_async(&mut connection)
            .await
            .map_err(gone)?;
        let (Some(version), Some(balance), Some(held), Some(currency)) = (version, balance, held, currency)
        else {
            return Ok(None);
        };
        Ok(Some(Balance { account_id: account_id.to_owned(), balance, held, currency, version }))
    }

    fn connection(&self) -> Result<MultiplexedConnection, String> {
        self.connection.clone().ok_or_else(|| "not connected".to_owned())
    }

    fn name(&self, epoch: &str, account_id: &str) -> String {
        format!("{}payonce:{epoch}:balance:{{{account_id}}}", self.prefix)
    }

    fn mark_name(&self) -> String {
        format!("{}payonce:balances", self.prefix)
    }
}

fn gone(error: RedisError) -> String {
    describe(&error)
}
