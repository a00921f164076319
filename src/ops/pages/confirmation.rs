//! Before many cases are acted on at once, or any is discarded, a person sees how many they are and what money they are about. What must not live
//! here: what is done then.

use axum::response::Response;
use maud::html;

use super::{
    case_filter::Asked,
    quarantine::{COUNT_MAX, total_words},
};
use crate::{
    answers::money,
    ops::{
        Pool,
        layout::{Frame, Place, link, number, visible},
    },
    parameters::Parameters,
    store::{
        actions::Verb,
        quarantine::{self, Filter},
    },
};

/// Many at once, and whatever is discarded, are named with their number and money first.
pub(super) async fn ask(
    pool: &Pool,
    frame: &Frame,
    parameters: &Parameters,
    filter: &Filter,
    verb: Verb,
    why: &str,
) -> Response {
    let now = pool.watch.now();
    let asked = match Asked::of(parameters) {
        Ok(asked) => asked,
        Err(wrong) => return frame.wrong(&now, Place::Quarantine, &wrong),
    };
    let counted = pool.reader.run(async |connection| quarantine::sums(connection, filter, COUNT_MAX).await);
    let sums = match counted.await {
        Ok(sums) => sums,
        Err(cause) => return frame.unavailable(&now, Place::Quarantine, &cause),
    };
    let name = match verb {
        Verb::Replay => "Replay",
        Verb::Discard => "Discard",
        Verb::Reopen => "Reopen",
        Verb::Assign => "Assign",
    };
    let plural = if sums.cases == 1 { "" } else { "s" };
    let title = format!("{name} {} case{plural}?", total_words(sums.cases));
    let at_least = if sums.cases >= COUNT_MAX { "at least " } else { "" };
    let body = html! {
        h1 { (title) }
        section.card {
            dl.facts {
                dt { "Selection" } dd { (visible(&filter.to_string())) }
                @for (currency, amount) in &sums.money {
                    dt { "Money" } dd { (at_least) (visible(&money(*amount, currency))) }
                }
                @if sums.unreadable > 0 { dt { "Unknown amount" } dd { (number(sums.unreadable)) } }
                dt { "Why" } dd { (visible(why)) }
            }
            @match verb {
                Verb::Replay => p.note { "Each is decided again, against what is known now. What still cannot be applied stays a case." },
                Verb::Discard => p.problem { "Discarded cases are not applied. Reopening takes a discard back." },
                Verb::Reopen => p.note { "They are open, or wait, as before they were discarded." },
                Verb::Assign => p.note { "It is handed to the account, and decided at once." },
            }
            form method="post" action="/quarantine/act" {
                (frame.csrf())
                @for (name, value) in parameters.pairs().iter().filter(|pair| !matches!(pair.0.as_str(), "csrf" | "confirmed" | "verb")) {
                    input type="hidden" name=(name) value=(value);
                }
                input type="hidden" name="confirmed" value="yes";
                button.danger[verb == Verb::Discard] type="submit" name="verb" value=(verb.as_str()) { "Yes, " (verb.as_str()) }
                " " a href=(link("/quarantine", &asked.with(&[]))) { "No" }
            }
        }
    };
    frame.page(&now, Place::Quarantine, &title, body)
}
