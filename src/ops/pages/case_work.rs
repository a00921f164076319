//! Who works on a case, and notes about it: fields and buttons of the quarantine's pages, and what they do. What must not live here: anything that
//! applies, discards or moves a case.

use std::sync::Arc;

use axum::response::Response;
use maud::{Markup, html};

use super::{case_filter::Asked, quarantine::shown};
use crate::{
    ops::{
        Pool, actions,
        layout::{Frame, Place, link},
    },
    parameters::{Parameters, Wrong, whole},
    store::{
        actions::Via,
        case_work::{CaseWork, CaseWorker},
    },
};

/// What a button asks for, by its value; `None`: for something else.
pub(super) fn asked<'a>(verb: &str, who: &'a str) -> Option<CaseWork<'a>> {
    match verb {
        "take" => Some(CaseWork::Take(who)),
        "hand_back" => Some(CaseWork::HandBack),
        "note" => Some(CaseWork::Note),
        _ => None,
    }
}

/// Does it to the cases that a form names one by one. A person takes cases alone; for another it is done by the API and the command line.
pub(super) async fn act(
    pool: &Arc<Pool>,
    frame: &Frame,
    asked: &Parameters,
    work: CaseWork<'_>,
    who: &str,
) -> Response {
    let now = pool.watch.now();
    let refuse =
        |words: &str| frame.refusal(&now, Place::Quarantine, words, ("/quarantine", "Back to the cases"));
    let ids: Result<Vec<i64>, Wrong> = asked.all("id").map(|id| whole("id", id, 1..=i64::MAX)).collect();
    let ids = match ids {
        Ok(ids) => ids,
        Err(Wrong(words)) => return refuse(&words),
    };
    let only = |name| asked.all(name).next().unwrap_or_default();
    if ids.is_empty() || only("scope") == "all" {
        return refuse("Select the cases one by one: only these are taken, handed back or noted about.");
    }
    let why = match only("why") {
        "" if work != CaseWork::Note => Ok(work.why().to_owned()),
        text => actions::words(text),
    };
    let (why, key) = match why.and_then(|why| Ok((why, actions::key(only("key"))?))) {
        Ok(given) => given,
        Err(words) => return refuse(words),
    };
    let worker = CaseWorker { who, via: Via::Web, why: &why, key: key.as_deref() };
    match actions::work_cases(pool, &ids, work, worker).await {
        Ok(start) => shown(pool, frame, &start),
        Err(cause) => frame.unavailable(&now, Place::Quarantine, &cause),
    }
}

/// Buttons beside those that decide; they ask for no reason.
pub(super) fn take_buttons() -> Markup {
    html! {
        button.quiet type="submit" name="verb" value="take" formnovalidate title="You work on them; others see it" { "Take" }
        button.quiet type="submit" name="verb" value="hand_back" formnovalidate title="Nobody works on them" { "Hand back" }
    }
}

/// A note about one case.
pub(super) fn note_form(frame: &Frame, case: i64) -> Markup {
    html! {
        form method="post" action="/quarantine/act" {
            (frame.csrf())
            input type="hidden" name="id" value=(case);
            input type="hidden" name="key" value=(actions::random_key());
            fieldset.act {
                legend.unseen { "Note" }
                label.why { "Note" input name="why" required maxlength="1000" placeholder="stored in the audit log, with your name"; }
                button type="submit" name="verb" value="note" { "Add note" }
            }
        }
    }
}

/// Whose cases are shown: a way to one's own and to nobody's.
pub(super) fn assignee_choice(frame: &Frame, asked: &Asked) -> Markup {
    let me = frame.visitor.as_ref().map_or("", |visitor| visitor.name.as_str());
    let to = |assignee: &str, unassigned: &str| {
        link("/quarantine", &asked.with(&[("assignee", assignee), ("unassigned", unassigned)]))
    };
    html! {
        @if !me.is_empty() && asked.value("assignee") != me { a href=(to(me, "")) { "Mine" } }
        @if asked.value("unassigned").is_empty() { a href=(to("", "yes")) { "Of nobody" } }
    }
}
