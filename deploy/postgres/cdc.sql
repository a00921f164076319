-- For those who read the ledger with Debezium or another reader of logical replication (docs/cdc.md), in place of `payonce feed`.
-- Run once by the owner of the tables, after `payonce migrate`; the server needs wal_level = logical.
--
--   psql --set cdc_role=payonce_cdc "$PAYONCE_DATABASE_URL" -f deploy/postgres/cdc.sql
--
-- The publication has to be there before the reader makes its slot: a slot that is older than its publication fails for ever
-- (`publication "payonce_ledger" does not exist`).

-- The ledger is append-only: there is nothing to publish but inserts, and no replica identity is needed.
create publication payonce_ledger for table ledger with (publish = 'insert');

-- Reads this one table, for the first copy, and the stream. It has no password: give it one, or a certificate.
create role :"cdc_role" login replication;
grant select on ledger to :"cdc_role";
