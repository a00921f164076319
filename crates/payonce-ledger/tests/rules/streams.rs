//! Random streams of callbacks in which copies, contradictions, second events for one fact, and every stage of a payment's
//! life are common; and random ways to cut a stream into batches.

#![allow(clippy::wildcard_enum_match_arm, reason = "a model lists the types that matter where it stands")]

use payonce_ledger::{Amount, Direction, Kind};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::draft::Draft;

/// Accounts that the streams are about: `acct-0` is opened by its first deposit, the others have money already, `acct-2` nearly
/// all that 64 bits hold.
pub const OPENED: [(&str, i64); 2] = [("acct-1", 400), ("acct-2", i64::MAX - 50)];
const ACCOUNTS: usize = 3;
const PAYMENTS: usize = 5;

/// What may meet across accounts. Lanes and processes share nothing but the database, so concurrent writers are tried with `Apart` where
/// the end has to be that of one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounts {
    /// Now and then a key, an operation or a payment is used with two accounts.
    Mixed,
    /// Every key, operation and payment belongs to one account, which every callback names; there are no transfers.
    Apart,
}

#[derive(Debug, Clone)]
enum Step {
    New(Draft),
    /// An earlier callback once more.
    Copy(Index),
    /// The key of an earlier callback with one member changed.
    SameKey(Index, Change),
    /// The operation of an earlier callback under a new key; sometimes with one member changed.
    SameOperation(Index, String, Option<Change>),
    /// The key of an earlier callback again and again, each time with another amount: more than a look-up of a key returns.
    Crowd(Index, i64),
}

#[derive(Debug, Clone)]
enum Change {
    Kind(Kind),
    Account(usize),
    Payment(usize),
    Operation(Option<usize>),
    Amount(i64),
    Currency,
    Final,
    Total,
}

/// Rarely the same twice. It keeps its value while a failing stream is made smaller.
fn id() -> impl Strategy<Value = String> {
    (0..10_000_u32).no_shrink().prop_map(|number| format!("evt-{number}"))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => Just(Kind::DepositSucceeded),
        1 => Just(Kind::DepositRefunded),
        1 => Just(Kind::DepositDisputed),
        1 => Just(Kind::DepositReinstated),
        6 => Just(Kind::PaymentAuthorized),
        2 => Just(Kind::PaymentAuthorizationAdjusted),
        8 => Just(Kind::PaymentCaptured),
        2 => Just(Kind::PaymentCaptureFailed),
        2 => Just(Kind::PaymentVoided),
        3 => Just(Kind::PaymentSucceeded),
        1 => Just(Kind::PaymentFailed),
        6 => Just(Kind::RefundSucceeded),
        2 => Just(Kind::RefundFailed),
        1 => Just(Kind::FeeCharged),
        2 => Just(Kind::TransferSucceeded),
        1 => Just(Kind::AdjustmentPosted),
    ]
}

/// Mostly small, so that sums meet their limits; now and then the largest.
fn amount() -> impl Strategy<Value = i64> {
    prop_oneof![12 => 1..=60_i64, 6 => 60..=200_i64, 1 => Just(Amount::MAX), 1 => Just(Amount::MAX - 1)]
}

fn payment(draft: &mut Draft, payment: usize) {
    if draft.content.kind.needs_payment_id() {
        draft.content.payment = Some(format!("pay-{payment}"));
    }
}

/// An authorization is larger than what is captured or refunded in one go, or stories would end early.
fn new(accounts: Accounts) -> impl Strategy<Value = Draft> {
    let stray = match accounts {
        Accounts::Mixed => 0.04,
        Accounts::Apart => 0.0,
    };
    let rare = (
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.04),
        prop::bool::weighted(stray),
        prop::bool::weighted(0.08),
    );
    let members = (prop::bool::weighted(0.15), prop::bool::weighted(0.15), 0..4_i64, any::<bool>());
    (id(), kind(), 0..PAYMENTS, amount(), prop::option::weighted(0.4, 0..6_usize), members, rare).prop_map(
        move |(id, kind, of, amount, operation, (is_odd, is_total, at_us, is_second), rare)| {
            let (other_source, other_currency, is_stray, is_nameless) = rare;
            let is_first = matches!(kind, Kind::PaymentAuthorized | Kind::DepositSucceeded);
            let amount = if is_first { (amount * 2).min(Amount::MAX) } else { amount };
            let account = (of + usize::from(is_stray)) % ACCOUNTS;
            let mut draft = Draft::new(&id, kind, amount).account(&format!("acct-{account}")).at(at_us);
            payment(&mut draft, of);
            if kind == Kind::DepositSucceeded && is_second {
                draft = draft.payment(&format!("pay-{of}"));
            }
            if accounts == Accounts::Apart && kind == Kind::TransferSucceeded {
                draft.content.kind = Kind::FeeCharged;
                draft.content.to = None;
            }
            draft.content.is_final = is_odd != kind.is_final_by_default();
            draft.content.is_cumulative = is_total
                && matches!(kind, Kind::PaymentCaptured | Kind::RefundSucceeded | Kind::DepositRefunded);
            let operation = operation.or(kind.reverses().map(|_| of % 3));
            draft.content.operation = operation.map(|operation| format!("op-{account}-{operation}"));
            if kind == Kind::DepositReinstated && is_odd && draft.content.operation.is_some() {
                let taken = if is_second { Kind::DepositDisputed } else { Kind::DepositRefunded };
                draft.content.reverses = Some(taken);
            }
            if draft.content.kind == Kind::TransferSucceeded {
                let other = 1 + usize::from(is_second);
                draft = draft.to(&format!("acct-{}", (account + other) % ACCOUNTS));
            }
            if kind == Kind::AdjustmentPosted && is_second {
                draft.content.direction = Some(Direction::Debit);
            }
            if kind.finds_account() && is_nameless && accounts == Accounts::Mixed {
                // Its payment alone says whose it is: the movements of others have other ids.
                draft.content.operation = operation.map(|operation| format!("op-pay-{of}-{operation}"));
                draft = draft.nameless();
            }
            if other_source {
                draft.source = "/providers/b".to_owned();
            }
            if other_currency {
                draft.content.currency = "USD".to_owned();
            }
            draft
        },
    )
}

fn change(accounts: Accounts) -> BoxedStrategy<Change> {
    // Transfers tie accounts together.
    let kind = kind().prop_map(move |kind| match kind {
        Kind::TransferSucceeded if accounts == Accounts::Apart => Kind::FeeCharged,
        kind => kind,
    });
    let within = prop_oneof![
        kind.prop_map(Change::Kind),
        (0..6_usize).prop_map(|operation| Change::Operation(Some(operation))),
        Just(Change::Operation(None)),
        amount().prop_map(Change::Amount),
        Just(Change::Currency),
        Just(Change::Final),
        Just(Change::Total),
    ];
    match accounts {
        Accounts::Apart => within.boxed(),
        Accounts::Mixed => prop_oneof![
            6 => within,
            1 => (0..ACCOUNTS).prop_map(Change::Account),
            1 => (0..PAYMENTS).prop_map(Change::Payment),
        ]
        .boxed(),
    }
}

fn step(accounts: Accounts) -> impl Strategy<Value = Step> {
    prop_oneof![
        14 => new(accounts).prop_map(Step::New),
        6 => any::<Index>().prop_map(Step::Copy),
        2 => (any::<Index>(), change(accounts)).prop_map(|(of, change)| Step::SameKey(of, change)),
        2 => (any::<Index>(), id(), prop::option::weighted(0.3, change(accounts)))
            .prop_map(|(of, id, change)| Step::SameOperation(of, id, change)),
        1 => (any::<Index>(), 4..=9_i64).prop_map(|(of, contents)| Step::Crowd(of, contents)),
    ]
}

/// What is left is a callback that the wire would let through.
fn apply(change: Change, draft: &mut Draft) {
    let content = &mut draft.content;
    let of = content.account.clone().or(content.payment.clone()).unwrap_or_else(|| "acct-0".to_owned());
    match change {
        Change::Kind(kind) => content.kind = kind,
        Change::Account(account) => content.account = Some(format!("acct-{account}")),
        Change::Payment(of) => payment(draft, of),
        Change::Operation(operation) => {
            let of = of.replace("acct", "op");
            content.operation = operation.map(|operation| format!("{of}-{operation}"));
        }
        Change::Amount(amount) => content.amount = amount,
        Change::Currency => content.currency = "EUR".to_owned(),
        Change::Final => content.is_final = !content.is_final,
        Change::Total => content.is_cumulative = !content.is_cumulative,
    }
    let content = &mut draft.content;
    if content.kind.needs_payment_id() {
        // The payment of the same number belongs to that account.
        content.payment.get_or_insert(of.replace("acct", "pay"));
    }
    // Of any other type it is an unknown member.
    content.reverses = content.reverses.filter(|_| content.kind == Kind::DepositReinstated);
    if content.kind.reverses().or(content.reverses).is_some() {
        content.operation.get_or_insert(of.replace("acct", "op") + "-0");
    }
    if !content.kind.finds_account() {
        content.account.get_or_insert_with(|| "acct-0".to_owned());
    }
    let other = if content.account.as_deref() == Some("acct-1") { "acct-2" } else { "acct-1" };
    content.to = (content.kind == Kind::TransferSucceeded).then(|| other.to_owned());
    content.direction = (content.kind == Kind::AdjustmentPosted).then_some(Direction::Debit);
}

/// A stream of up to `length` callbacks.
pub fn stream(length: usize, accounts: Accounts) -> impl Strategy<Value = Vec<Draft>> {
    // Two ids are the same by chance now and then.
    let of_one_account = move |draft: Draft| match accounts {
        Accounts::Mixed => draft,
        Accounts::Apart => {
            let of = draft.content.account.clone().or(draft.content.payment.clone());
            let id = format!("{}-{}", draft.id, of.unwrap_or_default());
            draft.under(&id)
        }
    };
    vec(step(accounts), 1..=length).prop_map(move |steps| {
        let mut drafts: Vec<Draft> = Vec::with_capacity(steps.len());
        for step in steps {
            let earlier = |of: Index| (!drafts.is_empty()).then(|| of.get(&drafts).clone());
            let following: Vec<Draft> = match step {
                Step::New(draft) => vec![of_one_account(draft)],
                Step::Copy(of) => earlier(of).into_iter().collect(),
                Step::SameKey(of, change) => {
                    let changed = earlier(of).map(|mut draft| {
                        apply(change, &mut draft);
                        draft
                    });
                    changed.into_iter().collect()
                }
                Step::SameOperation(of, id, change) => {
                    let changed = earlier(of).map(|mut draft| {
                        if let Some(change) = change {
                            apply(change, &mut draft);
                        }
                        of_one_account(draft.under(&id))
                    });
                    changed.into_iter().collect()
                }
                Step::Crowd(of, contents) => {
                    let of_key = earlier(of).into_iter().flat_map(|draft| {
                        (1..=contents).map(move |amount| {
                            let mut other = draft.clone();
                            other.content.amount = amount;
                            other
                        })
                    });
                    of_key.collect()
                }
            };
            drafts.extend(following);
        }
        drafts
    })
}

/// A stream about one account that has 100, in which nearly everything wants more than half of that: who comes first has it, and what brings
/// money back is wanted by all that wait.
pub fn last_money(length: usize) -> impl Strategy<Value = Vec<Draft>> {
    let kind = prop_oneof![
        5 => Just(Kind::PaymentSucceeded),
        4 => Just(Kind::PaymentAuthorized),
        2 => Just(Kind::PaymentVoided),
        1 => Just(Kind::RefundSucceeded),
        1 => Just(Kind::FeeCharged),
        2 => Just(Kind::DepositSucceeded),
    ];
    vec((id(), kind, 51..=100_i64, any::<Index>(), prop::bool::weighted(0.15)), 1..=length).prop_map(
        |steps| {
            let mut drafts: Vec<Draft> = Vec::with_capacity(steps.len());
            for (number, (id, kind, amount, of, is_copy)) in steps.into_iter().enumerate() {
                let of_kind = |wanted: Kind| -> Option<String> {
                    let these: Vec<&Draft> =
                        drafts.iter().filter(|draft| draft.content.kind == wanted).collect();
                    (!these.is_empty()).then(|| of.get(&these).content.payment.clone())?
                };
                let payment = match kind {
                    Kind::PaymentVoided => of_kind(Kind::PaymentAuthorized),
                    Kind::RefundSucceeded => of_kind(Kind::PaymentSucceeded),
                    _ => Some(format!("race-{number}")),
                };
                let draft = match payment {
                    _ if is_copy && !drafts.is_empty() => of.get(&drafts).clone(),
                    Some(payment) if kind.needs_payment_id() => {
                        Draft::new(&format!("{id}-{number}"), kind, amount)
                            .account("acct-0")
                            .payment(&payment)
                    }
                    Some(_) | None => {
                        let kind = if kind == Kind::FeeCharged { kind } else { Kind::DepositSucceeded };
                        Draft::new(&format!("{id}-{number}"), kind, amount).account("acct-0")
                    }
                };
                drafts.push(draft);
            }
            drafts
        },
    )
}

/// Sizes of the batches a stream is cut into, used in turn.
pub fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![3 => 1..=3_usize, 2 => 4..=12_usize, 1 => Just(usize::MAX)], 1..=6)
}

/// The stream in batches of these sizes.
pub fn cut<'a, T>(stream: &'a [T], sizes: &'a [usize]) -> impl Iterator<Item = &'a [T]> {
    let mut rest = stream;
    sizes.iter().cycle().map_while(move |size| {
        let (batch, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}
