-- What operators do to accounts stands in the audit log too: adjustments, and accounts that they open, close and freeze.
alter table operator_actions drop constraint operator_actions_action_check;
alter table operator_actions add constraint operator_actions_action_check
    check (action in ('replay', 'discard', 'reopen', 'assign', 'adjust', 'open', 'close', 'freeze'));
comment on table operator_actions is 'What operators did to cases and accounts: who, when and why.';
