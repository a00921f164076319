//! Who reaches the dashboard, and who may act: tokens, sessions, roles, other sites, other host names.

use tokio::io::AsyncReadExt;

use crate::{
    roles::routes,
    support::{DEADLINE, Dashboard, Event, World, csrf_of, eventually},
};

pub(crate) const OPERATOR: &str = "operator-token-0123456789";
pub(crate) const READER: &str = "reader-token-0123456789ab";
pub(crate) const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

pub(crate) async fn with_tokens(world: &World) -> Dashboard {
    Dashboard::start_with(world, |command| {
        command.env("PAYONCE_OPS_TOKEN", OPERATOR).env("PAYONCE_OPS_READONLY_TOKEN", READER);
    })
    .await
}

/// A world with one open case: a debit of an account that nobody opened.
pub(crate) async fn with_a_case() -> World {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::payment("payment.succeeded", "s", "nobody", "p", 1)]).await;
    world.settled(1).await;
    worker.stop().await;
    world
}

pub(crate) async fn log_in(dashboard: &Dashboard, name: &str, token: &str) -> String {
    let answer = dashboard
        .send("POST", "/login", &[FORM], &format!("name={name}&token={token}&next=%2Fquarantine"))
        .await;
    assert_eq!((answer.status, answer.header("location")), (303, "/quarantine"), "{answer:?}");
    let cookie = answer.header("set-cookie").to_owned();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    cookie.split(';').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn without_a_token_it_refuses_every_address_that_others_can_reach() {
    let world = World::new().await;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let output = world.program(&["ops", "--listen", address]).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("PAYONCE_OPS_TOKEN"), "{text}");
    }
    for (token, reader) in [("short", ""), (OPERATOR, OPERATOR)] {
        let output = world
            .program(&["ops", "--listen", "127.0.0.1:0"])
            .env("PAYONCE_OPS_TOKEN", token)
            .env("PAYONCE_OPS_READONLY_TOKEN", reader)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("token") && !text.contains(OPERATOR), "{text}");
    }
    world.close().await;
}

#[tokio::test]
async fn with_a_token_nothing_is_shown_to_strangers() {
    let world = World::new().await;
    // Each wrong token comes from an address of its own, so that none has shown too many.
    let dashboard = Dashboard::start_with(&world, |command| {
        command.env("PAYONCE_OPS_TOKEN", OPERATOR).env("PAYONCE_OPS_READONLY_TOKEN", READER);
        command.env("PAYONCE_OPS_PROXY_ADDRESSES", "127.0.0.1");
    })
    .await;
    let mut addresses = (1..).map(|n| format!("2001:db8:0:{n:x}::1"));
    const OPEN: [&str; 6] =
        ["/healthz", "/readyz", "/assets/1/1", "/login", "/login/oidc", "/login/oidc/back"];
    const WRONG: (&str, &str) = ("authorization", "Bearer operator-token-012345678");
    for (path, gets, posts) in routes() {
        if OPEN.contains(&&*path) {
            continue;
        }
        for (method, header) in [("GET", None), ("GET", Some(WRONG)), ("POST", None), ("POST", Some(WRONG))] {
            if (method == "GET" && !gets) || (method == "POST" && !posts) {
                continue;
            }
            let address = addresses.next().unwrap_or_default();
            let from = ("x-forwarded-for", address.as_str());
            let headers: Vec<(&str, &str)> = header.into_iter().chain([JSON, from]).collect();
            let body = if method == "POST" { "{\"ids\": [1], \"why\": \"w\"}" } else { "" };
            let answer = dashboard.send(method, &path, &headers, body).await;
            let is_sent_to_login =
                answer.status == 303 && answer.header("location").starts_with("/login?next=%2F");
            assert!(answer.status == 401 || is_sent_to_login, "{method} {path}: {answer:?}");
        }
    }
    for path in ["/", "/quarantine/1", "/find?id=x", "/account?id=a"] {
        let answer = dashboard.get(path).await;
        assert_eq!(answer.status, 303, "{path}");
        assert!(answer.header("location").starts_with("/login?next=%2F"), "{answer:?}");
    }
    for path in ["/api/overview", "/metrics", "/live"] {
        assert_eq!(dashboard.get(path).await.status, 401, "{path}");
    }
    for path in ["/healthz", "/readyz", "/login"] {
        eventually(path, 200, || async { dashboard.get(path).await.status }).await;
    }
    for token in [OPERATOR, READER] {
        let bearer = format!("Bearer {token}");
        for path in ["/api/overview", "/metrics", "/"] {
            let answer = dashboard.send("GET", path, &[("authorization", &bearer)], "").await;
            assert_eq!(answer.status, 200, "{path}");
        }
    }
    let wrong = dashboard.send("POST", "/login", &[FORM], "name=eve&token=wrong").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, ""));
    // A login leads to a page of this host, wherever it was asked to.
    for next in ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"] {
        let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let body = format!("name=alice&token={OPERATOR}&next={next}");
        assert_eq!(dashboard.send("POST", "/login", &[FORM], &body).await.header("location"), "/");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn whoever_refuses_a_request_of_the_api_answers_in_json() {
    let world = with_a_case().await;
    let dashboard = with_tokens(&world).await;
    let reader = format!("Bearer {READER}");
    let operator = format!("Bearer {OPERATOR}");
    let asked = [
        ("GET", "/api/overview", "", "", 401),
        ("POST", "/api/quarantine/replay", reader.as_str(), r#"{"ids": [1], "why": "x"}"#, 403),
        ("GET", "/api/nothing/here", &operator, "", 404),
        ("GET", "/api/quarantine/999", &operator, "", 404),
        ("POST", "/api/overview", &operator, "{}", 405),
        ("GET", "/api/quarantine/replay", &operator, "", 405),
        ("GET", "/api/quarantine/one", &operator, "", 400),
        ("GET", "/api/event?source=a", &operator, "", 400),
        ("POST", "/api/quarantine/replay", &operator, "not json", 400),
        ("POST", "/api/quarantine/replay", &operator, r#"{"ids": "all", "why": "x"}"#, 422),
        ("POST", "/api/quarantine/replay", &operator, r#"{"ids": [1]}"#, 422),
    ];
    for (method, path, bearer, body, status) in asked {
        let answer = dashboard.send(method, path, &[("authorization", bearer), JSON], body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/json", "{method} {path}: {answer:?}");
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().is_some_and(|words| words.len() > 8), "{answer:?}");
        assert!(error["code"].as_str().is_some_and(|code| code != "refused"), "{answer:?}");
    }
    let challenge = dashboard.get("/api/overview").await;
    assert!(challenge.header("www-authenticate").starts_with("Bearer"), "{challenge:?}");
    let not_json = dashboard
        .send("POST", "/api/quarantine/replay", &[("authorization", &operator), FORM], "why=x")
        .await;
    assert_eq!((not_json.status, not_json.header("content-type")), (415, "application/json"));
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_reader_looks_and_an_operator_acts_until_they_log_out() {
    let world = with_a_case().await;
    let dashboard = with_tokens(&world).await;
    let reader = log_in(&dashboard, "rita", READER).await;
    let page = dashboard.send("GET", "/quarantine/1", &[("cookie", &reader)], "").await;
    assert!(
        page.body.contains("Your access: viewer, finance. To work cases you need one of: operator, admin.")
            && !page.body.contains("value=\"discard\""),
        "{page:?}"
    );
    let discard = [("id", "1"), ("verb", "discard"), ("why", "x"), ("confirmed", "yes")];
    // The page has a form for logging out, so a reader knows a token; it opens no more.
    let csrf = csrf_of(&page);
    assert_eq!(dashboard.act(&reader, &csrf, &discard).await.status, 403);
    let by_api = dashboard
        .send(
            "POST",
            "/api/quarantine/discard",
            &[("authorization", &format!("Bearer {READER}")), JSON],
            r#"{"ids":[1],"why":"x"}"#,
        )
        .await;
    assert_eq!(by_api.status, 403);
    assert_eq!(world.number("select count(*) from operator_actions").await, 0);

    let operator = log_in(&dashboard, "olga", OPERATOR).await;
    let page = dashboard.send("GET", "/quarantine/1", &[("cookie", &operator)], "").await;
    let csrf = csrf_of(&page);
    for wrong in ["", "0123", &csrf_of(&dashboard.send("GET", "/", &[("cookie", &reader)], "").await)] {
        assert_eq!(dashboard.act(&operator, wrong, &discard).await.status, 403, "{wrong:?}");
    }
    assert_eq!(world.number("select count(*) from quarantine where state = 'discarded'").await, 0);
    assert_eq!(dashboard.act(&operator, &csrf, &discard).await.header("location"), "/audit-log/1");
    let who: (String, String) = sqlx::query_as("select resolved_by, state from quarantine")
        .fetch_one(&mut world.connect().await)
        .await
        .unwrap();
    assert_eq!(who, ("olga".to_owned(), "discarded".to_owned()));

    let headers = [FORM, ("cookie", operator.as_str())];
    let out = dashboard.send("POST", "/logout", &headers, &format!("csrf={csrf}")).await;
    assert_eq!(out.header("location"), "/login");
    assert_eq!(dashboard.send("GET", "/", &[("cookie", &operator)], "").await.status, 303);
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_open_stream_ends_with_its_session_and_no_other() {
    let world = World::new().await;
    let dashboard = with_tokens(&world).await;
    let (olga, rita) = (log_in(&dashboard, "olga", OPERATOR).await, log_in(&dashboard, "rita", READER).await);
    let (_, mut of_olga) = dashboard.listen_as(&olga).await;
    let (_, mut of_rita) = dashboard.listen_as(&rita).await;
    let csrf = csrf_of(&dashboard.send("GET", "/", &[("cookie", &olga)], "").await);
    let out = dashboard.send("POST", "/logout", &[FORM, ("cookie", &olga)], &format!("csrf={csrf}")).await;
    assert_eq!(out.status, 303);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, async {
        // The last chunk of the answer: the connection itself may stay open.
        while !rest.ends_with(b"0\r\n\r\n") && of_olga.read_buf(&mut rest).await.unwrap() > 0 {}
    });
    ended.await.expect("the stream ends");
    rest.clear();
    let goes_on = tokio::time::timeout(DEADLINE, of_rita.read_buf(&mut rest));
    assert!(goes_on.await.expect("an event in time").unwrap() > 0);
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn cookies_travel_by_tls_only_where_there_is_any() {
    let world = World::new().await;
    let dashboard = with_tokens(&world).await;
    let body = format!("name=alice&token={OPERATOR}");
    let plain = dashboard.send("POST", "/login", &[FORM], &body).await;
    assert!(!plain.header("set-cookie").contains("Secure"));
    let behind = dashboard.send("POST", "/login", &[FORM, ("x-forwarded-proto", "https")], &body).await;
    assert!(behind.header("set-cookie").contains("; Secure"));
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn without_a_token_only_this_machine_and_only_our_own_pages_act() {
    let world = with_a_case().await;
    let dashboard = Dashboard::start(&world).await;
    // A name that an attacker's DNS points here.
    for host in ["evil.example", "evil.example:9300", "127.0.0.1.evil.example", "", "192.0.2.1"] {
        for path in ["/", "/api/overview", "/metrics", "/assets/x/app.js"] {
            let answer = dashboard.send("GET", path, &[("host", host)], "").await;
            assert!([421, 400].contains(&answer.status), "{host:?} {path}: {answer:?}");
            assert!(!answer.body.contains("payonce_"), "{answer:?}");
        }
    }
    for host in ["localhost:1", "127.0.0.1", "[::1]:9300", "LOCALHOST"] {
        assert_eq!(dashboard.send("GET", "/", &[("host", host)], "").await.status, 200, "{host}");
    }
    let csrf = csrf_of(&dashboard.get("/quarantine/1").await);
    let form = format!("csrf={csrf}&id=1&verb=discard&why=x&confirmed=yes");
    // Even with the right token in it.
    for sign in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
    ] {
        let answer = dashboard.send("POST", "/quarantine/act", &[FORM, sign], &form).await;
        assert_eq!(answer.status, 403, "{sign:?}");
    }
    // A form of another site can send text that looks like JSON, but cannot call it so.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let answer = dashboard
            .send("POST", "/api/quarantine/discard", &[("content-type", kind)], r#"{"ids":[1],"why":"x"}"#)
            .await;
        assert_eq!(answer.status, 403, "{kind}");
    }
    assert_eq!(dashboard.send("GET", "/quarantine/act", &[], "").await.status, 405);
    assert_eq!(world.number("select count(*) from quarantine where state <> 'open'").await, 0);
    let own = [FORM, ("sec-fetch-site", "same-origin"), ("origin", &dashboard.url(""))];
    assert_eq!(dashboard.send("POST", "/quarantine/act", &own, &form).await.status, 303);
    eventually("the local operator is named", 1, || {
        world.number("select count(*) from operator_actions where who = 'local operator' and via = 'web'")
    })
    .await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn every_answer_forbids_scripts_of_others_frames_and_guessing_of_types() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    for path in [
        "/",
        "/nowhere",
        "/quarantine/999",
        "/api/overview",
        "/metrics",
        "/healthz",
        "/find?id=%00",
        "/account?id=%FF",
    ] {
        let answer = dashboard.get(path).await;
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
            "{path}: {answer:?}"
        );
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(answer.status < 500, "{path}: {answer:?}");
    }
    let page = dashboard.get("/").await.body;
    for inline in ["<style", "style=", "onclick", "onload", "javascript:", "http://", "https://"] {
        assert!(!page.contains(inline), "{inline} in {page}");
    }
    dashboard.stop().await;
    world.close().await;
}
