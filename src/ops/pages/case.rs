//! One case: what came, why it is not in the ledger, and what was done about it.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use maud::{Markup, html};

use super::{audit_log, case_work::note_form, quarantine::act_bar};
use crate::{
    answers::money,
    ledger::Reason,
    ops::{
        Pool,
        access::Action,
        actions as ops_actions,
        layout::{Frame, Place, ago, id, id_or_dash, link, number, state, visible},
        mask,
    },
    store::{
        actions::{self, ActionRow},
        mismatch::{self, Field},
        quarantine::{self, CaseDetail},
    },
};

/// Lines of the audit log about one case.
const ACTIONS_MAX: i64 = 50;

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Path(case): Path<String>,
) -> Response {
    let now = pool.watch.now();
    let no_case =
        || frame.not_found(&now, Place::Quarantine, &format!("There is no case {}.", visible(&case)));
    let Ok(case) = case.parse::<i64>() else { return no_case() };
    let read = pool.reader.run(async |connection| {
        let detail = quarantine::show(connection, case).await?;
        let fields = match &detail {
            Some(detail) => mismatch::fields(connection, detail).await?,
            None => Vec::new(),
        };
        Ok((detail, fields, actions::of_case(connection, case, ACTIONS_MAX).await?))
    });
    match read.await {
        Ok((Some(detail), fields, actions)) => {
            let title = format!("Case {case}");
            frame.page(&now, Place::Quarantine, &title, body(&frame, &detail, &fields, &actions))
        }
        Ok((None, ..)) => no_case(),
        Err(cause) => frame.unavailable(&now, Place::Quarantine, &cause),
    }
}

fn body(frame: &Frame, detail: &CaseDetail, fields: &[Field], actions: &[ActionRow]) -> Markup {
    let case = &detail.case;
    let source = case.source.as_deref().unwrap_or_default();
    html! {
        p.path { a href="/quarantine" { "Quarantine" } " / " (case.id) }
        h1 { "Case " (case.id) " " (state(&case.state)) }
        p.lead { strong { (case.reason) } ": " (visible(&case.detail)) }
        @if let Some(reason) = Reason::parse(&case.reason).filter(|_| matches!(case.state.as_str(), "open" | "waiting")) {
            p.note.next { strong { "What to do: " } (next_step(reason)) }
        }
        @if !fields.is_empty() { (difference(fields)) }
        div.columns {
            section.card {
                h2 { "Event details" }
                dl.facts {
                    dt { "Event" } dd {
                        @match (&case.source, &case.event_id) {
                            (Some(source), Some(event)) => a href=(link("/event", &[("source", source), ("id", event)])) { (id(event)) },
                            (None | Some(_), _) => (id_or_dash(case.event_id.as_deref())),
                        }
                    }
                    dt { "Source" } dd { (id_or_dash(case.source.as_deref())) }
                    @if let Some(kind) = &case.kind { dt { "Type" } dd { (visible(kind)) } }
                    @if let (Some(amount), Some(currency)) = (case.amount, &case.currency) {
                        dt { "Amount" } dd { (visible(&money(amount, currency))) }
                    }
                    @if let Some(account) = &case.account_id {
                        dt { "Account" } dd { a href=(link("/account", &[("id", account)])) { (id(account)) } }
                    }
                    @if let Some(payment) = &case.payment_id {
                        dt { "Payment" } dd { a href=(link("/payment", &[("source", source), ("id", payment)])) { (id(payment)) } }
                    }
                    @if let Some(operation) = &case.operation_id { dt { "Operation" } dd { (id(operation)) } }
                    dt { "Deliveries" } dd { (number(case.attempts)) }
                    dt { "Assignee" } dd { @match &case.assignee { Some(assignee) => (visible(assignee)), None => "nobody" } }
                    dt { "First seen" } dd { (ago(case.first_seen_at)) }
                    dt { "Last seen" } dd { (ago(case.last_seen_at)) }
                    @if let Some(at) = case.resolved_at {
                        dt { "Ended" } dd { (ago(at)) " by " (visible(case.resolved_by.as_deref().unwrap_or("–"))) }
                    }
                    @if let Some(why) = &case.resolved_why { dt { "Why" } dd { (visible(why)) } }
                }
            }
            section.card {
                h2 { "Message, " (number(i64::try_from(detail.body.len()).unwrap_or(i64::MAX))) " bytes" }
                pre.body tabindex="0" { (mask::body(&detail.body, &detail.identifiers())) }
                @if let Some(routing_key) = &detail.routing_key { dl.facts { dt { "Routing key" } dd { (id(routing_key)) } } }
                @for (title, text) in [("Properties", &detail.properties), ("Headers", &detail.headers)] {
                    @if let Some(text) = text {
                        h3 { (title) }
                        pre.body tabindex="0" { (mask::body(text.as_bytes(), &detail.identifiers())) }
                    }
                }
                p.note { "Raw payload. Values of sensitive fields, and the middle of card numbers, are masked." }
            }
        }
        @if matches!(case.state.as_str(), "open" | "waiting" | "discarded") {
            @if frame.may(Action::WorkCases) {
                form method="post" action="/quarantine/act" {
                    (frame.csrf())
                    input type="hidden" name="id" value=(case.id);
                    (act_bar(&case.state))
                }
                @if case.state != "discarded" && case.kind.is_some() {
                    form method="post" action="/quarantine/act" {
                        (frame.csrf())
                        input type="hidden" name="id" value=(case.id);
                        input type="hidden" name="key" value=(ops_actions::random_key());
                        fieldset.act {
                            legend.unseen { "Another account" }
                            label.why { "Account" input name="account" required maxlength="200" placeholder="to whom it belongs"; }
                            label.why { "Why" input name="why" required maxlength="1000" placeholder="stored in the audit log"; }
                            button type="submit" name="verb" value="assign" title="Hand it to this account, and decide it at once. A late copy of it is a duplicate" { "Assign" }
                        }
                    }
                }
            } @else { (frame.may_not(Action::WorkCases)) }
        }
        section.card {
            h2 { "Audit log and notes" }
            @if frame.may(Action::WorkCases) { (note_form(frame, case.id)) }
            @if actions.is_empty() { p.note { "Nobody has worked this case yet." } }
            @else { (audit_log::table(actions)) }
        }
    }
}

/// What a case of this reason needs, for whoever has it before them at 3 am.
fn next_step(reason: Reason) -> &'static str {
    match reason {
        Reason::Malformed => {
            "the publisher sent what is no callback. Ask for it to be fixed and sent again, then discard this."
        }
        Reason::UnsupportedType => {
            "a type that payonce does not book. Book it by payonce adjust where it is money, then discard this."
        }
        Reason::BadSignature => {
            "if its key was missing or is new, put it into keys_file and replay. If nobody of yours sent it, discard it."
        }
        Reason::PayloadMismatch => {
            "ask the provider which of the two contents is right. If it is the first, discard this; if this one, correct the difference by payonce adjust, then discard it."
        }
        Reason::UnknownAccount => {
            "if the account's first deposit is late, replay when it is there. If the account is mistyped, assign the right one."
        }
        Reason::CurrencyMismatch => {
            "ask the provider: the account has another currency. Assign it to an account in this one, or discard it."
        }
        Reason::InsufficientFunds => {
            "replay when the account has the money. If it should not have been taken, discard it and tell the provider."
        }
        Reason::InvalidTransition => {
            "compare it with the payment's story: something before it says otherwise. Ask the provider; then replay or discard."
        }
        Reason::OverCapture => {
            "more was captured than was authorized. Ask the provider; over_capture_percent allows tips. Then replay or discard."
        }
        Reason::OverRefund => {
            "more would go back than came. Look for a capture or deposit that is missing, and replay when it is there; else discard."
        }
        Reason::AmountOverflow => {
            "the sum would not fit into 64 bits: surely a wrong amount. Ask the provider, and discard it."
        }
        Reason::WaitingExpired => {
            "what it waited for did not come. Ask the provider for that, and replay when it is there; a refund that failed and never succeeded took nothing: discard it."
        }
        Reason::DeliveryLimit => {
            "a worker ended over it, or it could not be read: the detail says which, the worker's log why. Replay when that is fixed."
        }
        Reason::Unmapped => {
            "the ingress could not tell its money. Fix what the detail names in the endpoint's configuration, and replay: it is mapped again."
        }
        Reason::WaitingForPayment => {
            "nothing: it is applied by itself when the callback that it needs comes. It is an open case after waiting_max_ms."
        }
        Reason::WaitingForFunds => {
            "nothing: it is applied by itself when money or the account is there. It is an open case after order_wait_ms."
        }
    }
}

/// Two contents under one key, side by side.
fn difference(fields: &[Field]) -> Markup {
    let code = |of: fn(&Field) -> &Option<String>| {
        fields.iter().find(|field| field.field == "currency").and_then(|field| of(field).as_deref())
    };
    // An amount with its currency: one alone is minor units, which nobody could tell.
    let value = |field: &Field, of: fn(&Field) -> &Option<String>| {
        let amount = of(field).as_deref().filter(|_| field.field == "amount");
        match amount.and_then(|amount| Some(money(amount.parse::<i64>().ok()?, code(of)?))) {
            Some(money) => html! { (visible(&money)) },
            None => id_or_dash(of(field).as_deref()),
        }
    };
    html! {
        section.card {
            h2 { "Difference" }
            div.scroll tabindex="0" role="region" aria-label="Difference" {
                table {
                    thead { tr { th { "Field" } th { "First" } th { "Received in this case" } th { "" } } }
                    tbody {
                        @for field in fields {
                            tr {
                                td { (field.field) }
                                td { (value(field, |field| &field.first)) }
                                td { (value(field, |field| &field.received)) }
                                td { @if field.differs { strong { "differs" } } }
                            }
                        }
                    }
                }
            }
            @if fields.iter().all(|field| !field.differs) {
                p.note { "These agree: what differs is a member that is not listed here, such as final." }
            }
        }
    }
}
