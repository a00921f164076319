-- One row per distinct callback that is not in the ledger: it waits for another callback, or for a person.
create table quarantine (
    id bigint generated always as identity primary key,
    -- Null where the message could not be read that far.
    source text collate "C",
    event_id text collate "C",
    reason text collate "C" not null check (reason in (
        'malformed', 'unsupported_type', 'bad_signature', 'payload_mismatch', 'unknown_account', 'currency_mismatch',
        'insufficient_funds', 'invalid_transition', 'over_capture', 'over_refund', 'amount_overflow', 'waiting_expired',
        'delivery_limit', 'waiting_for_payment')),
    -- For a person: what exactly, and where.
    detail text not null,
    -- Byte for byte as it came.
    body bytea not null,
    state text collate "C" not null check (state in ('waiting', 'open', 'replayed', 'discarded')),
    -- How often it came.
    attempts integer not null check (attempts >= 1),
    first_seen_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    -- payload_sha256 of a callback; SHA-256 of the body where it could not be decoded.
    fingerprint bytea not null check (octet_length(fingerprint) = 32),
    -- The decoded callback; null where it could not be decoded.
    type text collate "C",
    account_id text collate "C",
    payment_id text collate "C",
    operation_id text collate "C",
    amount bigint,
    currency text collate "C",
    is_final boolean,
    occurred_at timestamptz,
    -- Who ended the case, when, and why.
    resolved_at timestamptz,
    resolved_by text,
    resolved_why text,

    -- One case per distinct content: a further copy only raises attempts and last_seen_at.
    constraint quarantine_content unique nulls not distinct (event_id, source, fingerprint),
    constraint quarantine_waiting check ((state = 'waiting') = (reason = 'waiting_for_payment' and resolved_at is null))
);

-- What waits for a payment.
create index quarantine_waiting_payment on quarantine (payment_id, source) where state = 'waiting';
-- A fact that is quarantined under another event.
create index quarantine_operation on quarantine (operation_id, type, source) where operation_id is not null;
-- Lists for people: by state and reason, newest first.
create index quarantine_state on quarantine (state, reason, id);
create index quarantine_account on quarantine (account_id, id) where account_id is not null;

comment on table quarantine is 'Callbacks that are not in the ledger, with their bodies.';
