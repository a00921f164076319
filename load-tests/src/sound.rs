//! The sound callbacks of a plan, in their natural order: openings, what stands alone, stories; and the money that covers them.

use std::collections::HashMap;

use rand::{RngExt, rngs::StdRng};
use rand_distr::Zipf;

use crate::{
    body,
    money::{Kind, Payment},
    plan::{Distinct, HOT_ACCOUNTS, Options, share_of},
    story::{self, Role},
};

/// Of the accounts of a plan with stories, one in so many is a story's own and has no money but what that brings.
const OWN_ACCOUNT_EVERY: u32 = 5;

/// Operations that several callbacks of a story share have numbers from here on.
const OPERATIONS_FROM: u32 = 1 << 30;

/// How much more popular an account is than the next one (tb-perf's `zipfian_exponent`).
const ZIPF_EXPONENT: f64 = 1.0;

/// Callbacks of a story, about.
const STORY_LENGTH: usize = 5;

/// The opening deposits, one per account that is no story's own, then a mix, then stories. Amounts of the openings are set by `cover`.
/// Also the number from which on accounts are stories' own.
pub fn sound_callbacks(options: &Options, count: usize, random: &mut StdRng) -> (Vec<Distinct>, u32) {
    let in_stories = share_of(count, options.lifecycle).min(count - options.accounts as usize);
    // Each of them takes a story, and the first must be long enough for all.
    let own = if options.disorder { options.accounts / OWN_ACCOUNT_EVERY } else { 0 };
    let own = own.min(u32::try_from(in_stories / (2 * STORY_LENGTH)).unwrap_or(0));
    let shared = Options { accounts: options.accounts - own, ..options.clone() };
    let popularity =
        options.transfers.then(|| Zipf::new(f64::from(shared.accounts), ZIPF_EXPONENT).ok()).flatten();
    let mut distinct: Vec<Distinct> = (0..count - in_stories)
        .map(|n| {
            let number = u32::try_from(n).unwrap_or(u32::MAX);
            let is_opening = number < shared.accounts;
            if let Some(popularity) = popularity.as_ref().filter(|_| !is_opening) {
                return transfer(number, popularity, &shared, random);
            }
            let kind = match random.random_range(0..10) {
                _ if is_opening => Kind::Deposit,
                0..6 => Kind::Deposit,
                6..9 => Kind::Succeeded,
                _ => Kind::Failed,
            };
            let account = if is_opening { number } else { pick_account(&shared, random) };
            let amount = random.random_range(1..=100_000);
            let operation = random.random_bool(0.7).then_some(number);
            Distinct { operation, ..Distinct::single(number, kind, account, amount) }
        })
        .collect();
    let mut own_accounts = shared.accounts..options.accounts;
    while distinct.len() < count {
        let (account, mut events) = match own_accounts.next() {
            Some(account) => (account, story::short(random)),
            None => (pick_account(&shared, random), story::covered(options.disorder, random)),
        };
        let other = other_account(&shared, account, random);
        if other.is_none() {
            events.retain(|event| event.account == Role::Own && event.to.is_none());
        }
        // A story that is cut off would not end as it must.
        if events.len() > count - distinct.len() {
            let rest = count - distinct.len();
            let number = |n: usize| u32::try_from(distinct.len() + n).unwrap_or(u32::MAX);
            let fill = |n| Distinct::single(number(n), Kind::Deposit, pick_account(&shared, random), 1_000);
            let fill: Vec<Distinct> = (0..rest).map(fill).collect();
            distinct.extend(fill);
            break;
        }
        add_story(&mut distinct, events, (account, other.unwrap_or(account)), random);
    }
    (distinct, shared.accounts)
}

/// A transfer from one popular account to another; a deposit where no other account has its currency.
fn transfer(number: u32, popularity: &Zipf<f64>, options: &Options, random: &mut StdRng) -> Distinct {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to the number of accounts"
    )]
    let mut account = || random.sample(popularity) as u32 - 1;
    let (from, near) = (account(), account());
    let step = u32::try_from(body::CURRENCIES.len()).unwrap_or(1);
    let same = near - near % step + from % step;
    let to = [same, same.wrapping_add(step), same.wrapping_sub(step)]
        .into_iter()
        .find(|to| *to != from && *to < options.accounts);
    let amount = random.random_range(1..=1_000);
    let kind = if to.is_some() { Kind::Transfer } else { Kind::Deposit };
    Distinct { to, payment: None, operation: Some(number), ..Distinct::single(number, kind, from, amount) }
}

fn add_story(
    distinct: &mut Vec<Distinct>,
    events: Vec<story::Event>,
    (own, other): (u32, u32),
    random: &mut StdRng,
) {
    let first = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
    let account = |role: Role| match role {
        Role::Own => own,
        Role::Other => other,
    };
    for (number, event) in (first..).zip(events) {
        let with_own_operation = random.random_bool(0.7) && !event.has_no_operation;
        if let (story::EventFate::Twin, Some(before)) = (event.fate, distinct.last()) {
            let fate = event.fate.in_plan(before.number);
            distinct.push(Distinct { number, fate, ..before.clone() });
            continue;
        }
        // Numbers of operations that stories name begin where no callback's own ends.
        let named = event.operation.map(|operation| first + operation + OPERATIONS_FROM);
        let is_nameless = random.random_bool(0.15) && may_be_nameless(event.kind);
        distinct.push(Distinct {
            to: event.to.map(account),
            payment: event.payment.map(|payment| first + payment),
            operation: named.or_else(|| with_own_operation.then_some(number)),
            is_nameless: is_nameless && event.poison.is_none(),
            is_final: event.is_final,
            is_cumulative: event.is_cumulative,
            expires: event.expires,
            at_s: event.at_s,
            poison: event.poison,
            fate: event.fate.in_plan(number.saturating_sub(1)),
            story: Some(first),
            ..Distinct::single(number, event.kind, account(event.account), event.amount)
        });
    }
}

/// Whether its payment says whose it is (contract §8).
fn may_be_nameless(kind: Kind) -> bool {
    match kind {
        Kind::DepositRefunded
        | Kind::DepositDisputed
        | Kind::DepositReinstated
        | Kind::Adjusted
        | Kind::Captured
        | Kind::CaptureFailed
        | Kind::Refunded
        | Kind::RefundFailed => true,
        // A void says nothing of its payment's account where it comes first.
        Kind::Voided
        | Kind::Deposit
        | Kind::Authorized
        | Kind::Succeeded
        | Kind::Failed
        | Kind::Fee
        | Kind::Transfer => false,
    }
}

/// Another account in the same currency that has money enough, where there is one.
fn other_account(options: &Options, account: u32, random: &mut StdRng) -> Option<u32> {
    let step = u32::try_from(body::CURRENCIES.len()).unwrap_or(1);
    let of_currency = options.accounts.saturating_sub(account % step).div_ceil(step);
    let other = account % step + step * random.random_range(0..of_currency.max(1));
    (other != account && other < options.accounts).then_some(other)
}

pub fn pick_account(options: &Options, random: &mut StdRng) -> u32 {
    let hot = options.hot > 0.0 && random.random_bool(options.hot);
    random.random_range(0..if hot { options.accounts.min(HOT_ACCOUNTS) } else { options.accounts })
}

/// Each opening deposit is raised to cover all that its account may ever have to pay at once, in whatever order that comes.
pub fn cover(distinct: &mut [Distinct], accounts: usize) {
    let mut takes = vec![0_i64; accounts];
    let mut payments: HashMap<u32, (u32, Payment)> = HashMap::new();
    let sound = |one: &&Distinct| one.poison.is_none() && one.group() == one.number;
    for one in distinct.iter().filter(sound).filter(|one| (one.account as usize) < accounts) {
        match (one.kind, one.payment) {
            (Kind::Fee | Kind::Transfer, _) => takes[one.account as usize] += one.amount,
            (kind, Some(payment)) if kind.is_of_payment() => {
                let fact = body::fact(one);
                payments.entry(payment).or_insert((one.account, Payment::default())).1.add(fact);
            }
            // Deposits take back no more than they brought.
            (_, _) => {}
        }
    }
    for (account, payment) in payments.into_values() {
        takes[account as usize] += payment.takes_at_most();
    }
    for (opening, takes) in distinct.iter_mut().zip(takes) {
        opening.amount += takes;
    }
}
