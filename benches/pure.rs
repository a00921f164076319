//! The parts without servers, a batch at a time: decode, verify, decide, and taking lost accounts out of a plan. A slip here shows on any
//! machine: `cargo bench`, change, `cargo bench` again.

#![forbid(unsafe_code)]

use std::{collections::HashSet, hint::black_box};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use payonce::{
    ledger::{Account, AccountId, Callback, Currency, Known, Rules, Snapshot, decide},
    signature::{Key, Kind, Policy, Rule},
    wire,
};

/// payonce's default `batch_size_max`.
const BATCH: u64 = 1_000;
/// Minor units in each account of the snapshot.
const BALANCE: i64 = 1_000_000_000;

/// What a batch is made of.
#[derive(Clone, Copy)]
enum Shape {
    /// Deposits, each to an account of its own.
    Unique,
    /// Deposits to ten accounts.
    Hot,
    /// Nine of ten are copies, of this batch and of what the ledger has.
    Duplicates,
    /// Authorize, capture, refund of one payment after the other.
    Lifecycle,
}

const SHAPES: [(&str, Shape); 4] = [
    ("unique", Shape::Unique),
    ("hot", Shape::Hot),
    ("duplicates", Shape::Duplicates),
    ("lifecycle", Shape::Lifecycle),
];

fn body(shape: Shape, number: u64) -> String {
    let (event, account, kind) = match shape {
        Shape::Unique => (number, number, "deposit.succeeded"),
        Shape::Hot => (number, number % 10, "deposit.succeeded"),
        Shape::Duplicates => (number % (BATCH / 5), number % 100, "deposit.succeeded"),
        Shape::Lifecycle => {
            let kinds = ["payment.authorized", "payment.captured", "refund.succeeded"];
            (number, number / 3, kinds[usize::try_from(number % 3).unwrap_or(0)])
        }
    };
    format!(
        r#"{{"specversion":"1.0","id":"evt_{event:08}","source":"/providers/stripe","type":"{kind}","subject":"acct-{account}",
            "time":"2026-11-22T13:44:14Z","datacontenttype":"application/json",
            "data":{{"payment_id":"pay_{account}","operation_id":"op_{event:08}","amount":1999,"currency":"CNY"}}}}"#
    )
}

fn bodies(shape: Shape) -> Vec<String> {
    (0..BATCH).map(|number| body(shape, number)).collect()
}

fn callbacks(shape: Shape) -> Vec<Callback> {
    bodies(shape).iter().map(|body| wire::decode(body.as_bytes()).expect("a sound callback")).collect()
}

/// Every account is open; of the duplicates every second key is in the ledger.
fn snapshot(shape: Shape, callbacks: &[Callback]) -> Snapshot {
    let currency = Currency::parse("CNY").expect("a currency");
    let mut snapshot = Snapshot::default();
    for (at, callback) in callbacks.iter().enumerate() {
        let account = Account { balance: BALANCE, ..Account::unopened(currency, 0) };
        snapshot.accounts.extend(callback.account_id.clone().map(|id| (id, account)));
        if matches!(shape, Shape::Duplicates) && at % 2 == 0 {
            snapshot.known.insert(callback.key.clone(), vec![Known::Ledger(callback.fingerprint)]);
        }
    }
    snapshot
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH));
    for (name, shape) in SHAPES {
        let bodies = bodies(shape);
        group.bench_with_input(BenchmarkId::from_parameter(name), &bodies, |b, bodies| {
            b.iter(|| bodies.iter().filter(|body| wire::decode(black_box(body.as_bytes())).is_ok()).count());
        });
    }
}

/// A batch signed by one provider with one key.
fn verifying(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    group.throughput(Throughput::Elements(BATCH));
    let bodies = bodies(Shape::Unique);
    for (name, kind) in [("hmac", Kind::Hmac), ("ed25519", Kind::Ed25519)] {
        let rule =
            Rule { policy: Policy::Required, keys: vec![Key::generate(kind).expect("random numbers")] };
        let signed: Vec<_> = bodies.iter().map(|body| rule.sign("evt", 1, body.as_bytes())).collect();
        group.bench_function(name, |b| {
            b.iter(|| {
                let right = bodies.iter().zip(&signed).filter(|(body, headers)| {
                    let headers = headers.as_ref().expect("it is signed");
                    rule.verify(black_box(headers), "evt", body.as_bytes()).is_ok()
                });
                assert_eq!(right.count(), bodies.len());
            });
        });
    }
}

fn deciding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    group.throughput(Throughput::Elements(BATCH));
    for (name, shape) in SHAPES {
        let callbacks = callbacks(shape);
        let snapshot = snapshot(shape, &callbacks);
        group.bench_function(name, |b| {
            b.iter(|| decide(black_box(&snapshot), black_box(&callbacks), &Rules::default()));
        });
    }
}

fn planning(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan_drop_accounts");
    group.throughput(Throughput::Elements(BATCH));
    for (name, shape) in SHAPES {
        let callbacks = callbacks(shape);
        let plan = decide(&snapshot(shape, &callbacks), &callbacks, &Rules::default());
        let lost: HashSet<AccountId> =
            callbacks.iter().step_by(50).filter_map(|callback| callback.account_id.clone()).collect();
        group.bench_function(name, |b| {
            b.iter_batched_ref(|| plan.clone(), |plan| plan.drop_accounts(&lost), BatchSize::LargeInput);
        });
    }
}

criterion_group!(benches, decoding, verifying, deciding, planning);
criterion_main!(benches);
