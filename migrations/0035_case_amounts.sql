-- Support looks for a payment by its amount. Cases are few enough to have an index for it; the ledger is not: there a range of `recorded_at` is read, so that
-- applying a callback costs what it did.
create index quarantine_amount on quarantine (amount, currency, id) where amount is not null;
comment on table _sqlx_migrations is 'schema 35 is usable by programs of schema 29 and later';
