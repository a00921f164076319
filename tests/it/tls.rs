//! Links to the servers: encrypted, to the right server, with our certificate; anything else is refused in words that say why.

use std::time::Duration as Patience;

use payonce::{broker, config::TlsConfig, dedupe::Dedupe, store::Database, tls};
use time::Duration;

use crate::support::{Authority, Dashboard, Event, OwnServer, eventually};

/// The ways a link may be set up, each with a word of its refusal; `None`: it works.
struct Link<'a> {
    what: &'a str,
    url: String,
    files: TlsConfig,
    refusal: Option<&'a [&'a str]>,
    /// Words of which the server's log must have one, where the refusal is the server's: a connection that is reset says nothing of why.
    logged: &'a [&'a str],
}

/// What every server must do with each way.
fn links<'a>(url: &str, ours: &Authority, theirs: &Authority) -> Vec<Link<'a>> {
    let link =
        |what, url: &str, files, refusal| Link { what, url: url.to_owned(), files, refusal, logged: &[] };
    let by_name = url.replace("127.0.0.1", "localhost");
    let client = ours.client();
    vec![
        link("as it should be", url, client.clone(), None),
        link(
            "an authority that did not sign the server's certificate",
            url,
            TlsConfig { ca_file: theirs.client().ca_file, ..client.clone() },
            Some(&["UnknownIssuer"]),
        ),
        link(
            "nobody but the system's authorities",
            url,
            TlsConfig { ca_file: None, ..client.clone() },
            Some(&["UnknownIssuer"]),
        ),
        link(
            "a name that is not in the certificate",
            &by_name,
            client.clone(),
            Some(&["not valid for name", "NotValidForName"]),
        ),
        Link {
            logged: &["did not return a certificate", "Certificate required", "valid client certificate"],
            ..link(
                "no certificate of ours",
                url,
                TlsConfig { certificate_file: None, key_file: None, ..client.clone() },
                Some(&[
                    "valid client certificate",
                    "CertificateRequired",
                    "certificate required",
                    "HandshakeFailure",
                    // By TLS 1.3 the server refuses after the handshake; its reset can overtake its alert.
                    "Connection reset by peer",
                ]),
            )
        },
        Link {
            logged: &["certificate verify failed", "Unknown CA"],
            ..link(
                "a certificate that another authority signed",
                url,
                TlsConfig { ca_file: client.ca_file, ..theirs.client() },
                Some(&["UnknownCA", "unknown ca", "UnknownCa", "Connection reset by peer"]),
            )
        },
    ]
}

fn expired(url: &str, ours: &Authority) -> Link<'static> {
    Link {
        what: "a server's certificate that has expired",
        url: url.to_owned(),
        files: ours.client(),
        refusal: Some(&["Expired", "expired"]),
        logged: &[],
    }
}

async fn check<F: Future<Output = Result<(), String>>>(
    server: &OwnServer,
    link: &Link<'_>,
    connect: impl FnOnce(String, TlsConfig) -> F,
) {
    let said = || {
        let log = server.log();
        link.logged.iter().map(|words| log.matches(words).count()).sum::<usize>()
    };
    let before = said();
    let result = connect(link.url.clone(), link.files.clone()).await;
    match (&result, link.refusal) {
        (Ok(()), None) => {}
        (Err(problem), Some(words)) => {
            assert!(words.iter().any(|word| problem.contains(word)), "{}: {problem}", link.what);
            assert!(!problem.contains("secret"), "{problem}");
        }
        (Ok(()) | Err(_), None | Some(_)) => panic!("{}: {result:?}", link.what),
    }
    if !link.logged.is_empty() {
        let what = format!("the server's log says why it refused {}", link.what);
        eventually(&what, true, || async { said() > before }).await;
    }
}

async fn postgres(url: String, files: TlsConfig) -> Result<(), String> {
    let pem = tls::load(&files)?;
    let database = Database::with_tls(&url, "payonce-it", Patience::from_secs(10), pem.ca, pem.identity)?;
    database.connect().await.map(drop).map_err(|error| error.to_string())
}

async fn redis(url: String, files: TlsConfig) -> Result<(), String> {
    let config = payonce::config::load(None, &Default::default(), |_| None).expect("defaults").dedupe;
    let config = payonce::config::DedupeConfig { timeout: Patience::from_secs(10), ..config };
    let dedupe = Dedupe::with_tls(&url, "tls.", config, &files)?;
    dedupe.markers(0).await.map(drop)
}

async fn rabbitmq(url: String, files: TlsConfig) -> Result<(), String> {
    let connection = broker::connect(&url, "payonce-it", &files).await.map_err(|error| error.to_string())?;
    broker::disconnect(connection).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn postgresql_is_reached_by_verified_tls_or_not_at_all() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = OwnServer::start_with_tls("postgres", "PAYONCE_DATABASE_URL", ours.folder()).await;
    for link in links(server.url(), &ours, &theirs) {
        check(&server, &link, postgres).await;
    }
    // The address can name the files itself, as libpq's can.
    let files = ours.client();
    let show = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or(String::new(), |path| path.display().to_string())
    };
    let (ca, certificate, key) = (show(&files.ca_file), show(&files.certificate_file), show(&files.key_file));
    let url = format!("{}&sslrootcert={ca}&sslcert={certificate}&sslkey={key}", server.url());
    let named =
        Link { what: "files in the address", url, files: TlsConfig::default(), refusal: None, logged: &[] };
    check(&server, &named, postgres).await;
    server.kill().await;
    ours.sign("server", &["127.0.0.1"], Duration::days(-1));
    server.start_again().await;
    check(&server, &expired(server.url(), &ours), postgres).await;
}

#[tokio::test]
async fn redis_is_reached_by_verified_tls_or_not_at_all() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = OwnServer::start_with_tls("redis", "PAYONCE_REDIS_URL", ours.folder()).await;
    for link in links(server.url(), &ours, &theirs) {
        check(&server, &link, redis).await;
    }
    // redis-rs knows an address that switches verification off; it is not built in here.
    let insecure = format!("{}/#insecure", server.url());
    let problem = redis(insecure, ours.client()).await.expect_err("verification cannot be switched off");
    assert!(!problem.is_empty());
    // The server asks itself with its own certificate, so it is not waited for with one that has expired.
    ours.sign("server", &["127.0.0.1"], Duration::seconds(5));
    server.kill().await;
    server.start_again().await;
    let (url, files) = (server.url().to_owned(), ours.client());
    eventually("the certificate has expired", true, || {
        let (url, files) = (url.clone(), files.clone());
        async move { redis(url, files).await.is_err_and(|problem| problem.contains("xpired")) }
    })
    .await;
}

#[tokio::test]
async fn rabbitmq_is_reached_by_verified_tls_or_not_at_all() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = OwnServer::start_with_tls("rabbitmq", "PAYONCE_AMQP_URL", ours.folder()).await;
    let (url, files) = (server.url().to_owned(), ours.client());
    eventually("the broker has started", true, || {
        let (url, files) = (url.clone(), files.clone());
        async move { rabbitmq(url, files).await.is_ok() }
    })
    .await;
    for link in links(server.url(), &ours, &theirs) {
        check(&server, &link, rabbitmq).await;
    }
    server.kill().await;
    ours.sign("server", &["127.0.0.1"], Duration::days(-1));
    server.start_again().await;
    check(&server, &expired(server.url(), &ours), rabbitmq).await;
}

/// The real program, from its settings, over all three links.
#[tokio::test]
async fn a_worker_does_its_work_over_tls() {
    let ours = Authority::new();
    let (postgres, redis, rabbitmq) = tokio::join!(
        OwnServer::start_with_tls("postgres", "PAYONCE_DATABASE_URL", ours.folder()),
        OwnServer::start_with_tls("redis", "PAYONCE_REDIS_URL", ours.folder()),
        OwnServer::start_with_tls("rabbitmq", "PAYONCE_AMQP_URL", ours.folder()),
    );
    let program = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_payonce"));
        command
            .args(arguments)
            .env("PAYONCE_DATABASE_URL", postgres.url())
            .env("PAYONCE_REDIS_URL", redis.url())
            .env("PAYONCE_AMQP_URL", rabbitmq.url())
            .env("PAYONCE_SIGNATURES", "off")
            .env("PAYONCE_TLS_CA_FILE", ours.file("ca.pem"))
            .env("PAYONCE_TLS_CERTIFICATE_FILE", ours.file("client.pem"))
            .env("PAYONCE_TLS_KEY_FILE", ours.file("client.key"))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        command
    };
    let ends_well = async |arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        program(&arguments).output().await.expect("the payonce binary runs").status.success()
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    eventually("the broker has started", true, || ends_well(words(&["migrate", "--declare"]))).await;
    let file = ours.file("callbacks.ndjson");
    std::fs::write(&file, [Event::deposit("e", "a", 5).body(), b"\n".to_vec()].concat()).unwrap();
    let publish = words(&["publish", file.to_str().unwrap()]);
    assert!(ends_well(publish).await);
    let mut worker = program(&["worker"]).spawn().unwrap();
    eventually("the deposit is applied", true, || ends_well(words(&["account", "a"]))).await;
    // Ends 0 only where the markers in Redis can be read too.
    assert!(ends_well(words(&["audit"])).await);
    worker.kill().await.unwrap();
    let ops = Dashboard::of(program(&["ops", "--listen", "127.0.0.1:0", "--log-format", "json"])).await;
    eventually("ops reads all three servers", 3, || async {
        ops.get("/metrics")
            .await
            .body
            .lines()
            .filter(|line| line.starts_with("payonce_server_up{") && line.ends_with(" 1"))
            .count()
    })
    .await;
}
