//! Random streams of callbacks in which copies, contradictions, second events for one fact, and every stage of a payment's
//! life are common; and random ways to cut a stream into batches.

use payonce::ledger::{Amount, Kind};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{book::Book, draft::Draft, model::Model};

/// Accounts that the streams are about: `acct-0` is opened by its first deposit, the others have money already, `acct-2` nearly
/// all that 64 bits hold.
pub const OPENED: [(&str, i64); 2] = [("acct-1", 400), ("acct-2", i64::MAX - 50)];
const ACCOUNTS: usize = 3;
const PAYMENTS: usize = 5;

pub fn opened() -> (Model, Book) {
    let (mut model, mut book) = (Model::default(), Book::default());
    for (account, balance) in OPENED {
        model.open(account, balance);
        book.open(account, balance);
    }
    (model, book)
}

/// What may meet across accounts. Lanes and processes share nothing but the database, so rivals are tried with `Apart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounts {
    /// Now and then a key, an operation or a payment is used with two accounts.
    Mixed,
    /// Every key, operation and payment belongs to one account.
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
}

/// Rarely the same twice. It keeps its value while a failing stream is made smaller.
fn id() -> impl Strategy<Value = String> {
    (0..10_000_u32).no_shrink().prop_map(|number| format!("evt-{number}"))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::DepositSucceeded),
        5 => Just(Kind::PaymentAuthorized),
        7 => Just(Kind::PaymentCaptured),
        1 => Just(Kind::PaymentVoided),
        2 => Just(Kind::PaymentSucceeded),
        1 => Just(Kind::PaymentFailed),
        5 => Just(Kind::RefundSucceeded),
    ]
}

/// Mostly small, so that sums meet their limits; now and then the largest.
fn amount() -> impl Strategy<Value = i64> {
    prop_oneof![12 => 1..=60_i64, 6 => 60..=200_i64, 1 => Just(Amount::MAX), 1 => Just(Amount::MAX - 1)]
}

fn payment(draft: &mut Draft, payment: usize) {
    if draft.content.kind != Kind::DepositSucceeded {
        draft.content.payment = Some(format!("pay-{payment}"));
    }
}

/// An authorization is larger than what is captured or refunded in one go, or stories would end early.
fn new(accounts: Accounts) -> impl Strategy<Value = Draft> {
    let stray = match accounts {
        Accounts::Mixed => 0.04,
        Accounts::Apart => 0.0,
    };
    let rare = (prop::bool::weighted(0.05), prop::bool::weighted(0.04), prop::bool::weighted(stray));
    (
        id(),
        kind(),
        0..PAYMENTS,
        amount(),
        prop::option::weighted(0.4, 0..6_usize),
        prop::bool::weighted(0.15),
        rare,
    )
        .prop_map(
            |(id, kind, of, amount, operation, is_final, (other_source, other_currency, is_stray))| {
                let amount = match kind {
                    Kind::PaymentAuthorized | Kind::DepositSucceeded => (amount * 2).min(Amount::MAX),
                    Kind::PaymentCaptured
                    | Kind::PaymentVoided
                    | Kind::PaymentSucceeded
                    | Kind::PaymentFailed
                    | Kind::RefundSucceeded => amount,
                };
                let account = (of + usize::from(is_stray)) % ACCOUNTS;
                let mut draft = Draft::new(&id, kind, amount).account(&format!("acct-{account}"));
                payment(&mut draft, of);
                draft.content.is_final = is_final;
                draft.content.operation = operation.map(|operation| format!("op-{account}-{operation}"));
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
    let within = prop_oneof![
        kind().prop_map(Change::Kind),
        (0..6_usize).prop_map(|operation| Change::Operation(Some(operation))),
        Just(Change::Operation(None)),
        amount().prop_map(Change::Amount),
        Just(Change::Currency),
        Just(Change::Final),
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
    ]
}

fn apply(change: Change, draft: &mut Draft) {
    let content = &mut draft.content;
    match change {
        Change::Kind(kind) => {
            content.kind = kind;
            // The payment of the same number belongs to that account.
            let of = content.account.replace("acct", "pay");
            content.payment.get_or_insert(of);
        }
        Change::Account(account) => content.account = format!("acct-{account}"),
        Change::Payment(of) => payment(draft, of),
        Change::Operation(operation) => {
            let of = content.account.replace("acct", "op");
            content.operation = operation.map(|operation| format!("{of}-{operation}"));
        }
        Change::Amount(amount) => content.amount = amount,
        Change::Currency => content.currency = "EUR".to_owned(),
        Change::Final => content.is_final = !content.is_final,
    }
}

/// A stream of up to `length` callbacks.
pub fn stream(length: usize, accounts: Accounts) -> impl Strategy<Value = Vec<Draft>> {
    // Two ids are the same by chance now and then.
    let of_one_account = move |draft: Draft| match accounts {
        Accounts::Mixed => draft,
        Accounts::Apart => {
            let id = format!("{}-{}", draft.id, draft.content.account);
            draft.under(&id)
        }
    };
    vec(step(accounts), 1..=length).prop_map(move |steps| {
        let mut drafts: Vec<Draft> = Vec::with_capacity(steps.len());
        for step in steps {
            let earlier = |of: Index| (!drafts.is_empty()).then(|| of.get(&drafts).clone());
            let draft = match step {
                Step::New(draft) => Some(of_one_account(draft)),
                Step::Copy(of) => earlier(of),
                Step::SameKey(of, change) => earlier(of).map(|mut draft| {
                    apply(change, &mut draft);
                    draft
                }),
                Step::SameOperation(of, id, change) => earlier(of).map(|mut draft| {
                    if let Some(change) = change {
                        apply(change, &mut draft);
                    }
                    of_one_account(draft.under(&id))
                }),
            };
            drafts.extend(draft);
        }
        drafts
    })
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
