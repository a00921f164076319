-- Subscribers over HTTPS. How far each has read the ledger stands in `feeds`, under the same name; here stands what it has not answered yet.
-- One row for each subscriber, and one for each of its accounts that is behind: nothing here grows with the ledger.
create table webhooks (
    name text collate "C" primary key check (octet_length(name) between 1 and 200),
    -- Nothing is sent to it from then on, until a person enables it.
    disabled_at timestamptz,
    disabled_why text,
    -- Since when no event was taken; null while it takes some.
    failing_since timestamptz,
    delivered_at timestamptz,
    -- Events that it has taken; copies count.
    delivered bigint not null default 0,
    -- The history before this one, and where it was left, while the subscriber has not been told of the new one.
    history_before text collate "C",
    history_txn bigint,
    -- Rises with each act of a person, so that the feed forgets how long it meant to wait.
    acts bigint not null default 0,
    check ((disabled_at is null) = (disabled_why is null)),
    check ((history_before is null) = (history_txn is null))
)
with (fillfactor = 50);
comment on table webhooks is 'Subscribers of the feed over HTTPS, and whether they take what they are sent.';

create table webhook_accounts (
    subscriber text collate "C" not null references webhooks (name) on delete cascade,
    -- Empty: the news that the history is another, which goes before all accounts. No account has an empty id.
    account_id text collate "C" not null check (octet_length(account_id) <= 200),
    -- The last version that the subscriber has taken, and the last that it is to get. Equal for a moment: then the row goes.
    delivered bigint not null check (delivered >= 0),
    wanted bigint not null,
    -- Tries since it took one.
    attempts integer not null default 0,
    failing_since timestamptz,
    -- The next try; infinity: given up until a person enables the subscriber, or replays the account.
    due_at timestamptz not null default clock_timestamp(),
    last_error text,
    primary key (subscriber, account_id),
    check (delivered <= wanted)
)
with (fillfactor = 50);
create index webhook_accounts_due on webhook_accounts (subscriber, due_at);
create index webhook_accounts_settled on webhook_accounts (subscriber) where delivered = wanted;
comment on table webhook_accounts is 'Accounts of which a subscriber has not taken all that it is to get.';

-- With the owner's rights, because no role may delete. A row whose account has news meanwhile is another version by then, and stays.
create function forget_settled_webhooks(of_subscriber text) returns void
language sql security definer set search_path = public, pg_temp as $$
    delete from webhook_accounts where subscriber = of_subscriber and delivered = wanted
$$;
-- A subscriber that is in no configuration any more. Its feed must have ended.
create function forget_webhook(of_subscriber text) returns boolean
language sql security definer set search_path = public, pg_temp as $$
    with gone as (
        delete from feeds using webhooks
        where feeds.name = of_subscriber and webhooks.name = feeds.name
          and (feeds.lease_until is null or feeds.lease_until < clock_timestamp())
        returning feeds.name
    ),
    forgotten as (delete from webhooks where name in (table gone) returning name)
    select exists (table forgotten)
$$;
revoke all on function forget_settled_webhooks(text), forget_webhook(text) from public;
