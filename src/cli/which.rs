//! Which cases a command is about, as its arguments say. What must not live here: what is done to them.

use time::{Duration, OffsetDateTime};

use super::{Failure, values, with_database};
use crate::{
    answers::money_of,
    config::Config,
    ledger::{Currency, Reason},
    store::{self, actions::Verb, quarantine::Filter},
};

/// Which cases; all parts must fit.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Which {
    /// Case ids.
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// Quarantined for this reason.
    #[arg(long, value_parser = values::reason, value_name = "REASON")]
    reason: Option<Reason>,
    /// From this provider.
    #[arg(long, value_parser = values::id, value_name = "SOURCE", allow_hyphen_values = true)]
    source: Option<String>,
    /// Without a source: those of which none could be read.
    #[arg(long, conflicts_with = "source")]
    without_source: bool,
    /// About this account.
    #[arg(long, value_parser = values::id, value_name = "ID", allow_hyphen_values = true)]
    account: Option<String>,
    /// That this person has taken.
    #[arg(long, value_parser = values::name, value_name = "NAME")]
    assignee: Option<String>,
    /// That nobody has taken.
    #[arg(long, conflicts_with = "assignee")]
    unassigned: bool,
    /// First seen longer ago than this: a number and s, m, h or d.
    #[arg(long, value_parser = values::age, value_name = "AGE", allow_hyphen_values = true)]
    older_than: Option<Duration>,
    /// First seen within this: a number and s, m, h or d.
    #[arg(long, value_parser = values::age, value_name = "AGE", allow_hyphen_values = true)]
    newer_than: Option<Duration>,
    /// First seen on this day or later, or at this time or later: 2026-11-25, or 2026-11-25T14:00:00Z.
    #[arg(long, value_parser = values::begin, value_name = "TIME", conflicts_with = "newer_than")]
    from: Option<OffsetDateTime>,
    /// First seen on this day or earlier, or before this time.
    #[arg(long, value_parser = values::end, value_name = "TIME", conflicts_with = "older_than")]
    to: Option<OffsetDateTime>,
    /// Of exactly this amount, such as "634.83 EUR".
    #[arg(long, value_parser = money_of, value_name = "MONEY")]
    amount: Option<(i64, Currency)>,
    /// With this text in the detail, the event's id or the payment's, in upper or lower case, or with a reference that is just this.
    #[arg(long, value_parser = values::id, value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,
}

impl Which {
    /// This one case.
    pub(super) fn case(id: i64) -> Self {
        Self { ids: vec![id], ..Self::default() }
    }

    /// Ages are counted back from the database's time, which stamps cases.
    pub(super) async fn filter(self, config: &Config, states: &[&'static str]) -> Result<Filter, Failure> {
        self.check()?;
        let has_age = self.older_than.is_some() || self.newer_than.is_some();
        let now = if has_age { Some(with_database(config, store::now).await?) } else { None };
        let before = |age: Option<Duration>| now.zip(age).map(|(now, age)| now.saturating_sub(age));
        Ok(Filter {
            ids: self.ids,
            states: states.to_vec(),
            reason: self.reason,
            source: self.source,
            without_source: self.without_source,
            account_id: self.account,
            assignee: self.assignee,
            is_unassigned: self.unassigned,
            id_max: None,
            seen_before: self.to.or(before(self.older_than)),
            seen_since: self.from.or(before(self.newer_than)),
            amount: self.amount,
            text: self.text,
        })
    }

    /// The ages and times in words, for the audit log.
    pub(super) fn ages(&self) -> String {
        let words = |what: &str, age: Option<Duration>| {
            age.map_or_else(String::new, |age| format!("; first seen {what} {} s", age.whole_seconds()))
        };
        let moment = |what: &str, at: Option<OffsetDateTime>| {
            at.map_or_else(String::new, |at| format!("; first seen {what} {at}"))
        };
        words("longer ago than", self.older_than)
            + &words("within", self.newer_than)
            + &moment("since", self.from)
            + &moment("before", self.to)
    }

    /// Refuses times that no case can lie between.
    fn check(&self) -> Result<(), Failure> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from >= to => {
                Err(Failure::Usage("--to comes before --from".to_owned()))
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// The filter of a command that changes cases: it must say which.
    pub(super) async fn chosen(self, config: &Config, verb: Verb, all: bool) -> Result<Filter, Failure> {
        let filter = self.filter(config, verb.states()).await?;
        let names_some = !filter.ids.is_empty()
            || filter.reason.is_some()
            || filter.source.is_some()
            || filter.without_source
            || filter.account_id.is_some()
            || filter.assignee.is_some()
            || filter.is_unassigned
            || filter.seen_before.is_some()
            || filter.seen_since.is_some()
            || filter.amount.is_some()
            || filter.text.is_some();
        if names_some || all {
            return Ok(filter);
        }
        Err(Failure::Usage("which cases? Name ids, a filter such as --reason, or --all".to_owned()))
    }
}
