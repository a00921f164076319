//! Cases as they are printed: `payonce quarantine list` and `show`. What must not live here: anything that changes a case.

use serde_json::json;

use super::{Failure, print_bytes, print_json, table, with_database};
use crate::{
    answers::{self, money},
    config::Config,
    ledger::Reason,
    reports::{cases_table, csv},
    signature,
    store::{
        case_groups::{self, CASES_READ_MAX, CaseGroup, CaseGroups},
        mismatch::{self, Field},
        quarantine::{self, CaseDetail, Filter, Page, TEXT_READ_MAX},
    },
};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
    Csv,
}

impl Form {
    pub(super) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// A page of cases.
pub(super) async fn list(config: &Config, filter: &Filter, page: Page, form: Form) -> Result<(), Failure> {
    let before = if let Page::Before(id, _) = page { id } else { i64::MAX };
    let (cases, total, read_to) = with_database(config, async |connection| {
        let cases = quarantine::list(connection, filter, page).await?;
        let total = quarantine::count(connection, filter).await?;
        Ok((cases, total, quarantine::text_read_to(connection, filter, before).await?))
    })
    .await?;
    match form {
        Form::Json => return cases.iter().try_for_each(print_json),
        Form::Csv => {
            print_bytes(&csv(&cases_table(&cases)).map_err(Failure::No)?);
            return Ok(());
        }
        Form::Text => {}
    }
    // A column for those that somebody has taken, where there is one.
    let has_assignee = cases.iter().any(|case| case.assignee.is_some());
    let mut headings = vec![
        "case",
        "state",
        "reason",
        "amount",
        "account",
        "deliveries",
        "first seen",
        "event",
        "source",
        "detail",
    ];
    headings.extend(has_assignee.then_some("assignee"));
    let mut rows = table::new(&headings);
    for case in &cases {
        let assignee = has_assignee.then(|| table::optional(case.assignee.as_ref()));
        let row = [
            case.id.to_string(),
            case.state.clone(),
            case.reason.clone(),
            case.amount
                .zip(case.currency.as_ref())
                .map_or_else(|| "–".to_owned(), |(of, code)| money(of, code)),
            table::optional(case.account_id.as_ref()),
            case.attempts.to_string(),
            table::time(case.first_seen_at),
            table::optional(case.event_id.as_ref()),
            table::optional(case.source.as_ref()),
            table::safe(&case.detail),
        ];
        rows.add_row(row.into_iter().chain(assignee));
    }
    table::align_right(&mut rows, &[0, 3, 5]);
    say!("{rows}");
    say!("{} of {}", cases.len(), table::count(total, "case"));
    let is_full = matches!(page, Page::Before(_, limit) if cases.len() as i64 == limit);
    if let Some(read_to) = read_to.filter(|_| !is_full) {
        say!("{TEXT_READ_MAX} cases were looked through for the text. Go on: --before {read_to}");
    } else if let Some(last) = cases.last().filter(|_| (cases.len() as i64) < total) {
        say!("Next page: --before {}", last.id);
    }
    Ok(())
}

/// The cases that fit in groups, with their money.
pub(super) async fn groups(config: &Config, filter: &Filter, json: bool) -> Result<(), Failure> {
    let CaseGroups { groups, other_cases, has_more } =
        with_database(config, async |connection| case_groups::groups(connection, filter).await).await?;
    if json {
        for group in &groups {
            print_json(&answers::answer(group).map_err(|error| Failure::No(error.to_string()))?)?;
        }
        return Ok(());
    }
    let mut rows = table::new(&["state", "reason", "source", "cases", "last hour", "money", "oldest"]);
    for group in &groups {
        rows.add_row([
            group.state.clone(),
            group.reason.clone(),
            table::optional(group.source.as_ref()),
            group.cases.to_string(),
            group.last_hour.to_string(),
            sums(group).join("\n"),
            table::time(group.oldest),
        ]);
    }
    table::align_right(&mut rows, &[3, 4, 5]);
    say!("{rows}");
    let cases: i64 = groups.iter().map(|group| group.cases).sum();
    say!("{} in {}", table::count(cases, "case"), table::count(groups.len() as i64, "group"));
    if other_cases > 0 {
        say!("{} in smaller groups", table::count(other_cases, "case"));
    }
    if has_more {
        say!("Only the oldest {CASES_READ_MAX} cases were looked at: use filters");
    }
    Ok(())
}

/// What a group is about, a line for each currency.
fn sums(group: &CaseGroup) -> Vec<String> {
    let unknown = (group.unreadable > 0).then(|| format!("{} of an unknown amount", group.unreadable));
    let known = group.money.iter().map(|of| money(of.amount, &of.currency));
    known.chain(unknown).collect()
}

/// One case with its message.
pub(super) async fn show(config: &Config, id: i64, json: bool) -> Result<(), Failure> {
    let found = with_database(config, async |connection| {
        let Some(detail) = quarantine::show(connection, id).await? else { return Ok(None) };
        let fields = mismatch::fields(connection, &detail).await?;
        Ok(Some((detail, fields)))
    });
    let Some((mut detail, fields)) = found.await? else {
        return Err(Failure::No(format!(
            "there is no case {id}; `payonce quarantine list --state all` shows those there are"
        )));
    };
    if config.mask_cards {
        detail.mask_cards();
    }
    let body = String::from_utf8_lossy(&detail.body);
    if json {
        let mut value = serde_json::to_value(&detail).map_err(|error| Failure::No(error.to_string()))?;
        let is_text = matches!(body, std::borrow::Cow::Borrowed(_));
        value["body"] = if is_text { json!(body) } else { json!(null) };
        value["body_hex"] = json!(detail.body.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        value["difference"] = json!(fields);
        return print_json(&value);
    }
    print(&detail, &body);
    print_difference(&fields);
    Ok(())
}

/// Both contents of one key, where the case is about that.
fn print_difference(fields: &[Field]) {
    if fields.is_empty() {
        return;
    }
    let mut rows = table::new(&["field", "first", "received in this case", ""]);
    for field in fields {
        rows.add_row([
            field.field.to_owned(),
            table::optional(field.first.as_ref()),
            table::optional(field.received.as_ref()),
            if field.differs { "differs".to_owned() } else { String::new() },
        ]);
    }
    say!("{rows}");
}

fn print(detail: &CaseDetail, body: &str) {
    let case = &detail.case;
    say!("Case {}: {}, {}: {}", case.id, case.state, case.reason, table::safe(&case.detail));
    say!(
        "  event    {} of {}",
        table::optional(case.event_id.as_ref()),
        table::optional(case.source.as_ref())
    );
    if let (Some(kind), Some(amount), Some(currency)) = (&case.kind, case.amount, &case.currency) {
        say!(
            "  content  {kind} {}, account {}, payment {}, operation {}",
            money(amount, currency),
            table::optional(case.account_id.as_ref()),
            table::optional(case.payment_id.as_ref()),
            table::optional(case.operation_id.as_ref())
        );
    }
    say!(
        "  delivered {}, first {}, last {}",
        table::count(case.attempts, "time"),
        table::time(case.first_seen_at),
        table::time(case.last_seen_at)
    );
    if let Some(assignee) = &case.assignee {
        say!("  assignee {}", table::safe(assignee));
    }
    if let (Some(at), Some(by)) = (case.resolved_at, &case.resolved_by) {
        say!(
            "  ended    {} by {}: {}",
            table::time(at),
            table::safe(by),
            table::optional(case.resolved_why.as_ref())
        );
    }
    if case.reason == Reason::BadSignature.as_str() {
        for (name, value) in [
            (signature::ID_HEADER, &detail.webhook_id),
            (signature::TIMESTAMP_HEADER, &detail.webhook_timestamp),
            (signature::SIGNATURE_HEADER, &detail.webhook_signature),
        ] {
            say!("  {name}: {}", table::optional(value.as_ref()));
        }
    }
    for (name, value) in [
        ("routing key", &detail.routing_key),
        ("properties", &detail.properties),
        ("headers", &detail.headers),
    ] {
        if let Some(value) = value {
            say!("  {name}: {}", table::safe(value));
        }
    }
    say!("  message  {} bytes:\n{}", detail.body.len(), table::safe(body));
}
