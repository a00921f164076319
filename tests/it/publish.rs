//! `payonce publish`: what it says of the broker, of each line, and with `--wait` of what became of each callback.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

use crate::support::{DEADLINE, Event, OwnServer, World, eventually};

fn file_of(events: &[Event]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> =
        events.iter().map(|event| String::from_utf8(event.body()).unwrap() + "\n").collect();
    std::fs::write(file.path(), lines.concat()).unwrap();
    file
}

fn publish(world: &World, file: &tempfile::NamedTempFile, arguments: &[&str]) -> Command {
    let path = file.path().to_str().unwrap();
    let mut command = world.program(&[&["publish", "--json"], arguments, &[path]].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn ended(child: Child) -> Output {
    tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").expect("it ran")
}

async fn interrupt(child: &Child) {
    let id = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.expect("kill runs").success());
}

#[tokio::test]
async fn waiting_says_what_became_of_each_callback() {
    let world = World::new().await;
    let queue = world.names().queue;
    let events = [
        Event::deposit("d1", "a", 100),
        Event::deposit("d1", "a", 100),
        Event::payment("payment.succeeded", "s1", "a", "p1", 40),
        Event::payment("payment.succeeded", "s2", "a", "p2", 4_000),
        Event::payment("refund.succeeded", "r1", "a", "p3", 1),
    ];
    let file = file_of(&events);
    let child = publish(&world, &file, &["--wait"]).spawn().unwrap();
    // There is no worker yet, so it cannot know before there is one.
    eventually("all are on the queue", 5, || world.ready_messages(&queue)).await;
    let worker = world.worker_with(&[("batch_size_max", "1")]).await;
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let settled = report(&output)["settled"].clone();
    let cases = settled["cases"].as_array().expect("cases").clone();
    let numbers =
        ["applied", "duplicates", "waiting", "quarantined", "unsettled"].map(|n| settled[n].as_i64());
    assert_eq!(numbers.iter().flatten().sum::<i64>(), 5, "{settled}");
    assert_eq!(numbers, [2, 1, 1, 1, 0].map(Some), "{settled}");
    let reasons: Vec<&Value> = cases.iter().map(|case| &case["reason"]).collect();
    assert_eq!(cases.len(), 2, "{cases:?}");
    assert!(reasons.contains(&&json!("insufficient_funds")), "{reasons:?}");
    assert!(reasons.contains(&&json!("waiting_for_payment")), "{reasons:?}");

    // All of it again: nothing is new.
    let again = ended(publish(&world, &file, &["--wait"]).spawn().unwrap()).await;
    let settled = report(&again)["settled"].clone();
    assert_eq!((settled["applied"].as_i64(), settled["unsettled"].as_i64()), (Some(0), Some(0)), "{settled}");
    worker.stop().await;
    world.audit().await;
    world.close().await;
}

/// Long before the wait is over, and it goes on.
#[tokio::test]
async fn waiting_without_a_worker_says_so_and_ends_well_once_one_runs() {
    let world = World::new().await;
    let file = file_of(&[Event::deposit("d1", "a", 100)]);
    let mut child = publish(&world, &file, &["--wait"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = async {
        while let Some(line) = said.next_line().await.unwrap() {
            if line.contains("Does a worker run?") {
                return;
            }
        }
        panic!("it ended without a word");
    };
    tokio::time::timeout(DEADLINE, told).await.expect("it says so");
    let worker = world.worker().await;
    let output = ended(child).await;
    assert_eq!((output.status.code(), &report(&output)["settled"]["applied"]), (Some(0), &json!(1)));
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn waiting_without_a_worker_ends_and_says_so() {
    let world = World::new().await;
    let file = file_of(&[Event::deposit("d1", "a", 100)]);
    let output =
        ended(publish(&world, &file, &["--wait", "--publish-wait-max-ms", "300"]).spawn().unwrap()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(words(&output).contains("Does a worker run?"), "{output:?}");
    assert_eq!(report(&output)["settled"]["unsettled"], 1);
    world.close().await;
}

#[tokio::test]
async fn an_interrupt_says_how_far_things_are() {
    let world = World::new().await;
    let queue = world.names().queue;
    // While it waits for a line that does not come.
    let mut child =
        world.program(&["publish", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().expect("a pipe");
    let line = [Event::deposit("d1", "a", 100).body(), b"\n".to_vec()].concat();
    stdin.write_all(&line).await.unwrap();
    eventually("it is on the queue", 1, || world.ready_messages(&queue)).await;
    interrupt(&child).await;
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = words(&output);
    assert!(said.contains("interrupted") && said.contains("Publish the same files again"), "{said}");
    drop(stdin);

    // While it waits for a worker.
    let file = file_of(&[Event::deposit("d2", "a", 100)]);
    let child = publish(&world, &file, &["--wait"]).spawn().unwrap();
    eventually("it is on the queue", 2, || world.ready_messages(&queue)).await;
    // The confirm may be on its way: an interrupt before it is one of the other kind, and says so as well.
    interrupt(&child).await;
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        words(&output).contains("not settled yet") || words(&output).contains("interrupted"),
        "{output:?}"
    );
    world.close().await;
}

#[tokio::test]
async fn a_line_of_any_length_is_refused_by_number_and_the_next_one_is_sent() {
    let world = World::new().await;
    let file = file_of(&[Event::deposit("d1", "a", 100)]);
    let good = std::fs::read(file.path()).unwrap();
    let long = [vec![b'x'; 3 * 1_048_576], b"\n".to_vec()].concat();
    std::fs::write(file.path(), [long, good].concat()).unwrap();
    let output = ended(publish(&world, &file, &["--unchecked"]).spawn().unwrap()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output);
    assert_eq!((&report["published"], &report["refused"][0]["line"]), (&json!(1), &json!(1)));
    world.close().await;
}

/// What is no callback has no key by which it could be followed: to say nothing of it would be to say that all is well.
#[tokio::test]
async fn waiting_says_of_how_many_lines_nothing_can_be_said() {
    let world = World::new().await;
    let worker = world.worker().await;
    let file = file_of(&[Event::deposit("d1", "a", 100)]);
    let good = std::fs::read(file.path()).unwrap();
    std::fs::write(file.path(), [&good[..], b"{\"nonsense\": 1}\nmore of it\n"].concat()).unwrap();
    let output = ended(publish(&world, &file, &["--wait", "--unchecked"]).spawn().unwrap()).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((&report["published"], &report["settled"]["applied"]), (&json!(3), &json!(1)));
    assert_eq!(report["settled"]["unfollowed"], 2);
    world.settled(3).await;
    worker.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_broker_with_an_alarm_is_named_and_waited_for_but_not_for_ever() {
    let rabbitmq = OwnServer::start("rabbitmq", "PAYONCE_AMQP_URL").await;
    let shared =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"));
    let world =
        World::on(&shared("PAYONCE_DATABASE_URL"), &shared("PAYONCE_REDIS_URL"), rabbitmq.url()).await;
    let watermark = async |share: &str| {
        let mut script = rabbitmq.script("scripts/services");
        let output =
            script.args(["rabbitmqctl", "set_vm_memory_high_watermark", share]).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let file = file_of(&[Event::deposit("d1", "a", 100)]);
    watermark("0").await;
    let output = ended(publish(&world, &file, &["--publish-deadline-ms", "1500"]).spawn().unwrap()).await;
    let said = words(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for word in ["resource alarm", "publish_deadline_ms", "0 confirmed", "1 more sent without an answer"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    assert_eq!(report(&output)["published"], 0);

    let mut child = publish(&world, &file, &["--publish-deadline-ms", "60000"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("a line in time").unwrap();
    assert!(line.as_ref().is_some_and(|line| line.contains("takes no messages for now")), "{line:?}");
    watermark("0.4").await;
    let output = ended(child).await;
    assert_eq!((output.status.code(), &report(&output)["published"]), (Some(0), &json!(1)), "{output:?}");
    world.close().await;
}
