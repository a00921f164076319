-- Sessions of `payonce ops` that people have ended by logging out. A session is a signed cookie, which proves itself to every replica and after a
-- restart; so that it has ended has to be known to all of them. `session` is a hash of its id: who reads this table can use none.
create table ended_sessions (
    session bytea primary key check (octet_length(session) = 32),
    -- From then on the cookie proves nothing any more, and the row is of no use.
    expires_at timestamptz not null
);

-- With the owner's rights: no role that runs all day may delete.
create function forget_ended_sessions() returns void
language sql security definer set search_path = public, pg_temp as $$
    delete from ended_sessions where expires_at < now()
$$;
revoke all on function forget_ended_sessions() from public;

-- Roles that may hand a case to another account serve the pages.
do $$
declare
    granted record;
begin
    for granted in
        select distinct r.rolname
        from pg_attribute c, aclexplode(c.attacl) a, pg_roles r
        where c.attrelid = 'quarantine'::regclass and c.attname = 'account_id' and a.privilege_type = 'UPDATE' and r.oid = a.grantee
    loop
        execute format('grant select, insert on ended_sessions to %I', granted.rolname);
        execute format('grant execute on function forget_ended_sessions() to %I', granted.rolname);
    end loop;
end
$$;

comment on table _sqlx_migrations is 'schema 32 is usable by programs of schema 29 and later';
