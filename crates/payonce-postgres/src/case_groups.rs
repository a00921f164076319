//! Cases in groups: which provider, which reason, how many, how much money, since when. What must not live here: single cases.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{FromRow, PgConnection, QueryBuilder};
use time::OffsetDateTime;

use super::{
    StoreError,
    filter::{Filter, Looked, push_from},
};

/// Cases that are read for groups: the oldest.
pub const CASES_READ_MAX: i64 = 100_000;

/// Groups that are told of. Whoever sends messages can give each a source of its own.
const GROUPS_MAX: usize = 200;

/// What is stuck.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseGroups {
    /// The largest groups, the largest first.
    pub groups: Vec<CaseGroup>,
    /// Cases of the smaller groups that are not told of.
    pub other_cases: i64,
    /// Whether there are more than [`CASES_READ_MAX`] cases: then the newer ones are in no group.
    pub has_more: bool,
}

/// Cases of one state, reason and source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseGroup {
    /// `open`, `waiting`, `replayed` or `discarded`.
    pub state: String,
    /// Why.
    pub reason: String,
    /// The provider; null where it could not be read.
    pub source: Option<String>,
    /// How many.
    pub cases: i64,
    /// How many of them were first seen within the last hour.
    pub last_hour: i64,
    /// How many in the hour before that.
    pub hour_before: i64,
    /// When the oldest was first seen.
    #[serde(with = "time::serde::rfc3339")]
    pub oldest: OffsetDateTime,
    /// When the newest was.
    #[serde(with = "time::serde::rfc3339")]
    pub newest: OffsetDateTime,
    /// What they are about, by currency.
    pub money: Vec<CaseMoney>,
    /// Of how many nothing can be said: messages that could not be decoded, or that nothing proves.
    pub unreadable: i64,
}

/// The money of a group in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseMoney {
    /// ISO 4217 code.
    pub currency: String,
    /// Minor units, which together may be more than 64 bits hold.
    #[serde(serialize_with = "super::finance::sum")]
    pub amount: i128,
}

#[derive(FromRow)]
struct Part {
    state: String,
    reason: String,
    source: Option<String>,
    currency: Option<String>,
    cases: i64,
    last_hour: i64,
    hour_before: i64,
    oldest: OffsetDateTime,
    newest: OffsetDateTime,
    amount: Option<String>,
}

/// The groups of the cases that fit.
///
/// # Errors
/// [`StoreError`].
pub async fn groups(connection: &mut PgConnection, filter: &Filter) -> Result<CaseGroups, StoreError> {
    let mut query = QueryBuilder::new(
        "select state, reason, source, currency, count(*) as cases,
                count(*) filter (where first_seen_at > now() - interval '1 hour') as last_hour,
                count(*) filter (where first_seen_at > now() - interval '2 hours' and first_seen_at <= now() - interval '1 hour')
                    as hour_before,
                min(first_seen_at) as oldest, max(first_seen_at) as newest, sum(amount)::text as amount
         from (select state, reason, source, currency, first_seen_at, amount",
    );
    push_from(&mut query, filter, Looked::Oldest);
    query.push(" order by id limit ").push_bind(CASES_READ_MAX + 1);
    query.push(") as found group by state, reason, source, currency order by currency");
    let parts: Vec<Part> = query.build_query_as().fetch_all(connection).await?;
    let mut groups = BTreeMap::<_, CaseGroup>::new();
    for part in parts {
        let key = (part.state.clone(), part.reason.clone(), part.source.clone());
        let group = groups.entry(key).or_insert_with(|| CaseGroup {
            state: part.state,
            reason: part.reason,
            source: part.source,
            cases: 0,
            last_hour: 0,
            hour_before: 0,
            oldest: part.oldest,
            newest: part.newest,
            money: Vec::new(),
            unreadable: 0,
        });
        group.cases += part.cases;
        group.last_hour += part.last_hour;
        group.hour_before += part.hour_before;
        group.oldest = group.oldest.min(part.oldest);
        group.newest = group.newest.max(part.newest);
        match (part.currency, part.amount.and_then(|amount| amount.parse().ok())) {
            (Some(currency), Some(amount)) => group.money.push(CaseMoney { currency, amount }),
            (None, _) | (_, None) => group.unreadable += part.cases,
        }
    }
    let mut groups: Vec<CaseGroup> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.cases));
    let has_more = groups.iter().map(|group| group.cases).sum::<i64>() > CASES_READ_MAX;
    let others = groups.split_off(groups.len().min(GROUPS_MAX));
    Ok(CaseGroups { groups, other_cases: others.iter().map(|group| group.cases).sum(), has_more })
}
