//! Every fault of the matrix: its name, how it is brought about, and how often it really happened. When [`Fault::inject`] returns,
//! everything is whole again; what follows is the recovery.

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::sleep;

use super::{
    database::{
        Refused, change_schema, deadlocks, exhaust_connections, fill_disk, former_primary, lock_accounts,
        read_only_database, refuse_rows, take_no_writes, terminate_sessions,
    },
    means::{
        consumer_timeout, crash, delete_queue, flush_redis, hold_commits, memory_alarm, one_key, pause,
        pool_sessions, redis, refuse_writes, reset, shift_clocks, slowly, trap, watch_health,
    },
    operators,
    pool::Pool,
    proxy::Trap,
    site::Site,
};

/// Longer than a claim (1 s), the heartbeat (2 x 2 s) and the database's deadline (2 s).
const PAUSE: Duration = Duration::from_secs(6);

/// What a fault breaks, itself or the link to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Workers,
    Broker,
    Database,
    Redis,
    Ingress,
    Feed,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Fault {
    /// kill -9 of one worker.
    WorkerKilled,
    /// kill -9 of all workers at once.
    WorkersKilled,
    /// SIGSTOP of a worker, longer than its claims and heartbeats, then SIGCONT.
    WorkerPaused,
    /// SIGTERM of a worker in mid-work, another takes its place.
    WorkerTerminated,
    /// Every worker replaced in turn.
    RollingRestart,
    /// Operators replay, discard, reopen, rotate keys, migrate and audit beside the load.
    OperatorsAtWork,
    /// Workers whose clocks are an hour ahead and an hour behind.
    ClocksShifted,
    /// kill -9 of RabbitMQ, started again.
    BrokerKilled,
    /// RabbitMQ stopped and started.
    BrokerRestarted,
    /// RabbitMQ down for 60 s.
    BrokerAway,
    /// RabbitMQ closes all connections.
    BrokerConnectionsClosed,
    /// Every connection to RabbitMQ is reset.
    BrokerReset,
    /// Connections to RabbitMQ stay open, nothing passes.
    BrokerSilent,
    /// A slow and jittery link to RabbitMQ.
    BrokerSlow,
    /// Few bytes per second to RabbitMQ.
    BrokerThrottled,
    /// The connection to RabbitMQ breaks in the middle of a frame.
    BrokerCutMidFrame,
    /// Acknowledgements do not arrive; then the connection breaks.
    AcksSwallowed,
    /// RabbitMQ blocks publishers for want of memory.
    MemoryAlarm,
    /// RabbitMQ closes the channel of a worker that holds deliveries too long.
    ConsumerTimeout,
    /// The work queue is deleted; workers make it again.
    QueueDeleted,
    /// kill -9 of PostgreSQL, started again.
    DatabaseKilled,
    /// PostgreSQL stopped in immediate mode, started again.
    DatabaseStopped,
    /// Workers' sessions terminated again and again.
    SessionsTerminated,
    /// COMMIT does not reach PostgreSQL.
    CommitDropped,
    /// COMMIT reaches PostgreSQL, its answer nobody.
    CommitAnswerCut,
    /// COMMIT reaches PostgreSQL, and its answer is held back: what is committed may not be acknowledged meanwhile.
    CommitAnswerHeld,
    /// Every connection to PostgreSQL is reset.
    DatabaseReset,
    /// Connections to PostgreSQL stay open, nothing passes.
    DatabaseSilent,
    /// A slow and jittery link to PostgreSQL.
    DatabaseSlow,
    /// SIGSTOP of PostgreSQL, then SIGCONT.
    DatabasePaused,
    /// Every write is refused with 25006, as on a former primary.
    DatabaseReadOnly,
    /// PostgreSQL answers and takes no writes, for longer than workers would have to hold deliveries a hundred times: RabbitMQ would dead-letter
    /// what is returned as often as that.
    DatabaseTakesNoWrites,
    /// A concurrent writer that locks accounts in the other order.
    Deadlocks,
    /// An operator's open transaction holds the rows of some accounts, longer than anybody waits for a lock.
    AccountLocked,
    /// PostgreSQL refuses every row of some accounts, as a constraint or a trigger of somebody's would.
    RowsRefused,
    /// PostgreSQL refuses some rows of some accounts, and takes the others.
    SomeRowsRefused,
    /// A provider that uses one operation id, or one event id, for thousands of callbacks.
    ConstantKey,
    /// The next release's migration, which declares that workers of this one may go on beside it.
    OldWorkerNewSchema,
    /// No connection is left.
    ConnectionsExhausted,
    /// No space is left on PostgreSQL's disk.
    DiskFull,
    /// The primary dies, its synchronous standby is promoted: nothing may be lost.
    FailoverSynchronous,
    /// The primary dies, a standby that lagged is promoted: what was acknowledged and not replicated is lost, and applied when it is
    /// sent again, whatever Redis remembers.
    FailoverAsynchronous,
    /// The synchronous standby is promoted, and then every address leads to the former primary for a while, which is writable: nothing may be
    /// written there.
    FormerPrimaryReturns,
    /// PostgreSQL is started again on a snapshot of its disk, with the same identity and timeline: what was committed since is lost, and
    /// applied when it is sent again, whatever Redis remembers.
    SnapshotRestored,
    /// One standby is promoted, dies, and another that never followed it is promoted, on the same timeline; the same holds.
    SecondPromotion,
    /// A pooler between workers and PostgreSQL drops what they ask for when a session begins, the server's own defaults are weaker, and it
    /// crashes.
    PoolerDropsSettings,
    /// kill -9 of Redis, which comes back empty.
    RedisKilled,
    /// FLUSHALL again and again.
    RedisFlushed,
    /// SIGSTOP of Redis, then SIGCONT.
    RedisPaused,
    /// Redis has no memory left.
    RedisFull,
    /// Redis becomes a replica, which refuses writes.
    RedisReadOnly,
    /// Redis comes back with an old dump.
    RedisTimeTravel,
    /// Connections to Redis stay open, nothing passes.
    RedisSilent,
    /// Claims are set, the answer does not come.
    ClaimAnswerSwallowed,
    /// The connection to RabbitMQ breaks between a message and its confirm: it is on the queue, and its publisher does not know.
    ConfirmCut,
    /// kill -9 of the ingress, started again.
    IngressKilled,
    /// SIGTERM of the ingress in mid-work, another takes its place.
    IngressTerminated,
    /// Redis dies, and a replica that lagged is promoted: what was written last is gone.
    RedisFailedOver,
    /// kill -9 of the feed that has the lease.
    FeedKilled,
    /// SIGSTOP of the feed that has the lease, until another has taken over and longer; then SIGCONT.
    FeedPaused,
}

impl Fault {
    /// As in the report and on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What the feed and the balance cache are afraid of most: with `--feed`, every other fault is one of these.
    pub const OF_FEED: [Self; 9] = [
        Self::FeedKilled,
        Self::BrokerKilled,
        Self::RedisTimeTravel,
        Self::FeedPaused,
        Self::DatabaseKilled,
        Self::RedisFailedOver,
        Self::FailoverSynchronous,
        Self::RedisFlushed,
        Self::BrokerSilent,
    ];

    /// Whether it is nothing without a feed.
    pub fn needs_feed(self) -> bool {
        matches!(self, Self::FeedKilled | Self::FeedPaused)
    }

    /// Whether every run that nobody asked for this very fault can have it: not what takes long, needs root, loses commits, or is the feed's.
    pub fn is_everyday(self) -> bool {
        let is_the_feeds = self.needs_feed() || self == Self::RedisFailedOver;
        let takes_long = matches!(self, Self::BrokerAway | Self::DatabaseTakesNoWrites);
        let is_special = matches!(self, Self::DiskFull | Self::ClocksShifted);
        !is_the_feeds && !takes_long && !is_special && !self.loses_commits() && !self.is_of_ingress()
    }

    /// Whether there has to be an ingress for it.
    pub fn is_of_ingress(self) -> bool {
        matches!(self, Self::ConfirmCut | Self::IngressKilled | Self::IngressTerminated)
    }

    /// Whether webhooks must be refused or cut off by it, or it had no effect.
    pub fn is_felt_by_the_ingress(self) -> bool {
        matches!(
            self,
            Self::ConfirmCut
                | Self::IngressKilled
                | Self::BrokerKilled
                | Self::BrokerRestarted
                | Self::MemoryAlarm
                | Self::BrokerSilent
        )
    }

    /// What it breaks.
    pub fn server(self) -> Server {
        match self {
            Self::WorkerKilled
            | Self::WorkersKilled
            | Self::WorkerPaused
            | Self::WorkerTerminated
            | Self::RollingRestart
            | Self::OperatorsAtWork
            | Self::ClocksShifted => Server::Workers,
            Self::BrokerKilled
            | Self::BrokerRestarted
            | Self::BrokerAway
            | Self::BrokerConnectionsClosed
            | Self::BrokerReset
            | Self::BrokerSilent
            | Self::BrokerSlow
            | Self::BrokerThrottled
            | Self::BrokerCutMidFrame
            | Self::AcksSwallowed
            | Self::MemoryAlarm
            | Self::ConsumerTimeout
            | Self::QueueDeleted
            | Self::ConstantKey
            | Self::ConfirmCut => Server::Broker,
            Self::DatabaseKilled
            | Self::DatabaseStopped
            | Self::SessionsTerminated
            | Self::CommitDropped
            | Self::CommitAnswerCut
            | Self::CommitAnswerHeld
            | Self::DatabaseReset
            | Self::DatabaseSilent
            | Self::DatabaseSlow
            | Self::DatabasePaused
            | Self::DatabaseReadOnly
            | Self::DatabaseTakesNoWrites
            | Self::Deadlocks
            | Self::AccountLocked
            | Self::RowsRefused
            | Self::SomeRowsRefused
            | Self::OldWorkerNewSchema
            | Self::ConnectionsExhausted
            | Self::DiskFull
            | Self::FailoverSynchronous
            | Self::FailoverAsynchronous
            | Self::FormerPrimaryReturns
            | Self::SnapshotRestored
            | Self::SecondPromotion
            | Self::PoolerDropsSettings => Server::Database,
            Self::RedisKilled
            | Self::RedisFlushed
            | Self::RedisPaused
            | Self::RedisFull
            | Self::RedisReadOnly
            | Self::RedisTimeTravel
            | Self::RedisSilent
            | Self::ClaimAnswerSwallowed
            | Self::RedisFailedOver => Server::Redis,
            Self::IngressKilled | Self::IngressTerminated => Server::Ingress,
            Self::FeedKilled | Self::FeedPaused => Server::Feed,
        }
    }

    /// Whether it takes effect also where workers do nothing at the moment, so that it can come while they recover.
    pub fn needs_no_load(self) -> bool {
        matches!(
            self,
            Self::WorkerKilled
                | Self::WorkersKilled
                | Self::WorkerPaused
                | Self::WorkerTerminated
                | Self::RollingRestart
                | Self::BrokerKilled
                | Self::BrokerRestarted
                | Self::DatabaseKilled
                | Self::DatabaseStopped
                | Self::DatabasePaused
                | Self::FailoverSynchronous
                | Self::RedisKilled
                | Self::RedisPaused
        )
    }

    /// Whether callbacks that were acknowledged are lost by it, until they are sent again.
    pub fn loses_commits(self) -> bool {
        matches!(self, Self::FailoverAsynchronous | Self::SnapshotRestored | Self::SecondPromotion)
    }

    /// Whether the broker delivers nothing again because of it, and nobody is left in doubt of a COMMIT: then no copy is counted that was not
    /// published.
    pub fn repeats_nothing(self) -> bool {
        matches!(self, Self::AccountLocked | Self::RowsRefused | Self::SomeRowsRefused | Self::RedisFlushed)
    }

    /// Brings it about for about `hold`, and puts everything right again. Returns how often it really happened.
    pub async fn inject(self, site: &mut Site, pool: &mut Pool, hold: Duration) -> anyhow::Result<u64> {
        match self {
            Self::WorkerKilled => pool.kill(1).await,
            Self::WorkersKilled => pool.kill(pool.members().len()).await,
            Self::WorkerPaused => pool.pause_first(PAUSE).await,
            Self::WorkerTerminated => pool.replace_first(&[]).await,
            Self::RollingRestart => {
                let mut replaced = 0;
                for _ in 0..pool.members().len() {
                    replaced += pool.replace_first(&[]).await?;
                }
                Ok(replaced)
            }
            Self::OperatorsAtWork => operators::work(site, pool, hold).await,
            Self::ClocksShifted => shift_clocks(pool, hold).await,
            Self::BrokerKilled => crash(&site.broker).await,
            Self::BrokerRestarted => {
                site.broker.stop().await?;
                let is_gone = !site.broker.answers().await?;
                site.broker.start_again().await?;
                Ok(u64::from(is_gone))
            }
            Self::BrokerAway => {
                site.broker.kill().await?;
                let unready = watch_health(pool, Duration::from_secs(60)).await?;
                site.broker.start_again().await?;
                Ok(unready)
            }
            Self::BrokerConnectionsClosed => {
                let before = site.broker.rabbitmqctl(&["list_connections", "--quiet", "pid"]).await?;
                site.broker.rabbitmqctl(&["close_all_connections", "chaos"]).await?;
                Ok(before.lines().count() as u64)
            }
            Self::BrokerReset => reset(&site.broker_proxy, hold).await,
            Self::BrokerSilent => slowly(&site.broker_proxy, PAUSE, |proxy| proxy.silence(true)).await,
            Self::BrokerSlow => {
                slowly(&site.broker_proxy, hold, |proxy| proxy.delay(Duration::from_millis(100))).await
            }
            Self::BrokerThrottled => slowly(&site.broker_proxy, hold, |proxy| proxy.throttle(20_000)).await,
            Self::BrokerCutMidFrame => trap(&site.broker_proxy, Trap::CutAfter(11), 3, hold).await,
            Self::AcksSwallowed => {
                let swallowed = trap(&site.broker_proxy, Trap::AckSwallowed, 1_000, hold).await?;
                site.broker_proxy.reset();
                Ok(swallowed)
            }
            Self::MemoryAlarm => memory_alarm(&site.broker, hold).await,
            Self::ConsumerTimeout => consumer_timeout(site).await,
            Self::QueueDeleted => delete_queue(site).await,
            Self::DatabaseKilled => crash(site.node()?).await,
            Self::DatabaseStopped => {
                site.node()?.signal_first("QUIT").await?;
                // Waits until it is gone, and cleans up behind it.
                site.node()?.stop().await?;
                let is_gone = !site.node()?.answers().await?;
                site.node()?.start_again().await?;
                Ok(u64::from(is_gone))
            }
            Self::SessionsTerminated => terminate_sessions(site, hold).await,
            Self::CommitDropped => trap(site.node_proxy(), Trap::CommitDropped, 3, hold).await,
            Self::CommitAnswerCut => trap(site.node_proxy(), Trap::CommitAnswerCut, 3, hold).await,
            Self::CommitAnswerHeld => hold_commits(site, hold).await,
            Self::DatabaseReset => reset(site.node_proxy(), hold).await,
            Self::DatabaseSilent => slowly(site.node_proxy(), PAUSE, |proxy| proxy.silence(true)).await,
            Self::DatabaseSlow => {
                slowly(site.node_proxy(), hold, |proxy| proxy.delay(Duration::from_millis(50))).await
            }
            Self::DatabasePaused => pause(site.node()?, PAUSE).await,
            Self::DatabaseReadOnly => read_only_database(site, hold).await,
            Self::DatabaseTakesNoWrites => take_no_writes(site, pool).await,
            Self::Deadlocks => deadlocks(site).await,
            Self::AccountLocked => lock_accounts(site, PAUSE).await,
            Self::RowsRefused => refuse_rows(site, PAUSE, Refused::All).await,
            Self::SomeRowsRefused => refuse_rows(site, PAUSE, Refused::Some).await,
            Self::ConstantKey => one_key(site).await,
            Self::OldWorkerNewSchema => change_schema(site, pool, PAUSE).await,
            Self::ConnectionsExhausted => exhaust_connections(site, hold).await,
            Self::DiskFull => fill_disk(site, pool).await,
            Self::FailoverSynchronous => site.fail_over(true, hold).await,
            Self::FailoverAsynchronous => site.fail_over(false, hold).await,
            Self::FormerPrimaryReturns => former_primary(site, pool, PAUSE).await,
            Self::SnapshotRestored => site.restore_snapshot().await,
            Self::SecondPromotion => site.promote_twice().await,
            Self::PoolerDropsSettings => pool_sessions(site, hold).await,
            Self::RedisKilled => crash(&site.redis).await,
            Self::RedisFlushed => flush_redis(site, hold).await,
            Self::RedisPaused => pause(&site.redis, PAUSE).await,
            Self::RedisFull => {
                refuse_writes(
                    site,
                    "OOM",
                    &["CONFIG", "SET", "maxmemory", "1"],
                    &["CONFIG", "SET", "maxmemory", "0"],
                    hold,
                )
                .await
            }
            Self::RedisReadOnly => {
                refuse_writes(
                    site,
                    "READONLY",
                    &["REPLICAOF", "127.0.0.1", "1"],
                    &["REPLICAOF", "NO", "ONE"],
                    hold,
                )
                .await
            }
            Self::RedisTimeTravel => {
                redis::cmd("SAVE").query_async::<()>(&mut redis(site).await?).await?;
                sleep(hold).await;
                crash(&site.redis).await?;
                // What came back with the dump.
                Ok(redis::cmd("DBSIZE").query_async(&mut redis(site).await?).await?)
            }
            Self::RedisSilent => slowly(&site.redis_proxy, PAUSE, |proxy| proxy.silence(true)).await,
            Self::ConfirmCut => trap(&site.broker_proxy, Trap::ConfirmCut, 3, hold).await,
            Self::IngressKilled => site.ingress()?.crash().await,
            Self::IngressTerminated => site.ingress()?.replace().await,
            Self::ClaimAnswerSwallowed => trap(&site.redis_proxy, Trap::SetAnswerSwallowed, 3, hold).await,
            Self::RedisFailedOver => site.fail_redis_over(hold).await,
            Self::FeedKilled => pool.feeds()?.kill(site).await,
            Self::FeedPaused => pool.feeds()?.pause(site, hold).await,
        }
    }
}
