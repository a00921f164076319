//! Logging in at an OpenID Connect provider: a real one on loopback, which the test runs and whose tokens it can spoil.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Form, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use url::Url;

use crate::{
    access::{FORM, OPERATOR, with_a_case},
    support::{Answer, Dashboard, World, csrf_of},
};

const CLIENT: &str = "payonce at work";
const SECRET: &str = "client secret: 100 % + more";

type Parameters = HashMap<String, String>;
/// Changes what a token says, before it is signed.
type Change = fn(&mut Value);

/// How a token is signed.
#[derive(Clone, Copy, PartialEq)]
enum Signed {
    ItsKey,
    AnotherKey,
    TheSecret,
    Nothing,
}

struct Provider {
    issuer: String,
    key: EcdsaKeyPair,
    key_id: String,
    /// What was asked for each code that it has given out and nobody has shown.
    codes: HashMap<String, Parameters>,
    claims: Value,
    change: Change,
    signed: Signed,
}

#[derive(Clone)]
struct Idp(Arc<Mutex<Provider>>);

fn new_key() -> EcdsaKeyPair {
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key")
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

impl Idp {
    async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap()).await
    }

    async fn on(listener: TcpListener) -> Self {
        let issuer = format!("http://{}/realms/work", listener.local_addr().unwrap());
        let claims = json!({ "email": "ann@example.com", "email_verified": true, "groups": ["staff", "payments-ops"] });
        let provider = Provider {
            issuer,
            key: new_key(),
            key_id: "first".to_owned(),
            codes: HashMap::new(),
            claims,
            change: |_| {},
            signed: Signed::ItsKey,
        };
        let idp = Self(Arc::new(Mutex::new(provider)));
        let router = Router::new()
            .route("/realms/work/.well-known/openid-configuration", get(metadata))
            .route("/realms/work/keys", get(keys))
            .route("/realms/work/authorize", get(authorize))
            .route("/realms/work/token", post(token))
            .with_state(idp.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        idp
    }

    fn change<T>(&self, change: impl FnOnce(&mut Provider) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn issuer(&self) -> String {
        self.change(|provider| provider.issuer.clone())
    }
}

async fn metadata(State(idp): State<Idp>) -> Json<Value> {
    let issuer = idp.issuer();
    Json(json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize?theme=dark"),
        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
    }))
}

async fn keys(State(idp): State<Idp>) -> Json<Value> {
    Json(idp.change(|provider| {
        let (x, y) = provider.key.public_key().as_ref()[1..].split_at(32);
        json!({ "keys": [
            { "kty": "of another world", "kid": "other" },
            { "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": provider.key_id,
              "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) },
        ] })
    }))
}

/// As if the person had typed in what they have to.
async fn authorize(State(idp): State<Idp>, Query(asked): Query<Parameters>) -> Redirect {
    assert_eq!((&*asked["response_type"], &*asked["client_id"], &*asked["theme"]), ("code", CLIENT, "dark"));
    assert_eq!((&*asked["code_challenge_method"], &*asked["scope"]), ("S256", "openid email groups"));
    let mut back = Url::parse(&asked["redirect_uri"]).expect("an address");
    let code = format!("code {}", rand::random::<u64>());
    back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked["state"]);
    idp.change(|provider| provider.codes.insert(code, asked));
    Redirect::to(back.as_str())
}

async fn token(State(idp): State<Idp>, headers: HeaderMap, Form(form): Form<Parameters>) -> Response {
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(CLIENT), encode(SECRET))));
    let is_client = headers.get("authorization").is_some_and(|value| value.as_bytes() == basic.as_bytes());
    let asked = form.get("code").and_then(|code| idp.change(|provider| provider.codes.remove(code)));
    let verifier = form.get("code_verifier").map(String::as_str).unwrap_or_default();
    let is_granted = asked.as_ref().is_some_and(|asked| {
        asked["code_challenge"] == URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
            && Some(&asked["redirect_uri"]) == form.get("redirect_uri")
            && form["grant_type"] == "authorization_code"
    });
    if !is_client || !is_granted {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" }))).into_response();
    }
    let nonce = asked.map(|asked| asked["nonce"].clone());
    let id_token = idp.change(|provider| provider.token(nonce.as_deref().unwrap_or_default()));
    Json(json!({ "access_token": "unused", "token_type": "Bearer", "id_token": id_token })).into_response()
}

impl Provider {
    fn token(&self, nonce: &str) -> String {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let mut claims = json!({
            "iss": self.issuer, "aud": CLIENT, "sub": "7", "exp": now + 300, "iat": now, "nonce": nonce,
        });
        for (name, value) in self.claims.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        (self.change)(&mut claims);
        let algorithm = match self.signed {
            Signed::ItsKey | Signed::AnotherKey => "ES256",
            Signed::TheSecret => "HS256",
            Signed::Nothing => "none",
        };
        let header = json!({ "alg": algorithm, "typ": "JWT", "kid": self.key_id });
        let text = format!("{}.{}", encoded(&header), encoded(&claims));
        let by = |key: &EcdsaKeyPair| {
            key.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature").as_ref().to_vec()
        };
        let signature = match self.signed {
            Signed::ItsKey => by(&self.key),
            Signed::AnotherKey => by(&new_key()),
            Signed::TheSecret => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
                hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
            }
            Signed::Nothing => Vec::new(),
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// One whose people log in at this provider. They find it under a name of its own, which the test does not look up.
async fn with_provider(world: &World, issuer: &str) -> Dashboard {
    Dashboard::start_with(world, |command| {
        command
            .env("PAYONCE_OPS_TOKEN", OPERATOR)
            .env("PAYONCE_OPS_OIDC_ISSUER", issuer)
            .env("PAYONCE_OPS_OIDC_CLIENT_ID", CLIENT)
            .env("PAYONCE_OPS_OIDC_CLIENT_SECRET", SECRET)
            .env("PAYONCE_OPS_OIDC_SCOPES", "openid email groups")
            .env("PAYONCE_OPS_PUBLIC_URL", "https://payonce.example/")
            .env("PAYONCE_OPS_ROLES", "group:payments-ops=operator,user:bob@example.com=admin");
    })
    .await
}

fn cookie(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
}

/// From the link on the login page to the address that the provider sends the browser back to: that, and the browser's cookie.
async fn at_provider(dashboard: &Dashboard, next: &str) -> (String, String) {
    let begun = dashboard.get(&format!("/login/oidc?next={next}")).await;
    assert_eq!(begun.status, 303, "{begun:?}");
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/login/oidc", "Max-Age=600"] {
        assert!(begun.header("set-cookie").contains(attribute), "{begun:?}");
    }
    let at = Url::parse(begun.header("location")).expect("the provider's address");
    let address: SocketAddr = at.authority().parse().expect("on loopback");
    let answer =
        Dashboard::ask(&address.to_string(), &format!("{}?{}", at.path(), at.query().unwrap())).await;
    let back = answer.header("location").strip_prefix("https://payonce.example").expect("our address");
    assert!(back.starts_with("/login/oidc/back?"), "{back}");
    (back.to_owned(), cookie(&begun))
}

async fn come_back(dashboard: &Dashboard, (back, cookie): &(String, String)) -> Answer {
    // The browser says where it comes from.
    let headers = [("cookie", cookie.as_str()), ("sec-fetch-site", "cross-site")];
    dashboard.send("GET", back, &headers, "").await
}

#[track_caller]
fn logged_in(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = answer.headers.iter().find(|(_, value)| value.starts_with("payonce_session="));
    let session = &session.expect("a session").1;
    assert!(session.contains("SameSite=Strict") && session.contains("HttpOnly"), "{session}");
    session.split(';').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn who_logs_in_at_the_provider_is_named_and_has_the_roles_of_their_groups() {
    let world = with_a_case().await;
    let idp = Idp::start().await;
    let dashboard = with_provider(&world, &idp.issuer()).await;
    let login = dashboard.get("/login?next=%2Fquarantine%2F1").await;
    assert!(login.body.contains("href=\"/login/oidc?next=%2Fquarantine%2F1\""), "{login:?}");
    let answer = come_back(&dashboard, &at_provider(&dashboard, "%2Fquarantine%2F1").await).await;
    // A page of ours leads on, so that the browser sends what it sends to nobody else's pages.
    assert_eq!(answer.header("refresh"), "0; url=/quarantine/1", "{answer:?}");
    let ann = logged_in(&answer);
    let page = dashboard.send("GET", "/quarantine/1", &[("cookie", &ann)], "").await;
    assert!(page.body.contains("Logged in as ann@example.com"), "{page:?}");
    let discard = [("id", "1"), ("verb", "discard"), ("why", "x"), ("confirmed", "yes")];
    assert_eq!(dashboard.act(&ann, &csrf_of(&page), &discard).await.header("location"), "/audit-log/1");
    let named = world.number("select count(*) from operator_actions where who = 'ann@example.com'").await;
    assert_eq!(named, 1);
    // An operator takes no reports away.
    let reports = dashboard.send("GET", "/reports", &[("cookie", &ann)], "").await;
    assert!(reports.status == 403 && reports.body.contains("Your access: operator."), "{reports:?}");
    idp.change(|provider| {
        provider.claims = json!({ "email": "bob@example.com", "email_verified": "true", "groups": "staff" })
    });
    let bob = logged_in(&come_back(&dashboard, &at_provider(&dashboard, "").await).await);
    assert_eq!(dashboard.send("GET", "/reports", &[("cookie", &bob)], "").await.status, 200);
    idp.change(|provider| provider.claims = json!({ "email": "eve@example.com", "email_verified": true }));
    let eve = come_back(&dashboard, &at_provider(&dashboard, "").await).await;
    assert!(eve.status == 403 && eve.body.contains("eve@example.com has no role"), "{eve:?}");
    assert!(!eve.headers.iter().any(|(_, value)| value.starts_with("payonce_session=ey")), "{eve:?}");
    // The session is one of this provider: another one's people are others.
    let elsewhere = with_provider(&world, "https://idp.example").await;
    assert_eq!(elsewhere.send("GET", "/", &[("cookie", &ann)], "").await.status, 303);
    let again = with_provider(&world, &idp.issuer()).await;
    assert_eq!(again.send("GET", "/", &[("cookie", &ann)], "").await.status, 200, "after a restart");
    for dashboard in [dashboard, elsewhere, again] {
        dashboard.stop().await;
    }
    world.close().await;
}

#[tokio::test]
async fn a_token_that_does_not_prove_who_somebody_is_opens_nothing() {
    let world = World::new().await;
    let idp = Idp::start().await;
    let dashboard = with_provider(&world, &idp.issuer()).await;
    let spoiled: [(&str, Change); 14] = [
        ("of another login", |claims| claims["nonce"] = json!("another")),
        ("of no login", |claims| claims["nonce"] = json!(null)),
        ("for another client", |claims| claims["aud"] = json!("another")),
        ("for several, none of which is said to have asked", |claims| {
            claims["aud"] = json!([CLIENT, "another"])
        }),
        ("asked for by another", |claims| claims["azp"] = json!("another")),
        ("of another issuer", |claims| claims["iss"] = json!("http://127.0.0.1/realms/work")),
        ("whose time is over", |claims| claims["exp"] = json!(1_700_000_000)),
        ("without an end", |claims| claims["exp"] = json!(null)),
        ("whose time has not come", |claims| claims["nbf"] = json!(9_000_000_000_i64)),
        ("of nobody", |claims| claims["email"] = json!(" ")),
        ("of whoever has typed that in", |claims| claims["email_verified"] = json!(false)),
        ("of whoever has typed that in, said in a text", |claims| claims["email_verified"] = json!("false")),
        ("of an address that nobody has verified", |claims| claims["email_verified"] = json!(null)),
        ("of a name that could be several", |claims| claims["email"] = json!(["ann@example.com"])),
    ];
    let refused = async |what: &str| {
        let answer = come_back(&dashboard, &at_provider(&dashboard, "").await).await;
        assert_eq!(answer.status, 403, "{what}: {answer:?}");
        let has_session = answer.headers.iter().any(|(_, value)| value.starts_with("payonce_session="));
        assert!(!has_session, "{what}: {answer:?}");
    };
    for (what, change) in spoiled {
        idp.change(|provider| provider.change = change);
        refused(what).await;
    }
    idp.change(|provider| provider.change = |_| {});
    for signed in [Signed::AnotherKey, Signed::TheSecret, Signed::Nothing] {
        idp.change(|provider| provider.signed = signed);
        refused("signed by another").await;
    }
    idp.change(|provider| provider.signed = Signed::ItsKey);
    logged_in(&come_back(&dashboard, &at_provider(&dashboard, "").await).await);
    // A key that it has made since.
    idp.change(|provider| (provider.key, provider.key_id) = (new_key(), "second".to_owned()));
    logged_in(&come_back(&dashboard, &at_provider(&dashboard, "").await).await);
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_login_ends_once_in_the_browser_that_has_begun_it() {
    let world = World::new().await;
    let idp = Idp::start().await;
    let dashboard = with_provider(&world, &idp.issuer()).await;
    let (mine, others) = (at_provider(&dashboard, "").await, at_provider(&dashboard, "").await);
    let changed = |text: &str, from: &str, to: &str| text.replacen(from, to, 1);
    let with = |back: &str, cookie: &str| (back.to_owned(), cookie.to_owned());
    let (back, cookie) = (mine.0.as_str(), mine.1.as_str());
    let without_code = back.split('&').find(|part| part.starts_with("state=")).expect("a state");
    for (what, status, request) in [
        ("another browser's", 400, with(back, &others.1)),
        ("no browser's", 400, with(back, "")),
        ("of another state", 400, with(&changed(back, "state=", "state=0"), cookie)),
        ("of no state", 400, with("/login/oidc/back?code=x", cookie)),
        ("a changed cookie", 400, with(back, &changed(cookie, "payonce_login=", "payonce_login=e"))),
        ("of another issuer", 403, with(&format!("{back}&iss=https%3A%2F%2Fevil.example"), cookie)),
        ("refused there", 403, with(&format!("/login/oidc/back?error=access_denied&{without_code}"), cookie)),
        ("without a code", 403, with(&format!("/login/oidc/back?{without_code}"), cookie)),
        ("a code of nobody", 503, with(&format!("/login/oidc/back?code=x&{without_code}"), cookie)),
    ] {
        let answer = come_back(&dashboard, &request).await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(!answer.body.contains("evil.example"), "{answer:?}");
    }
    let done = come_back(&dashboard, &mine).await;
    logged_in(&done);
    let taken_back = done.headers.iter().any(|(_, value)| value.starts_with("payonce_login=;"));
    assert!(taken_back, "{done:?}");
    assert_eq!(come_back(&dashboard, &mine).await.status, 503, "the provider takes a code once");
    // Elsewhere it leads nobody.
    let away = come_back(&dashboard, &at_provider(&dashboard, "%2F%2Fevil.example").await).await;
    assert_eq!(away.header("refresh"), "0; url=/", "{away:?}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn without_the_provider_everything_else_goes_on_and_logins_come_back_with_it() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let dashboard = with_provider(&world, &format!("http://{address}/realms/work")).await;
    let answer = dashboard.get("/login/oidc").await;
    assert!(answer.status == 503 && answer.body.contains("identity provider does not answer"), "{answer:?}");
    let body = format!("name=olga&token={OPERATOR}");
    assert_eq!(dashboard.send("POST", "/login", &[FORM], &body).await.status, 303, "with a token");
    let idp = Idp::on(TcpListener::bind(address).await.unwrap()).await;
    let login = at_provider(&dashboard, "").await;
    logged_in(&come_back(&dashboard, &login).await);
    // One that calls itself otherwise than it is called here.
    let other = with_provider(&world, &format!("{}/", idp.issuer())).await;
    assert_eq!(other.get("/login/oidc").await.status, 503);
    dashboard.stop().await;
    other.stop().await;
    world.close().await;
}
