//! Certificates that the ingress fetches to verify webhooks: only from the provider's hosts, only what an authority vouches for, once for
//! all who want it, and never so that a stranger decides how often.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use payonce::{
    config::{EndpointConfig, IngressConfig},
    ingress::{endpoint::Endpoints, sample::Made},
};

use crate::support::{
    Answered, Authority, CERTIFICATE_NAME, CertificateHost, PayPalKey, RunningIngress, WEBHOOK_ID, World,
    eventually,
};

/// An ingress with an endpoint of PayPal that trusts this authority, and asks this host.
async fn paypal(world: &World, authority: &Authority, host: &CertificateHost) -> RunningIngress {
    let config = IngressConfig {
        certificate_ca_file: Some(authority.file("ca.pem")),
        certificate_gateway: Some(host.address.clone()),
        trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
        ..IngressConfig::default()
    };
    let ingress = RunningIngress::start(world, &world.amqp_url, config, None).await;
    ingress.connected().await;
    let secrets_file = ingress.folder.path().join("paypal");
    fs::write(&secrets_file, format!("webhook_id = {WEBHOOK_ID}")).unwrap();
    fs::set_permissions(&secrets_file, fs::Permissions::from_mode(0o600)).unwrap();
    let endpoint = EndpointConfig {
        path: "/paypal".to_owned(),
        provider: "paypal".to_owned(),
        secrets_file,
        ..ingress.configs[0].clone()
    };
    ingress.desk.replace(Endpoints::open(&[endpoint]).unwrap_or_else(|problems| panic!("{problems:?}")));
    ingress
}

/// Sends a webhook as this sender.
async fn post(ingress: &RunningIngress, made: &Made, sender: &str) -> Answered {
    let mut headers: Vec<(&str, &str)> =
        made.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.push(("x-forwarded-for", sender));
    ingress.request("POST", "/paypal", &headers, &made.body).await
}

/// Sends it again, as PayPal does, until it is answered with yes.
async fn post_until_yes(ingress: &RunningIngress, made: &Made, sender: &str) {
    eventually("an answer of yes", 200, || async { post(ingress, made, sender).await.status }).await;
}

fn right(authority: &Authority, key: &PayPalKey) -> String {
    authority.certificate(&[CERTIFICATE_NAME], time::Duration::days(1), &key.pair())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_fetched_once_for_all_who_want_it_and_kept() {
    let world = World::new().await;
    let (authority, key) = (Authority::new(), PayPalKey::new());
    let host = CertificateHost::new(&authority).await;
    host.put("1", 200, right(&authority, &key));
    let ingress = paypal(&world, &authority, &host).await;
    let worker = world.worker_with(&[("signatures", "required"), ("keys_file", &ingress.keys_file())]).await;
    let url = CertificateHost::url("1");
    let webhooks: Vec<Made> = (0..20).map(|n| key.webhook(&format!("C{n}"), "19.99", &url)).collect();
    let all = webhooks.iter().map(|made| post_until_yes(&ingress, made, "192.0.2.1"));
    futures_util::future::join_all(all).await;
    for made in &webhooks {
        assert_eq!(post(&ingress, made, "192.0.2.1").await.status, 200, "a copy");
    }
    assert_eq!(host.asked("1"), 1);
    // The right certificate makes no other body right.
    let mut changed = key.webhook("C99", "19.99", &url);
    changed.body.push(b' ');
    assert_eq!(post(&ingress, &changed, "192.0.2.1").await.status, 401);
    let stranger = PayPalKey::new().webhook("C99", "19.99", &url);
    assert_eq!(post(&ingress, &stranger, "192.0.2.1").await.status, 401);
    eventually("what was paid", Some((20 * 1_999, 0, 20)), || world.account("acct-1001")).await;
    world.audit().await;
    worker.stop().await;
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_from_an_address_that_is_not_the_providers_own() {
    let world = World::new().await;
    let (authority, key) = (Authority::new(), PayPalKey::new());
    let host = CertificateHost::new(&authority).await;
    host.put("1", 200, right(&authority, &key));
    let ingress = paypal(&world, &authority, &host).await;
    for url in [
        "http://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com:443/v1/notifications/certs/CERT-1",
        "https://api.paypal.com./v1/notifications/certs/CERT-1",
        "https://API.paypal.com/v1/notifications/certs/CERT-1",
        "HTTPS://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
        "https://www.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com.example.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com@example.com/v1/notifications/certs/CERT-1",
        "https://someone@api.paypal.com/v1/notifications/certs/CERT-1",
        "https://example.com/https://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/../certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1?x=1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1#x",
        "https://api.paypal.com/v1/notifications/certs/CERT-1/../../x",
        "https://api.paypal.com/v1/notifications/certs/CERT-%31",
        "https://api.paypal.com/v1/notifications/certs/CERT-",
        "https://api.paypal.com\\v1/notifications/certs/CERT-1",
        "https://127.0.0.1/v1/notifications/certs/CERT-1",
        "/v1/notifications/certs/CERT-1",
        "",
    ] {
        let made = key.webhook("C1", "19.99", url);
        assert_eq!(post(&ingress, &made, "192.0.2.1").await.status, 401, "{url:?}");
    }
    // Nor for a request that cannot be right.
    for (header, value) in [
        ("paypal-auth-algo", "SHA1withRSA"),
        ("paypal-transmission-sig", "AAAA"),
        ("paypal-transmission-sig", "?"),
    ] {
        let mut made = key.webhook("C1", "19.99", &CertificateHost::url("1"));
        made.headers.retain(|(name, _)| *name != header);
        assert_eq!(post(&ingress, &made, "192.0.2.1").await.status, 401, "without {header}");
        made.headers.push((header, value.to_owned()));
        assert_eq!(post(&ingress, &made, "192.0.2.1").await.status, 401, "{header}: {value}");
    }
    assert_eq!(host.asked_at_all(), 0);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_had_or_believed_is_answered_with_503_and_moves_nothing() {
    let world = World::new().await;
    let (authority, stranger, key) = (Authority::new(), Authority::new(), PayPalKey::new());
    let host = CertificateHost::new(&authority).await;
    let good = right(&authority, &key);
    let pair = key.pair();
    let day = time::Duration::days(1);
    host.put("elsewhere", 200, good.clone());
    host.put("moved", 301, good.clone());
    host.put("found", 302, good.clone());
    host.put("broken", 500, good.clone());
    host.put("partial", 206, good.clone());
    host.put("nothing", 200, "");
    host.put("garbage", 200, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    host.put("large", 200, format!("{good}{}", " ".repeat(16_384)));
    host.put("stranger", 200, stranger.certificate(&[CERTIFICATE_NAME], day, &pair));
    host.put("other-name", 200, authority.certificate(&["api.paypal.com"], day, &pair));
    host.put(
        "sandbox",
        200,
        authority.certificate(&["messageverificationcerts.sandbox.paypal.com"], day, &pair),
    );
    host.put("ended", 200, authority.certificate(&[CERTIFICATE_NAME], -day, &pair));
    let ingress = paypal(&world, &authority, &host).await;
    let names = [
        "moved",
        "found",
        "broken",
        "partial",
        "nothing",
        "garbage",
        "large",
        "stranger",
        "other-name",
        "sandbox",
        "ended",
    ];
    for (n, name) in names.into_iter().enumerate() {
        // Each from another sender: one alone may not cause so many.
        let sender = format!("192.0.2.{n}");
        let made = key.webhook(&format!("C{n}"), "19.99", &CertificateHost::url(name));
        for _ in 0..3 {
            let answer = post(&ingress, &made, &sender).await;
            assert!(answer.status == 503 && answer.head.contains("retry-after: "), "{name}: {answer:?}");
        }
        eventually(name, 1, || async { host.asked(name) }).await;
    }
    assert_eq!(host.asked("elsewhere"), 0, "a redirect is not followed");
    assert_eq!(host.asked_at_all(), names.len(), "a failure is not tried again at once");
    assert_eq!(world.ready_messages(&world.names().queue).await, 0);
    // What the provider's own host does not have, the provider has not signed by.
    // However much it says besides.
    host.put("gone", 410, " ".repeat(20_000));
    for (name, sender) in [("missing", "192.0.2.101"), ("gone", "192.0.2.102"), ("missing", "192.0.2.103")] {
        let made = key.webhook("C1", "19.99", &CertificateHost::url(name));
        assert_eq!(post(&ingress, &made, sender).await.status, 401, "{name}");
    }
    assert_eq!(world.ready_messages(&world.names().queue).await, 0);
    ingress.stop().await;
    // A host that nobody vouches for is told nothing.
    let ingress = paypal(&world, &stranger, &host).await;
    let made = key.webhook("C1", "19.99", &CertificateHost::url("elsewhere"));
    assert_eq!(post(&ingress, &made, "192.0.2.1").await.status, 503);
    assert_eq!(host.asked("elsewhere"), 0);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_decides_neither_how_often_anything_is_fetched_nor_whether_others_are_served() {
    let world = World::new().await;
    let (authority, key) = (Authority::new(), PayPalKey::new());
    let host = CertificateHost::new(&authority).await;
    host.put("1", 200, right(&authority, &key));
    let ingress = paypal(&world, &authority, &host).await;
    let mut tried = BTreeSet::new();
    for n in 0..100 {
        let made = key.webhook("C1", "19.99", &CertificateHost::url(&format!("stranger-{n}")));
        tried.insert(post(&ingress, &made, "192.0.2.66").await.status);
    }
    // The host has none of these; of most it was not asked.
    assert_eq!(tried, BTreeSet::from([401, 503]));
    let asked = host.asked_at_all();
    assert!((1..50).contains(&asked), "{asked} of 100 were asked for");
    post_until_yes(&ingress, &key.webhook("C2", "19.99", &CertificateHost::url("1")), "192.0.2.1").await;
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_holds_up_no_request_and_what_it_says_later_is_used() {
    let world = World::new().await;
    let (authority, key) = (Authority::new(), PayPalKey::new());
    let host = CertificateHost::new(&authority).await;
    host.put("1", 200, right(&authority, &key));
    let ingress = paypal(&world, &authority, &host).await;
    host.open(false);
    let made = key.webhook("C1", "19.99", &CertificateHost::url("1"));
    let answer = post(&ingress, &made, "192.0.2.1").await;
    assert!(answer.status == 503 && answer.head.contains("retry-after: "), "{answer:?}");
    host.open(true);
    post_until_yes(&ingress, &made, "192.0.2.1").await;
    assert_eq!(world.ready_messages(&world.names().queue).await, 1);
    ingress.stop().await;
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_between_a_certificate_and_its_authority_comes_with_it_or_from_the_configuration() {
    let world = World::new().await;
    let (authority, key) = (Authority::new(), PayPalKey::new());
    let host = CertificateHost::new(&authority).await;
    let (leaf, between) = authority.certificate_below(&[CERTIFICATE_NAME], &key.pair());
    host.put("chain", 200, format!("{leaf}{between}"));
    host.put("alone", 200, leaf.clone());
    host.put("turned", 200, format!("{between}{leaf}"));
    let webhook = |name: &str| key.webhook(name, "19.99", &CertificateHost::url(name));
    let ingress = paypal(&world, &authority, &host).await;
    post_until_yes(&ingress, &webhook("chain"), "192.0.2.1").await;
    for name in ["alone", "turned"] {
        assert_eq!(post(&ingress, &webhook(name), "192.0.2.1").await.status, 503, "{name}");
        eventually(name, 1, || async { host.asked(name) }).await;
    }
    ingress.stop().await;
    let ca = fs::read_to_string(authority.file("ca.pem")).unwrap();
    fs::write(authority.file("ca.pem"), format!("{ca}{between}")).unwrap();
    let ingress = paypal(&world, &authority, &host).await;
    post_until_yes(&ingress, &webhook("alone"), "192.0.2.1").await;
    ingress.stop().await;
    world.close().await;
}
