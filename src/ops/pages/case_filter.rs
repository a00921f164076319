//! Which cases a page, a form or a request to the API asks for: the one list of what they can be asked for by. What must not live here: what is shown
//! of them, and what is done.

use maud::{Markup, html};

use crate::{
    answers::money_of,
    ledger::Reason,
    ops::layout::{link, number, visible},
    parameters::{Parameters, Wrong},
    reports::asked::moments,
    store::{case_sums::Standing, quarantine::Filter},
};

/// In the order of the menu.
pub(in crate::ops) const STATES: [&str; 4] = ["open", "waiting", "replayed", "discarded"];

/// What a part of the filter is, in the form of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Tabs.
    State,
    /// A list.
    Reason,
    /// A text, with an example.
    Text(&'static str),
    /// `yes`, or nothing: shown where it is set.
    Yes,
}

/// A part of the filter.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// In addresses, forms, the API and its description.
    name: &'static str,
    /// On the page.
    label: &'static str,
    kind: Kind,
}

const fn part(name: &'static str, label: &'static str, kind: Kind) -> Part {
    Part { name, label, kind }
}

/// How many parts a filter has. A number, for the compiler: an optimised build does not end (E0391) where the type of a static is computed from
/// a list.
pub(in crate::ops) const PART_COUNT: usize = 11;

/// What cases can be asked for by: the form of the page, its chips, the API and its description are made from this.
const PARTS: [Part; PART_COUNT] = [
    part("state", "State", Kind::State),
    part("reason", "Reason", Kind::Reason),
    part("source", "Source", Kind::Text("/providers/…")),
    part("without_source", "without a source", Kind::Yes),
    part("account", "Account", Kind::Text("")),
    part("from", "Opened from (UTC)", Kind::Text("2026-11-25")),
    part("to", "to", Kind::Text("2026-11-25T14:00:00Z")),
    part("amount", "Amount", Kind::Text("634.83 EUR")),
    part("text", "Text", Kind::Text("detail, event or payment")),
    part("assignee", "Assignee", Kind::Text("")),
    part("unassigned", "that nobody has taken", Kind::Yes),
];

/// The names of the filter.
pub(in crate::ops) const FILTER: [&str; PART_COUNT] = {
    let mut names = [""; PART_COUNT];
    let mut at = 0;
    while at < PART_COUNT {
        names[at] = PARTS[at].name;
        at += 1;
    }
    names
};

/// These names, then those.
pub(in crate::ops) const fn joined<const A: usize, const B: usize, const N: usize>(
    these: [&'static str; A],
    those: [&'static str; B],
) -> [&'static str; N] {
    assert!(A + B == N, "as many names as there are");
    let mut names = [""; N];
    let mut at = 0;
    while at < N {
        names[at] = if at < A { these[at] } else { those[at - A] };
        at += 1;
    }
    names
}

/// What is asked for, as it stands in the address.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Asked {
    /// One for each of [`FILTER`]; empty: any.
    values: [String; PART_COUNT],
    filter: Filter,
    pub(super) before: i64,
    /// The newest case when the first page was made.
    pub(super) id_max: Option<i64>,
}

impl Asked {
    /// What the address of the page may name.
    pub(in crate::ops) const NAMES: [&str; PART_COUNT + 2] = joined(FILTER, ["before", "id_max"]);

    /// From the parameters of an address or a form. What is missing is any; where one cannot be used, nothing else is meant by it.
    pub(in crate::ops) fn of(parameters: &Parameters) -> Result<Self, Wrong> {
        let states = || STATES.into_iter().chain(["all"]);
        let expected = states().collect::<Vec<_>>().join(", ");
        let state = parameters.choice("state", |text| states().find(|state| *state == text), &expected)?;
        let state = state.unwrap_or("open");
        // Spaces alone must not be any, and those around an id are part of it: whoever acts on what is found would act on something else.
        let id = |name| match parameters.id(name)? {
            Some(id) if id.trim().is_empty() => Err(Wrong(format!("{name}: nothing but spaces"))),
            id => Ok(id.map(str::to_owned)),
        };
        let yes = |name| {
            Ok::<_, Wrong>(parameters.choice(name, |text| (text == "yes").then_some(()), "yes")?.is_some())
        };
        let either = |one: bool, name, other: bool, other_name| {
            let both = || Wrong(format!("{name}, {other_name}: expected one of them, not both"));
            if one && other { Err(both()) } else { Ok(()) }
        };
        let (since, before) = moments(parameters.single("from")?, parameters.single("to")?).map_err(Wrong)?;
        let amount = parameters.single("amount")?.map(money_of).transpose();
        let filter = Filter {
            states: STATES.into_iter().filter(|one| state == *one).collect(),
            reason: parameters.choice("reason", Reason::parse, &Reason::names())?,
            source: id("source")?,
            without_source: yes("without_source")?,
            account_id: id("account")?,
            assignee: id("assignee")?,
            is_unassigned: yes("unassigned")?,
            seen_since: since,
            seen_before: before,
            amount: amount.map_err(|expected| Wrong(format!("amount: {expected}")))?,
            text: id("text")?,
            ..Filter::default()
        };
        either(filter.source.is_some(), "source", filter.without_source, "without_source")?;
        either(filter.assignee.is_some(), "assignee", filter.is_unassigned, "unassigned")?;
        let mut values = FILTER.map(|name| {
            let value = parameters.all(name).next().unwrap_or_default();
            value.trim().to_owned()
        });
        values[0] = state.to_owned();
        Ok(Self {
            values,
            filter,
            before: parameters.number("before", 1..=i64::MAX)?.unwrap_or(i64::MAX),
            id_max: parameters.number("id_max", 1..=i64::MAX)?,
        })
    }

    pub(in crate::ops) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether it asks for more than a state.
    pub(in crate::ops) fn names_some(&self) -> bool {
        self.parameters().any(|(name, value)| name != "state" && !value.is_empty())
    }

    pub(in crate::ops) fn before(&self) -> i64 {
        self.before
    }

    /// A part of it; empty: any.
    pub(super) fn value(&self, name: &str) -> &str {
        self.parameters().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// `open`, `waiting`, `replayed`, `discarded` or `all`.
    pub(super) fn state(&self) -> &str {
        &self.values[0]
    }

    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        FILTER.into_iter().zip(self.values.iter().map(String::as_str))
    }

    /// The same with these in place of its own.
    pub(super) fn with<'a>(&'a self, others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mine = self
            .parameters()
            .filter(|(name, _)| others.iter().all(|(other, _)| *other != *name))
            .map(|(name, value)| -> (&'a str, &'a str) { (name, value) });
        mine.chain(others.iter().copied()).collect()
    }

    /// Whether it asks for more than a state and a reason.
    pub(super) fn is_narrow(&self) -> bool {
        self.parameters().any(|(name, value)| !matches!(name, "state" | "reason") && !value.is_empty())
    }

    /// Each part that is set but the state, with a way to be rid of it.
    pub(super) fn chips(&self) -> Markup {
        let set: Vec<&Part> = PARTS
            .iter()
            .filter(|part| part.kind != Kind::State && !self.value(part.name).is_empty())
            .collect();
        html! {
            @if !set.is_empty() {
                ul.chips aria-label="Filters" {
                    @for part in &set {
                        @let value = visible(self.value(part.name));
                        @let without = link("/quarantine", &self.with(&[(part.name, "")]));
                        li {
                            @if part.kind == Kind::Yes { (part.label) } @else { (part.label) ": " strong { (value) } }
                            " " a href=(without) aria-label={ "Remove the filter " (part.label) } { "×" }
                        }
                    }
                    li { a href=(link("/quarantine", &[("state", self.state())])) { "Clear all" } }
                }
            }
        }
    }

    /// Fields of a form for every part. With how many cases of each reason there are.
    pub(super) fn fields(&self, standing: &Standing) -> Markup {
        html! {
            @for part in &PARTS {
                @let value = self.value(part.name);
                @match part.kind {
                    Kind::State => input type="hidden" name=(part.name) value=(value);,
                    Kind::Reason => label { (part.label)
                        select name=(part.name) {
                            option value="" { "any" }
                            @for reason in Reason::ALL {
                                @let n = standing.count(self.state(), Some(reason.as_str()));
                                option value=(reason.as_str()) selected[value == reason.as_str()] {
                                    (reason.as_str()) @if n > 0 { " (" (number(n)) ")" }
                                }
                            }
                        }
                    },
                    Kind::Text(example) => label { (part.label) input name=(part.name) value=(value) placeholder=(example) maxlength="200"; },
                    Kind::Yes => @if !value.is_empty() {
                        label.choice { input type="checkbox" name=(part.name) value="yes" checked; (part.label) }
                    },
                }
            }
        }
    }
}
