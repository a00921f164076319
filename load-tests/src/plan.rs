//! The seeded plan: which callbacks there are, what must become of each, and in which order they and their copies are published.
//!
//! The outcome may not depend on the order in which several workers see the callbacks, so:
//! - every account's opening deposit is published first and covers all its debits;
//! - what else needs an open account comes after a barrier (live), or not before a reorder window has passed (prefill);
//! - a bad message that contradicts an earlier one is published when the earlier one is settled (live), or at the far end (prefill).

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    order,
    poison::{self, Poison},
    story,
};

/// Callbacks one worker may be ahead of another: more than twice its default prefetch. In a prefilled queue nothing that needs an
/// open account comes earlier than this many callbacks per worker behind the opening deposits, as far as the plan is long enough.
pub const REORDER_WINDOW_PER_WORKER: usize = 10_000;

/// Accounts that `--hot` sends its share to.
pub const HOT_ACCOUNTS: u32 = 10;

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Options {
    pub events: usize,
    pub duplicates: f64,
    pub accounts: u32,
    pub hot: f64,
    pub poison: f64,
    pub lifecycle: f64,
    pub workers: usize,
    pub prefill: bool,
    /// Whether providers sign.
    pub signatures: bool,
    pub seed: u64,
}

/// What a sound callback reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Deposit,
    Succeeded,
    Failed,
    Authorized,
    Captured,
    Voided,
    Refunded,
}

/// A distinct message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distinct {
    pub number: u32,
    pub kind: Kind,
    pub account: u32,
    pub amount: i64,
    pub has_operation: bool,
    pub poison: Option<Poison>,
    /// The story it belongs to: the number of that story's first callback.
    pub story: Option<u32>,
    pub is_final: bool,
    /// Published when all that is not late is settled.
    pub is_late: bool,
}

impl Distinct {
    /// A callback by itself.
    pub fn single(number: u32, kind: Kind, account: u32, amount: i64) -> Self {
        Self {
            number,
            kind,
            account,
            amount,
            has_operation: false,
            poison: None,
            story: None,
            is_final: false,
            is_late: false,
        }
    }
}

/// How a copy comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// Right behind the first, on the same channel.
    BackToBack,
    /// At the same time, on another channel.
    Concurrent,
    /// Anywhere behind the first.
    Spread,
    /// After the first one was settled.
    Late,
}

/// One publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    /// Index into `Plan::distinct`.
    pub distinct: u32,
    /// `None`: the first copy.
    pub way: Option<Way>,
}

/// Everything that is published, and what must become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub accounts: u32,
    pub distinct: Vec<Distinct>,
    /// Published first: the opening deposits.
    pub opening: Vec<Sending>,
    /// Published when the accounts are open.
    pub main: Vec<Sending>,
    /// Published when all before is settled.
    pub late: Vec<Sending>,
}

impl Plan {
    /// Makes the plan of these options; equal options give equal plans.
    ///
    /// # Errors
    /// Words for options that leave too few callbacks to open the accounts.
    pub fn new(options: &Options) -> Result<Self, String> {
        let copies = share_of(options.events, options.duplicates);
        let poison = share_of(options.events, options.poison);
        let accounts = options.accounts as usize;
        let sound = options.events.saturating_sub(copies + poison);
        if sound < accounts {
            return Err(format!(
                "--events {} leaves {sound} sound distinct callbacks ({copies} copies, {poison} bad messages), fewer than \
                 --accounts {accounts}: each account needs one to open it",
                options.events
            ));
        }
        let mut random = StdRng::seed_from_u64(options.seed);
        let mut distinct = sound_callbacks(options, sound, &mut random);
        poison::add(options, poison, &mut distinct, &mut random);
        cover_debits(&mut distinct, accounts);
        let mut plan = Self {
            seed: options.seed,
            accounts: options.accounts,
            opening: first_copies(distinct.iter().take(accounts)),
            main: Vec::new(),
            late: first_copies(distinct.iter().filter(|one| one.is_late)),
            distinct,
        };
        plan.order_main(options, &mut random);
        plan.add_copies(copies, &mut random);
        Ok(plan)
    }

    pub fn published(&self) -> usize {
        self.opening.len() + self.main.len() + self.late.len()
    }

    pub fn sendings(&self) -> impl Iterator<Item = &Sending> {
        self.opening.iter().chain(&self.main).chain(&self.late)
    }

    fn order_main(&mut self, options: &Options, random: &mut StdRng) {
        let mut rest: Vec<&Distinct> =
            self.distinct.iter().skip(self.accounts as usize).filter(|one| !one.is_late).collect();
        order::mix(&mut rest, random);
        if options.prefill {
            // Deposits open accounts themselves, so they fill the window; a short plan's window is what it can fill.
            let window = REORDER_WINDOW_PER_WORKER * options.workers;
            let needs_account = |one: &&Distinct| one.kind != Kind::Deposit || one.poison.is_some();
            let (later, deposits): (Vec<_>, Vec<_>) = rest.into_iter().partition(needs_account);
            let mut deposits = deposits.into_iter();
            let head: Vec<&Distinct> = deposits.by_ref().take(window).collect();
            let mut tail: Vec<&Distinct> = deposits.chain(later).collect();
            order::mix(&mut tail, random);
            rest = head.into_iter().chain(tail).collect();
        }
        self.main = first_copies(rest.into_iter());
    }

    fn add_copies(&mut self, copies: usize, random: &mut StdRng) {
        let originals: Vec<u32> =
            self.opening.iter().chain(&self.main).map(|sending| sending.distinct).collect();
        let mut beside: Vec<Vec<Way>> = vec![Vec::new(); self.distinct.len()];
        let mut spread = Vec::new();
        for n in 0..copies {
            let Some(distinct) = originals.get(random.random_range(0..originals.len())).copied() else {
                continue;
            };
            match n % 4 {
                0 => beside[distinct as usize].push(Way::BackToBack),
                1 => beside[distinct as usize].push(Way::Concurrent),
                2 => spread.push(Sending { distinct, way: Some(Way::Spread) }),
                _ => self.late.push(Sending { distinct, way: Some(Way::Late) }),
            }
        }
        self.opening = order::with_copies_beside(&self.opening, &beside);
        self.main = order::with_copies_beside(&self.main, &beside);
        order::insert_behind(&mut self.main, spread, random);
        self.late.shuffle(random);
    }
}

fn share_of(events: usize, share: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 to 10 million"
    )]
    let count = (events as f64 * share).round() as usize;
    count
}

fn first_copies<'a>(distinct: impl Iterator<Item = &'a Distinct>) -> Vec<Sending> {
    distinct.map(|one| Sending { distinct: one.number, way: None }).collect()
}

/// The opening deposits, one per account, then a mix. Amounts of the openings are set by `cover_debits`.
fn sound_callbacks(options: &Options, count: usize, random: &mut StdRng) -> Vec<Distinct> {
    let in_stories = share_of(count, options.lifecycle).min(count - options.accounts as usize);
    let mut distinct: Vec<Distinct> = (0..count - in_stories)
        .map(|n| {
            let number = u32::try_from(n).unwrap_or(u32::MAX);
            let is_opening = number < options.accounts;
            let kind = match random.random_range(0..10) {
                _ if is_opening => Kind::Deposit,
                0..6 => Kind::Deposit,
                6..9 => Kind::Succeeded,
                _ => Kind::Failed,
            };
            let account = if is_opening { number } else { pick_account(options, random) };
            let amount = random.random_range(1..=100_000);
            Distinct {
                has_operation: random.random_bool(0.7),
                ..Distinct::single(number, kind, account, amount)
            }
        })
        .collect();
    while distinct.len() < count {
        let first = u32::try_from(distinct.len()).unwrap_or(u32::MAX);
        let account = pick_account(options, random);
        let mut events = story::events(options.prefill, random);
        events.truncate(count - distinct.len());
        distinct.extend((first..).zip(events).map(|(number, event)| Distinct {
            has_operation: random.random_bool(0.7),
            poison: event.poison,
            story: Some(first),
            is_final: event.is_final,
            is_late: event.is_late,
            ..Distinct::single(number, event.kind, account, event.amount)
        }));
    }
    distinct
}

pub fn pick_account(options: &Options, random: &mut StdRng) -> u32 {
    let hot = options.hot > 0.0 && random.random_bool(options.hot);
    random.random_range(0..if hot { options.accounts.min(HOT_ACCOUNTS) } else { options.accounts })
}

/// Each opening deposit is raised to cover all debits and holds of its account, in whatever order they come.
fn cover_debits(distinct: &mut [Distinct], accounts: usize) {
    let mut debits = vec![0_i64; accounts];
    let takes =
        |one: &&Distinct| matches!(one.kind, Kind::Succeeded | Kind::Authorized) && one.poison.is_none();
    for one in distinct.iter().filter(takes) {
        debits[one.account as usize] += one.amount;
    }
    for (opening, debits) in distinct.iter_mut().zip(debits) {
        opening.amount += debits;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn options(seed: u64) -> Options {
        Options {
            events: 20_000,
            duplicates: 0.3,
            accounts: 500,
            hot: 0.5,
            poison: 0.05,
            lifecycle: 0.0,
            workers: 2,
            prefill: false,
            signatures: true,
            seed,
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another() {
        assert_eq!(Plan::new(&options(7)), Plan::new(&options(7)));
        assert_ne!(Plan::new(&options(7)), Plan::new(&options(8)));
    }

    #[test]
    fn shares_are_what_was_asked_for() {
        let plan = Plan::new(&options(7)).unwrap();
        assert_eq!(plan.published(), 20_000);
        assert_eq!(plan.sendings().filter(|sending| sending.way.is_some()).count(), 6_000);
        assert_eq!(plan.distinct.iter().filter(|one| one.poison.is_some()).count(), 1_000);
        for way in [Way::BackToBack, Way::Concurrent, Way::Spread, Way::Late] {
            assert_eq!(plan.sendings().filter(|sending| sending.way == Some(way)).count(), 1_500, "{way:?}");
        }
        let hot = plan.distinct.iter().skip(500).filter(|one| one.account < HOT_ACCOUNTS).count();
        let all = plan.distinct.len() - 500;
        assert!((all / 3..all * 2 / 3).contains(&hot), "{hot} of {all}");
    }

    #[test]
    fn every_distinct_message_is_published_first_once_and_copied_only_behind_that() {
        let plan = Plan::new(&options(9)).unwrap();
        let mut seen = HashSet::new();
        for sending in plan.sendings() {
            match sending.way {
                None => assert!(seen.insert(sending.distinct), "{sending:?} twice"),
                Some(_) => assert!(seen.contains(&sending.distinct), "{sending:?} before its first"),
            }
        }
        assert_eq!(seen.len(), plan.distinct.len());
    }

    #[test]
    fn an_opening_deposit_covers_every_debit_of_its_account() {
        let plan = Plan::new(&options(11)).unwrap();
        let mut available: Vec<i64> = plan.distinct.iter().take(500).map(|one| one.amount).collect();
        for one in plan.distinct.iter().filter(|one| one.kind == Kind::Succeeded && one.poison.is_none()) {
            available[one.account as usize] -= one.amount;
        }
        assert!(available.iter().all(|left| *left > 0));
    }

    #[test]
    fn in_a_prefilled_queue_nothing_needs_an_account_before_the_window() {
        let options = Options { events: 100_000, prefill: true, ..options(13) };
        let plan = Plan::new(&options).unwrap();
        let published: Vec<&Sending> = plan.sendings().collect();
        let needs_account = |sending: &&&Sending| {
            let one = &plan.distinct[sending.distinct as usize];
            one.kind != Kind::Deposit || one.poison.is_some()
        };
        let first = published.iter().position(|sending| needs_account(&sending));
        assert!(first >= Some(500 + REORDER_WINDOW_PER_WORKER * 2), "{first:?}");
    }

    #[test]
    fn stories_have_their_share_and_end_within_what_they_authorize() {
        let plan = Plan::new(&Options { lifecycle: 0.7, ..options(17) }).unwrap();
        let in_stories = plan.distinct.iter().filter(|one| one.story.is_some()).count();
        assert_eq!(in_stories, share_of(20_000 - 6_000 - 1_000, 0.7));
        let mut sums: HashMap<u32, [i64; 3]> = HashMap::new();
        for one in plan.distinct.iter().filter(|one| one.poison.is_none()) {
            let Some(sums) = one.story.map(|story| sums.entry(story).or_default()) else { continue };
            match one.kind {
                Kind::Authorized => sums[0] += one.amount,
                Kind::Captured | Kind::Succeeded => sums[1] += one.amount,
                Kind::Refunded => sums[2] += one.amount,
                Kind::Deposit | Kind::Failed | Kind::Voided => {}
            }
        }
        let is_cut = |story: u32| story + 10 > plan.distinct.len() as u32 - 1_000;
        for (story, [authorized, captured, refunded]) in sums {
            let within = (authorized == 0 || captured <= authorized) && refunded <= captured;
            assert!(within || is_cut(story), "{story}: {authorized} {captured} {refunded}");
        }
        // Callbacks of one story come near each other, in any order.
        let published: Vec<u32> =
            plan.main.iter().filter(|one| one.way.is_none()).map(|one| one.distinct).collect();
        let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
        for (place, number) in published.iter().enumerate() {
            if let Some(story) = plan.distinct[*number as usize].story {
                places.entry(story).or_default().push(place);
            }
        }
        let spans = places.values().map(|places| places.iter().max().unwrap() - places.iter().min().unwrap());
        assert!(spans.max().unwrap() < 3 * order::STORY_WINDOW);
    }

    #[test]
    fn too_many_accounts_are_refused_in_words() {
        let refused = Plan::new(&Options { accounts: 19_000, ..options(1) }).unwrap_err();
        assert!(refused.contains("--accounts 19000"), "{refused}");
    }
}
