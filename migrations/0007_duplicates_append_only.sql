-- A copy that is turned away is the cheapest thing that a worker does, so its trail must cost little: a row is only appended, with
-- one narrow index, where it used to look up and rewrite the row of its key and layer (a third of the cost; the readers add up).
alter table duplicates drop constraint duplicates_pkey;
alter table duplicates drop column last_seen_at;
alter table duplicates rename column first_seen_at to seen_at;
alter table duplicates reset (fillfactor);
create index duplicates_event on duplicates (event_id);
-- The newest, and those of a time, without reading all.
create index duplicates_seen_at on duplicates using brin (seen_at) with (pages_per_range = 32, autosummarize = on);

comment on table duplicates is 'Copies turned away: a row per batch, idempotency key and layer. Append-only.';
