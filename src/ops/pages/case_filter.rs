//! Which cases a page, a form or a request to the API asks for. What must not live here: what is shown of them, and what is done.

use crate::{
    ledger::Reason,
    parameters::{Parameters, Wrong},
    store::quarantine::Filter,
};

/// In the order of the menu.
pub(in crate::ops) const STATES: [&str; 4] = ["open", "waiting", "replayed", "discarded"];

/// What is asked for, as it stands in the address.
#[derive(Debug, Clone, Default)]
pub(in crate::ops) struct Asked {
    pub(super) state: &'static str,
    pub(super) reason: &'static str,
    pub(super) source: String,
    /// `yes`, or empty.
    pub(super) without_source: &'static str,
    pub(super) account: String,
    /// The person who works on it.
    pub(super) assignee: String,
    /// `yes`, or empty.
    pub(super) unassigned: &'static str,
    pub(super) before: i64,
    /// The newest case when the first page was made.
    pub(super) id_max: Option<i64>,
}

impl Asked {
    /// What an address may name.
    pub(in crate::ops) const NAMES: [&str; 9] = [
        "state",
        "reason",
        "source",
        "without_source",
        "account",
        "assignee",
        "unassigned",
        "before",
        "id_max",
    ];

    /// From the parameters of an address or a form. What is missing is any; where one cannot be used, nothing else is meant by it.
    pub(in crate::ops) fn of(parameters: &Parameters) -> Result<Self, Wrong> {
        let states = || STATES.into_iter().chain(["all"]);
        let expected = states().collect::<Vec<_>>().join(", ");
        let state = parameters.choice("state", |text| states().find(|state| *state == text), &expected)?;
        let reason = parameters.choice("reason", Reason::parse, &Reason::names())?;
        let yes = |text: &str| (text == "yes").then_some("yes");
        let without_source = parameters.choice("without_source", yes, "yes")?.unwrap_or_default();
        let id = |name| Ok(parameters.id(name)?.map(|id| id.trim().to_owned()).unwrap_or_default());
        if !without_source.is_empty() && parameters.id("source")?.is_some() {
            return Err(Wrong("source, without_source: expected one of them, not both".to_owned()));
        }
        let unassigned = parameters.choice("unassigned", yes, "yes")?.unwrap_or_default();
        if !unassigned.is_empty() && parameters.id("assignee")?.is_some() {
            return Err(Wrong("assignee, unassigned: expected one of them, not both".to_owned()));
        }
        Ok(Self {
            assignee: id("assignee")?,
            unassigned,
            without_source,
            state: state.unwrap_or("open"),
            reason: reason.map_or("", Reason::as_str),
            source: id("source")?,
            account: id("account")?,
            before: parameters.number("before", 1..=i64::MAX)?.unwrap_or(i64::MAX),
            id_max: parameters.number("id_max", 1..=i64::MAX)?,
        })
    }

    pub(in crate::ops) fn filter(&self) -> Filter {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Filter {
            states: STATES.into_iter().filter(|state| self.state == *state).collect(),
            reason: Reason::parse(self.reason),
            source: some(&self.source),
            without_source: !self.without_source.is_empty(),
            account_id: some(&self.account),
            assignee: some(&self.assignee),
            is_unassigned: !self.unassigned.is_empty(),
            ..Filter::default()
        }
    }

    pub(in crate::ops) fn before(&self) -> i64 {
        self.before
    }

    pub(super) fn parameters(&self) -> [(&str, &str); 7] {
        [
            ("state", self.state),
            ("reason", self.reason),
            ("source", &self.source),
            ("without_source", self.without_source),
            ("account", &self.account),
            ("assignee", &self.assignee),
            ("unassigned", self.unassigned),
        ]
    }

    /// The same with these in place of its own.
    pub(super) fn with<'a>(&'a self, others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mine =
            self.parameters().into_iter().filter(|(name, _)| others.iter().all(|(other, _)| other != name));
        others.iter().copied().chain(mine).collect()
    }

    /// Whether it asks for more than a state and a reason.
    pub(super) fn is_narrow(&self) -> bool {
        let wide = [&self.source, &self.account, &self.assignee].iter().all(|text| text.is_empty());
        !(wide && self.without_source.is_empty() && self.unassigned.is_empty())
    }
}
