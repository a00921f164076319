//! Quarantine and the counts against the plan: each case is one that it names, and every copy is counted.

use std::collections::{BTreeMap, HashMap};

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{Audit, CONSTANT_KEY, Copies, ledger::Found};
use crate::{
    body,
    plan::{Distinct, Fate, Plan, Way},
    poison::Poison,
};

/// A plan with fewer chances of reaching a layer of duplicates may miss it.
const CHANCES_MIN: usize = 200;

/// What the plan says of a case: its reason, and how often it came.
type Planned = (String, i32);

struct Cases {
    /// What each bad message's copies look like is the same to the byte: see [`body::identity`].
    by_body: HashMap<(String, Vec<u8>), (u32, Planned)>,
    /// (source, id, hash) of sound ones that are not applied.
    by_content: HashMap<(String, String, Vec<u8>), (u32, Planned)>,
    /// Those of a fact that is applied under another event: none needs to be a case.
    twins: HashMap<(String, String, Vec<u8>), u32>,
}

impl Cases {
    fn of(plan: &Plan, found: &Found, copies: Copies) -> Self {
        let mut times = vec![0; plan.distinct.len()];
        for sending in plan.sendings() {
            times[sending.distinct as usize] += 1;
        }
        let mut cases = Self { by_body: HashMap::new(), by_content: HashMap::new(), twins: HashMap::new() };
        for one in &plan.distinct {
            let number = one.number as usize;
            // What commits were lost of was counted by rows that are gone.
            let times = if copies == Copies::AtLeast(0) { 1 } else { times[number] };
            if let Some(poison) = one.poison {
                let planned = (one.number, (poison.reason().to_owned(), times));
                cases.by_body.insert(body::identity(plan, one), planned);
                continue;
            }
            if found.is_applied[number] {
                continue;
            }
            let content = || {
                let content = body::content(plan, one);
                let sha256 = content.sha256();
                (content.source, content.id, sha256)
            };
            match plan.fate(one) {
                Fate::Contends => {
                    let planned = ("insufficient_funds".to_owned(), times);
                    cases.by_content.insert(content(), (one.number, planned));
                }
                Fate::Contradicts(_) => {
                    let planned = ("payload_mismatch".to_owned(), times);
                    cases.by_content.insert(content(), (one.number, planned));
                }
                Fate::Twin(_) => {
                    cases.twins.insert(content(), one.number);
                }
                // That it is missing is said elsewhere.
                Fate::Applied => {}
            }
        }
        cases
    }
}

pub async fn check(
    database: &mut PgConnection,
    plan: &Plan,
    found: &Found,
    copies: Copies,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let mut cases = Cases::of(plan, found, copies);
    let may_come_again = copies != Copies::AsPlanned;
    let applied: HashMap<(String, String), Vec<&Distinct>> = plan
        .distinct
        .iter()
        .filter(|one| found.is_applied[one.number as usize])
        .fold(HashMap::new(), |mut by_key, one| {
            by_key.entry(body::key(plan, one)).or_insert_with(Vec::new).push(one);
            by_key
        });
    let is_applied = |source: &str, event_id: &str, sha256: &[u8]| {
        let all = applied.get(&(source.to_owned(), event_id.to_owned())).map_or(&[][..], Vec::as_slice);
        all.iter().any(|one| body::content(plan, one).sha256() == sha256)
    };
    let rows = sqlx::query(
        "select id, coalesce(source, '') as source, coalesce(event_id, '') as event_id, body, fingerprint, reason, state, detail,
                attempts, resolved_by, type, account_id, payment_id, operation_id, amount, currency, is_final,
                extract(epoch from occurred_at)::bigint as occurred_at_s, first_seen_at <= last_seen_at as is_in_order,
                (resolved_at is not null) as is_resolved, (resolved_why is not null) as has_why,
                coalesce(routing_key, '') as routing_key
         from quarantine",
    )
    .fetch_all(&mut *database)
    .await?;
    let (mut wrong, mut waiting, mut ended, mut wrong_columns) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let (id, state): (i64, String) = (row.try_get("id")?, row.try_get("state")?);
        let (source, event_id): (String, String) = (row.try_get("source")?, row.try_get("event_id")?);
        let reason: String = row.try_get("reason")?;
        let sha256: Vec<u8> = row.try_get("fingerprint")?;
        let detail: String = row.try_get("detail")?;
        let said = format!("case {id}, {source} {event_id}: {state}, {reason}, {detail}");
        let has_ended = matches!(state.as_str(), "replayed" | "discarded");
        let is_resolved: bool = row.try_get("is_resolved")?;
        let is_told = row.try_get::<Option<String>, _>("resolved_by")?.is_some() && row.try_get("has_why")?;
        if detail.is_empty()
            || !row.try_get::<bool, _>("is_in_order")?
            || (is_resolved, is_told) != (has_ended, has_ended)
        {
            wrong_columns.push(format!("{said}: its times, its words or its end"));
        }
        match state.as_str() {
            // It waited, and is in the ledger now, where it is checked.
            "replayed" => {
                audit.waited += 1;
                if !is_applied(&source, &event_id, &sha256) {
                    ended.push(said);
                }
                continue;
            }
            // It waited until its fact was applied: under another event or, where it names no account that could guard it, by a
            // worker that took a copy at the same moment.
            "discarded" => {
                audit.ended_by_twin += 1;
                let is_there = is_applied(&source, &event_id, &sha256);
                if !is_there && !cases.twins.contains_key(&(source, event_id, sha256)) {
                    ended.push(said);
                }
                continue;
            }
            _ => {}
        }
        *audit.quarantined.entry(reason.clone()).or_default() += 1;
        if state == "waiting" {
            waiting.push(said);
            continue;
        }
        if event_id.starts_with(CONSTANT_KEY)
            && (state.as_str(), reason.as_str()) == ("open", "payload_mismatch")
        {
            continue;
        }
        let attempts: i32 = row.try_get("attempts")?;
        let routing_key = if reason == "malformed" { row.try_get("routing_key")? } else { String::new() };
        let identity = (routing_key, row.try_get("body")?);
        let planned =
            cases.by_body.remove(&identity).or_else(|| cases.by_content.remove(&(source, event_id, sha256)));
        if let Some((number, _)) = &planned {
            let difference = wrong_members(plan, *number, &row)?;
            wrong_columns.extend(difference.map(|difference| format!("{said}: {difference}")));
        }
        match planned {
            Some((_, (planned, times)))
                if planned == reason && (times == attempts || may_come_again && times < attempts) => {}
            Some((number, planned)) => {
                wrong.push(format!("message {number}: planned {planned:?}, found {said}, {attempts} times"));
            }
            None => wrong.push(format!("a case that the plan does not name: {said}")),
        }
    }
    let missing = cases.by_body.into_values().chain(cases.by_content.into_values());
    wrong.extend(missing.map(|(number, planned)| {
        format!(
            "message {number} ({:?}): planned {planned:?}, no case",
            plan.distinct[number as usize].poison
        )
    }));
    audit.check("every_case_is_one_that_the_plan_names", wrong);
    audit.check("every_case_keeps_what_its_message_says", wrong_columns);
    let miscounted = sqlx::query_scalar(
        "select a.account_id from accounts a
         where a.cases <> (select count(*) from quarantine q where q.account_id = a.account_id)",
    );
    audit.check("every_account_counts_its_cases", miscounted.fetch_all(&mut *database).await?);
    audit.check("nothing_waits_at_the_end", waiting);
    audit.check("what_waited_ended_as_the_ledger_says", ended);
    Ok(())
}

/// What the row of a case says otherwise than its message; nothing where it says the same.
fn wrong_members(plan: &Plan, number: u32, row: &PgRow) -> anyhow::Result<Option<String>> {
    let one = &plan.distinct[number as usize];
    let found: Members = (
        row.try_get("type")?,
        row.try_get("account_id")?,
        row.try_get("payment_id")?,
        row.try_get("operation_id")?,
        row.try_get("amount")?,
        row.try_get("currency")?,
        row.try_get("is_final")?,
        row.try_get("occurred_at_s")?,
    );
    let is_callback = match one.poison {
        Some(Poison::Malformed(_) | Poison::UnsupportedType | Poison::BadSignature(_)) => false,
        Some(
            Poison::UnknownAccount
            | Poison::CurrencyMismatch
            | Poison::InsufficientFunds
            | Poison::PayloadMismatch(..)
            | Poison::OperationMismatch(_)
            | Poison::InvalidTransition(_)
            | Poison::OtherAccount(_)
            | Poison::OverCapture
            | Poison::OverRefund,
        )
        | None => true,
    };
    let content = body::content(plan, one);
    let planned: Members = if is_callback {
        (
            Some(content.kind.name().to_owned()),
            // One that names no account is about the one of its payment, where that was known.
            content.subject.clone().or_else(|| found.1.clone()),
            content.payment_id.clone(),
            content.operation_id.clone(),
            Some(content.amount),
            Some(content.currency.clone()),
            Some(content.is_final()),
            Some(content.at_s),
        )
    } else {
        Members::default()
    };
    Ok((found != planned).then(|| format!("planned {planned:?}, found {found:?}")))
}

/// Type, account, payment, operation, amount, currency, `final`, seconds since 1970; nothing of what is no callback.
type Members = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<bool>,
    Option<i64>,
);

/// The counts that payonce keeps agree with the rows and with what was published.
pub async fn check_counts(
    database: &mut PgConnection,
    plan: &Plan,
    found: &Found,
    copies: Copies,
    audit: &mut Audit,
) -> anyhow::Result<()> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("select kind, label, sum(n)::bigint from tallies group by kind, label")
            .fetch_all(database)
            .await?;
    let (mut applied, mut quarantined) = (0, 0);
    for (kind, label, n) in rows {
        let n = u64::try_from(n).unwrap_or(0);
        match kind.as_str() {
            "duplicate" => *audit.duplicates.entry(label).or_default() += n,
            "quarantined" => quarantined += n,
            _ => applied += n,
        }
    }
    let duplicates: u64 = audit.duplicates.values().sum();
    // Of two events of one fact one is a duplicate, unless it was a case first.
    let twins = plan
        .distinct
        .iter()
        .filter(|one| matches!(plan.fate(one), Fate::Twin(_)) && !found.is_applied[one.number as usize]);
    let twins = (twins.count() as u64).saturating_sub(audit.ended_by_twin);
    let copies = match copies {
        Copies::AsPlanned => (plan.published() - plan.distinct.len()) as u64 + twins,
        Copies::Exactly(copies) => copies + twins,
        Copies::AtLeast(copies) if duplicates < copies => copies,
        Copies::AtLeast(_) => duplicates,
    };
    let cases = audit.quarantined.values().sum::<u64>() + audit.waited + audit.ended_by_twin;
    let mut wrong = Vec::new();
    for (what, counted, found) in [
        ("applied", applied, audit.applied),
        ("quarantined", quarantined, cases),
        ("duplicates", duplicates, copies),
    ] {
        if counted != found {
            wrong.push(format!("{what}: counted {counted}, there are {found}"));
        }
    }
    audit.check("every_copy_is_counted_in_a_layer", wrong);
    Ok(())
}

/// A run shows nothing of a layer that it never reached. The ledger's own layer is what the others leave: in most runs nothing.
pub fn check_layers(plan: &Plan, audit: &mut Audit) {
    let copies = |ways: &[Way]| {
        plan.sendings().filter(|sending| sending.way.is_some_and(|way| ways.contains(&way))).count()
    };
    let twins = plan.distinct.iter().filter(|one| matches!(one.fate, Fate::Twin(_))).count();
    let of_cases = plan.sendings().filter(|sending| {
        sending.way == Some(Way::Late) && plan.distinct[sending.distinct as usize].poison.is_some()
    });
    let chances = BTreeMap::from([
        ("batch", copies(&[Way::BackToBack])),
        ("redis", copies(&[Way::Late])),
        ("operation", twins),
        ("quarantine", of_cases.count()),
    ]);
    let missed = chances.into_iter().filter(|(layer, chances)| {
        *chances >= CHANCES_MIN && audit.duplicates.get(*layer).copied().unwrap_or(0) == 0
    });
    let missed = missed.map(|(layer, chances)| format!("{layer}: {chances} chances, reached by none"));
    audit.check("every_layer_of_duplicates_was_reached", missed.collect());
}
