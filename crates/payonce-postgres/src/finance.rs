//! What closes a month: movements by day, balances at the end, the clearing accounts of providers, and what accounts owe. Reads whole tables, in
//! one snapshot; what must not live here: how it is printed.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use sqlx::{Connection as _, PgConnection};
use time::{Date, OffsetDateTime};

use super::StoreError;

/// Which of its two times books a ledger row on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booking {
    /// `recorded_at`: when payonce wrote it. A day that has been over for [`SETTLED_AFTER_S`] gets no more rows.
    Recorded,
    /// `occurred_at`: when it happened, by the provider's clock; `recorded_at` where the provider did not say. Rows that come late change days
    /// that are over, unless `Period::as_of` leaves them out.
    Occurred,
}

impl Booking {
    /// As reports name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded_at",
            Self::Occurred => "occurred_at",
        }
    }

    /// The time of a row of `ledger`, in SQL.
    const fn sql(self) -> &'static str {
        match self {
            Self::Recorded => "recorded_at",
            Self::Occurred => "coalesce(occurred_at, recorded_at)",
        }
    }
}

/// How long after a moment no more rows are committed that were recorded before it, in seconds: a row is stamped when it is written, and a
/// worker's transaction ends within its deadline, 10 s unless `database_deadline_ms` says otherwise.
pub const SETTLED_AFTER_S: i64 = 60;

/// Which rows a report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// The first day.
    pub first: Date,
    /// The last day, part of the period.
    pub last: Date,
    /// In which days begin and end: a name of the IANA time zone database.
    pub time_zone: String,
    /// What books a row on a day.
    pub booking: Booking,
    /// Rows that were recorded at this time or later are left out, so that a report can be made again. `None`: all that are there.
    pub as_of: Option<OffsetDateTime>,
}

/// What moved on a day, by source, type and currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Movement {
    /// The day, `YYYY-MM-DD`.
    pub day: String,
    /// The provider.
    pub source: String,
    /// The type of callback.
    #[serde(rename = "type")]
    pub kind: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How many. A transfer is one, of two rows.
    pub callbacks: i64,
    /// Their amounts, in minor units, which together may be more than 64 bits hold; so in all that follows.
    #[serde(serialize_with = "sum")]
    pub amount: i128,
    /// What it changed balances by.
    #[serde(serialize_with = "sum")]
    pub balance_delta: i128,
    /// What it changed holds by.
    #[serde(serialize_with = "sum")]
    pub held_delta: i128,
}

/// What all accounts of a currency have together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// ISO 4217 code.
    pub currency: String,
    /// Balances before the first day.
    #[serde(serialize_with = "sum")]
    pub opening: i128,
    /// What the period changed them by.
    #[serde(serialize_with = "sum")]
    pub movements: i128,
    /// Balances at the end of the last day.
    #[serde(serialize_with = "sum")]
    pub closing: i128,
    /// What is held of them at the end.
    #[serde(serialize_with = "sum")]
    pub held: i128,
    /// What accounts owe at the end, a sum above zero: of each held − balance, where that is more than zero. By recording, whatever books rows.
    #[serde(serialize_with = "sum")]
    pub debts: i128,
    /// How many owe.
    pub accounts_in_debt: i64,
    /// The sum of all clearing accounts at the end.
    #[serde(serialize_with = "sum")]
    pub clearing: i128,
    /// `closing` + `clearing`: 0, or the ledger is wrong, or the period ends within a batch of before schema 31.
    #[serde(serialize_with = "sum")]
    pub trial_balance: i128,
}

/// The other side of what a provider's callbacks moved: what it owes (below zero) or has paid ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clearing {
    /// The provider: its account is `clearing:SOURCE` of the view `journal`.
    pub source: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Before the first day.
    #[serde(serialize_with = "sum")]
    pub opening: i128,
    /// What the period changed it by.
    #[serde(serialize_with = "sum")]
    pub movements: i128,
    /// At the end of the last day.
    #[serde(serialize_with = "sum")]
    pub closing: i128,
}

/// A period, closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// By day, source, type and currency.
    pub movements: Vec<Movement>,
    /// By currency.
    pub balances: Vec<Balance>,
    /// By source and currency.
    pub clearing: Vec<Clearing>,
    /// Until when rows were recorded that are in it; not later than when it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
    /// The first moment after the period.
    #[serde(with = "time::serde::rfc3339")]
    pub ends: OffsetDateTime,
    /// Whether it may have other rows when it is made again: the period, or the time that it was made for, has not been over for [`SETTLED_AFTER_S`].
    pub preliminary: bool,
}

impl Report {
    /// The currencies whose two sides do not sum to zero.
    pub fn unbalanced(&self) -> impl Iterator<Item = &Balance> {
        self.balances.iter().filter(|balance| balance.trial_balance != 0)
    }
}

/// Whether PostgreSQL knows this time zone. Abbreviations and rules such as `CET` or `XYZ-3` are none: they are not what they seem all year.
///
/// # Errors
/// [`StoreError`].
pub async fn is_time_zone(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let known =
        "select exists (select from pg_timezone_names where name = $1 and (name like '%/%' or name = 'UTC'))";
    Ok(sqlx::query_scalar(known).bind(name).fetch_one(connection).await?)
}

/// Makes the report in one snapshot. Reads the ledger up to the end of the period, once, and of each account its last row. `movements_max`:
/// where there are more movements, so many and one are returned, the sums are of no use, and the caller has to refuse.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Refused`] for a time zone that PostgreSQL does not know.
pub async fn report(
    connection: &mut PgConnection,
    period: &Period,
    movements_max: i64,
) -> Result<Report, StoreError> {
    let mut transaction = connection.begin_with("begin isolation level repeatable read read only").await?;
    let Bounds { begins, ends, as_of, preliminary } =
        bounds(&mut transaction, (period.first, period.last), &period.time_zone, period.as_of).await?;
    let groups = groups(&mut transaction, period, (begins, ends), movements_max).await?;
    let debts = debts(&mut transaction, period, ends).await?;
    transaction.rollback().await?;
    let (mut balances, clearing) = closing(&groups);
    for (currency, owed, accounts) in debts {
        if let Some(balance) = balances.get_mut(&currency) {
            (balance.debts, balance.accounts_in_debt) = (owed, accounts);
        }
    }
    let (balances, clearing) = (balances.into_values().collect(), clearing.into_values().collect());
    let mut movements: Vec<Movement> = groups.into_iter().filter_map(Group::movement).collect();
    let key = |movement: &Movement| {
        let Movement { day, source, kind, currency, .. } = movement;
        (day.clone(), source.clone(), kind.clone(), currency.clone())
    };
    movements.sort_by_cached_key(key);
    Ok(Report { movements, balances, clearing, as_of, ends, preliminary })
}

/// The first moment of the first day and the first after the last one, in a time zone.
pub(super) struct Bounds {
    pub(super) begins: OffsetDateTime,
    pub(super) ends: OffsetDateTime,
    /// Until when rows were recorded that are looked at: `as_of` of the question, not later than now.
    pub(super) as_of: OffsetDateTime,
    /// Whether the same question may find other rows later: see [`SETTLED_AFTER_S`].
    pub(super) preliminary: bool,
}

/// # Errors
/// [`StoreError`]; [`StoreError::Refused`] for a time zone that PostgreSQL does not know.
pub(super) async fn bounds(
    connection: &mut PgConnection,
    (first, last): (Date, Date),
    time_zone: &str,
    as_of: Option<OffsetDateTime>,
) -> Result<Bounds, StoreError> {
    let (begins, ends, as_of, preliminary) = sqlx::query_as(
        // Where the clock goes back over midnight, midnight comes twice, and PostgreSQL takes the second: the day begins at the first.
        "with days as (select $1::date as first, $2::date + 1 as after),
              midnights as (select first, after, first::timestamp at time zone $3 as begins, after::timestamp at time zone $3 as ends from days),
              days_begin as (
                  select case when ((begins - interval '1 hour') at time zone $3)::date = first then begins - interval '1 hour' else begins end as begins,
                         case when ((ends - interval '1 hour') at time zone $3)::date = after then ends - interval '1 hour' else ends end as ends
                  from midnights)
         select begins, ends, least($4, now()), least($4, now()) < ends or least($4, ends) > now() - make_interval(secs => $5)
         from days_begin",
    )
    .bind(first.to_string())
    .bind(last.to_string())
    .bind(time_zone)
    .bind(as_of)
    .bind(SETTLED_AFTER_S as f64)
    .fetch_one(connection)
    .await?;
    Ok(Bounds { begins, ends, as_of, preliminary })
}

type Times = (OffsetDateTime, OffsetDateTime);

/// Ledger rows of one day, source, type and currency, added up.
struct Group {
    /// `None`: before the period.
    day: Option<String>,
    source: String,
    kind: String,
    currency: String,
    callbacks: i64,
    amount: i128,
    balance_delta: i128,
    held_delta: i128,
}

impl Group {
    /// What it is in the report, within the period.
    fn movement(self) -> Option<Movement> {
        let Self { day, source, kind, currency, callbacks, amount, balance_delta, held_delta } = self;
        Some(Movement { day: day?, source, kind, currency, callbacks, amount, balance_delta, held_delta })
    }
}

/// Everything up to the end, in one scan. The day of a row is its date in the time zone of the transaction: to name the zone for each row
/// would take half as long again.
async fn groups(
    transaction: &mut PgConnection,
    period: &Period,
    (begins, ends): Times,
    movements_max: i64,
) -> Result<Vec<Group>, StoreError> {
    type Row = (Option<String>, String, String, String, i64, String, String, String);
    sqlx::query("select set_config('TimeZone', $1, true)")
        .bind(&period.time_zone)
        .execute(&mut *transaction)
        .await?;
    let booked = period.booking.sql();
    let sql = format!(
        "with groups as materialized (
             select case when {booked} >= $1 then ({booked})::date end as day, source, type, currency,
                    count(*) filter (where leg = 0) as callbacks, coalesce(sum(amount) filter (where leg = 0), 0) as amount,
                    sum(balance_delta) as balance_delta, sum(held_delta) as held_delta
             from ledger
             where {booked} < $2 and ($3::timestamptz is null or recorded_at < $3)
             group by 1, 2, 3, 4)
         select to_char(day, 'YYYY-MM-DD'), source, type, currency, callbacks, amount::text, balance_delta::text, held_delta::text
         from (select * from groups where day is null
               union all
               (select * from groups where day is not null limit $4)) as found"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(begins)
        .bind(ends)
        .bind(period.as_of)
        .bind(movements_max.saturating_add(1))
        .fetch_all(transaction)
        .await?;
    rows.into_iter()
        .map(|(day, source, kind, currency, callbacks, amount, balance_delta, held_delta)| {
            let (amount, balance_delta, held_delta) =
                (whole(&amount)?, whole(&balance_delta)?, whole(&held_delta)?);
            Ok(Group { day, source, kind, currency, callbacks, amount, balance_delta, held_delta })
        })
        .collect()
}

/// Both sides of everything, by currency, and by source and currency. A transfer has no other side: it takes from one account what it gives to
/// another.
fn closing(groups: &[Group]) -> (BTreeMap<String, Balance>, BTreeMap<(String, String), Clearing>) {
    let (mut balances, mut clearing) = (BTreeMap::new(), BTreeMap::new());
    for Group { day, source, kind, currency, balance_delta, held_delta, .. } in groups {
        let (before, within) = if day.is_none() { (*balance_delta, 0) } else { (0, *balance_delta) };
        let has_other_side = kind != "transfer.succeeded";
        let balance = balances.entry(currency.clone()).or_insert_with(|| Balance::none(currency.clone()));
        balance.opening += before;
        balance.movements += within;
        balance.closing += balance_delta;
        balance.held += held_delta;
        balance.clearing -= if has_other_side { *balance_delta } else { 0 };
        balance.trial_balance = balance.closing + balance.clearing;
        if has_other_side {
            let (source, currency) = (source.clone(), currency.clone());
            let entry = clearing.entry((source.clone(), currency.clone()));
            let clearing: &mut Clearing =
                entry.or_insert(Clearing { source, currency, opening: 0, movements: 0, closing: 0 });
            clearing.opening -= before;
            clearing.movements -= within;
            clearing.closing -= balance_delta;
        }
    }
    (balances, clearing)
}

/// By currency what accounts owed at the end, and how many did. The last row of each account says it: times never fall from one version to the next.
async fn debts(
    transaction: &mut PgConnection,
    period: &Period,
    ends: OffsetDateTime,
) -> Result<Vec<(String, i128, i64)>, StoreError> {
    let until = period.as_of.map_or(ends, |as_of| as_of.min(ends));
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "select a.currency, sum(l.held_after - l.balance_after)::text, count(*)
         from accounts a,
              lateral (select balance_after, held_after from ledger
                       where account_id = a.account_id and recorded_at < $1 order by account_version desc limit 1) l
         where l.held_after > l.balance_after
         group by a.currency",
    )
    .bind(until)
    .fetch_all(transaction)
    .await?;
    rows.into_iter().map(|(currency, owed, accounts)| Ok((currency, whole(&owed)?, accounts))).collect()
}

impl Balance {
    const fn none(currency: String) -> Self {
        Self {
            currency,
            opening: 0,
            movements: 0,
            closing: 0,
            held: 0,
            debts: 0,
            accounts_in_debt: 0,
            clearing: 0,
            trial_balance: 0,
        }
    }
}

/// A sum of bigints.
fn whole(text: &str) -> Result<i128, StoreError> {
    text.parse().map_err(|_| StoreError::Unfit(format!("a sum of the ledger is no whole number: {text:?}")))
}

/// A number of minor units; a text of digits where 64 bits do not hold it.
pub(super) fn sum<S: Serializer>(amount: &i128, serializer: S) -> Result<S::Ok, S::Error> {
    match i64::try_from(*amount) {
        Ok(amount) => serializer.serialize_i64(amount),
        Err(_) => serializer.collect_str(amount),
    }
}
