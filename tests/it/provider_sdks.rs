//! The providers' own SDKs, installed by `make sdks`, against the ingress: what they sign is accepted, and what `payonce ingress send` makes
//! is right to them.

use std::{path::Path, process::Stdio};

use payonce::ingress::{
    endpoint::{Endpoint, Endpoints},
    mapping::Outcome,
    request::Request,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::{RunningIngress, World};

const PROVIDERS: [&str; 5] = ["stripe", "adyen", "razorpay", "square", "standard-webhooks"];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_providers_own_sdks_sign_is_accepted_and_our_samples_are_right_to_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = root.join(".local/sdks");
    assert!(installed.join("installed").exists(), "the SDKs are not installed: run `make sdks`");
    let world = World::new().await;
    let ingress = RunningIngress::new(&world).await;
    let asked = PROVIDERS.map(|provider| {
        let made = ingress.sample(provider, "", "1001", 1_999);
        let config = ingress.configs.iter().find(|config| config.provider == provider).unwrap();
        let secrets = std::fs::read_to_string(&config.secrets_file).unwrap();
        let headers: serde_json::Map<String, Value> =
            made.headers.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        json!({
            "provider": provider, "secret": secrets.lines().next(), "url": "https://hooks.example.com/square",
            "headers": headers, "body": String::from_utf8(made.body).unwrap(),
        })
    });
    let mut child = Command::new("node")
        .arg(root.join("tests/sdks/sdks.mjs"))
        .current_dir(&installed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node runs");
    let mut input = child.stdin.take().unwrap();
    input.write_all(json!(asked).to_string().as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
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
