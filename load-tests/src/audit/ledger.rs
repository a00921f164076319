//! The ledger, row by row, against the callback that each is of.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::Audit;
use crate::{
    body,
    latency::Latencies,
    money::{Deposit, Fact, Payment},
    plan::{Distinct, Expires, Fate, Kind, Plan},
};

/// (source, id), of a callback or of a payment.
pub type Key = (String, String);

/// A payment or a deposit, as the applied callbacks make it, and what the ledger's rows sum up to.
#[derive(Debug, Default)]
pub struct Story {
    pub account: String,
    pub currency: &'static str,
    pub facts: Payment,
    pub deposit: Deposit,
    /// A callback said that its time would be up before the run.
    expires: bool,
    pub rows: i64,
    pub balance_deltas: i64,
    pub held_deltas: i64,
    /// Its rows by the versions of its account: what each says, nothing for payonce's own, and its two deltas.
    steps: BTreeMap<i64, (Option<Fact>, (i64, i64))>,
}

impl Story {
    /// Whether it holds money after its time was up.
    pub fn is_overdue(&self) -> bool {
        self.expires && self.facts.held() > 0
    }
}

/// What the ledger has of a plan.
pub struct Found {
    /// By distinct message: whether it is applied.
    pub is_applied: Vec<bool>,
    /// Rows that are payonce's own, by account.
    pub own_rows: HashMap<u32, i64>,
    pub payments: HashMap<Key, Story>,
    pub deposits: HashMap<Key, Story>,
}

/// What the database says of one row.
#[derive(Debug, PartialEq, Eq)]
struct Texts([Option<String>; 5]);

impl Texts {
    fn of_row(row: &PgRow) -> anyhow::Result<Self> {
        let mut texts: [Option<String>; 5] = Default::default();
        for (text, column) in
            texts.iter_mut().zip(["type", "account_id", "payment_id", "operation_id", "currency"])
        {
            *text = row.try_get(column)?;
        }
        Ok(Self(texts))
    }
}

/// The two deltas of a callback, where they do not depend on what else is known of its payment.
fn deltas(one: &Distinct, leg: i16) -> Option<(i64, i64)> {
    match one.kind {
        Kind::Deposit => Some((one.amount, 0)),
        Kind::Fee => Some((-one.amount, 0)),
        Kind::Transfer => Some((if leg == 0 { -one.amount } else { one.amount }, 0)),
        Kind::Failed => Some((0, 0)),
        Kind::Succeeded if one.story.is_none() => Some((-one.amount, 0)),
        Kind::Succeeded
        | Kind::DepositRefunded
        | Kind::DepositDisputed
        | Kind::DepositReinstated
        | Kind::Authorized
        | Kind::Adjusted
        | Kind::Captured
        | Kind::CaptureFailed
        | Kind::Voided
        | Kind::Refunded
        | Kind::RefundFailed => None,
    }
}

/// Of whom a row is.
enum Owner<'a> {
    Callback(&'a Distinct),
    /// payonce's own, when the time of this callback's hold was up.
    Expiry(&'a Distinct),
}

/// Whose row this is.
struct Owners<'a> {
    plan: &'a Plan,
    by_key: HashMap<Key, Vec<u32>>,
    expiries: HashMap<Key, u32>,
}

impl<'a> Owners<'a> {
    fn of(plan: &'a Plan) -> Self {
        let (mut by_key, mut expiries) = (HashMap::<Key, Vec<u32>>::new(), HashMap::new());
        for one in plan.distinct.iter().filter(|one| one.poison.is_none()) {
            let key = body::key(plan, one);
            if let (Expires::Past, Some(payment_id)) = (one.expires, body::payment_id(plan, one)) {
                let hash: String =
                    Sha256::digest(payment_id).iter().map(|byte| format!("{byte:02x}")).collect();
                expiries.insert(
                    (key.0.clone(), format!("payonce.expired:{hash}:{}", body::EXPIRES[0].0 * 1_000_000)),
                    one.number,
                );
            }
            by_key.entry(key).or_default().push(one.number);
        }
        Self { plan, by_key, expiries }
    }

    fn find(&self, key: &Key, sha256: &[u8]) -> Option<Owner<'a>> {
        let one = |number: &u32| &self.plan.distinct[*number as usize];
        if let Some(number) = self.expiries.get(key) {
            return Some(Owner::Expiry(one(number)));
        }
        let numbers = self.by_key.get(key)?;
        let is_content = |number: &&u32| body::content(self.plan, one(number)).sha256() == sha256;
        numbers.iter().find(is_content).map(|number| Owner::Callback(one(number)))
    }
}

pub async fn check(
    database: &mut PgConnection,
    plan: &Plan,
    published_at_us: &[u64],
    audit: &mut Audit,
) -> anyhow::Result<Found> {
    let owners = Owners::of(plan);
    let mut found = Found {
        is_applied: vec![false; plan.distinct.len()],
        own_rows: HashMap::new(),
        payments: HashMap::new(),
        deposits: HashMap::new(),
    };
    let mut legs = vec![[0_u8; 2]; plan.distinct.len()];
    let (mut unexpected, mut wrong) = (Vec::new(), Vec::new());
    let mut latencies = Latencies::new()?;
    let mut rows = sqlx::query(
        "select source, event_id, leg, type, account_id, payment_id, operation_id, amount, currency, balance_delta, held_delta,
                payload_sha256, account_version, extract(epoch from occurred_at)::bigint as occurred_at_s,
                (extract(epoch from recorded_at) * 1000000)::bigint as recorded_at_us
         from ledger",
    )
    .fetch(database);
    while let Some(row) = rows.try_next().await.context("the ledger cannot be read")? {
        let key: Key = (row.try_get("source")?, row.try_get("event_id")?);
        let leg: i16 = row.try_get("leg")?;
        audit.applied += u64::from(leg == 0);
        let Some(owner) = owners.find(&key, row.try_get("payload_sha256")?) else {
            unexpected.push(format!("{key:?} is in the ledger, but the plan has no such sound callback"));
            continue;
        };
        let found_deltas = (row.try_get("balance_delta")?, row.try_get("held_delta")?);
        let version: i64 = row.try_get("account_version")?;
        let one = match owner {
            Owner::Callback(one) => one,
            Owner::Expiry(one) => {
                audit.holds_expired += 1;
                *found.own_rows.entry(one.account).or_default() += 1;
                let story = found.story(plan, one);
                story.facts.is_expired = true;
                story.add_row(version, None, found_deltas);
                continue;
            }
        };
        let number = one.number as usize;
        legs[number][usize::from(leg != 0)] += 1;
        let account = if leg == 0 { one.account } else { one.to.unwrap_or(u32::MAX) };
        let planned = Texts([
            Some(one.kind.name().to_owned()),
            Some(body::account(account)),
            body::payment_id(plan, one),
            body::operation_id(plan, one),
            Some(body::currency(one.account).to_owned()),
        ]);
        let deltas = deltas(one, leg).unwrap_or(found_deltas);
        let planned = (planned, one.amount, Some(body::fact(one).at_s), deltas);
        let is = (Texts::of_row(&row)?, row.try_get("amount")?, row.try_get("occurred_at_s")?, found_deltas);
        if is != planned {
            wrong.push(format!("{key:?}: planned {planned:?}, found {is:?}"));
        }
        if leg != 0 {
            continue;
        }
        found.is_applied[number] = true;
        if one.payment.is_some() && (one.kind.is_of_payment() || one.kind.is_of_deposit()) {
            let story = found.story(plan, one);
            story.facts.add(body::fact(one));
            story.deposit.add(body::fact(one));
            story.expires |= one.expires == Expires::Past;
            story.add_row(version, Some(body::fact(one)), found_deltas);
        }
        let recorded_at_us = u64::try_from(row.try_get::<i64, _>("recorded_at_us")?).unwrap_or(0);
        latencies.record_us(recorded_at_us.saturating_sub(published_at_us[number]));
    }
    audit.check("nothing_is_invented", unexpected);
    audit.check("rows_say_what_was_published", wrong);
    audit.check("every_callback_has_its_legs_once", wrong_legs(plan, &legs));
    let stories = found.payments.iter().chain(&found.deposits);
    let steps = stories.flat_map(|(key, story)| {
        story.wrong_steps().into_iter().map(move |step| format!("{key:?} of {}, {step}", story.account))
    });
    audit.check("each_row_of_a_payment_moves_what_it_adds", steps.collect());
    found.check_fates(plan, audit);
    audit.latency = latencies.percentiles();
    Ok(found)
}

/// Leg 0 at most once, and leg 1 as often where there is a receiver.
fn wrong_legs(plan: &Plan, legs: &[[u8; 2]]) -> Vec<String> {
    let is_wrong = |(one, legs): &(&Distinct, &[u8; 2])| {
        legs[0] > 1 || legs[1] != if one.to.is_some() { legs[0] } else { 0 }
    };
    let wrong = plan.distinct.iter().zip(legs).filter(is_wrong);
    wrong.map(|(one, legs)| format!("{:?}: legs {legs:?}", body::key(plan, one))).collect()
}

impl Story {
    fn add_row(&mut self, version: i64, fact: Option<Fact>, (balance_delta, held_delta): (i64, i64)) {
        self.rows += 1;
        self.balance_deltas += balance_delta;
        self.held_deltas += held_delta;
        self.steps.insert(version, (fact, (balance_delta, held_delta)));
    }

    /// The rows that do not move what they add to all that was known before them, by their versions.
    fn wrong_steps(&self) -> Vec<String> {
        let (mut payment, mut deposit) = (Payment::default(), Deposit::default());
        let mut wrong = Vec::new();
        for (version, (fact, found)) in &self.steps {
            let before = (payment.balance() + deposit.balance(), payment.held());
            match fact {
                Some(fact) => {
                    payment.add(*fact);
                    deposit.add(*fact);
                }
                None => payment.is_expired = true,
            }
            let after = (payment.balance() + deposit.balance(), payment.held());
            let planned = (after.0 - before.0, after.1 - before.1);
            if *found != planned {
                wrong
                    .push(format!("version {version}: planned (balance, held) {planned:?}, found {found:?}"));
            }
        }
        wrong
    }
}

impl Found {
    fn story(&mut self, plan: &Plan, one: &Distinct) -> &mut Story {
        let key = (body::key(plan, one).0, body::payment_id(plan, one).unwrap_or_default());
        let stories = if one.kind.is_of_deposit() { &mut self.deposits } else { &mut self.payments };
        stories.entry(key).or_insert_with(|| Story {
            account: body::account(one.account),
            currency: body::currency(one.account),
            ..Story::default()
        })
    }

    /// Of what must be applied nothing is missing, and of two that have one fact or one key one is applied.
    fn check_fates(&self, plan: &Plan, audit: &mut Audit) {
        let (mut missing, mut not_one) = (Vec::new(), Vec::new());
        let is_applied = |number: u32| self.is_applied[number as usize];
        for one in plan.distinct.iter().filter(|one| one.poison.is_none()) {
            match plan.fate(one) {
                Fate::Applied if !is_applied(one.number) => {
                    missing.push(format!("{:?}: {one:?}", body::key(plan, one)));
                }
                Fate::Twin(first) | Fate::Contradicts(first) if first != one.number => {
                    if is_applied(first) == is_applied(one.number) {
                        let how = if is_applied(first) { "both" } else { "neither" };
                        not_one.push(format!("{:?}: {how}, {one:?}", body::key(plan, one)));
                    }
                }
                Fate::Applied | Fate::Contends | Fate::Twin(_) | Fate::Contradicts(_) => {}
            }
        }
        audit.check("every_sound_callback_is_applied", missing);
        audit.check("of_one_fact_and_of_one_key_one_is_applied", not_one);
    }
}
