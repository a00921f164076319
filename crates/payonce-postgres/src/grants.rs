//! Which role may do what: the least that each needs. Given by `payonce migrate`, so that a migration that adds a table and the
//! rights on it come together; a test compares this list with the tables.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{StoreError, rows::each};

/// What a role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grantee {
    /// Applies callbacks.
    Worker,
    /// Reads everything, and works cases. A replay writes what a worker would have written, in the same transaction, so this role
    /// may write what a worker may.
    Ops,
    /// Reads everything.
    Reader,
    /// Answers applications: reads balances, and of cases only where a callback ended.
    Api,
    /// Reads the ledger, and keeps how far it has sent it.
    Feed,
}

impl Grantee {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "a worker",
            Self::Ops => "ops",
            Self::Reader => "a reader",
            Self::Feed => "a feed",
            Self::Api => "an api",
        }
    }
}

/// Why a role was given nothing.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// It does not exist, or no grant could bind it.
    #[error("{0}")]
    Role(String),
    /// The database could not be asked, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for GrantError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Every table and view, and what a worker may do with it; empty: nothing. No DELETE and no TRUNCATE anywhere; on the ledger no UPDATE, and no say in when
/// a row was recorded; elsewhere only the columns that change.
pub const WORKER_RIGHTS: &[(&str, &str)] = &[
    ("_sqlx_migrations", "select"),
    ("accounts", "select, insert, update (balance, held, version, cases)"),
    (
        "ledger",
        "select, insert (source, event_id, leg, type, account_id, account_version, payment_id, operation_id, amount, currency, \
         balance_delta, held_delta, balance_after, held_after, payload_sha256, occurred_at, members)",
    ),
    (
        "payments",
        "select, insert, update (state, authorized, captured, refunded, version, facts, expires_at)",
    ),
    (
        "quarantine",
        "select, insert, update (reason, detail, state, account_id, attempts, last_seen_at, resolved_at, resolved_by, \
         resolved_why, waits_since)",
    ),
    ("callback_references", "insert (event_id, source, name, value)"),
    ("tallies", "select, insert, update (n)"),
    ("tally_totals", ""),
    ("duplicates", "insert (source, event_id, layer, copies)"),
    ("duplicate_sums", ""),
    ("duplicates_of_keys", ""),
    ("removed_cases", ""),
    ("workers", "select, insert, update"),
    ("operator_actions", ""),
    ("operator_action_cases", ""),
    // Whether the ledger is ahead of its cluster is asked before the first batch.
    ("ledger_clock", "select"),
    ("feeds", ""),
    ("webhooks", ""),
    ("webhook_accounts", ""),
    ("journal", ""),
    ("ledger_of_payments", "select"),
    // Kept by triggers, with their owner's rights.
    ("debts", ""),
    ("case_changes", ""),
    ("case_sums", ""),
    ("proposals", ""),
    ("ended_sessions", ""),
];

/// What sends the ledger on may do.
const FEED_RIGHTS: &[(&str, &str)] = &[
    ("_sqlx_migrations", "select"),
    ("accounts", "select"),
    ("ledger", "select"),
    ("ledger_clock", "select"),
    (
        "feeds",
        "select, insert, update (txn, account_id, account_version, sent, epoch, holder, lease_until, updated_at, last_error)",
    ),
    (
        "webhooks",
        "select, insert (name), update (disabled_at, disabled_why, failing_since, delivered_at, delivered, history_before, history_txn, acts)",
    ),
    (
        "webhook_accounts",
        "select, insert (subscriber, account_id, delivered, wanted), \
         update (delivered, wanted, attempts, failing_since, due_at, last_error)",
    ),
    // What people do to subscribers, with the feed's role.
    ("operator_actions", "insert (who, via, action, why, chosen, ended_at, result)"),
];

/// What those who work cases, and open, close and freeze accounts, may do besides.
const OPS_RIGHTS: &[(&str, &str)] = &[
    ("accounts", "update (status)"),
    ("operator_actions", "select, insert, update (ended_at, cases, result, outcome)"),
    ("operator_action_cases", "select, insert"),
    (
        "proposals",
        "select, insert (idempotency_key, action, arguments, chosen, why, proposed_by, via, expires_at), \
         update (state, decided_at, decided_by, decided_why, action_id)",
    ),
    // Who logs out.
    ("ended_sessions", "select, insert"),
    // A case that is handed to another account, or taken by a person.
    ("quarantine", "update (account_id, members, assignee)"),
];

/// What numbers cases: whoever stores them gives them their ids, in the order in which their messages came.
const CASE_IDS: &str = "quarantine_id_seq";

/// What adds counts up and forgets silent workers, with the owner's rights: nobody else may delete.
const FUNCTIONS: &str = "add_up_lanes, add_up_counts, add_up_duplicates, add_up_cases, forget_silent_workers, forget_ended_sessions";

/// What answers applications may do.
const API_RIGHTS: &[(&str, &str)] = &[
    ("_sqlx_migrations", "select"),
    ("accounts", "select"),
    ("ledger", "select"),
    ("ledger_of_payments", "select"),
    ("ledger_clock", "select"),
    ("payments", "select"),
    ("quarantine", "select (id, source, event_id, account_id, reason, state, first_seen_at)"),
];

/// What keeps the feed's index fresh, and forgets what subscribers have taken, with the owner's rights.
const FEED_FUNCTIONS: &str = "summarize_ledger_txn, forget_settled_webhooks, forget_webhook";
/// The rights of one table: verb and, where it is of some columns only, each of these.
fn each_right(rights: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut is_in_columns = false;
    let verbs = rights.split(move |c| {
        is_in_columns = c == '(' || is_in_columns && c != ')';
        c == ',' && !is_in_columns
    });
    verbs.map(str::trim).filter(|right| !right.is_empty()).flat_map(|right| {
        let (verb, columns) =
            right.split_once(" (").map_or((right, None), |(verb, columns)| (verb, Some(columns)));
        let columns = columns.map(|columns| columns.trim_end_matches(')').split(',').map(str::trim));
        match columns {
            None => vec![(verb, None)],
            Some(columns) => columns.map(|column| (verb, Some(column))).collect(),
        }
    })
}

/// Refuses a role that lacks a right that a worker needs, before it takes messages that it could not write.
///
/// # Errors
/// [`StoreError::Unavailable`], which names table, right and the command that gives it: it can be given while the worker waits.
pub async fn check_worker_rights(connection: &mut PgConnection) -> Result<(), StoreError> {
    let needed: Vec<(&str, &str, Option<&str>)> = WORKER_RIGHTS
        .iter()
        .flat_map(|(table, rights)| each_right(rights).map(move |(verb, column)| (*table, verb, column)))
        .collect();
    let missing: Vec<String> = sqlx::query_scalar(
        "select upper(verb) || case when bool_and(is_missing) then ''
                                    else ' (' || string_agg(col, ', ') filter (where is_missing) || ')' end || ' on ' || tab
         from (select tab, verb, col,
                      not case when col is null then has_any_column_privilege(tab, verb)
                               else has_column_privilege(tab, col, verb) end as is_missing
               from unnest($1::text[], $2::text[], $4::text[]) as needed(tab, verb, col)) needed
         group by tab, verb having bool_or(is_missing)
         union all
         select 'USAGE on ' || $3 where not has_sequence_privilege($3, 'usage')",
    )
    .bind(each(&needed, |(table, ..)| *table))
    .bind(each(&needed, |(_, verb, _)| *verb))
    .bind(CASE_IDS)
    .bind(each(&needed, |(.., column)| *column))
    .fetch_all(connection)
    .await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::Unavailable(format!(
        "the role lacks {}: `payonce migrate --grant-worker ROLE` (or --grant-ops) gives it its rights",
        missing.join(", ")
    )))
}

/// Gives `role` its rights on the tables and functions of this database and takes all others there away, in one transaction: a running worker
/// never sees less. By the owner of the tables.
///
/// # Errors
/// [`GrantError::Role`] where the role does not exist, or is a superuser or the owner, whom grants do not bind.
pub async fn grant(connection: &mut PgConnection, role: &str, grantee: Grantee) -> Result<(), GrantError> {
    check_role(connection, role).await?;
    let role = quoted(role);
    let schema: String =
        sqlx::query_scalar("select quote_ident(current_schema())").fetch_one(&mut *connection).await?;
    let mut transaction = connection.begin().await?;
    let mut run = async |statement: String| {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await.map(|_| ())
    };
    run(format!("revoke all on all tables in schema {schema} from {role}")).await?;
    run(format!("revoke all on sequence {CASE_IDS} from {role}")).await?;
    run(format!("revoke all on function {FUNCTIONS}, {FEED_FUNCTIONS} from {role}")).await?;
    run(format!("grant usage on schema {schema} to {role}")).await?;
    // Taking a right on the table away, as above, takes it on its columns too.
    let (reads_all, writes) = match grantee {
        Grantee::Worker => (false, true),
        Grantee::Ops => (true, true),
        Grantee::Reader => (true, false),
        Grantee::Feed | Grantee::Api => (false, false),
    };
    for (table, rights) in WORKER_RIGHTS {
        if writes && !rights.is_empty() {
            run(format!("grant {rights} on {table} to {role}")).await?;
        }
        if reads_all {
            run(format!("grant select on {table} to {role}")).await?;
        }
    }
    if writes {
        run(format!("grant usage on sequence {CASE_IDS} to {role}")).await?;
        run(format!("grant execute on function {FUNCTIONS} to {role}")).await?;
    }
    if grantee == Grantee::Ops {
        for (table, rights) in OPS_RIGHTS {
            run(format!("grant {rights} on {table} to {role}")).await?;
        }
    }
    if grantee == Grantee::Api {
        for (table, rights) in API_RIGHTS {
            run(format!("grant {rights} on {table} to {role}")).await?;
        }
    }
    if grantee == Grantee::Feed {
        for (table, rights) in FEED_RIGHTS {
            run(format!("grant {rights} on {table} to {role}")).await?;
        }
        run(format!("grant execute on function {FEED_FUNCTIONS} to {role}")).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn check_role(connection: &mut PgConnection, role: &str) -> Result<(), GrantError> {
    let found: Option<(bool, bool)> = sqlx::query_as(
        "select r.rolsuper, pg_has_role(r.oid, c.relowner, 'member')
         from pg_roles r, pg_class c where r.rolname = $1 and c.oid = 'ledger'::regclass",
    )
    .bind(role)
    .fetch_optional(connection)
    .await?;
    match found {
        None => Err(GrantError::Role(format!(
            "there is no role {role:?}: make it first, as deploy/postgres/roles.sql does"
        ))),
        Some((true, _)) => {
            Err(GrantError::Role(format!("role {role:?} is a superuser: no grant can bind it; use another")))
        }
        Some((false, true)) => Err(GrantError::Role(format!(
            "role {role:?} owns the tables, or is a member of their owner: no grant can bind it; use another"
        ))),
        Some((false, false)) => Ok(()),
    }
}

/// As an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
