//! Which cases a person means, as a condition in SQL and in words; and how a list of them is cut into pages. What must not live here: any
//! statement.

use std::fmt;

use sqlx::{Postgres, QueryBuilder};
use time::OffsetDateTime;

use payonce_ledger::{Currency, Reason};

/// Cases that one list looks through for a text, which no index helps with: about 0.1 s.
pub const TEXT_READ_MAX: i64 = 100_000;

/// Which cases. Every part that is set must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// These ones; empty: any.
    pub ids: Vec<i64>,
    /// In one of these states; empty: any.
    pub states: Vec<&'static str>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// From this provider.
    pub source: Option<String>,
    /// Without a source: those of which none could be read.
    pub without_source: bool,
    /// About this account.
    pub account_id: Option<String>,
    /// Of this person.
    pub assignee: Option<String>,
    /// Of nobody.
    pub is_unassigned: bool,
    /// No newer than this case: what a person saw when they chose.
    pub id_max: Option<i64>,
    /// First seen before.
    pub seen_before: Option<OffsetDateTime>,
    /// First seen at or after.
    pub seen_since: Option<OffsetDateTime>,
    /// Of exactly so many minor units of this currency.
    pub amount: Option<(i64, Currency)>,
    /// With this text in the detail, the event's id or the payment's, in whatever case; or with a reference that is just this.
    pub text: Option<String>,
}

impl fmt::Display for Filter {
    /// In words, for the audit log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(i64::to_string).collect();
            parts.push(format!("cases {}", ids.join(", ")));
        }
        if !self.states.is_empty() {
            parts.push(self.states.join(" or "));
        }
        if let Some(reason) = self.reason {
            parts.push(format!("reason {}", reason.as_str()));
        }
        if let Some(source) = &self.source {
            parts.push(format!("source {source}"));
        }
        if self.without_source {
            parts.push("without a source".to_owned());
        }
        if let Some(account_id) = &self.account_id {
            parts.push(format!("account {account_id}"));
        }
        if let Some(assignee) = &self.assignee {
            parts.push(format!("of {assignee}"));
        }
        if self.is_unassigned {
            parts.push("of nobody".to_owned());
        }
        if let Some(id) = self.id_max {
            parts.push(format!("up to case {id}"));
        }
        if let Some(before) = self.seen_before {
            parts.push(format!("first seen before {before}"));
        }
        if let Some(since) = self.seen_since {
            parts.push(format!("first seen since {since}"));
        }
        if let Some((amount, currency)) = self.amount {
            parts.push(format!("of {}", currency.money(amount)));
        }
        if let Some(text) = &self.text {
            parts.push(format!("with the text {text:?}"));
        }
        f.write_str(if parts.is_empty() { "all" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

/// Where a page of cases ends, and how long it is.
#[derive(Debug, Clone, Copy)]
pub enum Page {
    /// The newest with a smaller id.
    Before(i64, i64),
    /// The oldest with a greater id.
    After(i64, i64),
}

impl Page {
    /// The newest cases, at most so many.
    #[must_use]
    pub fn newest(limit: i64) -> Self {
        Self::Before(i64::MAX, limit)
    }
}

/// Which of the cases that fit are looked through for a text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Looked {
    /// The newest before this one.
    Newest(i64),
    /// The oldest.
    Oldest,
}

/// ` from quarantine where …`, for what is only shown: without a text as [`push_filter`]; with one, of the cases that fit all else just
/// [`TEXT_READ_MAX`] are looked through.
pub(super) fn push_from(query: &mut QueryBuilder<Postgres>, filter: &Filter, looked: Looked) {
    let Some(text) = &filter.text else {
        query.push(" from quarantine");
        push_filter(query, filter);
        if let Looked::Newest(before) = looked {
            query.push(" and id < ").push_bind(before);
        }
        return;
    };
    query.push(" from (select * from quarantine");
    push_filter(query, &Filter { text: None, ..filter.clone() });
    match looked {
        Looked::Newest(before) => query.push(" and id < ").push_bind(before).push(" order by id desc"),
        Looked::Oldest => query.push(" order by id"),
    };
    query.push(" limit ").push_bind(TEXT_READ_MAX).push(") quarantine where true");
    push_text(query, text);
}

fn push_text(query: &mut QueryBuilder<Postgres>, text: &str) {
    query.push(" and (strpos(lower(detail), lower(").push_bind(text.to_owned()).push(")) > 0");
    query.push(" or strpos(lower(event_id), lower(").push_bind(text.to_owned()).push(")) > 0");
    query.push(" or strpos(lower(payment_id), lower(").push_bind(text.to_owned()).push(")) > 0");
    query.push(" or (event_id, source) in (select event_id, source from callback_references where value = ");
    query.push_bind(text.to_owned()).push("))");
}

pub(super) fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    query.push(" where true");
    if !filter.ids.is_empty() {
        query.push(" and id = any(").push_bind(filter.ids.clone()).push(")");
    }
    if let [state] = filter.states[..] {
        // An equality, so that the index over (state, id) gives a page in order.
        query.push(" and state = ").push_bind(state);
    } else if !filter.states.is_empty() {
        query.push(" and state = any(").push_bind(filter.states.clone()).push(")");
    }
    if let Some(reason) = filter.reason {
        query.push(" and reason = ").push_bind(reason.as_str());
    }
    if let Some(source) = &filter.source {
        // The second condition is that of the index, which the look-ups of workers must not use.
        query.push(" and source = ").push_bind(source.clone()).push(" and source <> ''");
    }
    if filter.without_source {
        query.push(" and source is null");
    }
    if let Some(account_id) = &filter.account_id {
        query.push(" and account_id = ").push_bind(account_id.clone());
    }
    if let Some(assignee) = &filter.assignee {
        query.push(" and assignee = ").push_bind(assignee.clone());
    }
    if filter.is_unassigned {
        query.push(" and assignee is null");
    }
    if let Some(id) = filter.id_max {
        query.push(" and id <= ").push_bind(id);
    }
    if let Some(before) = filter.seen_before {
        query.push(" and first_seen_at < ").push_bind(before);
    }
    if let Some(since) = filter.seen_since {
        query.push(" and first_seen_at >= ").push_bind(since);
    }
    if filter.states.is_empty() && (filter.seen_before.is_some() || filter.seen_since.is_some()) {
        // So that the index over (state, first_seen_at) is of use.
        query.push(" and state in ('open', 'waiting', 'replayed', 'discarded')");
    }
    if let Some((amount, currency)) = filter.amount {
        query.push(" and amount = ").push_bind(amount).push(" and currency = ").push_bind(currency.as_str());
    }
    if let Some(text) = &filter.text {
        push_text(query, text);
    }
}
