-- Counts grow old without their sums changing: rows of one minute and lane are added up to minutes, these to hours, to days, and
-- to one total, each move in one statement. `tallies` stays the one table: whoever sums n over it gets what really happened, at
-- any moment, whatever is killed when.
alter table tallies add column grain text collate "C" not null default 'lane';
-- A row that was added up has its grain in place of a writer, so the key keeps a midnight's minute, hour and day apart.
alter table tallies add constraint tallies_grain
    check (grain = 'lane' or (grain in ('minute', 'hour', 'day', 'total') and writer = grain));
-- What is old enough to be added up, and the few rows that are not yet in `tally_totals`.
create index tallies_by_grain on tallies (grain, minute);

-- The sums over all rows of `tallies` but those of grain `lane`, changed in the statement that adds a lane's row up: the totals are
-- read from here and a few minutes of lanes, not from months of history. Also the list of the sources that history names: bounded,
-- whoever invents sources at will.
create table tally_totals (
    kind text collate "C" not null check (kind in ('applied', 'duplicate', 'quarantined', 'released')),
    source text collate "C" not null,
    label text collate "C" not null,
    n bigint not null check (n >= 1),
    primary key (kind, source, label)
)
with (fillfactor = 50);

comment on column tallies.grain is 'lane: counts of one minute as a lane wrote them; minute, hour, day: added up over lanes and sources beyond the limit; total: older than all of these.';
comment on table tally_totals is 'Sums over tallies but grain lane, per kind, source and label.';
