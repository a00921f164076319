-- What people did to cases: replays and discards, from the web pages, the operators' API or the command line. A row is written before
-- the first case is touched, so nothing is done without a trace; one that never ended was cut short.
create table operator_actions (
    id bigint generated always as identity primary key,
    began_at timestamptz not null default clock_timestamp(),
    -- Null: at work, or cut short.
    ended_at timestamptz,
    who text not null check (octet_length(who) between 1 and 200),
    via text collate "C" not null check (via in ('web', 'api', 'command line')),
    action text collate "C" not null check (action in ('replay', 'discard')),
    why text not null,
    -- The cases that were asked for, in words.
    chosen text not null,
    -- How many were looked at so far.
    cases bigint not null default 0 check (cases >= 0),
    -- What came of it, in words.
    result text
);

-- Which cases an action looked at: the trail of one case.
create table operator_action_cases (
    case_id bigint not null,
    action_id bigint not null references operator_actions,
    primary key (case_id, action_id)
);

-- A page of cases, newest first, whatever of state, source or payment it is filtered by.
create index quarantine_state_newest on quarantine (state, id);
create index quarantine_source on quarantine (source, id) where source is not null;
create index quarantine_payment on quarantine (payment_id, id) where payment_id is not null;

comment on table operator_actions is 'Who replayed or discarded which cases, when and why.';
