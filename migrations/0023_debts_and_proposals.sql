-- Accounts that owe money, and acts that wait for a second person.

-- An index over what accounts owe would take away the cheapest update that there is (heap-only tuples: no index covers what changes in
-- accounts). So debts have a table of their own, which a trigger keeps: its condition is all that other updates pay, and whoever writes
-- accounts, workers of the release before included, keeps the list right.
create table debts (
    account_id text collate "C" primary key,
    currency text collate "C" not null,
    -- Minor units: held − balance.
    debt bigint not null check (debt >= 1),
    -- When it last had none.
    since timestamptz not null default clock_timestamp()
)
with (fillfactor = 50);
-- The number and the sum of each currency from the index alone, and the largest first.
create index debts_largest on debts (currency, debt desc, account_id);
comment on table debts is 'Accounts whose available money is below zero; kept by the trigger debts of accounts.';

create function keep_debts() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    if new.balance < new.held then
        insert into debts as d (account_id, currency, debt) values (new.account_id, new.currency, new.held - new.balance)
        on conflict (account_id) do update set debt = excluded.debt where d.debt <> excluded.debt;
    else
        delete from debts where account_id = new.account_id;
    end if;
    return null;
end
$$;
revoke all on function keep_debts() from public;
-- From here on until the commit nobody writes accounts: the list below misses none.
create trigger debts after update on accounts for each row
    when (new.balance < new.held or old.balance < old.held) execute function keep_debts();
create trigger debts_opened after insert on accounts for each row
    when (new.balance < new.held) execute function keep_debts();
insert into debts (account_id, currency, debt)
    select account_id, currency, held - balance from accounts where balance < held;

-- What one person asks for and another one decides on (setting `approvals`). A row is written once, and decided once.
create table proposals (
    id bigint generated always as identity primary key,
    -- Of one key there is one proposal: a request that is sent again is answered as the first was.
    idempotency_key text collate "C" not null unique check (octet_length(idempotency_key) between 1 and 200),
    action text collate "C" not null check (action in ('adjust', 'assign', 'replay', 'discard', 'reopen')),
    -- What is to be done, for the program, and in words.
    arguments jsonb not null,
    chosen text not null,
    why text not null check (octet_length(why) between 1 and 1000),
    proposed_by text not null check (octet_length(proposed_by) between 1 and 200),
    via text collate "C" not null check (via in ('web', 'api', 'command line')),
    proposed_at timestamptz not null default clock_timestamp(),
    -- From then on it can only be rejected, or made anew.
    expires_at timestamptz not null,
    state text collate "C" not null default 'proposed' check (state in ('proposed', 'approved', 'rejected')),
    decided_at timestamptz,
    decided_by text check (octet_length(decided_by) between 1 and 200),
    -- Of a rejection.
    decided_why text check (octet_length(decided_why) between 1 and 1000),
    -- The line of the audit log that carried it out.
    action_id bigint references operator_actions,
    constraint proposals_decided check ((state = 'proposed') = (decided_at is null) and (state = 'proposed') = (decided_by is null)
        and (state = 'approved') = (action_id is not null)),
    -- Whoever asks the database, no person approves their own.
    constraint proposals_second_person check (state <> 'approved' or lower(btrim(decided_by)) <> lower(btrim(proposed_by)))
);
create index proposals_undecided on proposals (expires_at) where state = 'proposed';
comment on table proposals is 'Acts of operators that need a second person: who asks, who decided.';

alter table operator_actions
    -- Of one key there is one act.
    add column idempotency_key text collate "C" check (octet_length(idempotency_key) between 1 and 200),
    -- Who asked for it, where another person approved; that one is `who`.
    add column proposed_by text check (octet_length(proposed_by) between 1 and 200),
    -- What came of it, for programs: what a request that is sent again is answered with.
    add column outcome jsonb;
create unique index operator_actions_key on operator_actions (idempotency_key) where idempotency_key is not null;
