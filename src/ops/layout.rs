//! What every page has: the frame around it, and how numbers, times and ids are written. Ids come from whoever writes to the queue:
//! the templates escape them, and characters that cannot be seen, or turn the line around, are shown by their number.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};
use time::OffsetDateTime;
use tracing::warn;

use super::{
    access::{Action, Visitor, cookie},
    assets::address,
    clock,
    footer::footer,
    watch::Now,
};
use crate::{parameters::Wrong, shown::is_hidden, store::StoreError};

/// The pages, in the order of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Duplicates,
    Quarantine,
    Find,
    Debts,
    Reports,
    Providers,
    Approvals,
    Workers,
    AuditLog,
}

impl Place {
    const ALL: [Self; 10] = [
        Self::Overview,
        Self::Duplicates,
        Self::Quarantine,
        Self::Find,
        Self::Debts,
        Self::Reports,
        Self::Providers,
        Self::Approvals,
        Self::Workers,
        Self::AuditLog,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Duplicates => "Duplicates",
            Self::Quarantine => "Quarantine",
            Self::Find => "Find",
            Self::Debts => "Debts",
            Self::Reports => "Reports",
            Self::Providers => "Providers",
            Self::Approvals => "Approvals",
            Self::Workers => "Workers",
            Self::AuditLog => "Audit log",
        }
    }

    /// What it takes to see it.
    fn action(self) -> Action {
        match self {
            Self::Reports => Action::Report,
            Self::Overview
            | Self::Duplicates
            | Self::Quarantine
            | Self::Find
            | Self::Debts
            | Self::Providers
            | Self::Approvals
            | Self::Workers
            | Self::AuditLog => Action::View,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Duplicates => "/duplicates",
            Self::Quarantine => "/quarantine",
            Self::Find => "/find",
            Self::Debts => "/debts",
            Self::Reports => "/reports",
            Self::Providers => "/providers",
            Self::Approvals => "/approvals",
            Self::Workers => "/workers",
            Self::AuditLog => "/audit-log",
        }
    }
}

/// Who looks, and how they like it.
pub(super) struct Frame {
    pub(super) visitor: Option<Visitor>,
    theme: Option<&'static str>,
}

fn theme(headers: &HeaderMap) -> Option<&'static str> {
    match cookie(headers, "payonce_theme") {
        Some("dark") => Some("dark"),
        Some("light") => Some("light"),
        Some(_) | None => None,
    }
}

/// What somebody reads who may not do what they asked for: a page, or under `/api` the words alone, which become JSON there.
pub(super) fn refused(headers: &HeaderMap, path: &str, words: &str) -> Response {
    if path.starts_with("/api/") {
        return (StatusCode::FORBIDDEN, format!("{words}\n")).into_response();
    }
    let body = html! {
        section.empty {
            h1 { "Your roles do not allow this" }
            p { (words) }
            p { a href="/" { "Overview" } }
        }
    };
    Frame { visitor: None, theme: theme(headers) }.bare(StatusCode::FORBIDDEN, "Not allowed", body)
}

impl<S: Sync> FromRequestParts<S> for Frame {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { visitor: parts.extensions.get().cloned(), theme: theme(&parts.headers) })
    }
}

impl Frame {
    /// May the visitor do this?
    pub(super) fn may(&self, action: Action) -> bool {
        self.visitor.as_ref().is_some_and(|visitor| visitor.may(action))
    }

    /// In place of a form for who may not: why not.
    pub(super) fn may_not(&self, action: Action) -> Markup {
        let words = self.visitor.as_ref().and_then(|visitor| visitor.need(action).err());
        html! { p.note { (words.unwrap_or_default()) } }
    }

    /// The hidden field that every form needs.
    pub(super) fn csrf(&self) -> Markup {
        let csrf = self.visitor.as_ref().map(|visitor| visitor.csrf.as_str()).unwrap_or_default();
        html! { input type="hidden" name="csrf" value=(csrf); }
    }

    /// A whole page.
    pub(super) fn page(&self, now: &Now, place: Place, title: &str, body: Markup) -> Response {
        self.document(StatusCode::OK, title, Some((now, place)), body)
    }

    /// A page in place of one that is not there.
    pub(super) fn not_found(&self, now: &Now, place: Place, words: &str) -> Response {
        let body = html! { h1 { "Not found" } p { (words) } };
        self.document(StatusCode::NOT_FOUND, "Not found", Some((now, place)), body)
    }

    /// A page that says why nothing was done, and where to go on: address and words.
    pub(super) fn refusal(&self, now: &Now, place: Place, words: &str, back: (&str, &str)) -> Response {
        let body = html! {
            h1 { "Nothing was done" }
            p { (visible(words)) }
            p { a href=(back.0) { (back.1) } }
        };
        self.document(StatusCode::BAD_REQUEST, "Nothing was done", Some((now, place)), body)
    }

    /// A page in place of one whose address asks for what cannot be: it answers no other question, and offers nothing to do.
    pub(super) fn wrong(&self, now: &Now, place: Place, Wrong(words): &Wrong) -> Response {
        let body = html! {
            h1 { "This address cannot be used" }
            p { (visible(words)) }
            p { a href=(place.path()) { (place.name()) } }
        };
        self.document(StatusCode::BAD_REQUEST, "This address cannot be used", Some((now, place)), body)
    }

    /// A page that says why what was asked for was not made.
    pub(super) fn not_made(&self, now: &Now, place: Place, status: StatusCode, words: &str) -> Response {
        let body = html! {
            h1 { "This was not made" }
            p { (visible(words)) }
            p { a href=(place.path()) { (place.name()) } }
        };
        self.document(status, "This was not made", Some((now, place)), body)
    }

    /// A page that says that the database does not answer.
    pub(super) fn unavailable(&self, now: &Now, place: Place, cause: &StoreError) -> Response {
        warn!(cause = %cause, page = place.path(), "no page");
        let (status, title, words) = match cause {
            StoreError::Unavailable(_) | StoreError::Blocked(_) | StoreError::Conflict(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "PostgreSQL does not answer",
                "Nothing can be shown here until it does. Workers hold what they have taken, and go on by themselves. The log of this \
                 process says more.",
            ),
            StoreError::Unfit(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "PostgreSQL is not set up as it must be",
                "Nothing is read or written until it is. The log of this process says which setting, and what it must be.",
            ),
            StoreError::Refused(_) => (
                StatusCode::BAD_REQUEST,
                "PostgreSQL refuses this question",
                "Something in what was asked for cannot be looked up. The log of this process says more.",
            ),
        };
        let body = html! { section.empty { h1 { (title) } p { (words) } } };
        self.document(status, title, Some((now, place)), body)
    }

    /// A page outside the menu: the login.
    pub(super) fn bare(&self, status: StatusCode, title: &str, body: Markup) -> Response {
        self.document(status, title, None, body)
    }

    fn document(
        &self,
        status: StatusCode,
        title: &str,
        inside: Option<(&Now, Place)>,
        body: Markup,
    ) -> Response {
        let document = html! {
            (DOCTYPE)
            html lang="en" data-theme=[self.theme] {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · payonce" }
                    link rel="icon" href=(address("icon.svg")) type="image/svg+xml";
                    link rel="stylesheet" href=(address("app.css"));
                    script src=(address("app.js")) defer {}
                }
                body data-live=[inside.map(|_| "/live")] {
                    a.skip href="#main" { "Skip to the content" }
                    @if let Some((now, place)) = inside { (self.header(now, place)) }
                    main #main tabindex="-1" { (body) }
                    @if inside.is_some() { (footer()) }
                }
            }
        };
        let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        (status, headers, document.into_string()).into_response()
    }

    fn header(&self, now: &Now, place: Place) -> Markup {
        html! {
            header.top {
                a.brand href="/" { img src=(address("icon.svg")) alt="" width="22" height="22"; "payonce" }
                // The bar of a screen, and what a phone has in its place: one of them is shown, without a script too.
                (self.menu(now, place))
                details.drawer { summary { "Menu" } (self.menu(now, place)) }
                form.find role="search" action="/find" method="get" {
                    label.unseen for="find" { "Event, payment, operation or account id, reference, or the beginning of one; number of a case" }
                    input #find type="search" name="id" placeholder="Id or reference   /" maxlength="200" autocomplete="off";
                }
                div.corner {
                    span.link data-state="connecting" id="link" title="Live updates" { span.dot {} span #link-text { "live" } }
                    button.quiet type="button" id="theme" aria-label="Switch between light and dark" hidden { "◐" }
                    @if let Some(visitor) = self.visitor.as_ref().filter(|visitor| visitor.has_session) {
                        form action="/logout" method="post" {
                            (self.csrf())
                            button.quiet type="submit" title={ "Logged in as " (visible(&visitor.name)) } { "Log out" }
                        }
                    }
                }
            }
        }
    }
}

impl Frame {
    fn menu(&self, now: &Now, place: Place) -> Markup {
        html! {
            nav aria-label="Pages" {
                @for other in Place::ALL.into_iter().filter(|other| self.may(other.action())) {
                    a href=(other.path()) aria-current=[(other == place).then_some("page")] {
                        (other.name())
                        @if other == Place::Quarantine { " " span.badge data-text="open" { (now.text("open")) } }
                    }
                }
            }
        }
    }
}

/// What stands where nothing is to be shown.
pub(super) fn empty(title: &str, words: &str) -> Markup {
    html! { div.empty { strong { (title) } p { (words) } } }
}

/// A whole number in groups of three.
pub(super) fn number(n: impl Into<i128>) -> String {
    let n: i128 = n.into();
    let digits = n.unsigned_abs().to_string();
    let mut text = String::from(if n < 0 { "−" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate, with as many digits as one wants to read.
pub(super) fn rate(per_second: f64) -> String {
    if per_second >= 100.0 || per_second == 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "rounded for reading")]
        return number(per_second.round() as i64);
    }
    format!("{per_second:.1}")
}

/// A part of a whole, 0 to 1.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A length of time.
pub(super) fn duration(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "rounded for reading")]
    let whole = seconds as i64;
    match whole {
        ..1 => format!("{:.0} ms", seconds * 1_000.0),
        1..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7_200 => format!("{} min", whole / 60),
        7_200..172_800 => format!("{} h", whole / 3_600),
        172_800.. => format!("{} d", whole / 86_400),
    }
}

/// A time to the second, for people and programs.
pub(super) fn instant(at: OffsetDateTime) -> Markup {
    let text = civil(at);
    html! { time datetime=(text.replacen(' ', "T", 1) + "Z") title={ (text) " UTC" } { (text) } }
}

/// A time and how long ago that was.
pub(super) fn ago(at: OffsetDateTime) -> Markup {
    let seconds = (clock::now() - at).as_seconds_f64().max(0.0);
    html! { (instant(at)) " " span.faint { "(" (duration(seconds)) " ago)" } }
}

/// How long ago it was; the time itself on demand.
pub(super) fn since(at: OffsetDateTime) -> Markup {
    let seconds = (clock::now() - at).as_seconds_f64().max(0.0);
    html! { time title={ (civil(at)) " UTC" } { (duration(seconds)) " ago" } }
}

fn civil(at: OffsetDateTime) -> String {
    let (year, month, day) = at.to_offset(time::UtcOffset::UTC).to_calendar_date();
    let (hour, minute, second) = at.to_offset(time::UtcOffset::UTC).to_hms();
    format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}", u8::from(month))
}

/// An id, as its own unit of direction, with all of its characters visible.
pub(super) fn id(text: &str) -> Markup {
    html! { bdi.id { (visible(text)) } }
}

/// The same for what may be absent.
pub(super) fn id_or_dash(text: Option<&str>) -> Markup {
    text.map_or_else(|| html! { span.faint { "–" } }, id)
}

/// A text in which every character can be seen: controls, direction marks and the like stand as ‹U+202E›.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            shown.push_str(&format!("‹U+{:04X}›", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A bar as long as a share, 0 to 1.
pub(super) fn bar(share: f64) -> Markup {
    let width = format!("{:.1}%", share.clamp(0.0, 1.0) * 100.0);
    html! {
        svg.bar width="72" height="8" aria-hidden="true" focusable="false" {
            rect.track width="100%" height="8" rx="4" {}
            rect.fill width=(width) height="8" rx="4" {}
        }
    }
}

/// A state as a coloured word.
pub(super) fn state(word: &str) -> Markup {
    html! { span.state data-state=(word) { (word) } }
}

/// An address with parameters.
pub(super) fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_groups_and_times_in_the_unit_one_thinks_in() {
        let numbers: Vec<String> = [0, 7, 999, 1_000, 1_234_567, -1_000].map(number).to_vec();
        assert_eq!(numbers, ["0", "7", "999", "1,000", "1,234,567", "−1,000"]);
        assert_eq!([0.0, 0.25, 99.94, 16_622.4].map(rate), ["0", "0.2", "99.9", "16,622"]);
        let durations = [0.0123, 1.5, 90.0, 300.0, 10_000.0, 1e6].map(duration);
        assert_eq!(durations, ["12 ms", "1.5 s", "90 s", "5 min", "2 h", "11 d"]);
    }

    #[test]
    fn what_cannot_be_seen_is_shown_by_its_number_and_markup_is_text() {
        assert_eq!(visible("a\u{202E}b\u{0}c\u{200B}é漢"), "a‹U+202E›b‹U+0000›c‹U+200B›é漢");
        assert_eq!(id("<b>\"'&").into_string(), "<bdi class=\"id\">&lt;b&gt;&quot;'&amp;</bdi>");
        assert_eq!(
            link("/event", &[("id", "a&b=<\u{202E}"), ("source", "")]),
            "/event?id=a%26b%3D%3C%E2%80%AE"
        );
    }
}
