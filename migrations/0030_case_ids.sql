-- Whoever stores cases gives them their ids now, so that those of a batch are numbered in the order in which their messages came, whatever the
-- order in which they are inserted. Roles that may insert cases may number them: `payonce migrate --grant-worker` and `--grant-ops` give both.
do $$
declare
    inserting record;
begin
    for inserting in
        select distinct r.rolname
        from pg_class c, aclexplode(c.relacl) a, pg_roles r
        where c.oid = 'quarantine'::regclass and a.privilege_type = 'INSERT' and r.oid = a.grantee
    loop
        execute format('grant usage on sequence quarantine_id_seq to %I', inserting.rolname);
    end loop;
end
$$;

comment on table _sqlx_migrations is 'schema 30 is usable by programs of schema 29 and later';
