//! The edge of the ingress, which faces the internet: TLS, both versions of HTTP, limits and time-outs, and from whom a request comes.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use payonce::{
    config::IngressConfig,
    ingress::{sample::Made, tls::Tls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::support::{Authority, DEADLINE, POLL_PAUSE, RunningIngress, World, answered, head};

/// Deadlines that are over soon; what is not tested has none that a test would reach.
fn config(headers_ms: u32, body_ms: u32, idle_ms: u32) -> IngressConfig {
    IngressConfig {
        headers_deadline_ms: headers_ms,
        body_deadline_ms: body_ms,
        idle_max_ms: idle_ms,
        ..IngressConfig::default()
    }
}

const NEVER_MS: u32 = 600_000;
const SOON_MS: u32 = 300;

async fn tls_client(
    ingress: &RunningIngress,
    authority: &Authority,
    protocol: &[u8],
) -> TlsStream<TcpStream> {
    let pem = std::fs::read(authority.file("ca.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(ingress.address).await.unwrap();
    let name = ServerName::from(ingress.address.ip());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    stream
}

fn request(path: &str, made: &Made) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("https://hooks.example.com{path}"));
    for (name, value) in &made.headers {
        request = request.header(*name, value);
    }
    request.body(Full::new(Bytes::from(made.body.clone()))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_served_without_a_restart_by_both_versions_of_http() {
    let world = World::new().await;
    let authority = Authority::new();
    let tls = Tls::open(&authority.file("server.pem"), &authority.file("server.key")).unwrap();
    let ingress = RunningIngress::start(
        &world,
        &world.amqp_url,
        config(NEVER_MS, NEVER_MS, NEVER_MS),
        Some(tls.clone()),
    )
    .await;
    ingress.connected().await;
    let served = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();

    let stream = tls_client(&ingress, &authority, b"h2").await;
    let former = served(&stream);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    // Several at once on one connection.
    let posts = (0..20).map(|n| {
        let (mut sender, made) = (sender.clone(), ingress.sample("stripe", "", &format!("h2x{n}"), 100));
        async move { sender.send_request(request("/stripe", &made)).await.unwrap().status() }
    });
    let statuses = futures_util::future::join_all(posts).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    driving.abort();

    // A renewal that was written by halves is reported, and changes nothing.
    let key = std::fs::read(authority.file("server.key")).unwrap();
    authority.sign("server", &["127.0.0.1"], time::Duration::days(1));
    let renewed_key = std::fs::read(authority.file("server.key")).unwrap();
    std::fs::write(authority.file("server.key"), key).unwrap();
    let problem = tls.refresh().unwrap_err();
    assert!(problem.contains("tls_key_file"), "{problem}");
    assert_eq!(served(&tls_client(&ingress, &authority, b"http/1.1").await), former);
    std::fs::write(authority.file("server.key"), renewed_key).unwrap();
    assert_eq!(tls.refresh(), Ok(true));

    let stream = tls_client(&ingress, &authority, b"http/1.1").await;
    assert_ne!(served(&stream), former);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    for n in 0..2 {
        let made = ingress.sample("adyen", "", &format!("h1x{n}"), 100);
        // The client's own half of the connection may not have come round yet.
        sender.ready().await.unwrap();
        let answer = sender.send_request(request("/adyen", &made)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "[accepted]");
    }
    driving.abort();
    assert_eq!(world.ready_messages(&world.names().queue).await, 22);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_by_http_2_too() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let stream = TcpStream::connect(ingress.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut send = async |path: &str, headers: &[(&str, String)], body: Vec<u8>| {
        let mut request = Request::post(format!("http://hooks.example.com{path}"));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await
    };
    assert_eq!(send("/", &[], vec![]).await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(send("/stripe", &[], vec![]).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let large = vec![b' '; 1_048_577];
    assert_eq!(send("/stripe", &[], large).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    let long = [("x-long", "x".repeat(20_000))];
    let answer = send("/stripe", &long, vec![]).await;
    let is_refused =
        answer.as_ref().map_or(true, |answer| answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(is_refused, "{answer:?}");
    driving.abort();
    assert_eq!(world.ready_messages(&world.names().queue).await, 0);
    ingress.stop().await;
    world.close().await;
}

/// It is idle, and does not even answer what it is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_of_http_2_holds_up_no_stop() {
    let world = World::new().await;
    let config = config(NEVER_MS, NEVER_MS, NEVER_MS);
    let ingress = RunningIngress::start(&world, &world.amqp_url, config, None).await;
    let mut client = TcpStream::connect(ingress.address).await.unwrap();
    // The preface and empty SETTINGS (RFC 9113, 3.4).
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    client.read_u8().await.unwrap();
    ingress.stop().await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, client.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is open");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_many_or_too_long_are_refused() {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let names: Vec<String> = (0..80).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(ingress.request("POST", "/stripe", &many, b"").await.status, 431, "80 headers");
    let long = "x".repeat(20_000);
    assert_eq!(
        ingress.request("POST", "/stripe", &[("x-long", &long)], b"").await.status,
        431,
        "20 000 bytes"
    );
    let path = format!("/{}", "x".repeat(20_000));
    let status = ingress.request("POST", &path, &[], b"").await.status;
    assert!([414, 431].contains(&status), "a path of 20 000 bytes: {status}");
    assert_eq!(ingress.request("POST", "/stripe", &[], b"").await.status, 401, "the next one is heard");
    ingress.stop().await;
    world.close().await;
}

/// Sends one byte after the other until the other side ends the connection; what it had said.
async fn trickled(mut stream: TcpStream, first: &[u8], byte: u8) -> Vec<u8> {
    let mut said = Vec::new();
    let trickling = async {
        drop(stream.write_all(first).await);
        loop {
            let mut chunk = [0; 1_024];
            match tokio::time::timeout(POLL_PAUSE, stream.read(&mut chunk)).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(count)) => said.extend_from_slice(&chunk[..count]),
                Err(_) => {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, trickling).await.expect("a slow client is not waited for without end");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_slowly_is_not_waited_for_and_others_are_answered_meanwhile() {
    let world = World::new().await;
    let ingress =
        RunningIngress::start(&world, &world.amqp_url, config(SOON_MS, SOON_MS, NEVER_MS), None).await;
    ingress.connected().await;
    let connect = || TcpStream::connect(ingress.address);
    let (silent, trickling, preface, body) = (
        connect().await.unwrap(),
        connect().await.unwrap(),
        connect().await.unwrap(),
        connect().await.unwrap(),
    );
    // One that was answered once, and begins a second request.
    let mut second = connect().await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
    let announced = head("POST", "/stripe", &[], 100_000);
    let slow = async {
        tokio::join!(
            answered(silent),
            trickled(trickling, b"POST /stripe HTTP/1.1\r\nhost: x\r\nx-a: ", b'a'),
            trickled(preface, b"PRI * HTTP", b'/'),
            trickled(second, b"POST /stripe HTTP/1.1\r\nx-a: ", b'a'),
            trickled(body, &announced, b' '),
        )
    };
    let honest = async {
        for n in 0..20 {
            let made = ingress.sample("stripe", "", &n.to_string(), 100);
            assert_eq!(ingress.post("/stripe", &made).await.status, 200);
        }
    };
    let ((silent, trickling, _preface, second, body), ()) = tokio::join!(slow, honest);
    assert_eq!(silent.status, 0, "{silent:?}");
    assert_eq!(String::from_utf8_lossy(&trickling), "");
    // What is left of the first answer, and nothing else.
    assert!(!String::from_utf8_lossy(&second).contains("HTTP/1.1"), "{second:?}");
    assert!(body.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&body));
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_that_does_not_go_on_is_not_waited_for() {
    let world = World::new().await;
    let authority = Authority::new();
    let tls = Tls::open(&authority.file("server.pem"), &authority.file("server.key")).unwrap();
    let ingress =
        RunningIngress::start(&world, &world.amqp_url, config(SOON_MS, NEVER_MS, NEVER_MS), Some(tls)).await;
    let stream = TcpStream::connect(ingress.address).await.unwrap();
    // The beginning of a client's greeting that announces 512 bytes.
    let said = trickled(stream, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], 0).await;
    assert!(said.is_empty() || said[0] == 0x15, "an alert at most: {said:?}");
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_be_idle_longer_than_headers_may_take_and_not_for_ever() {
    let world = World::new().await;
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 1_024];
        let count = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    let ingress =
        RunningIngress::start(&world, &world.amqp_url, config(SOON_MS, NEVER_MS, NEVER_MS), None).await;
    let mut idle = TcpStream::connect(ingress.address).await.unwrap();
    assert!(ask(&mut idle).await.starts_with("HTTP/1.1 404"));
    // When this one is ended, the other has been idle for as long as headers may take.
    let silent = TcpStream::connect(ingress.address).await.unwrap();
    assert_eq!(answered(silent).await.status, 0);
    assert!(ask(&mut idle).await.starts_with("HTTP/1.1 404"), "a second request on it");
    ingress.stop().await;

    let ingress =
        RunningIngress::start(&world, &world.amqp_url, config(NEVER_MS, NEVER_MS, SOON_MS), None).await;
    let mut idle = TcpStream::connect(ingress.address).await.unwrap();
    assert!(ask(&mut idle).await.starts_with("HTTP/1.1 404"));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, idle.read_to_end(&mut rest)).await;
    assert!(ended.is_ok_and(|ended| ended.is_err() || rest.is_empty()), "an idle connection is ended");
    // By HTTP/2 too.
    let stream = TcpStream::connect(ingress.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let asked = Request::get("http://hooks.example.com/").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::NOT_FOUND);
    tokio::time::timeout(DEADLINE, driving).await.expect("an idle connection is ended").unwrap().ok();
    ingress.stop().await;
    world.close().await;
}

/// As many as two sides in one process can have, up to 5 000; `load-tests ingress --idle 10000` has more, between two processes.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_connections_do_not_keep_others_from_being_answered() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let count = (files.saturating_sub(200) / 2).min(5_000);
    assert!(count >= 300, "no room for connections: `ulimit -n` is {files}");
    let world = World::new().await;
    let ingress =
        RunningIngress::start(&world, &world.amqp_url, config(NEVER_MS, NEVER_MS, NEVER_MS), None).await;
    ingress.connected().await;
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(ingress.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
        idle.push(stream);
    }
    let made = ingress.sample("stripe", "", "1", 100);
    assert_eq!(ingress.post("/stripe", &made).await.status, 200, "beside {count} idle connections");
    drop(idle);
    ingress.stop().await;
    world.close().await;
}

/// Sends the head of a request for this client of a proxy, and waits until its body is asked for: the stream, and the status.
async fn announced(ingress: &RunningIngress, client: &str, length: usize) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(ingress.address).await.unwrap();
    let headers = [("x-forwarded-for", client), ("expect", "100-continue")];
    stream.write_all(&head("POST", "/stripe", &headers, length)).await.unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.unwrap();
    (stream, String::from_utf8_lossy(&line).into_owned())
}

async fn honest(ingress: &RunningIngress, id: &str) -> u16 {
    let made = ingress.sample("stripe", "", id, 100);
    let mut headers: Vec<(&str, &str)> =
        made.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.push(("x-forwarded-for", "192.0.2.2"));
    ingress.request("POST", "/stripe", &headers, &made.body).await.status
}

fn behind_a_proxy(requests_max: usize) -> IngressConfig {
    IngressConfig {
        requests_max,
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..config(NEVER_MS, NEVER_MS, NEVER_MS)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_come_slowly_hold_no_place_of_requests_in_work() {
    let world = World::new().await;
    let ingress = RunningIngress::start(&world, &world.amqp_url, behind_a_proxy(2), None).await;
    ingress.connected().await;
    let mut slow = Vec::new();
    for n in 0..8 {
        let (stream, status) = announced(&ingress, "192.0.2.1", 100).await;
        assert_eq!(status, "HTTP/1.1 100", "the body of request {n}");
        slow.push(stream);
    }
    assert_eq!(honest(&ingress, "1").await, 200, "another address is answered meanwhile");
    for mut stream in slow {
        stream.write_all(&[b' '; 100]).await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("an answer").unwrap();
        assert!(
            String::from_utf8_lossy(&rest).contains("HTTP/1.1 401"),
            "{}",
            String::from_utf8_lossy(&rest)
        );
    }
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_sends_bodies_slowly_fills_its_own_share_of_memory_and_not_that_of_others() {
    let world = World::new().await;
    let ingress = RunningIngress::start(&world, &world.amqp_url, behind_a_proxy(512), None).await;
    ingress.connected().await;
    // 1 MiB of memory each, with what a request takes beside its body.
    let length = (1_024 - 8) * 1_024;
    let mut slow = Vec::new();
    let filling = async {
        loop {
            let (mut stream, status) = announced(&ingress, "192.0.2.1", length).await;
            if status != "HTTP/1.1 100" {
                return status;
            }
            // All but the last byte; one that is refused meanwhile takes no more.
            drop(stream.write_all(&vec![b' '; length - 1]).await);
            slow.push(stream);
            assert!(slow.len() < 60, "one address takes the memory of all");
        }
    };
    let status = tokio::time::timeout(DEADLINE, filling).await.expect("its share has an end");
    assert_eq!(status, "HTTP/1.1 429");
    assert_eq!(honest(&ingress, "1").await, 200, "another address has room");
    drop(slow);
    let freed = async {
        while announced(&ingress, "192.0.2.1", 100).await.1 != "HTTP/1.1 100" {
            tokio::time::sleep(POLL_PAUSE).await;
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.expect("what was taken is given back");
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_beyond_the_limit_waits_until_another_one_ends() {
    let world = World::new().await;
    let limits = IngressConfig { connections_max: 1, ..config(NEVER_MS, NEVER_MS, NEVER_MS) };
    let ingress = RunningIngress::start(&world, &world.amqp_url, limits, None).await;
    let mut first = TcpStream::connect(ingress.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    let mut second = tokio::spawn(answered({
        let mut stream = TcpStream::connect(ingress.address).await.unwrap();
        stream.write_all(&head("POST", "/", &[], 0)).await.unwrap();
        stream
    }));
    // The first one is served again while the second is not.
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    first.read_exact(&mut answer).await.unwrap();
    assert!(!second.is_finished());
    drop(first);
    let second = tokio::time::timeout(DEADLINE, &mut second).await.expect("its turn comes").unwrap();
    assert_eq!(second.status, 404);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_is_who_connected_or_whom_a_named_proxy_names_and_nobody_else_says_so() {
    let world = World::new().await;
    let limited = |proxies: &[&str]| IngressConfig {
        rate_per_second_max: 1,
        rate_burst_max: 1,
        trusted_proxies: proxies.iter().map(|address| address.parse().unwrap()).collect(),
        ..IngressConfig::default()
    };
    let from = async |ingress: &RunningIngress, entries: &str| {
        ingress.request("POST", "/stripe", &[("x-forwarded-for", entries)], b"").await.status
    };
    // No proxy is named: the header is anybody's.
    let ingress = RunningIngress::start(&world, &world.amqp_url, limited(&[]), None).await;
    assert_eq!(from(&ingress, "192.0.2.1").await, 401);
    assert_eq!(from(&ingress, "192.0.2.2").await, 429, "another name of the same address");
    ingress.stop().await;

    let ingress =
        RunningIngress::start(&world, &world.amqp_url, limited(&["127.0.0.1", "10.0.0.7"]), None).await;
    assert_eq!(from(&ingress, "192.0.2.1").await, 401);
    assert_eq!(from(&ingress, "192.0.2.1, 10.0.0.7").await, 429, "by way of two proxies");
    assert_eq!(from(&ingress, "192.0.2.1:4711").await, 429, "with its port");
    assert_eq!(from(&ingress, "[2001:db8::1]:4711").await, 401);
    assert_eq!(from(&ingress, "2001:db8::2").await, 429, "the same /64");
    // What the proxy wrote cannot be read: what stands before it was written by the client.
    assert_eq!(from(&ingress, "198.51.100.1, unknown").await, 401, "counts as the proxy itself");
    assert_eq!(from(&ingress, "198.51.100.2, unknown").await, 429);
    assert_eq!(from(&ingress, "198.51.100.3, ").await, 429);
    ingress.stop().await;
    world.close().await;
}

/// Another time-out than the ingress has would be answered by its client's.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_work_is_not_ended_by_the_limit_of_idle_connections() {
    let world = World::new().await;
    let ingress =
        RunningIngress::start(&world, &world.amqp_url, config(NEVER_MS, NEVER_MS, SOON_MS), None).await;
    ingress.connected().await;
    let made = ingress.sample("stripe", "", "1", 100);
    let headers: Vec<(&str, &str)> =
        made.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut slow = TcpStream::connect(ingress.address).await.unwrap();
    slow.write_all(&head("POST", "/stripe", &headers, made.body.len())).await.unwrap();
    // This one is idle from then on, and its end shows that the time is over.
    let mut idle = TcpStream::connect(ingress.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, idle.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "an idle connection is ended");
    slow.write_all(&made.body).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(30), answered(slow)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    ingress.stop().await;
    world.close().await;
}
