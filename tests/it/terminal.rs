//! The command line as people meet it: colour and progress on a terminal and nowhere else, completions, manual pages.

use std::process::Output;

use tokio::process::Command;

use payonce::config::{Domain, SETTINGS};

use crate::support::{Event, World};

const ESCAPE: char = '\u{1b}';

/// Runs payonce on a terminal of its own; what it shows is in `stdout`.
async fn on_terminal(world: &World, arguments: &str, variables: &[(&str, &str)]) -> Output {
    let program = world.program(&[]);
    let mut command = Command::new("script");
    let line = format!("{} {arguments}", program.as_std().get_program().to_str().expect("a path"));
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    for (name, value) in program.as_std().get_envs() {
        command.env(name, value.expect("set"));
    }
    command.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
    command.stdin(std::process::Stdio::null()).output().await.expect("script (bsdutils) runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn colour_is_on_a_terminal_only_and_never_with_no_color() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("e", "a", 1)]).await;
    world.settled(1).await;
    worker.stop().await;
    for arguments in ["audit", "event /providers/test e", "event /providers/test missing"] {
        let shown = text(&on_terminal(&world, arguments, &[]).await);
        assert!(shown.contains("\u{1b}[32m") || shown.contains("\u{1b}[1;31m"), "{arguments}: {shown:?}");
        for (variable, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = text(&on_terminal(&world, arguments, &[(variable, value)]).await);
            assert!(
                !plain.contains("\u{1b}[32m") && !plain.contains("\u{1b}[1;31m"),
                "{arguments} {variable}: {plain:?}"
            );
        }
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let output = world.program(&arguments).output().await.unwrap();
        let piped = text(&output) + &String::from_utf8_lossy(&output.stderr);
        assert!(!piped.contains(ESCAPE) && piped.len() > 10, "{arguments:?}: {piped:?}");
    }
    world.close().await;
}

#[tokio::test]
async fn long_work_shows_its_progress_on_a_terminal_only() {
    let world = World::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    // Debits of an account that is not there: each becomes a case, to be replayed.
    let lines: Vec<String> = (0..2_000)
        .map(|n| Event::payment("payment.succeeded", &format!("p{n}"), "a", &format!("pay{n}"), 1))
        .map(|event| String::from_utf8(event.body()).unwrap())
        .collect();
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let publish = format!("publish {}", file.path().display());
    let worker = world.worker().await;
    let shown = on_terminal(&world, &publish, &[]).await;
    assert!(shown.status.success(), "{shown:?}");
    for word in ["confirmed", "%", "left"] {
        assert!(text(&shown).contains(word), "{word}: {shown:?}");
    }
    world.settled(2_000).await;
    worker.stop().await;
    let shown = text(&on_terminal(&world, "quarantine replay --all --why again", &[]).await);
    assert!(shown.contains("/2000 cases"), "{shown:?}");
    let shown = text(&on_terminal(&world, "audit --json", &[]).await);
    assert!(shown.contains("checks") && shown.contains("\"audit\":\"ok\""), "{shown:?}");
    for arguments in
        [vec!["publish", file.path().to_str().unwrap()], vec!["audit"], vec!["quarantine", "replay", "--all"]]
    {
        let output = world.program(&arguments).output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
    world.close().await;
}

/// No world: these need neither a server nor a configuration.
async fn alone(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payonce"));
    command.args(arguments).env_clear().env("PAYONCE_LANES", "not a number");
    command.output().await.expect("the payonce binary runs")
}

#[tokio::test]
async fn completions_know_every_command_and_flag() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = alone(&["completions", shell]).await;
        assert!(output.status.success(), "{output:?}");
        let script = text(&output);
        for word in ["quarantine", "replay", "batch-size-max", "otlp-endpoint", "unchecked"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        assert!(!script.contains("database-url"), "an address with a password has no flag");
    }
    let script = text(&alone(&["completions", "bash"]).await);
    // It really completes.
    let ask = format!(
        "{script}\nCOMP_WORDS=(payonce quarantine rep); COMP_CWORD=2; _payonce payonce rep quarantine; echo \"${{COMPREPLY[@]}}\""
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ask).unwrap();
    let answered = std::process::Command::new("bash").arg(file.path()).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&answered.stdout).trim(), "replay", "{answered:?}");
    assert_eq!(alone(&["completions", "tcsh"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn every_command_that_prints_data_can_print_json() {
    let quarantine = ["list", "groups", "show", "replay", "discard", "reopen", "assign"]
        .map(|verb| vec!["quarantine", verb]);
    let others =
        ["migrate", "publish", "event", "account", "payment", "report", "audit"].map(|name| vec![name]);
    for mut command in others.into_iter().chain(quarantine) {
        command.push("--help");
        let output = alone(&command).await;
        assert!(output.status.success() && text(&output).contains("--json"), "{command:?}");
    }
}

#[tokio::test]
async fn the_help_of_a_command_shows_the_settings_that_it_uses_and_takes_all_others() {
    let commands = [
        "migrate",
        "worker",
        "ops",
        "api",
        "feed",
        "publish",
        "ingress",
        "keys",
        "event",
        "account",
        "payment",
        "adjust",
        "quarantine",
        "approvals",
        "audit",
        "report",
    ];
    let mut helps = Vec::new();
    for command in commands {
        let output = alone(&[command, "--help"]).await;
        assert!(output.status.success(), "{output:?}");
        helps.push((command, text(&output)));
    }
    let flag = |name: &str| format!("--{} ", name.replace('_', "-"));
    let shows = |name: &str| -> Vec<&str> {
        helps.iter().filter(|(_, help)| help.contains(&flag(name))).map(|(command, _)| *command).collect()
    };
    for setting in SETTINGS.iter().filter(|setting| !matches!(setting.domain, Domain::Secret)) {
        assert!(!shows(setting.name).is_empty(), "no command shows {}", setting.name);
    }
    assert_eq!(shows("log_level"), commands, "of all");
    assert_eq!(shows("lanes"), ["worker"]);
    assert_eq!(shows("feed_lease_ms"), ["feed"]);
    assert_eq!(shows("publish_deadline_ms"), ["publish"]);
    assert_eq!(shows("approvals"), ["ops", "adjust", "quarantine", "approvals"]);
    assert!(text(&alone(&["quarantine", "replay", "--help"]).await).contains(&flag("order_wait_ms")));
    // What a command has no use for is taken all the same, on both sides of its name, and read as elsewhere.
    for arguments in [["--lanes", "65", "event", "a", "b"], ["event", "a", "b", "--lanes", "65"]] {
        let output = alone(&arguments).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("lanes (flag --lanes)") && said.contains("from 1 to 64"), "{said}");
    }
}

#[tokio::test]
async fn an_argument_of_a_command_is_no_setting_of_the_same_name() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let file = keys.path().to_str().unwrap();
    for arguments in
        [["generate", "/s", "--signatures", "optional"], ["policy", "/s", "optional", "--log-level=info"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_payonce"));
        command.env_clear().arg("keys").args(arguments).args(["--keys-file", file]);
        let output = command.output().await.expect("the payonce binary runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn every_command_has_its_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let output = alone(&["man", "--out", pages.to_str().unwrap()]).await;
    assert!(output.status.success(), "{output:?}");
    for command in
        ["", "-worker", "-ops", "-publish", "-audit", "-quarantine", "-quarantine-replay", "-completions"]
    {
        let page = std::fs::read_to_string(pages.join(format!("payonce{command}.1")));
        let page = page.unwrap_or_else(|error| panic!("payonce{command}.1: {error}"));
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{page}");
    }
    let page = text(&alone(&["man", "quarantine", "replay"]).await);
    assert!(page.contains("decided again") || page.contains("again"), "{page}");
    let wrong = alone(&["man", "quarantine", "nonsense"]).await;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said.contains("nonsense") && said.contains("replay"), "{said}");
}

#[tokio::test]
async fn a_failure_says_what_to_do() {
    let world = World::new().await;
    let nobody = ("PAYONCE_DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d");
    let no_broker = ("PAYONCE_AMQP_URL", "amqp://u:hunter2@127.0.0.1:1/%2f");
    for (arguments, variable, code, words) in [
        (vec!["audit"], Some(nobody), 3, ["PAYONCE_DATABASE_URL", "Does the server run"]),
        (vec!["publish", "Cargo.toml"], Some(no_broker), 3, ["PAYONCE_AMQP_URL", "Does the server run"]),
        (vec!["quarantine", "show", "17"], None, 1, ["17", "payonce quarantine list"]),
        (vec!["event", "/providers/test", "x"], None, 1, ["x of /providers/test", "queue"]),
        (vec!["account", "x"], None, 1, ["account x", "payonce quarantine list --state all --account"]),
        (vec!["quarantine", "replay"], None, 2, ["which cases", "--all"]),
        (vec!["publish", "/nowhere"], None, 2, ["/nowhere", "No such file"]),
    ] {
        let mut command = world.program(&arguments);
        if let Some((name, value)) = variable {
            command.env(name, value);
        }
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word} is not in {said}");
        }
    }
    world.close().await;
}

#[tokio::test]
async fn logs_are_text_or_json_and_coloured_on_a_terminal_only() {
    let world = World::new().await;
    for (format, is_json) in [("text", false), ("json", true)] {
        let mut command = world.program(&["worker", "--log-format", format]);
        let worker = command.stderr(std::process::Stdio::piped()).spawn().expect("the payonce binary runs");
        world.publish(&[Event::deposit(format, "a", 1)]).await;
        world.settled(1 + i64::from(is_json)).await;
        let id = worker.id().expect("it runs").to_string();
        Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs");
        let output = worker.wait_with_output().await.expect("it ends");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(log.contains("taking messages") && !log.contains(ESCAPE), "{log}");
        for line in log.lines() {
            let parsed = serde_json::from_str::<serde_json::Value>(line);
            assert_eq!(parsed.is_ok_and(|line| line["level"].is_string()), is_json, "{format}: {line}");
        }
    }
    world.close().await;
}
