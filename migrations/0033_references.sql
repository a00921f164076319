-- What callbacks can be found by besides their ids: an order, a customer, by the names in `reference_fields`. Written in the transaction that writes the
-- callback's ledger row or case, and only where names are set. No decision, balance or audit rests on it: its owner may delete from it.
create table callback_references (
    event_id text collate "C" not null,
    source text collate "C" not null,
    name text collate "C" not null check (octet_length(name) between 1 and 100),
    value text collate "C" not null check (octet_length(value) between 1 and 200),
    recorded_at timestamptz not null default statement_timestamp(),
    -- A copy that comes again, or a case that is decided again, adds nothing. The event first, as in `ledger_key`.
    constraint callback_references_key primary key (event_id, source, name, value)
);
-- Of one value, such as a customer, the newest first.
create index callback_references_value on callback_references (value, recorded_at);
comment on table callback_references is 'Named references of callbacks, for searches only.';

-- Roles that may store cases may store references, and roles that read all tables read these.
do $$
declare
    granted record;
begin
    for granted in
        select distinct r.rolname, case a.privilege_type when 'INSERT' then 'insert (event_id, source, name, value)' else 'select' end as rights
        from pg_class c, aclexplode(c.relacl) a, pg_roles r
        where (c.oid = 'quarantine'::regclass and a.privilege_type = 'INSERT' or c.oid = 'duplicate_sums'::regclass and a.privilege_type = 'SELECT')
          and r.oid = a.grantee and r.oid <> c.relowner
    loop
        execute format('grant %s on callback_references to %I', granted.rights, granted.rolname);
    end loop;
end
$$;

-- As it was, and the references of a removed case go with it, unless its callback is known otherwise too.
create or replace function remove_discarded_cases(
    of_reason text, of_source text, older_than interval, who text, why text, rows_max bigint) returns bigint
language sql set search_path = public, pg_temp as $$
    with gone as (
        delete from quarantine
        where id = any(array(
            select id from quarantine
            where state = 'discarded' and reason = of_reason and (of_source is null or source = of_source)
              and resolved_at < now() - older_than
            order by id limit rows_max for update skip locked))
        returning id, reason, account_id, source, event_id
    ),
    -- This statement still sees the cases that it removes.
    forgotten as (
        delete from callback_references r
        using (select distinct source, event_id from gone) g
        where r.source = g.source and r.event_id = g.event_id
          and not exists (select 1 from ledger l where l.event_id = g.event_id and l.source = g.source)
          and not exists (select 1 from quarantine q where q.event_id = g.event_id and q.source = g.source
                          and q.id not in (select id from gone))
    ),
    counted as (
        insert into removed_cases (who, why, reason, account_id, n)
        select $4, $5, reason, account_id, count(*) from gone group by reason, account_id
    )
    select count(*) from gone
$$;

comment on table _sqlx_migrations is 'schema 33 is usable by programs of schema 29 and later';
