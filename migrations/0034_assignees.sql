-- Which person works on a case. No decision rests on it: workers neither read nor write it.
alter table quarantine add column assignee text collate "C";
-- Not validated: no row has one yet, and to look for that would keep workers from the table for as long as all cases are read.
alter table quarantine add constraint quarantine_assignee_check check (octet_length(assignee) between 1 and 200) not valid;
-- What somebody works on, newest first. Most cases have nobody.
create index quarantine_assignee on quarantine (assignee, id) where assignee is not null;

-- Taking a case, handing it back and noting something about it stand in the audit log; a note is its line.
alter table operator_actions drop constraint operator_actions_action_check;
alter table operator_actions add constraint operator_actions_action_check
    check (action in ('replay', 'discard', 'reopen', 'assign', 'take', 'hand_back', 'note', 'adjust', 'open', 'close', 'freeze',
                      'enable', 'disable', 'resend', 'forget'));

-- Roles that may hand a case to another account may give it to a person.
do $$
declare
    granted record;
begin
    for granted in
        select distinct r.rolname
        from pg_attribute c, aclexplode(c.attacl) a, pg_roles r
        where c.attrelid = 'quarantine'::regclass and c.attname = 'account_id' and a.privilege_type = 'UPDATE' and r.oid = a.grantee
    loop
        execute format('grant update (assignee) on quarantine to %I', granted.rolname);
    end loop;
end
$$;

comment on table _sqlx_migrations is 'schema 34 is usable by programs of schema 29 and later';
