//! A correction of an account: the form, what would come of it, and the posting, once for each form. Works without script.

use std::sync::Arc;

use axum::{
    extract::{Form, RawQuery, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use crate::{
    answers::{minor_units, money},
    ledger::{AccountId, Amount, Correction, Currency, Direction, EventId, OPERATOR_SOURCE},
    operators::adjust::Requested,
    ops::{
        Pool,
        access::Action,
        actions::{self, Wanted},
        layout::{Frame, Place, id, link, visible},
        pages::quarantine::shown,
    },
    parameters::Parameters,
    store::{actions::Via, acts::Adjusted},
};

type Pairs = Vec<(String, String)>;

fn text<'a>(pairs: &'a Pairs, name: &str) -> &'a str {
    pairs.iter().find(|pair| pair.0 == name).map_or("", |pair| pair.1.trim())
}

/// The empty form, or one with an account and its currency.
pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let pairs = match Parameters::of_page(query.as_deref(), &["account", "currency"]) {
        Ok(asked) => asked.pairs().to_vec(),
        Err(wrong) => return frame.wrong(&now, Place::Find, &wrong),
    };
    let body = form(&frame, &pairs, &actions::random_key(), None);
    frame.page(&now, Place::Find, "Adjust", body)
}

/// `pairs` is what was given before, `id` what makes the posting one, `problem` what is wrong with what was given.
fn form(frame: &Frame, pairs: &Pairs, id: &str, problem: Option<&str>) -> Markup {
    html! {
        h1 { "Adjust an account" }
        p.lead { "A correction that is posted to the ledger, once for this form. It may leave a debt. Nothing is posted before you have seen what would come of it." }
        @if let Some(problem) = problem { p.problem role="alert" { (visible(problem)) } }
        @if frame.may(Action::Adjust) {
            form.filters method="post" action="/adjust" {
                (frame.csrf())
                input type="hidden" name="id" value=(id);
                label { "Account" input name="account" value=(text(pairs, "account")) required maxlength="200" autocomplete="off"; }
                label { "Amount" input name="amount" value=(text(pairs, "amount")) required maxlength="24" inputmode="text" autocomplete="off" placeholder="12.50, or -12.50 to take it"; }
                label { "Currency" input name="currency" value=(text(pairs, "currency")) required maxlength="3" pattern="[A-Z]{3}" title="ISO 4217 code in capitals, such as EUR" autocomplete="off"; }
                label { "Why" input name="why" value=(text(pairs, "why")) required maxlength="1000" placeholder="stored in the audit log"; }
                button type="submit" { "What would come of it?" }
            }
        } @else { (frame.may_not(Action::Adjust)) }
    }
}

/// What a form says, checked; else what is wrong with it.
fn correction(pairs: &Pairs) -> Result<(Correction, String), String> {
    let why = actions::words(text(pairs, "why")).map_err(str::to_owned)?;
    let account_id =
        AccountId::new(text(pairs, "account")).map_err(|error| format!("The account {error}."))?;
    let currency = Currency::parse(text(pairs, "currency"))
        .ok_or("The currency is no ISO 4217 code in capitals, such as EUR.")?;
    let expected = || {
        format!(
            "The amount is not one of {currency}: expected digits, with at most {} after a point, and a minus where it is to be taken.",
            currency.minor_digits()
        )
    };
    let units = minor_units(text(pairs, "amount"), currency).filter(|units| *units != 0);
    let units = units.ok_or_else(expected)?;
    let amount = units.checked_abs().and_then(Amount::new).ok_or_else(expected)?;
    let direction = if units < 0 { Direction::Debit } else { Direction::Credit };
    let id = EventId::new(text(pairs, "id")).map_err(|error| format!("The id of the form {error}."))?;
    Ok((Correction { id, account_id, direction, amount, currency }, why))
}

/// Shows what would come of it, and posts it when that was confirmed.
pub(in crate::ops) async fn post(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Form(pairs): Form<Pairs>,
) -> Response {
    let now = pool.watch.now();
    let again = |problem: &str| {
        let key = Some(text(&pairs, "id")).filter(|id| !id.is_empty()).map(str::to_owned);
        let key = key.unwrap_or_else(actions::random_key);
        frame.page(&now, Place::Find, "Adjust", form(&frame, &pairs, &key, Some(problem)))
    };
    let (wanted, why) = match correction(&pairs) {
        Ok(found) => found,
        Err(problem) => return again(&problem),
    };
    let is_confirmed = text(&pairs, "confirmed") == "yes";
    let who = frame.visitor.as_ref().map(|visitor| visitor.name.clone()).unwrap_or_default();
    let asked =
        Wanted { correction: wanted.clone(), who, via: Via::Web, why: is_confirmed.then(|| why.clone()) };
    let answered = match actions::adjust(&pool, asked).await {
        Ok(answered) => answered,
        Err(cause) => return frame.unavailable(&now, Place::Find, &cause),
    };
    match answered {
        Requested::Proposed(start) => shown(&pool, &frame, &start),
        // A form that is sent twice leads to the same entry.
        Requested::Adjusted(Adjusted::Posted { is_repeat, .. }) if is_confirmed || is_repeat => {
            let event = [("source", OPERATOR_SOURCE), ("id", wanted.id.as_str())];
            Redirect::to(&link("/event", &event)).into_response()
        }
        Requested::Adjusted(Adjusted::Posted { before, balance, held, .. }) => {
            let body = confirmation(
                &frame,
                &pairs,
                (&wanted, &why),
                (before, balance, held),
                pool.operators.approvals.adjust,
            );
            frame.page(&now, Place::Find, "Post it?", body)
        }
        Requested::Adjusted(refused @ (Adjusted::OtherContent | Adjusted::Refused { .. })) => {
            again(&refused.to_string())
        }
    }
}

fn confirmation(
    frame: &Frame,
    pairs: &Pairs,
    (wanted, why): (&Correction, &str),
    (before, balance, held): (i64, i64, i64),
    is_proposed: bool,
) -> Markup {
    let code = wanted.currency.as_str();
    let units = wanted.amount.minor_units();
    let (sign, is_debit) = match wanted.direction {
        Direction::Credit => ("+", false),
        Direction::Debit => ("-", true),
    };
    html! {
        h1 { "Post " (sign) (money(units, code)) "?" }
        section.card {
            dl.facts {
                dt { "Account" } dd { (id(wanted.account_id.as_str())) }
                dt { "Balance before" } dd { (money(before, code)) }
                dt { "Balance after" } dd { strong { (money(balance, code)) } }
                dt { "Held" } dd { (money(held, code)) }
                @if balance < held { dt { "Owes then" } dd { (money(i128::from(held) - i128::from(balance), code)) } }
                dt { "Why" } dd { (visible(why)) }
            }
            @if is_proposed { p.note { "Another person has to approve it before it is posted." } }
            form method="post" action="/adjust" {
                (frame.csrf())
                @for (name, value) in pairs.iter().filter(|pair| !matches!(pair.0.as_str(), "csrf" | "confirmed")) {
                    input type="hidden" name=(name) value=(value);
                }
                input type="hidden" name="confirmed" value="yes";
                button.danger[is_debit] type="submit" { @if is_proposed { "Propose it" } @else { "Post it" } }
                " " a href=(link("/adjust", &[("account", text(pairs, "account")), ("currency", code)])) { "No" }
            }
        }
    }
}
