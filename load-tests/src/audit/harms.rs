//! The audits of the load tests can fail: a small run in a place of its own, and in one transaction each, which is rolled back, the harm that
//! a check is there for. No check is without one, and no column without somebody who looks at it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sqlx::PgConnection;

use super::{Copies, run};
use crate::{
    arguments::ReplayArgs,
    chaos::{case_history, inspect},
    ids::Ids,
    place::Place,
    plan::Plan,
    replay, workers,
};

/// What lets harm in.
pub const OPEN_UP: &str = "
    alter table ledger disable trigger all;
    alter table accounts disable trigger all;
    alter table ledger drop constraint ledger_key, drop constraint ledger_account_version, drop constraint ledger_held,
        drop constraint ledger_debts;
    drop index ledger_operation;
    alter table quarantine drop constraint quarantine_waiting;";

/// A ledger row of a deposit that belongs to no story, and of an account that has others behind it.
const SINGLE: &str = "(select event_id from ledger l where type = 'deposit.succeeded' and payment_id is null and leg = 0
    and account_version = 1 and amount < 1000000 and exists (select from ledger m where m.account_id = l.account_id and m.account_version > 1)
    order by source, event_id limit 1)";

/// (check, harm); `$SINGLE` stands for the event of [`SINGLE`].
const HARMS: &[(&str, &str)] = &[
    ("nothing_is_invented", "update ledger set payload_sha256 = sha256('x') where event_id = $SINGLE"),
    ("nothing_is_invented", "update ledger set event_id = event_id || 'x' where event_id = $SINGLE"),
    ("nothing_is_invented", "update ledger set source = '/providers/nobody' where event_id = $SINGLE"),
    ("rows_say_what_was_published", "update ledger set type = 'fee.charged' where event_id = $SINGLE"),
    ("rows_say_what_was_published", "update ledger set payment_id = 'p' where event_id = $SINGLE"),
    ("rows_say_what_was_published", "update ledger set operation_id = 'o' where event_id = $SINGLE"),
    ("rows_say_what_was_published", "update ledger set amount = amount + 1 where event_id = $SINGLE"),
    ("rows_say_what_was_published", "update ledger set currency = 'XXX' where event_id = $SINGLE"),
    ("rows_say_what_was_published", "update ledger set balance_delta = balance_delta + 1 where event_id = $SINGLE"),
    (
        "rows_say_what_was_published",
        "update ledger set occurred_at = occurred_at + interval '1 second' where event_id = $SINGLE",
    ),
    (
        "rows_say_what_was_published",
        "update ledger set account_id = (select max(account_id) from accounts) where event_id = $SINGLE",
    ),
    (
        "every_callback_has_its_legs_once",
        "insert into ledger select (jsonb_populate_record(l, '{\"account_version\": 999}')).* from ledger l where event_id = $SINGLE",
    ),
    ("every_callback_has_its_legs_once", "delete from ledger where leg = 1"),
    ("every_sound_callback_is_applied", "delete from ledger where event_id = $SINGLE"),
    // The money of one row of a payment stands in the next one of the same payment: every sum is right.
    (
        "each_row_of_a_payment_moves_what_it_adds",
        "with pair as (
             select l.account_id, l.account_version from ledger l join ledger n
                 on n.account_id = l.account_id and n.account_version = l.account_version + 1
                    and n.payment_id = l.payment_id and n.source = l.source
             where l.type like 'payment.%' and n.type like 'payment.%' order by 1, 2 limit 1)
         update ledger l
         set held_delta = held_delta + case when l.account_version = pair.account_version then 1 else -1 end,
             held_after = held_after + case when l.account_version = pair.account_version then 1 else 0 end
         from pair where l.account_id = pair.account_id and l.account_version - pair.account_version in (0, 1)",
    ),
    (
        "rows_of_a_payment_sum_up_to_what_is_known_of_it",
        "update ledger set held_delta = held_delta + 1
         where event_id = (select min(event_id) from ledger where type = 'payment.authorized')",
    ),
    ("nobody_is_refused_money_that_is_there", "$REFUSE"),
    ("balances_are_the_plans_sums", "update accounts set balance = balance + 1 where account_id = 'acct-1'"),
    ("balances_are_the_plans_sums", "update accounts set held = held + 1 where account_id = 'acct-1'"),
    ("balances_are_the_plans_sums", "update accounts set version = version + 1 where account_id = 'acct-1'"),
    ("balances_are_the_plans_sums", "update accounts set currency = 'XXX' where account_id = 'acct-1'"),
    ("balances_are_the_plans_sums", "update accounts set status = 'frozen' where account_id = 'acct-1'"),
    ("the_total_is_the_plans_total", "update accounts set balance = balance + 1 where account_id = 'acct-1'"),
    ("payments_end_as_the_plan_says", "update payments set state = 'expired' where ctid = (select min(ctid) from payments where state <> 'expired')"),
    ("payments_end_as_the_plan_says", "update payments set version = version + 1 where ctid = (select min(ctid) from payments)"),
    ("payments_end_as_the_plan_says", "update payments set currency = 'XXX' where ctid = (select min(ctid) from payments)"),
    ("payments_end_as_the_plan_says", "update payments set account_id = 'x' where ctid = (select min(ctid) from payments)"),
    ("payments_end_as_the_plan_says", "update payments set authorized = authorized + 1 where ctid = (select min(ctid) from payments)"),
    ("payments_end_as_the_plan_says", "update payments set captured = captured + 1 where ctid = (select min(ctid) from payments)"),
    ("payments_end_as_the_plan_says", "update payments set refunded = refunded + 1 where ctid = (select max(ctid) from payments where captured > refunded)"),
    ("payments_end_as_the_plan_says", "update payments set payment_id = 'x' where ctid = (select min(ctid) from payments)"),
    ("versions_have_no_gap", "update ledger set account_version = account_version + 1000 where event_id = $SINGLE"),
    ("each_balance_follows_the_one_before", "update ledger set balance_after = balance_after + 1 where event_id = $SINGLE"),
    ("each_hold_follows_the_one_before", "update ledger set held_after = held_after + 1 where event_id = $SINGLE"),
    (
        "only_what_has_happened_already_leaves_a_debt",
        "update ledger set balance_after = -1
         where event_id = (select min(event_id) from ledger where type = 'payment.succeeded' and balance_delta < 0)",
    ),
    ("balances_are_the_ledgers_sums", "update accounts set balance = balance + 1 where account_id = 'acct-1'"),
    (
        "operations_moved_money_once",
        "insert into ledger select (jsonb_populate_record(l, '{\"event_id\": \"other\", \"account_version\": 999}')).* from ledger l
         where event_id = (select min(event_id) from ledger where operation_id is not null and leg = 0)",
    ),
    (
        "keys_moved_money_once",
        "insert into ledger select (jsonb_populate_record(l, '{\"account_version\": 999}')).* from ledger l where event_id = $SINGLE",
    ),
    ("both_sides_of_every_callback_sum_up_to_0", "delete from ledger where leg = 1"),
    ("the_trial_balance_is_0", "update accounts set balance = balance + 1 where account_id = 'acct-1'"),
    ("the_journal_has_every_balance", "update accounts set balance = balance + 1 where account_id = 'acct-1'"),
    ("every_case_is_one_that_the_plan_names", "update quarantine set reason = 'over_refund' where $CASE"),
    ("every_case_is_one_that_the_plan_names", "update quarantine set attempts = attempts + 1 where $CASE"),
    ("every_case_is_one_that_the_plan_names", "update quarantine set body = 'x' where reason = 'malformed'"),
    ("every_case_is_one_that_the_plan_names", "update quarantine set routing_key = 'x' where reason = 'malformed'"),
    ("every_case_is_one_that_the_plan_names", "update quarantine set fingerprint = sha256('x'), body = 'x' where $CASE"),
    ("every_case_is_one_that_the_plan_names", "delete from quarantine where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set type = 'fee.charged' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set account_id = 'x' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set payment_id = 'x' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set operation_id = 'x' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set amount = amount + 1 where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set currency = 'XXX' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set is_final = not is_final where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set occurred_at = now() where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set detail = '' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set first_seen_at = now() + interval '1 day' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set last_seen_at = '2020-01-01Z' where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set resolved_at = now() where $CASE"),
    ("every_case_keeps_what_its_message_says", "update quarantine set resolved_by = null where state = 'replayed'"),
    ("every_case_keeps_what_its_message_says", "update quarantine set resolved_why = null where state = 'replayed'"),
    ("every_account_counts_its_cases", "update accounts set cases = cases + 1 where account_id = 'acct-1'"),
    ("nothing_waits_at_the_end", "update quarantine set state = 'waiting' where $CASE"),
    ("what_waited_ended_as_the_ledger_says", "update quarantine set state = 'replayed' where $CASE"),
    ("what_waited_ended_as_the_ledger_says", "update quarantine set state = 'discarded' where $CASE"),
    ("what_waited_ended_as_the_ledger_says", "update quarantine set source = '/x' where state = 'replayed'"),
    ("what_waited_ended_as_the_ledger_says", "update quarantine set event_id = 'x' || id where state = 'replayed'"),
    ("every_copy_is_counted_in_a_layer", "update tallies set n = n + 1 where ctid = (select min(ctid) from tallies where kind = 'duplicate')"),
    ("every_copy_is_counted_in_a_layer", "delete from tallies where kind = 'quarantined'"),
    ("every_layer_of_duplicates_was_reached", "update tallies set label = 'nowhere' where label = 'batch'"),
    ("of_one_fact_and_of_one_key_one_is_applied", "$TWIN"),
    ("holds_whose_time_is_up_are_released", "delete from ledger where event_id like 'payonce.expired:%'"),
];

/// Columns that no check looks at, and why.
const FREE: &[(&str, &str)] = &[
    ("ledger.recorded_at", "when it was written: latencies are measured with it"),
    ("ledger.leg", "`every_callback_has_its_legs_once` removes one"),
    ("ledger.members", "payload_sha256 covers them; payonce audit recomputes it from them"),
    ("ledger.txn", "payonce audit looks at it: `versions_rise_with_transactions`"),
    ("ledger.repeats_payment_id", "of rows of before schema 14"),
    ("payments.source", "with payment_id the key"),
    ("payments.facts", "payonce audit recomputes them: `payments_follow_from_rows`"),
    ("payments.expires_at", "payonce audit recomputes it: `payments_follow_from_rows`"),
    ("accounts.account_id", "the key: an account that the plan does not have is found"),
    ("quarantine.id", "a number of its own"),
    ("quarantine.waits_since", "of what waits; nothing does at the end"),
    ("quarantine.assignee", "who works on it, which decides nothing; tests/it/case_work.rs"),
    ("quarantine.members", "the fingerprint covers them"),
    ("quarantine.webhook_id", "for a further look at the signature; tests/it/signatures.rs"),
    ("quarantine.webhook_timestamp", "as webhook_id"),
    ("quarantine.webhook_signature", "as webhook_id"),
    ("quarantine.properties", "for people; tests/it/dead_letters.rs"),
    ("quarantine.headers", "as properties"),
];

fn args(seed: u64) -> ReplayArgs {
    ReplayArgs {
        events: 3_000,
        duplicates: 0.3,
        accounts: 60,
        hot: 0.2,
        poison: 0.08,
        lifecycle: 0.7,
        transfers: false,
        disorder: true,
        ids: Ids::Random,
        workers: 2,
        rate: 0,
        prefill: false,
        seed,
        json: false,
        signatures: "required".to_owned(),
        in_place: false,
        keep: false,
        payonce: None,
    }
}

/// The harm with what it names, found in this database.
async fn spelled(harm: &str, database: &mut PgConnection, plan: &Plan) -> String {
    let harm = harm.replace("$SINGLE", SINGLE);
    let harm = harm.replace(
        "$CASE",
        "id = (select min(id) from quarantine where state = 'open' and reason = 'insufficient_funds' and amount < 9007199254740991)",
    );
    let keys = |one: &crate::plan::Distinct| crate::body::key(plan, one);
    match &*harm {
        // The other of two events of one fact is applied too.
        "$TWIN" => {
            let twin = plan.distinct.iter().find(|one| matches!(one.fate, crate::plan::Fate::Twin(_)));
            let twin = twin.expect("a plan with stories has twins");
            let crate::plan::Fate::Twin(first) = twin.fate else { unreachable!() };
            let [(source, one), (_, other)] = [keys(&plan.distinct[first as usize]), keys(twin)];
            format!("delete from ledger where source = '{source}' and event_id in ('{one}', '{other}')")
        }
        // As if what has taken it had never come.
        "$REFUSE" => {
            let is_refused =
                "select account_id from quarantine where state = 'open' and reason = 'insufficient_funds'
                and amount < 9007199254740991 order by id limit 1";
            let account: String = sqlx::query_scalar(is_refused).fetch_one(database).await.unwrap();
            format!(
                "delete from ledger where account_id = '{}' and balance_delta - held_delta < 0",
                account.replace('\'', "''")
            )
        }
        _ => harm,
    }
}

#[tokio::test]
async fn every_check_of_the_audit_finds_the_harm_it_is_there_for() {
    let seed = 41;
    println!("seed {seed}");
    let started = std::time::Instant::now();
    let args = args(seed);
    let plan = Arc::new(Plan::new(&replay::options(&args)).unwrap());
    let program = workers::program(None).await.unwrap();
    println!("built after {:?}", started.elapsed());
    let mut place = Place::prepare(false, seed).await.unwrap().signed_by(args.signing().unwrap());
    place.order_wait = Some(Duration::from_secs(8));
    let (_, audit) = replay::replay(&args, &plan, &program, &place).await.unwrap();
    assert_eq!(audit.violations(), Vec::<String>::new());
    println!("replayed after {:?}", started.elapsed());
    let mut database = place.connect().await.unwrap();
    let published_at_us = vec![0; plan.distinct.len()];
    let mut checks: BTreeSet<&str> = BTreeSet::new();
    for (check, harm) in HARMS {
        let harm = spelled(harm, &mut database, &plan).await;
        for sql in ["begin", OPEN_UP] {
            sqlx::raw_sql(sql).execute(&mut database).await.expect(sql);
        }
        let harmed = sqlx::raw_sql(sqlx::AssertSqlSafe(harm.clone())).execute(&mut database).await;
        assert!(harmed.expect(&harm).rows_affected() > 0, "{harm}");
        let found = run(&mut database, &plan, &published_at_us, Copies::AsPlanned).await.unwrap();
        assert!(found.failed().contains(check), "{harm}: {check} is not among {:?}", found.failed());
        checks.extend(found.names());
        sqlx::raw_sql("rollback").execute(&mut database).await.unwrap();
    }
    println!("{} harms after {:?}", HARMS.len(), started.elapsed());
    checks.retain(|check| !HARMS.iter().any(|(name, _)| name == check));
    assert!(checks.is_empty(), "no harm shows that {checks:?} can fail");
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text from information_schema.columns
         where table_schema = 'public' and table_name in ('accounts', 'ledger', 'payments', 'quarantine') order by 1, 2",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    let is_harmed = |table: &str, column: &str| {
        let sets = [format!("set {column} ="), format!(", {column} =")];
        HARMS.iter().any(|(_, harm)| {
            harm.contains(&format!("update {table} ")) && sets.iter().any(|set| harm.contains(set))
        })
    };
    let unseen = columns.into_iter().filter(|(table, column)| {
        let is_free = FREE.iter().any(|(name, _)| *name == format!("{table}.{column}"));
        !is_free && !is_harmed(table, column)
    });
    assert_eq!(unseen.collect::<Vec<_>>(), [], "nobody looks at these columns");
    case_history::tests::every_change_of_what_came_is_found(&mut database).await;
    inspect::tests::every_inspection_finds_its_harm(&place, &mut database).await;
    drop(database);
    place.remove().await.unwrap();
}
