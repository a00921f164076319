-- The rows of one statement are recorded at one time. They had one each, in the order in which they were inserted, which is that of their keys: a report that
-- ends between two of them had the second version of an account without the first, or one side of a transfer. Rows of before stay as they are.
alter table ledger alter column recorded_at set default statement_timestamp();

comment on table _sqlx_migrations is 'schema 31 is usable by programs of schema 29 and later';
