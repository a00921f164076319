//! Every crash point, times what goes wrong there, times one or two workers: nothing is lost, nothing is applied twice, and only a
//! process that died is started again.

use std::{fs::File, os::unix::process::ExitStatusExt, path::PathBuf, process::ExitStatus};

use futures_util::future::join_all;
use payonce::crash::Point;
use tempfile::TempDir;
use tokio::process::Child;

use crate::support::{Event, World, eventually};

const DEPOSITS: i64 = 96;
const BAD_MESSAGES: i64 = 32;
const WAITING: i64 = 8;
/// Debits that come before the deposit that opens their account, and are released by it.
const RELEASED: i64 = 8;
const SIGABRT: i32 = 6;

/// Small batches and a small prefetch, so that each worker has its share; deadlines that a stall outlasts.
const SETTINGS: [&str; 9] = [
    "--lanes=1",
    "--batch-size-max=10",
    "--prefetch-count=20",
    "--claim-lease-ms=1000",
    "--database-deadline-ms=1000",
    "--waiting-max-ms=1000",
    "--order-wait-ms=60000",
    "--retry-delay-max-ms=200",
    "--log-level=info",
];

/// One combination.
#[derive(Debug, Clone, Copy)]
struct Case {
    point: Point,
    action: &'static str,
    workers: usize,
}

/// A worker process and what it logs.
struct Logged {
    child: Child,
    log: PathBuf,
}

impl Logged {
    fn start(world: &World, logs: &TempDir, name: &str, sweep_ms: u32, crash_point: Option<String>) -> Self {
        let log = logs.path().join(name);
        let mut command = world.program(&["worker"]);
        command.args(SETTINGS).arg(format!("--waiting-sweep-ms={sweep_ms}"));
        if let Some(told) = crash_point {
            command.env("PAYONCE_CRASH_POINT", told);
        }
        let file = File::create(&log).expect("a log");
        Self { child: command.stderr(file).spawn().expect("the payonce binary runs"), log }
    }

    async fn logs(&self, what: &str) {
        eventually(&format!("{} says {what:?}", self.log.display()), true, || async {
            std::fs::read_to_string(&self.log).expect("the log").contains(what)
        })
        .await;
    }

    async fn terminate(mut self) -> ExitStatus {
        let id = self.child.id().expect("it runs").to_string();
        let sent = tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.expect("kill");
        assert!(sent.success());
        self.child.wait().await.expect("it ended")
    }
}

fn messages() -> Vec<(String, Vec<u8>)> {
    let deposit = |n: i64| Event::deposit(&format!("d{n}"), &format!("a{}", n % 8), 10);
    let waiting = |n: i64| {
        Event::payment("payment.captured", &format!("w{n}"), &format!("a{n}"), &format!("unknown{n}"), 1)
    };
    let event = |event: Event| (event.account.clone(), event.body());
    let released = |n: i64| {
        Event::payment("payment.succeeded", &format!("r{n}"), &format!("b{n}"), &format!("pay{n}"), 4)
    };
    let mut messages: Vec<_> = (0..8).map(|n| event(deposit(n))).collect();
    messages.extend((0..RELEASED).map(|n| event(released(n))));
    for n in 0..DEPOSITS {
        // Each deposit comes twice, and in between come messages that are cases.
        messages.push(event(deposit(n)));
        messages.push(event(deposit(DEPOSITS - 1 - n)));
        if n % 3 == 0 {
            messages.push((format!("a{}", n % 8), format!("bad message {n}").into_bytes()));
        }
        if n % 12 == 11 {
            messages.push(event(waiting(n / 12)));
            // A capture of what nobody authorizes, and beside it what a debit has waited for.
            messages.push(event(Event::deposit(&format!("o{}", n / 12), &format!("b{}", n / 12), 10)));
            messages.push(event(released(n / 12)));
        }
    }
    messages
}

async fn nothing_is_lost_or_doubled(case: Case) {
    let world = World::new().await;
    let logs = tempfile::tempdir().expect("a folder");
    let told = format!("{}={}", case.point.name(), case.action);
    let mut harmed = Logged::start(&world, &logs, "harmed", 100, Some(told));
    // The other one sweeps too seldom to take the harmed one's work away.
    let healthy: Vec<Logged> = (1..case.workers)
        .map(|n| Logged::start(&world, &logs, &format!("healthy-{n}"), 3_600_000, None))
        .collect();
    for worker in std::iter::once(&harmed).chain(&healthy) {
        worker.logs("taking messages").await;
    }
    world.publish_raw(&messages()).await;

    harmed.logs("crash point reached").await;
    if case.action == "abort" {
        let ended = harmed.child.wait().await.expect("it ended");
        assert_eq!(ended.signal(), Some(SIGABRT), "{case:?}: {ended}");
        harmed = Logged::start(&world, &logs, "restarted", 100, None);
    }
    let expected = (DEPOSITS + 2 * RELEASED, BAD_MESSAGES + WAITING);
    eventually(&format!("{case:?}: everything is settled"), expected, || async {
        let rows = world.number("select count(*) from ledger").await;
        (rows, world.number("select count(*) from quarantine where state = 'open'").await)
    })
    .await;
    // Copies are still to be rejected. What a worker has taken and not started on when it is told to end goes back: the next
    // one settles it.
    let names = world.names();
    let queues = [&names.queue, &names.dead_queue];
    let mut workers = healthy;
    workers.push(harmed);
    for next in 1.. {
        for queue in queues {
            eventually(&format!("{case:?}: {queue} is empty"), 0, || world.ready_messages(queue)).await;
        }
        for worker in workers {
            let log = worker.log.clone();
            let ended = worker.terminate().await;
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.success(), "{case:?}: {ended}\n{}", said());
        }
        let left = world.ready_messages(queues[0]).await + world.ready_messages(queues[1]).await;
        if left == 0 {
            break;
        }
        assert!(next <= 3, "{case:?}: {left} messages are never acknowledged");
        // Each delivery that is settled counts, copies too.
        let settled = world.number("select sum(n)::bigint from tallies where kind <> 'released'").await;
        workers = vec![Logged::start(&world, &logs, &format!("next-{next}"), 100, None)];
        world.settled(settled + i64::from(left)).await;
    }
    let balance = world.number("select sum(balance)::bigint from accounts").await;
    assert_eq!(balance, 10 * DEPOSITS + 6 * RELEASED, "{case:?}");
    let versions = world.number("select sum(version)::bigint from accounts").await;
    assert_eq!(versions, DEPOSITS + 2 * RELEASED, "{case:?}");
    let payments =
        world.number("select count(*) from payments where state = 'succeeded' and captured = 4").await;
    assert_eq!(payments, RELEASED, "{case:?}");
    world.audit().await;
    world.close().await;
}

/// The six combinations at this point, beside each other.
async fn every_combination_at(point: Point) {
    let cases = ["abort", "error", "stall"].into_iter().flat_map(|action| {
        [1, 2].into_iter().map(move |workers| nothing_is_lost_or_doubled(Case { point, action, workers }))
    });
    join_all(cases).await;
}

macro_rules! tests {
    ($($name:ident: $point:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                every_combination_at(Point::$point).await;
            }
        )*

        #[test]
        fn no_point_is_left_out() {
            assert_eq!([$(Point::$point),*], Point::ALL);
        }
    };
}

tests! {
    after_consume: AfterConsume,
    after_claim: AfterClaim,
    after_load: AfterLoad,
    after_accounts: AfterAccounts,
    after_insert: AfterInsert,
    after_cases: AfterCases,
    before_commit: BeforeCommit,
    after_commit: AfterCommit,
    after_marker: AfterMarker,
    before_ack: BeforeAck,
    after_ack: AfterAck,
    sweep: Sweep,
    replay: Replay,
}
