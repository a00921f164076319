-- An audit of what is new (`payonce audit --since`) finds it without reading the whole ledger. Rows are appended in the order of
-- this column, so a summary per range of pages is enough, and costs an insert almost nothing.
create index ledger_recorded_at on ledger using brin (recorded_at) with (pages_per_range = 32, autosummarize = on);
