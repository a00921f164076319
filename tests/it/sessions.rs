//! Logins: cookies that are signed and not kept, how they end, and the brake on guessing.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

use crate::{
    access::{FORM, OPERATOR, READER, log_in},
    support::{Dashboard, World, csrf_of, eventually},
};

const KEY: &str = "a-key-of-sessions-0123456789abcdef";
const OTHER_KEY: &str = "another-key-of-sessions-0123456789";

/// With these variables beside the two tokens; a name without `PAYONCE_OPS_`.
async fn with(world: &World, variables: &[(&str, &str)]) -> Dashboard {
    Dashboard::start_with(world, |command| {
        command.env("PAYONCE_OPS_TOKEN", OPERATOR).env("PAYONCE_OPS_READONLY_TOKEN", READER);
        for (name, value) in variables {
            command.env(format!("PAYONCE_OPS_{name}"), value);
        }
    })
    .await
}

/// What a page that needs a login answers to somebody with this cookie.
async fn status(dashboard: &Dashboard, cookie: &str) -> u16 {
    dashboard.send("GET", "/workers", &[("cookie", cookie)], "").await.status
}

#[tokio::test]
async fn a_login_survives_a_restart_and_is_one_on_every_replica() {
    let world = World::new().await;
    let first = with(&world, &[]).await;
    let (olga, rita) = (log_in(&first, "olga", OPERATOR).await, log_in(&first, "rita", READER).await);
    let replica = with(&world, &[]).await;
    first.stop().await;
    let again = with(&world, &[]).await;
    for dashboard in [&replica, &again] {
        assert_eq!((status(dashboard, &olga).await, status(dashboard, &rita).await), (200, 200));
    }
    let page = again.send("GET", "/", &[("cookie", &olga)], "").await;
    assert!(page.body.contains("Logged in as olga"), "{page:?}");
    let other = with(&world, &[("TOKEN", "another-operator-token-0123")]).await;
    assert_eq!(status(&other, &olga).await, 303, "with the token its sessions end");
    for dashboard in [replica, again, other] {
        dashboard.stop().await;
    }
    world.close().await;
}

#[tokio::test]
async fn a_key_is_replaced_without_ending_sessions_and_a_token_ends_its_own_alone() {
    let world = World::new().await;
    let first = with(&world, &[("SESSION_KEY", KEY)]).await;
    let (olga, rita) = (log_in(&first, "olga", OPERATOR).await, log_in(&first, "rita", READER).await);
    first.stop().await;
    for (variables, of_olga, of_rita) in [
        (&[("SESSION_KEY", OTHER_KEY), ("SESSION_KEY_PREVIOUS", KEY)][..], 200, 200),
        (&[("SESSION_KEY", OTHER_KEY)], 303, 303),
        (&[], 303, 303),
        (&[("SESSION_KEY", KEY), ("TOKEN", "another-operator-token-0123")], 303, 200),
        (&[("SESSION_KEY", KEY), ("TOKEN", "")], 303, 200),
    ] {
        let dashboard = with(&world, variables).await;
        let found = (status(&dashboard, &olga).await, status(&dashboard, &rita).await);
        assert_eq!(found, (of_olga, of_rita), "{variables:?}");
        dashboard.stop().await;
    }
    world.close().await;
}

/// A cookie as payonce makes it, of what `change` makes of the session in this one.
fn changed(cookie: &str, key: &str, change: impl Fn(&mut Value)) -> String {
    let text = cookie.strip_prefix("payonce_session=").and_then(|value| value.split('.').next());
    let text = URL_SAFE_NO_PAD.decode(text.expect("a session")).expect("base64");
    let mut session: Value = serde_json::from_slice(&text).expect("JSON");
    change(&mut session);
    let text = URL_SAFE_NO_PAD.encode(session.to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let proof = URL_SAFE_NO_PAD.encode(hmac::sign(&key, format!("session\0{text}").as_bytes()));
    format!("payonce_session={text}.{proof}")
}

#[tokio::test]
async fn a_cookie_that_we_did_not_sign_or_whose_time_is_over_opens_nothing() {
    let world = World::new().await;
    let dashboard = with(&world, &[("SESSION_KEY", KEY)]).await;
    let rita = log_in(&dashboard, "rita", READER).await;
    let same = changed(&rita, KEY, |_| {});
    assert_eq!(status(&dashboard, &same).await, 200, "the test signs as payonce does");
    let over = changed(&rita, KEY, |session| session["expires_at"] = json!(1_700_000_000));
    assert_eq!(status(&dashboard, &over).await, 303, "its time is over");
    let raised = changed(&rita, KEY, |session| session["way"] = json!("operator_token"));
    assert_eq!(status(&dashboard, &raised).await, 303, "it proves the token that has let her in");
    let forged = changed(&rita, OTHER_KEY, |_| {});
    let (text, proof) = rita.split_once('.').expect("text and proof");
    let (other_text, _) = raised.split_once('.').expect("text and proof");
    for cookie in [
        forged.as_str(),
        &format!("{other_text}.{proof}"),
        text,
        &format!("{text}."),
        &format!("{text}.{}", &proof[1..]),
        "payonce_session=",
        "payonce_session=.",
        "payonce_session=%00",
    ] {
        assert_eq!(status(&dashboard, cookie).await, 303, "{cookie}");
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn who_logs_out_is_logged_out_on_every_replica_and_after_a_restart() {
    let world = World::new().await;
    let (here, there) = (with(&world, &[]).await, with(&world, &[]).await);
    let (olga, second) = (log_in(&here, "olga", OPERATOR).await, log_in(&there, "olga", OPERATOR).await);
    let csrf = csrf_of(&here.send("GET", "/", &[("cookie", &olga)], "").await);
    let out = here.send("POST", "/logout", &[FORM, ("cookie", &olga)], &format!("csrf={csrf}")).await;
    assert_eq!(out.header("location"), "/login", "{out:?}");
    assert_eq!(status(&here, &olga).await, 303);
    eventually("the other replica knows", 303, || status(&there, &olga)).await;
    here.stop().await;
    let again = with(&world, &[]).await;
    eventually("it is known after a restart", 303, || status(&again, &olga)).await;
    for dashboard in [&there, &again] {
        assert_eq!(status(dashboard, &second).await, 200, "another session of hers goes on");
    }
    let kept = world.number("select count(*) from ended_sessions where expires_at > now()").await;
    assert_eq!(kept, 1);
    there.stop().await;
    again.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_address_that_guesses_tokens_has_to_wait_and_nobody_else_has() {
    let world = World::new().await;
    let dashboard = with(&world, &[("PROXY_ADDRESSES", "127.0.0.1,192.0.2.1")]).await;
    let try_from = async |forwarded: &str, token: &str| {
        let headers = [FORM, ("x-forwarded-for", forwarded)];
        dashboard.send("POST", "/login", &headers, &format!("name=eve&token={token}")).await
    };
    let olga = log_in(&dashboard, "olga", OPERATOR).await;
    for n in 0..30 {
        // What a client writes there itself comes first, and counts for nothing.
        let forwarded = format!("203.0.113.{n}, 198.51.100.7, 192.0.2.1");
        assert_eq!(try_from(&forwarded, "wrong").await.status, 401, "{n}");
    }
    let refused = try_from("198.51.100.7", OPERATOR).await;
    let wait_s: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!(refused.status == 429 && (1..=61).contains(&wait_s), "{refused:?}");
    assert_eq!(refused.header("set-cookie"), "");
    let bearer = format!("Bearer {OPERATOR}");
    let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", "198.51.100.7")];
    let by_api = dashboard.send("GET", "/api/overview", &headers, "").await;
    assert_eq!((by_api.status, &by_api.json()["error"]["code"]), (429, &json!("too_many_requests")));
    assert_eq!(try_from("198.51.100.8", OPERATOR).await.status, 303, "another address");
    assert_eq!(status(&dashboard, &olga).await, 200, "who is logged in");
    dashboard.stop().await;
    world.close().await;
}
