-- Roles and database, once per cluster, by a superuser. Safe to repeat.
--
--   psql -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql postgres          # database payonce; another: -v database=NAME
--   psql -c '\password payonce_owner' postgres                             # and so for the others; never on a command line
--   payonce migrate --declare --grant-worker payonce_worker --grant-ops payonce_ops --grant-reader payonce_reader \
--     --grant-feed payonce_feed --grant-api payonce_api
--
-- What the roles may do with the tables is not said here: `payonce migrate` gives it, at every upgrade, because a new version may
-- bring tables (crates/payonce-postgres/src/grants.rs).
\if :{?database}
\else
    \set database payonce
\endif

-- Owns the tables: migrations only. Nothing that runs all day logs in as this one.
select format('create role %I login', name) from unnest(array['payonce_owner', 'payonce_worker', 'payonce_ops', 'payonce_reader', 'payonce_feed', 'payonce_api']) as name
where not exists (select from pg_roles where rolname = name) \gexec
-- payonce opens a transaction per batch and asks for deadlines itself; these bind whoever holds a stolen password.
alter role payonce_worker nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 200;
alter role payonce_ops nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 50;
alter role payonce_feed nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 50;
alter role payonce_api nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 200;
alter role payonce_api set default_transaction_read_only = on;
alter role payonce_reader nosuperuser nocreatedb nocreaterole noreplication nobypassrls connection limit 50;
alter role payonce_reader set default_transaction_read_only = on;

select format('create database %I owner payonce_owner', :'database')
where not exists (select from pg_database where datname = :'database') \gexec
-- By default everybody may connect and make temporary tables.
revoke all on database :"database" from public;
grant connect on database :"database" to payonce_worker, payonce_ops, payonce_reader, payonce_feed, payonce_api;
\connect :"database"
-- The default since PostgreSQL 15; a database that was upgraded from an older one still lets everybody create.
revoke create on schema public from public;
-- The cluster's identity is read with each batch, so that a former primary is recognised.
grant execute on function pg_control_system() to payonce_owner, payonce_worker, payonce_ops, payonce_reader, payonce_feed;
