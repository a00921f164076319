//! The pages of providers: what the database knows of a source and what a real `payonce ingress` counts, in one place.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Child,
};

use crate::{
    monitoring::{scrape, value},
    support::{Authority, Dashboard, World, eventually, free_address, post_bytes},
};

/// A real ingress with endpoints for Stripe and PayPal, made by `payonce ingress init`, that `payonce ops` asks how it is.
pub(crate) struct Edge {
    world: World,
    folder: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) health: String,
    process: Child,
    authority: Authority,
}

impl Edge {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further endpoints: provider, flags, secrets.
    async fn with(further: &[(&str, &[&str], &str)]) -> Self {
        let world = World::new().await;
        let folder = tempfile::tempdir().unwrap();
        let (address, health) = (free_address(), free_address());
        let text = format!("[ingress]\nhealth_addresses = [\"{health}\"]\n");
        std::fs::write(folder.path().join("payonce.toml"), text).unwrap();
        let mut edge =
            Self { process: idle(&world), world, folder, address, health, authority: Authority::new() };
        let certificate = edge.authority.file("server.pem");
        let pinned =
            format!("webhook_id = 8PT597110X687430LKGECATA\ncertificate = {}\n", certificate.display());
        let usual: [(&str, &[&str], &str); 2] =
            [("stripe", &[], "whsec_of_the_test\n"), ("paypal", &[], pinned.as_str())];
        for (provider, flags, secrets) in usual.iter().chain(further) {
            let init = ["ingress", "init", provider, "--purpose", "deposit"];
            let mut init = edge.command(&[&init, *flags].concat());
            let mut init = init.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            init.stdin.take().unwrap().write_all(secrets.as_bytes()).await.unwrap();
            assert!(init.wait().await.unwrap().success());
        }
        let (address, health) = (edge.address.clone(), edge.health.clone());
        edge.process = edge
            .command(&["ingress", "--listen", &address, "--health-listen", &health])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the ingress is ready", true, || async {
            scrape(&edge.health).await.contains("payonce_ingress_endpoint_info")
        })
        .await;
        edge
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let config = self.folder.path().join("payonce.toml");
        let mut command = self.world.program(&[arguments, &["--config", config.to_str().unwrap()]].concat());
        command.kill_on_drop(true);
        command
    }

    /// Sends a sample until it is answered with yes.
    async fn send(&self, provider: &str, event: &str, id: &str) {
        eventually("a yes", true, || async {
            let send = ["ingress", "send", provider, "--to", &self.address, "--event", event, "--id", id];
            self.command(&send).output().await.unwrap().status.success()
        })
        .await;
    }

    fn keys_file(&self) -> String {
        self.folder.path().join("keys.toml").to_str().unwrap().to_owned()
    }

    pub(crate) async fn close(self) {
        drop(self.process);
        self.world.close().await;
    }
}

/// Something to be replaced.
fn idle(world: &World) -> Child {
    world.program(&["--version"]).stdout(Stdio::null()).spawn().unwrap()
}

fn provider<'a>(all: &'a Value, source: &str) -> &'a Value {
    let found = all["providers"].as_array().unwrap().iter().find(|one| one["source"] == source);
    found.unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_page_says_what_came_what_was_refused_and_what_could_not_be_mapped() {
    let edge = Edge::start().await;
    let keys = edge.keys_file();
    let dashboard = Dashboard::of({
        let mut command = edge.command(&["ops", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.env_remove("PAYONCE_OPS_TOKEN").env_remove("PAYONCE_OPS_READONLY_TOKEN");
        command
    })
    .await;
    let api = || async { dashboard.get("/api/providers").await.json() };
    eventually("the ingress is asked", true, || async { api().await["ingresses"][&edge.health] == true })
        .await;
    let worker = edge.world.worker_with(&[("signatures", "required"), ("keys_file", &keys)]).await;
    edge.send("stripe", "payment_intent.succeeded", "1").await;
    edge.send("stripe", "payment_intent.succeeded", "1").await;
    edge.send("stripe", "payment_intent.mystery", "2").await;
    edge.send("stripe", "payment_intent.mystery", "3").await;
    edge.world.settled(4).await;
    let unsigned = post_bytes(&edge.address, "/stripe", &[], b"{}").await;
    let forged = post_bytes(&edge.address, "/stripe", &[("stripe-signature", "t=1,v1=00")], b"{}").await;
    assert_eq!((unsigned, forged), (401, 401));
    eventually("the edge's numbers are on the page", true, || async {
        let all = api().await;
        let refused = &provider(&all, "/providers/stripe")["endpoints"]["/stripe"]["refused"];
        refused["missing"]["last_hour"] == 1 && refused["no_match"]["last_hour"] == 1
    })
    .await;
    let all = api().await;
    let stripe = provider(&all, "/providers/stripe");
    assert_eq!(stripe["provider"], "stripe");
    assert_eq!(stripe["settled"]["received_day"], 4, "{stripe}");
    assert_eq!(stripe["settled"]["duplicates_day"], 1, "{stripe}");
    assert_eq!(stripe["unmapped"][0]["event"], "payment_intent.mystery", "{stripe}");
    assert_eq!(stripe["unmapped"][0]["cases"], 2, "{stripe}");
    assert!(stripe["endpoints"]["/stripe"]["last_webhook_s"].as_f64().is_some_and(|at| at > 1e9));
    for address in ["/providers/stripe", "/providers/%2Fproviders%2Fstripe"] {
        let page = dashboard.get(address).await;
        assert_eq!(page.status, 200, "{address}");
        for words in [
            "payment_intent.mystery",
            "/quarantine?reason=unmapped&amp;source=%2Fproviders%2Fstripe",
            "no_match",
            "another secret than the endpoint",
            "Same hour last week",
            "25.0 %",
        ] {
            assert!(page.body.to_lowercase().contains(&words.to_lowercase()), "{words}: {}", page.body);
        }
    }
    assert!(dashboard.get("/providers").await.body.contains("href=\"/providers/%2Fproviders%2Fstripe\""));
    assert_eq!(dashboard.get("/providers/nobody").await.status, 404);
    let metrics = dashboard.get("/metrics").await.body;
    assert_eq!(
        value(&metrics, "payonce_pool_source_callbacks_total{source=\"/providers/stripe\"}"),
        Some(4.0)
    );
    let info = "payonce_ingress_endpoint_info{endpoint=\"/stripe\",provider=\"stripe\",source=\"/providers/stripe\"}";
    assert_eq!(value(&scrape(&edge.health).await, info), Some(1.0));
    worker.stop().await;
    dashboard.stop().await;
    edge.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nothing_of_what_they_asked() {
    let edge = Edge::start().await;
    let resident_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", edge.process.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    // A few at a time, and no further ones before these have let go of their buffers: what was needed by many at once stays with the process.
    let mut idle = Vec::new();
    let mut open = async |count: usize| {
        let opened = idle.len() + count;
        while idle.len() < opened {
            for _ in 0..25 {
                let mut stream = TcpStream::connect(&edge.address).await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"HTTP/1.1 404");
                idle.push(stream);
            }
            let parked = || async {
                value(&scrape(&edge.health).await, "payonce_ingress_connections_parked").map(|n| n as usize)
            };
            eventually("they are idle", Some(idle.len()), parked).await;
        }
        resident_kib()
    };
    // What is needed once is there before it is measured.
    let before_kib = open(50).await;
    let count = 500;
    let grown_kib = open(count).await.saturating_sub(before_kib);
    // Measured: 1.8 KiB each, and 6 KiB if they keep what a request is read into.
    assert!(grown_kib < 3 * count, "{count} idle connections took {grown_kib} KiB");
    edge.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_provider_signed_is_a_sign_that_it_still_sends() {
    let secrets = "8E339EFD66564BAE60BDD289C69607E672CE34C97D237161C5AD2A42B6952544\n";
    let edge = Edge::with(&[("adyen", &["--capture", "automatic"], secrets)]).await;
    let last = || async {
        value(
            &scrape(&edge.health).await,
            "payonce_ingress_last_webhook_timestamp_seconds{endpoint=\"/adyen\"}",
        )
    };
    let unsigned =
        br#"{"live":"false","notificationItems":[{"NotificationRequestItem":{"eventCode":"REPORT_AVAILABLE",
        "success":"true","pspReference":"report"}}]}"#;
    assert_eq!(post_bytes(&edge.address, "/adyen", &[], unsigned).await, 200, "Adyen signs no reports");
    assert_eq!(last().await, None, "anybody can have sent it");
    edge.send("adyen", "AUTHORISATION", "1").await;
    assert!(last().await.is_some_and(|at| at > 1e9));
    edge.close().await;
}

#[tokio::test]
async fn a_source_that_sent_at_this_hour_a_week_ago_and_sends_nothing_now_is_shown_as_silent() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let page = || async { dashboard.get("/providers/test").await.body };
    let run = async |sql: &str| {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut world.connect().await).await.unwrap();
    };
    run("insert into tally_totals (kind, source, label, n) values ('applied', '/providers/test', 'x', 57)")
        .await;
    // What a page says is as of the moment that stands beside it.
    eventually("the source", true, || async { page().await.contains("Counts and cases: as of ") }).await;
    let before = page().await;
    assert!(!before.contains("Silent:"), "it never sent at this hour");
    // In the hour a week ago, also where the next hour begins while the test runs. What is kept by the day belongs to no hour.
    for (ago, grain, n) in
        [("168.5 hours", "hour", 7), ("167.5 hours", "hour", 7), ("168.5 hours", "day", 50)]
    {
        run(&format!(
            "insert into tallies (minute, writer, kind, source, label, n, grain)
             values (date_bin('1 hour', now(), timestamptz 'epoch') - interval '{ago}', '{grain}', 'applied', '/providers/test', 'x',
                     {n}, '{grain}')"
        ))
        .await;
    }
    eventually("the hour a week ago", (7.into(), 0.into()), || async {
        let all = dashboard.get("/api/providers").await.json();
        let row = provider(&all, "/providers/test")["settled"].clone();
        (row["received_hour_last_week"].clone(), row["received_hour"].clone())
    })
    .await;
    eventually("its page", true, || async { page().await.contains("Silent:") }).await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_newcomer_is_told_which_file_to_name_and_no_file_is_written_twice_over() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str], input: &str| {
        let mut command = world.program(arguments);
        command
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that refuses at once reads nothing.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()).await);
        let output = child.wait_with_output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let init = ["ingress", "init", "stripe", "--purpose", "deposit"];
    // What is refused half-way leaves no secret, so that the same command can be given again.
    let nowhere = [&init[..], &["--keys-file", "missing/keys.toml"]].concat();
    let (code, said) = run(&nowhere, "whsec_x\n").await;
    assert!(code == Some(2) && said.contains("missing/keys.toml"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{said}");
    assert_eq!(run(&init, "whsec_x\n").await.0, Some(0));
    let written = std::fs::read_to_string(folder.path().join("payonce.toml")).unwrap();
    let square = "key\nnotification_url = https://example.com/square\n";
    for (arguments, input, expected) in [
        (vec!["ingress", "check"], "", "name the file by --config"),
        (vec!["ingress", "send", "stripe"], "", "name its file by --config"),
        (vec!["ingress", "init", "square", "--purpose", "deposit"], square, "say --config payonce.toml"),
    ] {
        let (code, said) = run(&arguments, input).await;
        assert!(code == Some(2) && said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("payonce.toml")).unwrap(), written);
    let with_file = ["ingress", "init", "square", "--purpose", "deposit", "--config", "payonce.toml"];
    assert_eq!(run(&with_file, square).await.0, Some(0));
    let (code, said) = run(&["ingress", "check", "--config", "payonce.toml"], "").await;
    assert!(
        code == Some(0) && said.contains("/square: square") && said.contains("/stripe: stripe"),
        "{said}"
    );
    world.close().await;
}
