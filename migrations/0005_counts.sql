-- What became of every callback, counted in the transaction that settles it, before the acknowledgement. So the sums are
-- exact whatever is killed when: a callback that is counted but not acknowledged comes again, and that copy counts as one.
create table tallies (
    minute timestamptz not null,
    -- Which lane of which worker; each has rows of its own, so that no two transactions meet here.
    writer text collate "C" not null,
    -- 'applied' (label: type), 'duplicate' (label: layer), 'quarantined' (label: reason): each callback is one of these.
    -- 'released' (label: type): a quarantined one that was applied later.
    kind text collate "C" not null check (kind in ('applied', 'duplicate', 'quarantined', 'released')),
    source text collate "C" not null,
    label text collate "C" not null,
    n bigint not null check (n >= 1),
    primary key (minute, writer, kind, source, label)
)
with (fillfactor = 50);

-- Which copies followed a callback, by the layer that turned them away.
create table duplicates (
    source text collate "C" not null,
    event_id text collate "C" not null,
    layer text collate "C" not null check (layer in ('batch', 'redis', 'ledger', 'operation', 'quarantine')),
    copies bigint not null check (copies >= 1),
    first_seen_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    primary key (event_id, source, layer)
)
with (fillfactor = 80);

comment on table tallies is 'Callbacks settled, per minute, by outcome. Sum n over kinds applied, duplicate and quarantined.';
comment on table duplicates is 'Copies turned away, per idempotency key and layer.';
