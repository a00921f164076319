//! Cases as they are printed: `payonce quarantine list` and `show`. What must not live here: anything that changes a case.

use serde_json::json;

use super::{Failure, print_json, table, with_database};
use crate::{
    config::Config,
    ledger::Reason,
    signature,
    store::quarantine::{self, CaseDetail, Filter, Page},
};

/// A page of cases.
pub(super) async fn list(config: &Config, filter: &Filter, page: Page, json: bool) -> Result<(), Failure> {
    let (cases, total) = with_database(config, async |connection| {
        Ok((quarantine::list(connection, filter, page).await?, quarantine::count(connection, filter).await?))
    })
    .await?;
    if json {
        return cases.iter().try_for_each(print_json);
    }
    let mut rows =
        table::new(&["case", "state", "reason", "deliveries", "first seen", "event", "source", "detail"]);
    for case in &cases {
        rows.add_row([
            case.id.to_string(),
            case.state.clone(),
            case.reason.clone(),
            case.attempts.to_string(),
            table::time(case.first_seen_at),
            table::optional(case.event_id.as_ref()),
            table::optional(case.source.as_ref()),
            table::safe(&case.detail),
        ]);
    }
    table::align_right(&mut rows, &[0, 3]);
    say!("{rows}");
    say!("{} of {total} cases", cases.len());
    if let Some(last) = cases.last().filter(|_| (cases.len() as i64) < total) {
        say!("Next page: --before {}", last.id);
    }
    Ok(())
}

/// One case with its message.
pub(super) async fn show(config: &Config, id: i64, json: bool) -> Result<(), Failure> {
    let found = with_database(config, async |connection| quarantine::show(connection, id).await).await?;
    let Some(mut detail) = found else {
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
        return print_json(&value);
    }
    print(&detail, &body);
    Ok(())
}

fn print(detail: &CaseDetail, body: &str) {
    let case = &detail.case;
    say!("Case {}: {}, {}: {}", case.id, case.state, case.reason, table::safe(&case.detail));
    say!(
        "  event    {} of {}",
        table::optional(case.event_id.as_ref()),
        table::optional(case.source.as_ref())
    );
    if let (Some(kind), Some(amount), Some(currency)) = (&detail.kind, detail.amount, &detail.currency) {
        say!(
            "  content  {kind} {amount} {currency} (minor units), account {}, payment {}, operation {}",
            table::optional(detail.account_id.as_ref()),
            table::optional(detail.payment_id.as_ref()),
            table::optional(detail.operation_id.as_ref())
        );
    }
    say!(
        "  delivered {}, first {}, last {}",
        table::count(case.attempts, "time"),
        table::time(case.first_seen_at),
        table::time(case.last_seen_at)
    );
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
