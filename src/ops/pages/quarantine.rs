//! Which callbacks are not in the ledger, why, and what shall become of them?

use std::sync::Arc;

use axum::{
    extract::{RawForm, RawQuery, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    case_filter::{Asked, FILTER, PART_COUNT, STATES, joined},
    case_groups as groups_table,
    case_work::{self, assignee_choice, take_buttons},
    confirmation,
};
use crate::{
    answers::money,
    ledger::{AccountId, Reason},
    ops::{
        Pool,
        access::Action,
        actions,
        layout::{Frame, Place, ago, empty, id, id_or_dash, link, number, state, visible},
    },
    parameters::{Parameters, Wrong, whole},
    store::{
        StoreError,
        actions::{Order, Verb, Via},
        case_groups,
        case_sums::{self, Standing},
        quarantine::{self, Filter, Page, TEXT_READ_MAX},
        report::CaseRow,
        requests::Start,
    },
};

/// Cases of a page.
const PAGE_MAX: i64 = 50;
/// Cases are counted no further: one case more says no more.
pub(super) const COUNT_MAX: i64 = 100_001;

/// What the forms here send: which cases, what to do, and who may.
const FORM_NAMES: [&str; PART_COUNT + 8] =
    joined(FILTER, ["csrf", "verb", "why", "key", "scope", "confirmed", "id", "id_max"]);

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawQuery(query): RawQuery,
) -> Response {
    let now = pool.watch.now();
    let read = Parameters::of_page(query.as_deref(), &Asked::NAMES);
    let mut asked = match read.and_then(|parameters| Asked::of(&parameters)) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Quarantine, &wrong),
    };
    let filter = asked.filter().clone();
    let read = pool.reader.run(async |connection| {
        let cases = quarantine::list(connection, &filter, Page::Before(asked.before, PAGE_MAX + 1)).await?;
        let standing = case_sums::standing(connection).await?;
        // Of ended cases there are ever more: they are not read for this.
        let groups = match asked.state() {
            "open" | "waiting" => Some(case_groups::groups(connection, &filter).await?),
            _ => None,
        };
        let total = count(connection, &asked, &filter, &standing).await?;
        let read_to = quarantine::text_read_to(connection, &filter, asked.before).await?;
        Ok((cases, standing, groups, total, read_to))
    });
    let (mut cases, standing, groups, total, read_to) = match read.await {
        Ok(read) => read,
        Err(cause) => return frame.unavailable(&now, Place::Quarantine, &cause),
    };
    let has_more = cases.len() > usize::try_from(PAGE_MAX).unwrap_or(0);
    cases.truncate(usize::try_from(PAGE_MAX).unwrap_or(0));
    asked.id_max = asked.id_max.or_else(|| cases.first().map(|first| first.id));
    let body = html! {
        h1 { "Quarantine" }
        (filters(&frame, &asked, &standing))
        @if cases.is_empty() {
            @if filter.reason.is_none() && !asked.is_narrow() && asked.state() == "open" {
                (empty("No open cases", "Every callback is in the ledger, was rejected as a duplicate, or waits for another one."))
            } @else {
                (empty("No matches", "Remove a filter."))
            }
        } @else {
            @if let Some(groups) = &groups { (groups_table::table(groups, &asked.with(&[]))) }
            (list(&frame, &asked, &cases, total))
            nav.pages aria-label="Pages of cases" {
                @if asked.before != i64::MAX { a href=(link("/quarantine", &asked.with(&[]))) { "« Newest" } }
                @if let Some(last) = cases.last().filter(|_| has_more) {
                    @let (before, id_max) = (last.id.to_string(), asked.id_max.unwrap_or(i64::MAX).to_string());
                    @let older = [("before", before.as_str()), ("id_max", &id_max)];
                    a rel="next" href=(link("/quarantine", &asked.with(&older))) { "Older »" }
                }
            }
        }
        @if let Some(read_to) = read_to.filter(|_| !has_more) { (looked_through(&asked, read_to)) }
    };
    frame.page(&now, Place::Quarantine, "Quarantine", body)
}

/// A text was looked for in so many cases, and there are more.
fn looked_through(asked: &Asked, read_to: i64) -> Markup {
    let before = read_to.to_string();
    html! {
        p.problem role="status" {
            "For this text " (number(TEXT_READ_MAX)) " cases were looked through, down to case " (read_to) ". Add a filter, or "
            a href=(link("/quarantine", &asked.with(&[("before", &before)]))) { "go on from there" } "."
        }
    }
}

/// Where state and reason are all that is asked for, the counts by reason say it; else one count, with an end.
async fn count(
    connection: &mut crate::store::PgConnection,
    asked: &Asked,
    filter: &Filter,
    standing: &Standing,
) -> Result<i64, StoreError> {
    if !asked.is_narrow() && matches!(asked.state(), "open" | "waiting") {
        return Ok(standing.count(asked.state(), filter.reason.map(Reason::as_str)));
    }
    quarantine::count_listed(connection, filter, COUNT_MAX).await
}

pub(super) fn total_words(total: i64) -> String {
    if total >= COUNT_MAX { format!("more than {}", number(COUNT_MAX - 1)) } else { number(total) }
}

fn filters(frame: &Frame, asked: &Asked, standing: &Standing) -> Markup {
    html! {
        nav.tabs aria-label="State" {
            @for state in STATES.into_iter().chain(["all"]) {
                a href=(link("/quarantine", &asked.with(&[("state", state), ("reason", "")])))
                  aria-current=[(asked.state() == state).then_some("page")] {
                    (state) @if matches!(state, "open" | "waiting") { " " span.count { (number(standing.count(state, None))) } }
                }
            }
        }
        form.filters method="get" action="/quarantine" {
            (asked.fields(standing))
            (assignee_choice(frame, asked))
            button type="submit" { "Filter" }
        }
        (asked.chips())
    }
}

fn list(frame: &Frame, asked: &Asked, cases: &[CaseRow], total: i64) -> Markup {
    let verbs = verbs(asked.state());
    let can_act = frame.may(Action::WorkCases) && !verbs.is_empty();
    // With a text, all that fit may be more than were looked through for this page.
    let is_exact = asked.filter().text.is_none();
    let is_for = |state: &str| verbs.iter().any(|verb| verb.states().contains(&state));
    html! {
        form.work method="post" action="/quarantine/act" {
            (frame.csrf())
            @for (name, value) in asked.parameters() { input type="hidden" name=(name) value=(value); }
            // All means all that one could know of here: what comes later is not in it.
            @if let Some(id_max) = asked.id_max { input type="hidden" name="id_max" value=(id_max); }
            div.scroll tabindex="0" role="region" aria-label="Cases" {
                table.cases {
                    thead { tr {
                        @if can_act { th { input type="checkbox" data-all="id" aria-label="Select all on this page"; } }
                        th { "Case" } th { "State" } th { "Reason" } th.n { "Amount" } th { "Account" } th { "Event" } th { "Source" } th { "Detail" } th.n { "Deliveries" } th { "First seen" } th { "Assignee" }
                    } }
                    tbody {
                        @for case in cases {
                            tr {
                                @if can_act {
                                    td {
                                        @if is_for(&case.state) {
                                            input type="checkbox" name="id" value=(case.id) aria-label={ "Select case " (case.id) };
                                        }
                                    }
                                }
                                td { a href={ "/quarantine/" (case.id) } { (case.id) } }
                                td { (state(&case.state)) }
                                td { (case.reason) }
                                td.n { (case_money(case)) }
                                td { @match &case.account_id {
                                    Some(account) => a href=(link("/account", &[("id", account)])) { (id(account)) },
                                    None => "–",
                                } }
                                td { (id_or_dash(case.event_id.as_deref())) }
                                td { (id_or_dash(case.source.as_deref())) }
                                td.detail { (visible(&case.detail)) }
                                td.n { (number(case.attempts)) }
                                td { (ago(case.first_seen_at)) }
                                td { (id_or_dash(case.assignee.as_deref())) }
                            }
                        }
                    }
                }
            }
            p.note {
                (total_words(total)) " in all; " (cases.len()) " on this page, newest first. "
                @if frame.may(Action::Export) {
                    a href=(link("/api/quarantine", &asked.with(&[("export", "csv")]))) download { "CSV" }
                }
            }
            @if can_act {
                fieldset.scope {
                    legend.unseen { "Which cases" }
                    label.choice { input type="radio" name="scope" value="selected" checked; "selected" }
                    label.choice {
                        input type="radio" name="scope" value="all";
                        "all " @if is_exact { (total_words(total)) " " } "matching"
                    }
                }
                (act_bar(asked.state()))
            } @else if !frame.may(Action::WorkCases) {
                (frame.may_not(Action::WorkCases))
            }
        }
    }
}

fn case_money(case: &CaseRow) -> String {
    let known = case.amount.zip(case.currency.as_deref());
    known.map_or_else(|| "–".to_owned(), |(amount, currency)| visible(&money(amount, currency)))
}

/// What can be done to cases in this state.
fn verbs(state: &str) -> &'static [Verb] {
    match state {
        "open" | "waiting" | "all" => &[Verb::Replay, Verb::Discard],
        "discarded" => &[Verb::Reopen],
        _ => &[],
    }
}

/// Why, and a button for each action that cases in this state allow.
pub(super) fn act_bar(state: &str) -> Markup {
    html! {
        // Made once for this form: sent twice, it is done once.
        input type="hidden" name="key" value=(actions::random_key());
        fieldset.act {
            legend.unseen { "Actions" }
            label.why { "Why" input name="why" required maxlength="1000" placeholder="stored in the audit log"; }
            @for verb in verbs(state) {
                @match verb {
                    Verb::Replay => button type="submit" name="verb" value="replay" title="Decide again, against what is known now. Safe to repeat" { "Replay" },
                    Verb::Discard => button.danger type="submit" name="verb" value="discard" title="End without applying" { "Discard" },
                    Verb::Reopen => button type="submit" name="verb" value="reopen" title="Take the discard back" { "Reopen" },
                    // It needs an account: the form of a case has it.
                    Verb::Assign => {},
                }
            }
            @if matches!(state, "open" | "waiting" | "all") { (take_buttons()) }
        }
    }
}

/// Does what a form of this page, of a case or of the confirmation asks for.
pub(in crate::ops) async fn act(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    RawForm(body): RawForm,
) -> Response {
    let now = pool.watch.now();
    let back = ("/quarantine", "Back to the cases");
    let refuse = |words: &str| frame.refusal(&now, Place::Quarantine, words, back);
    let asked = match Parameters::of_form(&body, &FORM_NAMES) {
        Ok(asked) => asked,
        Err(Wrong(words)) => return refuse(&words),
    };
    let pairs = asked.pairs();
    let text = |name: &str| pairs.iter().find(|pair| pair.0 == name).map_or("", |pair| pair.1.as_str());
    let who = frame.visitor.as_ref().map(|visitor| visitor.name.clone()).unwrap_or_default();
    if let Some(work) = case_work::asked(text("verb"), &who) {
        return case_work::act(&pool, &frame, &asked, work, &who).await;
    }
    let Some(verb) = Verb::parse(text("verb")) else {
        return refuse("The form did not say whether to replay, discard, reopen or assign.");
    };
    let why = match actions::words(text("why")) {
        Ok(why) => why,
        Err(words) => return refuse(words),
    };
    let ids: Result<Vec<i64>, Wrong> = asked.all("id").map(|id| whole("id", id, 1..=i64::MAX)).collect();
    let ids = match ids {
        Ok(ids) => ids,
        Err(Wrong(words)) => return refuse(&words),
    };
    let key = match actions::key(text("key")) {
        Ok(key) => key,
        Err(words) => return refuse(words),
    };
    if verb == Verb::Assign {
        let [case] = ids[..] else { return refuse("One case at a time is handed to another account.") };
        let Ok(account) = AccountId::new(text("account")) else {
            return refuse("Name the account: 1 to 200 bytes without control characters.");
        };
        return begin(&pool, &frame, actions::assignment(who, Via::Web, (why, key), case, account)).await;
    }
    let is_all = text("scope") == "all";
    let filter = if is_all {
        match Asked::of(&asked) {
            Ok(asked) => all_that_fit(&asked, verb),
            Err(Wrong(words)) => return refuse(&words),
        }
    } else if ids.is_empty() {
        return refuse("No case was selected.");
    } else {
        Filter { ids, states: verb.states().to_vec(), ..Filter::default() }
    };
    let asks = is_all || verb == Verb::Discard;
    if asks && text("confirmed") != "yes" {
        return confirmation::ask(&pool, &frame, &asked, &filter, verb, &why).await;
    }
    let chosen = filter.to_string();
    let order = Order { who, via: Via::Web, verb, why, filter, chosen, assign_to: None, key };
    begin(&pool, &frame, order).await
}

async fn begin(pool: &Arc<Pool>, frame: &Frame, order: Order) -> Response {
    match actions::start(pool, order).await {
        Ok(start) => shown(pool, frame, &start),
        Err(cause) => frame.unavailable(&pool.watch.now(), Place::Quarantine, &cause),
    }
}

/// Where a person reads on after a request.
pub(super) fn shown(pool: &Pool, frame: &Frame, start: &Start) -> Response {
    let words = match start {
        Start::Begun(action) => return Redirect::to(&format!("/audit-log/{action}")).into_response(),
        Start::Before(row) => return Redirect::to(&format!("/audit-log/{}", row.id)).into_response(),
        Start::Proposed(row) => return Redirect::to(&format!("/approvals/{}", row.id)).into_response(),
        Start::Ended(row) => {
            let back = format!("/approvals/{}", row.id);
            let back = (back.as_str(), "The proposal");
            return frame.refusal(&pool.watch.now(), Place::Approvals, &row.in_vain(), back);
        }
        Start::OtherContent(what) => {
            format!("This form was sent before, with other content: {what}. Load the page again.")
        }
        Start::Refused(words) => words.clone(),
    };
    frame.refusal(&pool.watch.now(), Place::Quarantine, &words, ("/quarantine", "Back to the cases"))
}

/// All that fit and can be worked, but those that came after the first page was made.
fn all_that_fit(asked: &Asked, verb: Verb) -> Filter {
    let mut filter = Filter { id_max: asked.id_max, ..asked.filter().clone() };
    if filter.states.is_empty() {
        filter.states = verb.states().to_vec();
    }
    filter
}
