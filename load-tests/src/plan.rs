//! The seeded plan: which callbacks there are, what must become of each, and in which order they and their copies are published.
//!
//! Nothing waits for anything: what needs an account, money or a payment that is not there yet may come before it. Only a message that
//! must find an earlier one settled, because which of the two comes first decides what becomes of them, is published behind a barrier
//! (live); a prefilled queue has none, and so no such message.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

pub use crate::money::Kind;
use crate::{
    ids::Ids,
    order,
    poison::{self, Poison},
    sound::{cover, sound_callbacks},
};

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
    /// After the openings only transfers, between accounts chosen by Zipf's law.
    pub transfers: bool,
    /// Whether some accounts run short of money, and some callbacks are routed elsewhere than the others of their account.
    pub disorder: bool,
    pub prefill: bool,
    /// Whether providers sign.
    pub signatures: bool,
    pub ids: Ids,
    pub seed: u64,
}

/// When a hold's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    Never,
    /// Before the run.
    Past,
    /// Long after it.
    Future,
}

/// What must become of a sound callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Applied,
    /// Applied, or an open case for want of money, where its account has less than it wants.
    Contends,
    /// The same fact as this callback, under another event: one of the two is applied, whichever comes first.
    Twin(u32),
    /// Other content under the key of this callback: one of the two is applied, the other is a case.
    Contradicts(u32),
}

/// A distinct message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distinct {
    pub number: u32,
    pub kind: Kind,
    pub account: u32,
    /// Of a transfer: the account that receives.
    pub to: Option<u32>,
    pub amount: i64,
    /// The number in its payment's id.
    pub payment: Option<u32>,
    /// The number in its operation's id.
    pub operation: Option<u32>,
    /// The account is left out: its payment says whose it is.
    pub is_nameless: bool,
    pub is_final: Option<bool>,
    pub is_cumulative: bool,
    pub expires: Expires,
    /// Of an adjustment: its place among those of its payment.
    pub at_s: i64,
    pub poison: Option<Poison>,
    pub fate: Fate,
    /// The story it belongs to: the number of that story's first callback.
    pub story: Option<u32>,
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
            to: None,
            amount,
            payment: (kind != Kind::Deposit).then_some(number),
            operation: None,
            is_nameless: false,
            is_final: None,
            is_cumulative: false,
            expires: Expires::Never,
            at_s: 0,
            poison: None,
            fate: Fate::Applied,
            story: None,
            is_late: false,
        }
    }

    /// Of two that one fact or one key has: the number of the first; else its own.
    pub fn group(&self) -> u32 {
        match self.fate {
            Fate::Twin(first) | Fate::Contradicts(first) => first,
            Fate::Applied | Fate::Contends => self.number,
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
    pub ids: Ids,
    pub accounts: u32,
    /// From this number on, accounts are a story's own.
    pub own_from: u32,
    /// As in [`Options`].
    pub disorder: bool,
    pub distinct: Vec<Distinct>,
    /// Published first: the deposits that open the accounts, but those of stories.
    pub opening: Vec<Sending>,
    /// Published right behind them.
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
        let (mut distinct, own_from) = sound_callbacks(options, sound, &mut random);
        let shared = Options { accounts: own_from, ..options.clone() };
        poison::add(&shared, poison, &mut distinct, &mut random);
        cover(&mut distinct, own_from as usize);
        let mut plan = Self {
            seed: options.seed,
            ids: options.ids,
            accounts: options.accounts,
            own_from,
            disorder: options.disorder,
            opening: first_copies(distinct.iter().take(own_from as usize)),
            main: Vec::new(),
            late: first_copies(distinct.iter().filter(|one| one.is_late)),
            distinct,
        };
        plan.order_main(&mut random);
        plan.add_copies(copies, &mut random);
        Ok(plan)
    }

    /// What must become of it, where it is the first of two that have one fact or one key as where it is the second.
    pub fn fate(&self, one: &Distinct) -> Fate {
        match self.distinct.get(one.number as usize + 1).map(|next| next.fate) {
            Some(Fate::Twin(first)) if first == one.number => Fate::Twin(first),
            Some(Fate::Contradicts(first)) if first == one.number => Fate::Contradicts(first),
            Some(Fate::Applied | Fate::Contends | Fate::Twin(_) | Fate::Contradicts(_)) | None => one.fate,
        }
    }

    pub fn published(&self) -> usize {
        self.opening.len() + self.main.len() + self.late.len()
    }

    pub fn sendings(&self) -> impl Iterator<Item = &Sending> {
        self.opening.iter().chain(&self.main).chain(&self.late)
    }

    fn order_main(&mut self, random: &mut StdRng) {
        let mut rest: Vec<&Distinct> =
            self.distinct.iter().skip(self.own_from as usize).filter(|one| !one.is_late).collect();
        order::mix(&mut rest, random);
        self.main = first_copies(rest.into_iter());
    }

    fn add_copies(&mut self, copies: usize, random: &mut StdRng) {
        let originals: Vec<u32> =
            self.opening.iter().chain(&self.main).map(|sending| sending.distinct).collect();
        let with_late: Vec<u32> =
            originals.iter().copied().chain(self.late.iter().map(|sending| sending.distinct)).collect();
        let mut beside: Vec<Vec<Way>> = vec![Vec::new(); self.distinct.len()];
        let mut spread = Vec::new();
        for n in 0..copies {
            // What comes late is copied late.
            let from = if n % 4 == 3 { &with_late } else { &originals };
            let Some(distinct) = from.get(random.random_range(0..from.len())).copied() else { continue };
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
        let mut seen = HashSet::new();
        for sending in &mut self.late {
            if self.distinct.get(sending.distinct as usize).is_some_and(|one| one.is_late) {
                sending.way = (!seen.insert(sending.distinct)).then_some(Way::Late);
            }
        }
    }
}

pub fn share_of(events: usize, share: f64) -> usize {
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

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::{
        body,
        money::{Deposit, KINDS, Payment},
    };

    fn options(seed: u64) -> Options {
        Options {
            events: 20_000,
            duplicates: 0.3,
            accounts: 500,
            hot: 0.5,
            poison: 0.05,
            lifecycle: 0.0,
            transfers: false,
            disorder: true,
            prefill: false,
            signatures: true,
            ids: Ids::Random,
            seed,
        }
    }

    #[test]
    fn ids_differ_and_every_third_counts_up() {
        let ids: Vec<String> = (0..30_000).map(|number| Ids::Random.of(7, number)).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        assert_eq!(ids[3_000], "7_3000");
        let rises = ids.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((13_000..17_000).contains(&rises), "{rises} of 29 999 are greater than the one before");
        let counted: Vec<String> = (0..3).map(|number| Ids::Sequential.of(7, number)).collect();
        assert_eq!(counted, ["7_0", "7_1", "7_2"]);
        assert_ne!(Ids::Random.of(7, 1), Ids::Random.of(8, 1));
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
        let is_copy = |sending: &&Sending| sending.way == Some(Way::Late);
        let of_late =
            plan.late.iter().filter(is_copy).filter(|one| plan.distinct[one.distinct as usize].is_late);
        assert!(of_late.count() > 20, "what comes late is copied too");
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
    fn debits_and_stories_do_not_wait_for_the_deposit_that_opens_their_account() {
        let plan = Plan::new(&Options { lifecycle: 0.7, ..options(13) }).unwrap();
        assert!(plan.own_from < plan.accounts);
        let mut first: HashMap<u32, Kind> = HashMap::new();
        for sending in &plan.main {
            let one = &plan.distinct[sending.distinct as usize];
            if one.account >= plan.own_from {
                first.entry(one.account).or_insert(one.kind);
            }
        }
        assert_eq!(first.len() as u32, plan.accounts - plan.own_from, "each is in a story");
        let before = first.values().filter(|kind| **kind != Kind::Deposit).count();
        assert!(before > first.len() / 3, "{before} of {}", first.len());
    }

    #[test]
    fn stories_have_their_share_and_end_within_what_they_authorize() {
        let plan = Plan::new(&Options { lifecycle: 0.7, ..options(17) }).unwrap();
        let in_stories = plan.distinct.iter().filter(|one| one.story.is_some()).count();
        // What is left is too short for a whole story.
        let share = share_of(20_000 - 6_000 - 1_000, 0.7);
        assert!((share - 10..=share).contains(&in_stories), "{in_stories} of {share}");
        let mut payments: HashMap<u32, Payment> = HashMap::new();
        let mut deposits: HashMap<u32, Deposit> = HashMap::new();
        for one in plan.distinct.iter().filter(|one| one.poison.is_none() && plan.fate(one) == Fate::Applied)
        {
            let Some(payment) = one.payment else { continue };
            if one.kind.is_of_deposit() {
                deposits.entry(payment).or_default().add(body::fact(one));
            } else {
                payments.entry(payment).or_default().add(body::fact(one));
            }
        }
        let alone = |payment: &u32| {
            let of = |one: &&Distinct| one.payment == Some(*payment);
            plan.distinct.iter().filter(of).all(|one| one.poison.is_none() && plan.fate(one) == Fate::Applied)
        };
        for (number, payment) in payments.iter().take(2_000).filter(|(number, _)| alone(number)) {
            assert!(payment.is_sound_after(Kind::Failed), "{number}: {payment:?}");
            assert_ne!(payment.state(), "expected", "{number}: {payment:?}");
        }
        assert!(deposits.iter().filter(|(number, _)| alone(number)).all(|(_, deposit)| deposit.is_sound()));
        for kind in KINDS {
            assert!(plan.distinct.iter().any(|one| one.kind == kind && one.poison.is_none()), "no {kind:?}");
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
