//! Exit codes, and words that say what to do: 0 done, 1 the answer is no, 2 wrong usage or configuration, 3 unreachable.

use std::{process::Output, time::Duration};

use payonce::store::Database;
use serde_json::Value;

use crate::support::{Dashboard, Event, World};

async fn run(world: &World, arguments: &[&str]) -> Output {
    world.program(arguments).output().await.expect("the payonce binary runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn event_account_and_audit_answer_in_json() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100), Event::deposit("e1", "a", 100)]).await;
    world.settled(2).await;
    worker.stop().await;

    let event = run(&world, &["event", "/providers/test", "e1", "--json"]).await;
    assert_eq!(event.status.code(), Some(0));
    assert_eq!(json(&event)["applied"]["balance_after"], 100);
    let account = run(&world, &["account", "a", "--json"]).await;
    assert_eq!(json(&account)["balance"], 100);
    assert_eq!(json(&account)["entries"].as_array().map(Vec::len), Some(1));
    let audit = run(&world, &["audit", "--json"]).await;
    assert_eq!((audit.status.code(), &json(&audit)["audit"]), (Some(0), &Value::from("ok")));

    for missing in [["event", "/providers/test", "e2"], ["account", "b", "--json"]] {
        assert_eq!(run(&world, &missing).await.status.code(), Some(1), "{missing:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn the_audit_names_the_invariant_that_is_broken() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e1", "a", 100)]).await;
    world.settled(1).await;
    worker.stop().await;
    sqlx::raw_sql("update accounts set balance = balance + 1")
        .execute(&mut world.connect().await)
        .await
        .unwrap();
    let audit = run(&world, &["audit", "--json"]).await;
    assert_eq!(audit.status.code(), Some(1));
    let failed = json(&audit)["audit"].clone();
    assert_eq!(failed, serde_json::json!(["balance_is_ledger_sum", "total_is_ledger_sum"]));
    world.close().await;
}

#[tokio::test]
async fn publish_reports_each_refused_line_by_number() {
    let world = World::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let good = String::from_utf8(Event::deposit("e1", "a", 100).body()).unwrap();
    std::fs::write(file.path(), format!("{good}\nnonsense\n\n{}\n", good.replace("e1", "e2"))).unwrap();
    let output = run(&world, &["publish", "--json", file.path().to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["published"], 2);
    assert_eq!(json(&output)["refused"][0]["line"], 2);
    let queue = world.names().queue;
    assert_eq!(world.ready_messages(&queue).await, 2);
    world.close().await;
}

#[tokio::test]
async fn a_setting_outside_its_limits_is_named_with_what_is_allowed() {
    let world = World::new().await;
    for (arguments, words) in [
        (vec!["worker", "--lanes", "0"], ["lanes", "\"0\"", "from 1 to 64"]),
        (vec!["worker", "--lanes", "many"], ["lanes", "\"many\"", "from 1 to 64"]),
        (vec!["worker", "--prefetch-count", "10"], ["prefetch_count", "10", "2 x lanes x batch_size_max"]),
        (vec!["worker", "--config", "/nowhere.toml"], ["--config", "/nowhere.toml", "No such file"]),
        (vec!["worker", "--signatures", "maybe"], ["signatures", "\"maybe\"", "required, off"]),
        (vec!["worker", "--signatures", "required"], ["signatures", "required", "off"]),
        (vec!["ops", "--listen", "0.0.0.0:0"], ["--listen", "0.0.0.0", "loopback"]),
    ] {
        let output = run(&world, &arguments).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?}: {word} is not in: {text}");
        }
    }
    world.close().await;
}

#[tokio::test]
async fn a_variable_overrides_the_file_and_a_flag_both() {
    let world = World::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "lanes = 1000\n").unwrap();
    let config = file.path().to_str().unwrap();
    let with_file = world.program(&["audit", "--config", config]).output().await.unwrap();
    assert_eq!(with_file.status.code(), Some(2), "the file's value is out of range");
    let with_variable =
        world.program(&["audit", "--config", config]).env("PAYONCE_LANES", "2").output().await.unwrap();
    assert_eq!(with_variable.status.code(), Some(0));
    let with_flag = world
        .program(&["audit", "--config", config, "--lanes", "0"])
        .env("PAYONCE_LANES", "2")
        .output()
        .await
        .unwrap();
    assert_eq!(with_flag.status.code(), Some(2), "the flag's value is out of range");
    std::fs::write(file.path(), "lames = 2\n").unwrap();
    let unknown = world.program(&["audit", "--config", config]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("lames"), "{unknown:?}");
    assert_eq!(unknown.status.code(), Some(2));
    world.close().await;
}

#[tokio::test]
async fn a_server_that_is_down_ends_a_one_shot_command_with_3_and_no_password() {
    let world = World::new().await;
    let nobody = "127.0.0.1:1";
    for (arguments, variable, url) in [
        (["audit", "--json"], "PAYONCE_DATABASE_URL", format!("postgres://u:hunter2@{nobody}/d")),
        (["publish", "Cargo.toml"], "PAYONCE_AMQP_URL", format!("amqp://u:hunter2@{nobody}/%2f")),
    ] {
        let output = world.program(&arguments).env(variable, url).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_schema_that_does_not_fit_is_refused_with_the_command_that_helps() {
    let world = World::new().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                 values (999999, 'from the future', true, '', 0)";
    sqlx::raw_sql(newer).execute(&mut world.connect().await).await.unwrap();
    for arguments in [vec!["worker"], vec!["audit"], vec!["migrate"]] {
        let output = run(&world, &arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("install the newer payonce"), "{output:?}");
    }
    sqlx::raw_sql("delete from _sqlx_migrations where version > 1")
        .execute(&mut world.connect().await)
        .await
        .unwrap();
    for arguments in [vec!["worker"], vec!["audit"]] {
        let output = run(&world, &arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("payonce migrate"), "{output:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn the_ledger_refuses_updates_and_deletes_even_of_no_row() {
    let world = World::new().await;
    let database = Database::new(&world.database_url, "payonce-it", Duration::from_secs(10)).unwrap();
    for statement in ["update ledger set amount = 1 where false", "delete from ledger", "truncate ledger"] {
        let mut connection = database.connect().await.unwrap();
        let refused = sqlx::raw_sql(statement).execute(&mut connection).await.expect_err(statement);
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
    world.close().await;
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let world = World::new().await;
    let output = run(&world, &["migrate", "--json"]).await;
    assert_eq!((output.status.code(), json(&output)), (Some(0), serde_json::json!({ "applied": [] })));
    world.close().await;
}

#[tokio::test]
async fn ids_that_begin_with_a_dash_can_be_named() {
    let world = World::new().await;
    let worker = world.worker().await;
    let ids = ["-x", "--json", "-1"];
    let events: Vec<Event> = ids.iter().map(|id| Event::deposit(id, id, 7)).collect();
    world.publish(&events).await;
    world
        .publish(&ids.map(|id| Event::payment("payment.succeeded", &format!("poor{id}"), id, id, 100)))
        .await;
    world.settled(6).await;
    worker.stop().await;
    for id in ids {
        for arguments in [
            &["account", "--json", "--", id][..],
            &["event", "--json", "--", "/providers/test", id],
            &["payment", "--json", "--", "/providers/test", id],
            &["quarantine", "list", "--json", "--account", id],
            &["quarantine", "list", "--json", &format!("--account={id}")],
        ] {
            let output = run(&world, arguments).await;
            assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
            assert!(json(&output).is_object(), "{arguments:?}");
        }
    }
    // Without the two dashes too, but for what is a flag.
    let output = run(&world, &["account", "-x", "--json"]).await;
    assert_eq!(json(&output)["account_id"], "-x");
    world.close().await;
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let world = World::new().await;
    let worker = world.worker().await;
    let deposits: Vec<Event> = (0..1_000).map(|n| Event::deposit(&format!("d{n}"), "a", 1)).collect();
    world.publish(&deposits).await;
    world.settled(1_000).await;
    worker.stop().await;
    // More than a pipe holds, into one that nobody reads.
    let mut command = world.program(&["account", "a", "--limit", "1000"]);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    world.close().await;
}

#[tokio::test]
async fn an_argument_that_no_callback_could_have_is_refused_with_what_is_expected() {
    let world = World::new().await;
    let long = "x".repeat(201);
    for (arguments, words) in [
        (vec!["account", ""], "expected 1 to 200 bytes"),
        (vec!["account", &long], "expected 1 to 200 bytes"),
        (vec!["event", "", "e"], "expected 1 to 200 bytes"),
        (vec!["event", "s", "a\nb"], "without control characters"),
        (vec!["find", ""], "expected 1 to 200 bytes"),
        (vec!["quarantine", "list", "--account", ""], "expected 1 to 200 bytes"),
        (vec!["quarantine", "list", "--source", ""], "expected 1 to 200 bytes"),
        (vec!["quarantine", "list", "--newer-than", "-1h"], "expected a number from 0 and s, m, h or d"),
        (vec!["quarantine", "list", "--older-than", "1w"], "expected a number from 0 and s, m, h or d"),
        (vec!["quarantine", "list", "--source", "s", "--without-source"], "cannot be used with"),
    ] {
        let output = run(&world, &arguments).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_variable_that_was_meant_for_a_setting_is_refused_and_one_that_sets_nothing_is_told() {
    let world = World::new().await;
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let mut command = world.program(&["find", "nothing"]);
    let output = command.env("PAYONCE_LANSE", "4").env("PAYONCE_LOG_LEVEL", "loud").output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let lines = said(&output);
    for words in [
        "PAYONCE_LANSE: there is no such setting; did you mean PAYONCE_LANES?",
        "log_level (PAYONCE_LOG_LEVEL)",
    ] {
        assert!(lines.contains(words), "{words} is not in {lines}");
    }
    let mut command = world.program(&["find", "nothing"]);
    let output = command.env("PAYONCE_MARKER_TTL", "1h").output().await.unwrap();
    let lines = said(&output);
    assert_eq!(output.status.code(), Some(1), "{lines}");
    assert!(lines.contains("sets nothing") && lines.contains("PAYONCE_MARKER_TTL_MS"), "{lines}");
    world.close().await;
}

#[tokio::test]
async fn the_story_of_an_event_has_every_act_of_a_person_not_the_last_alone() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::payment("payment.succeeded", "e1", "nobody", "p1", 5)]).await;
    world.settled(1).await;
    worker.stop().await;
    for (verb, why) in [("discard", "a first thought"), ("reopen", "a second one"), ("discard", "a third")] {
        let mut arguments = vec!["quarantine", verb, "--all", "--why", why, "--by", "alice"];
        arguments.extend((verb == "discard").then_some("--yes"));
        assert_eq!(run(&world, &arguments).await.status.code(), Some(0), "{verb}");
    }
    let text = String::from_utf8(run(&world, &["event", "/providers/test", "e1"]).await.stdout).unwrap();
    let told: Vec<&str> = ["a first thought", "a second one", "a third"]
        .into_iter()
        .filter(|why| text.matches(why).count() == 1)
        .collect();
    assert_eq!(told.len(), 3, "{text}");
    let story = json(&run(&world, &["event", "/providers/test", "e1", "--json"]).await);
    let acts: Vec<&str> =
        story["acts"].as_array().unwrap().iter().map(|act| act["action"].as_str().unwrap()).collect();
    assert_eq!(acts, ["discard", "reopen", "discard"]);
    assert_eq!(
        (&story["acts"][0]["case_id"], &story["acts"][0]["who"]),
        (&story["quarantined"][0]["id"], &"alice".into())
    );
    let dashboard = Dashboard::start(&world).await;
    let page = dashboard.get("/event?source=%2Fproviders%2Ftest&id=e1").await.body;
    assert!(page.matches("by alice").count() == 3 && page.contains("a second one"), "{page}");
    dashboard.stop().await;
    world.close().await;
}
