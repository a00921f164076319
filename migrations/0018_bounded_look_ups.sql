-- A provider that gives one operation_id, or one event id, to all that it sends makes a case of nearly every callback. What a decision asks
-- about such a key is only who owns it: the oldest case that no person has discarded, before those that own nothing (they contradict the
-- owner, or were given up by the broker). These indexes hold the cases of a key in that order, so that the answer is their first entry,
-- however many there are. The expressions are those of KNOWN_CASES (src/store/load.rs), word for word.
create index quarantine_operation_owner on quarantine
    (coalesce(operation_id, payment_id), type, source, (reason in ('payload_mismatch', 'delivery_limit', 'unmapped')),
     (state = 'discarded'), id)
    where operation_id is not null or payment_id is not null
          and type in ('deposit.succeeded', 'payment.authorized', 'payment.succeeded');
create index quarantine_key_owner on quarantine
    (event_id, source, (reason in ('payload_mismatch', 'delivery_limit', 'unmapped')), (state = 'discarded'), id)
    where type is not null;
drop index quarantine_operation;
drop index quarantine_key;

-- No plan of a look-up may read all cases of a source in place of those of a key, however empty PostgreSQL believes the table to be: its
-- condition is one that `source = $1` does not imply, and that lists for people add. No source is empty.
drop index quarantine_source;
create index quarantine_source_newest on quarantine (source, id) where source <> '';
