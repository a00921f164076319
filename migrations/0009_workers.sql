-- How each worker is, by its own word, every few seconds: for people and alerts, never decided on, and never in a batch's
-- transaction. A row without news is removed after a day.
create table workers (
    -- Host and process id, as in logs and beside counts.
    name text collate "C" primary key,
    version text not null,
    -- By this database's clock, as every time here.
    started_at timestamptz not null,
    last_seen_at timestamptz not null default clock_timestamp(),
    -- How often it means to report.
    report_ms bigint not null check (report_ms > 0),
    -- It said goodbye.
    is_stopped boolean not null,
    -- It has a session with the broker.
    is_ready boolean not null,
    redis_available boolean not null,
    lanes integer not null,
    batch_size_max integer not null,
    prefetch_count integer not null,
    -- Since it started.
    received bigint not null,
    applied bigint not null,
    duplicates bigint not null,
    quarantined bigint not null,
    conflicts bigint not null,
    -- Over the interval before the last report: its length, deliveries settled, and how many of them per bucket of latency.
    interval_ms bigint not null,
    settled bigint not null,
    latency_buckets bigint[] not null,
    -- Of the delivery it has held longest without settling it; null where it holds none.
    oldest_unsettled_ms bigint,
    -- The last failure that it went on after, without secrets.
    last_error text,
    last_error_at timestamptz
)
with (fillfactor = 50);

comment on table workers is 'How each worker is, by its own word; rows without news are removed after a day.';
