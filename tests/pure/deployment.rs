//! What is shipped to run payonce with says what the program understands: its arguments, settings, paths and ports. No engine reads
//! the files here; the program itself does.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use payonce::config::{Domain, SETTINGS};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

const DEADLINE: Duration = Duration::from_secs(30);

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn payonce() -> Command {
    Command::new(env!("CARGO_BIN_EXE_payonce"))
}

/// That the program takes these arguments: clap reads all of them before it answers `--help`.
#[track_caller]
fn understood(arguments: &[&str]) {
    let output = payonce().args(arguments).arg("--help").output().expect("the program runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// That a variable sets a setting, or names the file of a secret.
#[track_caller]
fn is_setting(variable: &str) {
    let is_known = SETTINGS.iter().any(|setting| {
        let is_secret = matches!(setting.domain, Domain::Secret);
        variable == setting.variable() || is_secret && variable == format!("{}_FILE", setting.variable())
    });
    assert!(is_known, "{variable} is no setting");
}

fn kubernetes() -> Vec<Yaml> {
    YamlLoader::load_from_str(&read("deploy/kubernetes/payonce.yaml")).expect("YAML")
}

fn of_kind<'a>(documents: &'a [Yaml], kind: &str) -> Vec<&'a Yaml> {
    documents.iter().filter(|document| document["kind"].as_str() == Some(kind)).collect()
}

fn texts(list: &Yaml) -> Vec<&str> {
    list.as_vec().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

fn folder(mount: &Yaml) -> String {
    format!("{}/", mount["mountPath"].as_str().expect("a path"))
}

#[test]
fn every_pod_runs_the_program_as_it_is_with_nothing_more_than_it_needs() {
    let documents = kubernetes();
    let pods = [of_kind(&documents, "Deployment"), of_kind(&documents, "Job")].concat();
    assert_eq!(pods.len(), 5);
    for pod in pods {
        let template = &pod["spec"]["template"];
        let spec = &template["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"].as_str(), Some("RuntimeDefault"));
        assert_eq!(spec["automountServiceAccountToken"].as_bool(), Some(false));
        for container in spec["containers"].as_vec().unwrap() {
            understood(&texts(&container["args"]));
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"].as_bool(), Some(true));
            assert_eq!(security["allowPrivilegeEscalation"].as_bool(), Some(false));
            assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"]);
            assert!(container["resources"]["limits"]["memory"].as_str().is_some());
            let mounts: Vec<String> =
                container["volumeMounts"].as_vec().unwrap().iter().map(folder).collect();
            for variable in container["env"].as_vec().unwrap() {
                is_setting(variable["name"].as_str().unwrap());
                let file = variable["value"].as_str().unwrap();
                assert!(mounts.iter().any(|mount| file.starts_with(mount)), "a secret is a file of a Secret");
            }
        }
        let selected = &pod["spec"]["selector"]["matchLabels"];
        assert!(selected.is_badvalue() || *selected == template["metadata"]["labels"]);
    }
}

#[test]
fn probes_policies_and_budgets_fit_the_programs_they_are_about() {
    let documents = kubernetes();
    let policy = of_kind(&documents, "NetworkPolicy")[0];
    let admitted: Vec<i64> = policy["spec"]["ingress"][0]["ports"]
        .as_vec()
        .unwrap()
        .iter()
        .filter_map(|port| port["port"].as_i64())
        .collect();
    assert_eq!(admitted, [9300, 9301, 9320, 9340]);
    for (command, port) in [("ops", 9300), ("worker", 9301), ("feed", 9320), ("api", 9340)] {
        let deployment = deployment(&documents, command);
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["containerPort"].as_i64(), Some(port));
        let listen = format!("--listen=0.0.0.0:{port}");
        assert_eq!(texts(&container["args"]), [command, &listen]);
        let mut paths = Vec::new();
        for probe in ["livenessProbe", "readinessProbe"] {
            let get = &container[probe]["httpGet"];
            assert_eq!(get["port"], container["ports"][0]["name"], "{probe}");
            paths.push(get["path"].as_str().unwrap());
        }
        assert_eq!(paths, ["/healthz", "/readyz"]);
        let text = |variable: &Yaml, part: &str| variable[part].as_str().unwrap().to_owned();
        let environment = container["env"].as_vec().unwrap().iter();
        let environment = environment.map(|variable| (text(variable, "name"), text(variable, "value")));
        lives_and_is_not_ready(command, "0.0.0.0", environment.collect());
    }
    let worker = deployment(&documents, "worker");
    let labels = &worker["spec"]["template"]["metadata"]["labels"];
    for budget in of_kind(&documents, "PodDisruptionBudget") {
        assert_eq!(budget["spec"]["selector"]["matchLabels"], *labels);
    }
    let grace_s = worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap();
    assert!(grace_s * 1_000 > default("shutdown_deadline_ms"));
}

fn deployment<'a>(documents: &'a [Yaml], command: &str) -> &'a Yaml {
    let name = format!("payonce-{command}");
    let mut all = of_kind(documents, "Deployment").into_iter();
    all.find(|deployment| deployment["metadata"]["name"].as_str() == Some(&name)).expect("a deployment")
}

/// A token of `payonce api`, by its digest.
const TOKENS: &str = "[[token]]\nname = \"shop\"\nscopes = [\"accounts:read\"]\n\
    sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"\n";

/// What is in a file that a deployment hands over.
fn handed_over(file: &str) -> &'static str {
    match file {
        "database_url" => "postgres://payonce@127.0.0.1:1/payonce",
        "redis_url" => "redis://127.0.0.1:1",
        "amqp_url" => "amqp://127.0.0.1:1",
        "keys" | "keys.toml" => "[sources.\"/providers/stripe\"]\nsignatures = \"off\"\n",
        "api_tokens" | "api-tokens.toml" => TOKENS,
        "ops_token" => "0123456789abcdef-operator",
        "ops_readonly_token" => "0123456789abcdef-onlooker",
        _ => panic!("{file}: what should be in it?"),
    }
}

/// That the program starts with this environment and no other. One whose servers are all down lives, and is not ready: nobody restarts
/// it for that.
#[track_caller]
fn lives_and_is_not_ready(command: &str, host: &str, environment: Vec<(String, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let mut program = payonce();
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PAYONCE_")) {
        program.env_remove(name);
    }
    for (name, value) in environment {
        let Some((_, file)) = value.rsplit_once('/') else {
            program.env(name, value);
            continue;
        };
        let path = folder.path().join(file);
        fs::write(&path, handed_over(file)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o440)).unwrap();
        program.env(name, path);
    }
    // Any port: one that was looked for before could be somebody else's by now.
    program.args([command, "--log-format", "json", "--listen", &format!("{host}:0")]);
    let mut running = program.stderr(Stdio::piped()).spawn().expect("the program runs");
    let log = BufReader::new(running.stderr.take().expect("its log"));
    let (say, said) = mpsc::channel();
    // To its end, or the program would wait for somebody to read.
    let reading = std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = line["fields"]["address"].as_str() {
                drop(say.send(address.to_owned()));
            }
        }
    });
    let listens = said.recv_timeout(DEADLINE);
    let statuses = listens.map(|address| {
        let port = address.rsplit(':').next().unwrap_or_default();
        ["/healthz", "/readyz"].map(|path| status(&format!("127.0.0.1:{port}"), path))
    });
    running.kill().unwrap();
    reading.join().unwrap();
    running.wait().unwrap();
    let statuses = statuses.unwrap_or_else(|_| panic!("{command} does not say where it listens"));
    assert_eq!(statuses, ["200", "503"], "{command}");
}

fn default(setting: &str) -> i64 {
    let setting = SETTINGS.iter().find(|other| other.name == setting).expect("a setting");
    setting.default.parse().expect("a number")
}

/// The status of an HTTP answer; empty where nobody answers.
fn status(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    if stream.write_all(request.as_bytes()).is_ok() {
        drop(stream.read_to_string(&mut text));
    }
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn pair(text: &str) -> Option<(String, String)> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

#[test]
fn units_start_the_program_as_it_is_and_give_it_time_to_stop() {
    for (path, secrets) in [("worker@", 4), ("ops", 4), ("feed", 3), ("api", 2)] {
        let path = format!("deploy/systemd/payonce-{path}.service");
        let unit = read(&path);
        let values = |name: &str| -> Vec<String> {
            let with = format!("{name}=");
            unit.lines()
                .filter_map(|line| line.strip_prefix(&with))
                .map(|text| text.replace("%i", "9301"))
                .collect()
        };
        let start = values("ExecStart").join(" ");
        let words: Vec<&str> = start.split(' ').collect();
        assert_eq!(words[0], "/usr/bin/payonce", "{path}");
        understood(&words[1..]);
        let credentials: BTreeSet<String> =
            values("LoadCredential").iter().map(|text| text.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(credentials.len(), secrets, "{path}");
        let environment = values("Environment").iter().filter_map(|text| pair(text)).collect();
        lives_and_is_not_ready(words[1], "127.0.0.1", environment);
        for variable in values("Environment") {
            let (name, value) = variable.split_once('=').unwrap();
            is_setting(name);
            if let Some(credential) = value.strip_prefix("%d/") {
                assert!(credentials.contains(credential), "{path}: {variable}");
            }
        }
        for promise in
            ["DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet="]
        {
            assert!(unit.lines().any(|line| line == promise), "{path}: {promise}");
        }
    }
    let stop = read("deploy/systemd/payonce-worker@.service");
    let seconds =
        stop.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s')).unwrap();
    assert!(seconds.parse::<i64>().unwrap() * 1_000 > default("shutdown_deadline_ms"));
}

#[test]
fn the_image_is_built_from_what_is_here_and_runs_without_rights() {
    let image = read("deploy/Dockerfile");
    let lines = |word: &str| -> Vec<Vec<&str>> {
        let found = image.lines().filter_map(|line| line.strip_prefix(word));
        found.map(|rest| rest.split_whitespace().collect()).collect()
    };
    // The build's command, word for word, but for the work itself.
    assert_eq!(
        lines("RUN ").concat().join(" "),
        "cargo build --release --locked -p payonce --bin payonce && scripts/dist"
    );
    assert_eq!(lines("ENTRYPOINT ").concat(), ["[\"/usr/bin/payonce\"]"]);
    let copied = lines("COPY ").concat();
    assert!(
        copied.windows(2).any(|pair| pair == ["/src/target/dist/payonce", "/usr/bin/payonce"]),
        "{copied:?}"
    );
    assert_eq!(lines("USER ").concat(), ["65532:65532"]);
    understood(&["worker"]);

    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let toolchain = manifest["workspace"]["package"]["rust-version"].as_str().unwrap().to_owned();
    assert!(image.contains(&format!("FROM rust:{toolchain}-")), "the compiler is rust-version, {toolchain}");
    // All that the workspace names is sent to the builder; nothing that holds addresses is.
    let sent: BTreeSet<String> = read("deploy/Dockerfile.dockerignore")
        .lines()
        .filter_map(|line| line.strip_prefix('!').map(str::to_owned))
        .collect();
    for path in &sent {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path} is not here");
    }
    let members = manifest["workspace"]["members"].as_array().unwrap().iter().filter_map(toml::Value::as_str);
    let needed =
        ["Cargo.toml", "Cargo.lock", "src", "migrations", "benches", "tests", "examples", "scripts/dist"];
    for path in members.filter(|member| *member != ".").chain(needed) {
        let folder = path.split('/').next().unwrap_or_default();
        assert!(sent.contains(path) || sent.contains(folder), "{path} is not sent to the builder");
    }
    assert!(!sent.iter().any(|path| path.starts_with('.')), "{sent:?}");
}

#[test]
fn what_is_shipped_is_small_runs_and_finds_its_debug_information() {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_payonce"));
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/dist");
    let output = Command::new(dist).args([program, folder.path()]).output().expect("scripts/dist runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shipped = folder.path().join("payonce");
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&shipped) < size(program) / 4 * 3, "{} of {} bytes", size(&shipped), size(program));
    let version = Command::new(&shipped).arg("--version").output().expect("it runs");
    assert!(version.status.success() && version.stdout.starts_with(b"payonce "), "{version:?}");
    // Named in the program, with a checksum: debuggers look for it beside the program.
    let sections = fs::read(&shipped).unwrap();
    let has = |name: &[u8]| sections.windows(name.len()).any(|part| part == name);
    assert!(has(b".gnu_debuglink\0") && has(b"payonce.debug\0") && !has(b".debug_info\0"));
    assert!(size(&folder.path().join("payonce.debug")) > 1_000_000);
}
