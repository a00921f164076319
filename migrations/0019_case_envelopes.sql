-- What a message carried beside its body, where it could not be decoded or nothing proved where it comes from: three messages in
-- CloudEvents binary mode have equal bodies, and only their headers tell them apart. Null for a callback, whose body says all of it.
alter table quarantine add column routing_key text;
-- JSON objects, as text: card data in them is masked like that of a body, and nothing that a publisher writes may make a row unwritable.
alter table quarantine add column properties text;
alter table quarantine add column headers text;

comment on column quarantine.headers is
    'Headers of the message by name, a JSON object of at most 16 KiB: long texts are cut, of too many the first are kept. The fingerprint '
    'is made of all of them.';
comment on column quarantine.fingerprint is
    'payload_sha256 of a callback; of a message that is none, SHA-256 of routing key, properties, headers (but for what the broker adds) '
    'and body; for bad_signature, of the signature''s headers and the body, so that a forged copy does not stand for the real message.';

-- A discarded case can be reopened, and handed to another account.
alter table operator_actions drop constraint operator_actions_action_check;
alter table operator_actions add constraint operator_actions_action_check
    check (action in ('replay', 'discard', 'reopen', 'assign'));
