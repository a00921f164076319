-- What a message of reason bad_signature claimed: with it, the message can be verified again when its source's key is known. Null where
-- the header was missing, and for every other reason.
alter table quarantine add column webhook_id text;
alter table quarantine add column webhook_timestamp text;
alter table quarantine add column webhook_signature text;

comment on column quarantine.fingerprint is
    'payload_sha256 of a callback; of a message that is none, SHA-256 of the body; for bad_signature, of the headers and the body, so '
    'that a forged copy does not stand for the real message.';

-- What is known of an idempotency key, without the messages that only claim it: anybody who can write to the queue can make any number
-- of those for one key, and looking at each would slow its real callback down.
create index quarantine_key on quarantine (event_id, source) where type is not null;
