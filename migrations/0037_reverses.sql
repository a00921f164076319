-- A reinstatement says what it takes back (`data.reverses`, a member of the ledger's and of cases' content). A program that does not know that would
-- give back another refund's money, or take such a row for damaged: none of before may go on with this schema.
comment on table _sqlx_migrations is 'schema 37 is usable by programs of schema 37 and later';
