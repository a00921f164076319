//! Providers under hostile input: whatever is sent, nothing panics, nothing grows, and nothing is accepted that the secret's holder did not
//! say. The number of cases: `PROPTEST_CASES`.

use payonce::{
    config::EndpointConfig,
    ingress::{
        amount::{AmountError, Differences, MINOR_UNITS_MAX, decimal, exponent},
        endpoint::Endpoint,
        forwarded::Forwarded,
        limits::Rate,
        mapping::Outcome,
        request::Request,
        sample::{PROVIDERS, Sample, make},
        secrets::Secrets,
        verify::{Mac, to_hex},
    },
    ledger::Currency,
};
use proptest::prelude::*;
use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, time::Duration};
use tempfile::TempDir;

use crate::provider_vectors::one_of_each_provider;

const NOW_S: i64 = 1_764_093_600;

/// Providers whose samples become cases: they do not say how much.
const WITHOUT_AMOUNT: [&str; 2] = ["gocardless", "braintree"];

const SECRETS: [(&str, &str); 10] = [
    ("stripe", "whsec_sample"),
    ("adyen", "8E339EFD66564BAE60BDD289C69607E672CE34C97D237161C5AD2A42B6952544"),
    ("checkout", "checkout-secret"),
    ("razorpay", "razorpay-secret"),
    ("square", "square-key\nnotification_url = https://hooks.example.com/square"),
    ("standard-webhooks", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("mollie", "mollie-secret"),
    ("cloudevents", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nbearer = 0123456789abcdef"),
    ("gocardless", "gocardless-secret"),
    ("braintree", "public_key = public\nprivate_key = private"),
];

/// An endpoint, a request that it accepts, and that request's headers.
type Signed = (Endpoint, Request, Vec<(String, String)>);

/// One of each provider that samples can be made of.
fn signed(folder: &TempDir) -> Vec<Signed> {
    let each = SECRETS.iter().map(|(provider, text)| {
        let path = folder.path().join(provider);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let config = EndpointConfig {
            path: "/here".to_owned(),
            provider: (*provider).to_owned(),
            source: "/providers/here".to_owned(),
            purpose: (!["standard-webhooks", "cloudevents"].contains(provider)).then(|| "deposit".to_owned()),
            account: None,
            account_until: None,
            references: Default::default(),
            secrets_file: path.clone(),
            capture: match *provider {
                "adyen" => Some("automatic".to_owned()),
                "checkout" => Some("manual".to_owned()),
                _ => None,
            },
            live: None,
        };
        let endpoint = Endpoint::open(&config).unwrap();
        let names: Vec<&str> = endpoint.kind.names.iter().map(|(name, _)| *name).collect();
        let secrets = Secrets::load(&path, &names).unwrap();
        let sample = Sample {
            event: String::new(),
            id: "77".to_owned(),
            account: "acct-1001".to_owned(),
            amount: 1_999,
            currency: "EUR".to_owned(),
        };
        let made = make(&endpoint, &secrets, &sample, NOW_S.unsigned_abs()).unwrap();
        let headers: Vec<(String, String)> =
            made.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        (endpoint, Request::new(headers.clone(), made.body), headers)
    });
    each.collect()
}

/// What a request moves: the callbacks, but for the time, which moves nothing.
fn moves(endpoint: &Endpoint, request: &Request) -> Vec<serde_json::Value> {
    let Ok(items) = endpoint.provider.map(request, &endpoint.terms) else { return Vec::new() };
    let bodies = items.into_iter().filter_map(|item| match item.outcome {
        Outcome::Accepted(accepted) => Some(accepted.body),
        Outcome::Ignored(_) | Outcome::Unmapped(_) => None,
    });
    let callbacks = bodies.map(|body| {
        let mut event: serde_json::Value = serde_json::from_slice(&body).unwrap();
        event.as_object_mut().unwrap().remove("time");
        event
    });
    callbacks.collect()
}

#[test]
fn the_samples_are_of_every_provider_that_signs_with_a_shared_secret_and_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let signed = signed(&folder);
    assert_eq!(signed.iter().map(|(endpoint, ..)| endpoint.kind.name).collect::<Vec<_>>(), PROVIDERS);
    for (endpoint, request, _) in &signed {
        assert_eq!(endpoint.provider.verify(request, NOW_S), Ok(()), "{}", endpoint.kind.name);
        let moves = moves(endpoint, request);
        if WITHOUT_AMOUNT.contains(&endpoint.kind.name) {
            assert_eq!(moves, Vec::<serde_json::Value>::new(), "{}", endpoint.kind.name);
            continue;
        }
        assert_eq!(moves.len(), 1, "{}", endpoint.kind.name);
        assert_eq!((&moves[0]["subject"], &moves[0]["data"]["amount"]), (&"acct-1001".into(), &1_999.into()));
    }
}

proptest! {
    #[test]
    fn a_request_that_was_changed_anywhere_moves_nothing_else_than_it_did(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        how in 0..4_u8,
        in_header in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (endpoint, request, headers) in signed(&folder) {
            let (mut headers, mut body) = (headers, request.body.clone());
            let mut text = if in_header {
                headers.last().unwrap().1.clone().into_bytes()
            } else {
                body.clone()
            };
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => drop(text.remove(at)),
                2 => text.insert(at, byte),
                _ => text.truncate(at),
            }
            if in_header {
                headers.last_mut().unwrap().1 = String::from_utf8_lossy(&text).into_owned();
            } else {
                body = text;
            }
            let changed = Request::new(headers, body);
            if endpoint.provider.verify(&changed, NOW_S).is_ok() {
                // A member that nobody signs: it may be anything, and may change nothing.
                prop_assert_eq!(
                    moves(&endpoint, &changed),
                    moves(&endpoint, &request),
                    "{} accepted a changed request", endpoint.kind.name
                );
            }
        }
    }

    #[test]
    fn a_recorded_webhook_whose_body_was_changed_anywhere_moves_nothing_else_than_it_did(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        how in 0..4_u8,
    ) {
        for (endpoint, request, now_s) in one_of_each_provider() {
            let mut changed = request.clone();
            if changed.body.is_empty() {
                continue;
            }
            let at = at.index(changed.body.len());
            match how {
                0 => changed.body[at] = byte,
                1 => drop(changed.body.remove(at)),
                2 => changed.body.insert(at, byte),
                _ => changed.body.truncate(at),
            }
            if endpoint.provider.verify(&changed, now_s).is_ok() {
                prop_assert_eq!(
                    moves(&endpoint, &changed),
                    moves(&endpoint, &request),
                    "{} accepted a changed body", endpoint.kind.name
                );
            }
        }
    }

    #[test]
    fn a_body_that_is_spelled_in_another_way_is_signed_as_it_came(spaces in 0..200_usize, unknown in "[a-z\u{e4}\u{4e2d}]{1,8}") {
        let folder = tempfile::tempdir().unwrap();
        for (endpoint, _, _) in signed(&folder) {
            // Adyen signs values, not bytes; the others are signed here over bytes that no writer of JSON would make of them.
            if endpoint.kind.name != "razorpay" && endpoint.kind.name != "checkout" {
                continue;
            }
            let (secret, header) = match endpoint.kind.name {
                "razorpay" => ("razorpay-secret", "x-razorpay-signature"),
                _ => ("checkout-secret", "cko-signature"),
            };
            let body = format!("{{{}\"z\": 1.0e0, \"a\": \"\\u0041{unknown}\"}}", " ".repeat(spaces)).into_bytes();
            let tag = to_hex(&Mac::sha256(secret.as_bytes()).tag(&[&body]));
            let request = Request::new([(header, tag)], body);
            prop_assert_eq!(endpoint.provider.verify(&request, NOW_S), Ok(()), "{}", endpoint.kind.name);
        }
    }

    #[test]
    fn whatever_is_sent_to_any_provider_is_refused_without_a_panic(
        body in prop::collection::vec(any::<u8>(), 0..400),
        value in "[ -~]{0,80}",
        name in prop::sample::select(vec![
            "stripe-signature", "hmacsignature", "paypal-transmission-sig", "wechatpay-signature", "cko-signature",
            "x-razorpay-signature", "x-square-hmacsha256-signature", "x-mollie-signature", "webhook-signature", "authorization",
        ]),
    ) {
        for (endpoint, ..) in one_of_each_provider() {
            let request = Request::new([(name, value.clone())], body.clone());
            prop_assert!(endpoint.provider.verify(&request, NOW_S).is_err(), "{}", endpoint.kind.name);
            // The mapping does not verify: what it makes of nonsense is nothing to publish.
            prop_assert_eq!(moves(&endpoint, &request), Vec::<serde_json::Value>::new());
        }
    }

    #[test]
    fn mapped_nonsense_in_the_shape_of_an_event_never_panics(
        (at, byte) in (any::<prop::sample::Index>(), any::<u8>()),
    ) {
        for (endpoint, request, _) in one_of_each_provider() {
            let mut body = request.body.clone();
            if body.is_empty() {
                continue;
            }
            let at = at.index(body.len());
            body[at] = byte;
            let changed = Request::new(Vec::<(&str, &str)>::new(), body);
            drop(endpoint.provider.map(&changed, &endpoint.terms));
            drop(endpoint.provider.verify(&changed, NOW_S));
        }
    }

    #[test]
    fn decimal_text_is_exact_or_refused(whole in 0..=9_999_999_999_999_u64, fraction in 0..=999_u64, digits in 0..=3_usize) {
        let currency = Currency::parse("KWD").unwrap();
        prop_assert_eq!(exponent(currency), 3);
        let text = if digits == 0 { whole.to_string() } else { format!("{whole}.{:0digits$}", fraction % 10_u64.pow(digits as u32)) };
        let scale = 10_u64.pow(3 - digits as u32);
        let fraction = if digits == 0 { 0 } else { (fraction % 10_u64.pow(digits as u32)) * scale };
        let expected = whole * 1_000 + fraction;
        let expected = if expected > MINOR_UNITS_MAX { Err(AmountError::TooLarge) } else { Ok(expected) };
        prop_assert_eq!(decimal(&text, currency), expected);
    }

    #[test]
    fn a_scaled_amount_is_the_same_money_or_refused(amount in any::<u64>()) {
        let isk = Currency::parse("ISK").unwrap();
        match Differences(&[("ISK", 2)]).minor_units(amount, isk) {
            Ok(scaled) => prop_assert_eq!(u128::from(scaled) * 100, u128::from(amount)),
            Err(AmountError::NotExact) => prop_assert!(!amount.is_multiple_of(100)),
            Err(AmountError::TooLarge) => prop_assert!(amount / 100 > MINOR_UNITS_MAX),
            Err(AmountError::Form) => prop_assert!(false, "a number has no form"),
        }
        let mga = Currency::parse("MGA").unwrap();
        if let Ok(scaled) = Differences(&[("MGA", 0)]).minor_units(amount, mga) {
            prop_assert_eq!(u128::from(scaled), u128::from(amount) * 100);
        }
    }
}

#[test]
fn text_that_is_no_amount_is_refused() {
    let euro = Currency::parse("EUR").unwrap();
    for text in
        ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,00", " 1", "1 ", "0x1", "１", "1.0.0", "NaN", "Infinity"]
    {
        assert_eq!(decimal(text, euro), Err(AmountError::Form), "{text:?}");
    }
    assert_eq!(decimal("1.005", euro), Err(AmountError::NotExact));
    assert_eq!(decimal("1.000", euro), Ok(100));
    assert_eq!(decimal("90071992547409.91", euro), Ok(MINOR_UNITS_MAX));
    assert_eq!(decimal("90071992547409.92", euro), Err(AmountError::TooLarge));
    assert_eq!(decimal(&"9".repeat(10_000), euro), Err(AmountError::TooLarge));
    let yen = Currency::parse("JPY").unwrap();
    assert_eq!((decimal("100", yen), decimal("100.5", yen)), (Ok(100), Err(AmountError::NotExact)));
}

#[test]
fn an_address_may_send_its_burst_and_then_its_rate_and_a_block_of_the_sixth_version_is_one_address() {
    let rate = Rate::new(10, 5);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (one, other) = (address("2001:db8::1"), address("2001:db8::ffff:2"));
    let at = Duration::from_millis;
    for _ in 0..5 {
        assert_eq!(rate.take("/a", one, at(0)), Ok(()));
    }
    assert_eq!(rate.take("/a", other, at(0)), Err(at(100)), "the same /64");
    assert_eq!(rate.take("/a", address("2001:db8:0:1::1"), at(0)), Ok(()), "another /64");
    assert_eq!(rate.take("/b", one, at(0)), Ok(()), "another endpoint");
    assert_eq!(rate.take("/a", one, at(99)), Err(at(1)));
    assert_eq!(rate.take("/a", one, at(100)), Ok(()));
    assert_eq!(rate.take("/a", one, at(100)), Err(at(100)));
    assert_eq!(
        rate.take("/a", address("::ffff:192.0.2.1"), at(0)),
        rate.take("/a", address("192.0.2.1"), at(0))
    );
}

#[test]
fn a_flood_of_addresses_makes_no_memory_grow_and_shuts_out_none_that_was_there() {
    let rate = Rate::new(1, 1);
    let at = Duration::ZERO;
    for n in 0..100_000_u32 {
        // Beyond the limit strangers share one allowance.
        let _is_allowed = rate.take("/a", IpAddr::from(n.to_be_bytes()), at);
    }
    let later = Duration::from_secs(2);
    assert_eq!(rate.take("/a", IpAddr::from([255, 0, 0, 1]), later), Ok(()), "those that went are forgotten");
}

const PROXY: [u8; 4] = [10, 0, 0, 7];
const CLIENT: [u8; 4] = [192, 0, 2, 1];

fn sender(header: &str, lines: &[&str]) -> IpAddr {
    let forwarded = Forwarded::new(header, vec![PROXY.into(), [10, 0, 0, 8].into()]);
    forwarded.sender(lines.iter().map(|line| line.as_bytes()), PROXY.into())
}

#[test]
fn a_named_proxy_says_who_sends_in_the_one_header_that_is_read() {
    let (client, proxy) = (IpAddr::from(CLIENT), IpAddr::from(PROXY));
    for (lines, expected) in [
        (vec!["for=192.0.2.1"], client),
        (vec!["For=192.0.2.1;proto=https;by=10.0.0.7"], client),
        (vec!["proto=https; FOR = 192.0.2.1"], proxy),
        (vec!["for=\"192.0.2.1:4711\""], client),
        (vec!["for=\"\\192.0.2.1\""], client),
        (vec!["for=198.51.100.1, for=192.0.2.1"], client),
        (vec!["for=198.51.100.1", "for=192.0.2.1"], client),
        (vec!["for=192.0.2.1, for=10.0.0.8"], client),
        (vec!["for=192.0.2.1,, , "], client),
        (vec!["by=\"a, for=198.51.100.1\";for=192.0.2.1"], client),
        // Written by our proxy, and no address: what stands before it was written by anybody.
        (vec!["for=198.51.100.1, for=unknown"], proxy),
        (vec!["for=198.51.100.1, for=_hidden"], proxy),
        (vec!["for=198.51.100.1, proto=https"], proxy),
        // A quote that anybody opened may hold what our proxy wrote.
        (vec!["for=198.51.100.1;by=\"x, for=192.0.2.1"], proxy),
        (vec!["for=192.0.2.1;for=198.51.100.1"], proxy),
        (vec!["for=192.0.2.1:4711"], proxy),
        (vec!["for=[2001:db8::1]"], proxy),
        (vec!["for"], proxy),
        (vec!["for="], proxy),
        (vec!["=192.0.2.1"], proxy),
        (vec!["192.0.2.1"], proxy),
        (vec!["for=\"192.0.2.1\"x"], proxy),
        (vec![""], proxy),
        (vec![], proxy),
    ] {
        assert_eq!(sender("Forwarded", &lines), expected, "{lines:?}");
    }
    let six: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(sender("forwarded", &["for=\"[2001:db8::1]:4711\""]), six);
    for (lines, expected) in [
        (vec!["192.0.2.1"], client),
        (vec!["198.51.100.1, 192.0.2.1 , 10.0.0.8"], client),
        (vec!["198.51.100.1", "192.0.2.1:4711"], client),
        (vec!["[2001:db8::1]:4711"], six),
        (vec!["198.51.100.1, unknown"], proxy),
        (vec!["198.51.100.1,"], proxy),
        (vec!["for=192.0.2.1"], proxy),
    ] {
        assert_eq!(sender("x-forwarded-for", &lines), expected, "{lines:?}");
    }
}

proptest! {
    #[test]
    fn nobody_but_a_named_proxy_says_who_sends(
        before in "[ -~]{0,60}",
        peer in any::<[u8; 4]>(),
        is_standard in any::<bool>(),
    ) {
        let (header, own) =
            if is_standard { ("forwarded", "for=192.0.2.1") } else { ("x-forwarded-for", "192.0.2.1") };
        let forwarded = Forwarded::new(header, vec![PROXY.into()]);
        let lines = [before.as_bytes(), own.as_bytes()];
        prop_assume!(peer != PROXY);
        prop_assert_eq!(forwarded.sender(lines.into_iter(), peer.into()), IpAddr::from(peer));
        // Whatever a client writes, before what the proxy writes in a line of its own or in the same one.
        let joined = format!("{before}, {own}");
        for lines in [lines.to_vec(), vec![joined.as_bytes()]] {
            let found = forwarded.sender(lines.into_iter(), PROXY.into());
            prop_assert!([IpAddr::from(CLIENT), IpAddr::from(PROXY)].contains(&found), "{}", found);
        }
    }
}
