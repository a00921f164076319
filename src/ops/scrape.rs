//! What Prometheus is told about the pool as a whole: what workers have committed and reported, read anew for each scrape, and what
//! the watch has seen of the broker.

use std::time::Duration;

use time::OffsetDateTime;
use tracing::warn;

use super::{
    pool::Waits,
    watch::{Link, Now},
};
use crate::{
    ledger::Reason,
    metrics::{self, BySource},
    store::{
        Reader, StoreError,
        case_sums::{self, Standing},
        debts::{self, DebtSum},
        feed::{self, FeedRow},
        history,
        report::TotalRow,
        sizes::{self, Sizes},
        subscribers::{self, WebhookRow},
        waiting,
        workers::{self, WorkerRow},
    },
};

/// Pairs of source and currency whose open cases are added up.
const SOURCES_MAX: i64 = 1_000;

/// Sets every counter and gauge. Without PostgreSQL those that come from it stay as they were the last time, and a gauge says so.
pub(super) async fn refresh(reader: &Reader, by_source: &BySource, waits: Waits, now: &Now) {
    let read = read(reader).await;
    metrics::server_up("postgresql", read.is_ok());
    match &read {
        Ok(read) => tell(by_source, waits, read),
        Err(cause) => {
            warn!(cause = %cause, "PostgreSQL does not answer; its metrics are those of the last time")
        }
    }
    metrics::audited(now.audit.is_ok(), now.audit.age(), now.audit.pause);
    metrics::server_up("rabbitmq", now.broker == Link::Up);
    metrics::server_up("redis", now.redis == Link::Up);
    if let Some(depths) = now.depths {
        metrics::backlog(depths.ready, depths.dead);
    }
    if now.depths.is_some() || now.backlog_age.is_some() {
        metrics::backlog_age(now.backlog_age);
    }
}

struct Read {
    totals: Vec<TotalRow>,
    workers: Vec<WorkerRow>,
    cases: Standing,
    by_source: Vec<(String, String, i128)>,
    feeds: Vec<FeedRow>,
    debts: Vec<DebtSum>,
    webhooks: Vec<WebhookRow>,
    waiting: [(Reason, Option<OffsetDateTime>); 2],
    sizes: Sizes,
}

async fn read(reader: &Reader) -> Result<Read, StoreError> {
    reader
        .run(async |connection| {
            Ok(Read {
                totals: history::totals(connection).await?,
                workers: workers::list(connection).await?,
                cases: case_sums::standing(connection).await?,
                by_source: case_sums::by_source(connection, SOURCES_MAX).await?,
                feeds: feed::list(connection).await?,
                debts: debts::sums(connection).await?,
                webhooks: subscribers::list(connection).await?,
                waiting: waiting::oldest(connection).await?,
                sizes: sizes::sizes(connection).await?,
            })
        })
        .await
}

fn tell(by_source: &BySource, waits: Waits, read: &Read) {
    let totals = read.totals.iter();
    by_source
        .set_totals(totals.map(|row| (row.kind.as_str(), row.source.as_str(), row.label.as_str(), row.n)));
    let up = || read.workers.iter().filter(|worker| worker.is_up);
    let oldest_ms = up().filter_map(|worker| worker.oldest_unsettled_ms).max().unwrap_or(0);
    metrics::workers(
        up().count(),
        up().filter(|worker| worker.is_ready).count(),
        up().filter(|worker| !worker.redis_available).count(),
        Duration::from_millis(oldest_ms.unsigned_abs()),
    );
    for webhook in &read.webhooks {
        metrics::webhooks::pool_stands(
            &webhook.name,
            webhook.disabled_at.is_some(),
            webhook.accounts_behind,
            webhook.accounts_exhausted,
            webhook.failing_seconds,
        );
    }
    for feed in &read.feeds {
        metrics::pool_feed(&feed.name, feed.holder.is_some(), feed.lag_rows, feed.lag_seconds);
    }
    metrics::debts::set(read.debts.iter().map(|debts| (debts.currency.as_str(), debts.accounts, debts.sum)));
    // Also the reasons without a case, so that a line goes down to zero and does not just end.
    for reason in Reason::ALL {
        let state = if reason.is_waiting() { "waiting" } else { "open" };
        metrics::cases(state, reason.as_str(), read.cases.count(state, Some(reason.as_str())));
    }
    let stuck = [("open", &read.cases.open), ("waiting", &read.cases.waiting)];
    for (state, sums) in stuck {
        metrics::cases::set_oldest(state, sums.oldest.map(since_1970_s));
    }
    let money = stuck.into_iter().flat_map(|(state, sums)| {
        sums.money.iter().map(move |(currency, amount)| (state, currency.as_str(), *amount))
    });
    metrics::cases::set_money(money);
    let money = read.by_source.iter();
    by_source.set_case_money(money.map(|(source, currency, sum)| (source.as_str(), currency.as_str(), *sum)));
    for (reason, oldest) in read.waiting {
        let max = if reason == Reason::WaitingForFunds { waits.for_funds } else { waits.for_payment };
        metrics::limits::waiting(reason.as_str(), oldest.map(since_1970_s), max);
    }
    let tables = read.sizes.tables.iter().map(|(table, bytes)| (table.as_str(), *bytes));
    metrics::limits::sizes(read.sizes.database_bytes, tables);
}

fn since_1970_s(at: OffsetDateTime) -> f64 {
    (at - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}
