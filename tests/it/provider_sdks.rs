//! The providers' own SDKs, installed by `make sdks`, against the ingress: what they sign is accepted, and what `payonce ingress send` makes
//! is right to them.

use std::{fs, os::unix::fs::PermissionsExt};

use payonce::{
    config::EndpointConfig,
    ingress::{
        endpoint::{Endpoint, Endpoints},
        mapping::Outcome,
        request::Request,
    },
};
use serde_json::{Value, json};

use crate::support::{RunningIngress, World, ask_sdks};

const PROVIDERS: [&str; 5] = ["stripe", "adyen", "razorpay", "square", "standard-webhooks"];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_providers_own_sdks_sign_is_accepted_and_our_samples_are_right_to_them() {
    samples_and_sdks_agree("sdks.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_providers_sdks_for_python_sign_is_accepted_and_our_samples_are_right_to_them() {
    samples_and_sdks_agree("sdks.py").await;
}

async fn samples_and_sdks_agree(script: &str) {
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let asked = PROVIDERS.map(|provider| {
        let made = ingress.sample(provider, "", "1001", 1_999);
        let config = ingress.configs.iter().find(|config| config.provider == provider).unwrap();
        let secrets = fs::read_to_string(&config.secrets_file).unwrap();
        let headers: serde_json::Map<String, Value> =
            made.headers.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        json!({
            "provider": provider, "secret": secrets.lines().next(), "url": "https://hooks.example.com/square",
            "headers": headers, "body": String::from_utf8(made.body).unwrap(),
        })
    });
    let answers = ask_sdks(script, &json!(asked)).await;
    let endpoints = Endpoints::open(&ingress.configs).unwrap_or_default();
    let mut signed = 0;
    for answer in answers.as_array().unwrap() {
        let provider = answer["provider"].as_str().unwrap();
        assert_eq!(answer["verified"], json!(true), "{provider}'s SDK refuses our sample");
        let Some(headers) = answer["signed"]["headers"].as_object() else { continue };
        signed += 1;
        let endpoint: &Endpoint = endpoints.get(&format!("/{provider}")).unwrap();
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
        let body = answer["signed"]["body"].as_str().unwrap().as_bytes().to_vec();
        let request = Request::new(headers.collect::<Vec<_>>(), body);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let verified = endpoint.provider.verify(&request, i64::try_from(now.as_secs()).unwrap());
        assert_eq!(verified, Ok(()), "what {provider}'s SDK signs");
        let items = endpoint.provider.map(&request, &endpoint.terms).unwrap();
        assert!(matches!(items[0].outcome, Outcome::Accepted(_)), "{provider}: {items:?}");
    }
    assert_eq!((answers.as_array().unwrap().len(), signed), (5, 3));
    ingress.stop().await;
    world.close().await;
}

#[tokio::test]
async fn notifications_that_the_sdks_of_alipay_and_wechat_pay_verify_are_money_here() {
    notifications_are_what_they_are_to_the_sdks("rsa.mjs", &["alipay", "wechatpay"]).await;
}

#[tokio::test]
async fn notifications_that_the_sdks_for_python_verify_are_verified_here() {
    let providers = ["alipay", "wechatpay", "paypal", "braintree", "gocardless"];
    notifications_are_what_they_are_to_the_sdks("others.py", &providers).await;
}

async fn notifications_are_what_they_are_to_the_sdks(script: &str, providers: &[&str]) {
    let made = ask_sdks(script, &Value::Null).await;
    let names: Vec<&str> =
        made.as_array().unwrap().iter().filter_map(|one| one["provider"].as_str()).collect();
    assert_eq!(names, providers);
    for one in made.as_array().unwrap() {
        let provider = one["provider"].as_str().unwrap();
        assert_eq!(one["verified"], json!(true), "{provider}'s SDK refuses it");
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &Value| {
            let path = folder.path().join(name);
            fs::write(&path, text.as_str().unwrap()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        for (name, text) in one["files"].as_object().unwrap() {
            put(name, text);
        }
        let endpoint = Endpoint::open(&EndpointConfig {
            path: "/here".to_owned(),
            provider: provider.to_owned(),
            source: "/providers/here".to_owned(),
            purpose: Some("deposit".to_owned()),
            account: None,
            account_until: None,
            references: Default::default(),
            secrets_file: put("secrets", &one["secrets"]),
            capture: None,
            live: None,
        })
        .unwrap();
        let headers = one["headers"].as_object().unwrap().iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
        let headers: Vec<_> = headers.collect();
        let body = one["body"].as_str().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now_s = i64::try_from(now.as_secs()).unwrap();
        let request = Request::new(headers.clone(), body.as_bytes().to_vec());
        assert_eq!(endpoint.provider.verify(&request, now_s), Ok(()), "{provider}");
        let items = endpoint.provider.map(&request, &endpoint.terms).unwrap();
        match &items[0].outcome {
            Outcome::Accepted(accepted) if one["is_money"] == json!(true) => {
                let event: Value = serde_json::from_slice(&accepted.body).unwrap();
                let found = (&event["subject"], &event["data"]["amount"]);
                assert_eq!(found, (&json!("acct-1001"), &json!(1_999)), "{event}");
            }
            // Its provider does not say how much.
            Outcome::Unmapped(_) if one["is_money"] == json!(false) => {}
            Outcome::Accepted(_) | Outcome::Ignored(_) | Outcome::Unmapped(_) => {
                panic!("{provider}: {items:?}")
            }
        }
        // One byte more, and it is not believed.
        let changed = Request::new(headers, format!("x{body}").into_bytes());
        assert!(endpoint.provider.verify(&changed, now_s).is_err(), "{provider}");
    }
}
