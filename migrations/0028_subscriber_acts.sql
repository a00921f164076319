-- What people do to subscribers over HTTPS stands in the audit log, too.
alter table operator_actions drop constraint operator_actions_action_check;
alter table operator_actions add constraint operator_actions_action_check
    check (action in ('replay', 'discard', 'reopen', 'assign', 'adjust', 'open', 'close', 'freeze', 'enable', 'disable', 'resend', 'forget'));
comment on table operator_actions is 'What operators did to cases, accounts and subscribers: who, when and why.';
comment on table _sqlx_migrations is 'schema 28 is usable by programs of schema 27 and later';
