//! Requests of somebody who knows the addresses of all endpoints and has seen real webhooks, but not the secrets: none may be accepted that
//! says something else than a provider did, and the memory of the ingress stays flat. What must not live here: what is stored in the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    CONNECTIONS,
    front::{Front, PROVIDERS, Parts, Webhook},
    http::Client,
    process::Ingress,
};
use crate::memory::{Memory, Quarters};

/// One in so many is an honest copy, which must be answered with yes.
const HONEST_EVERY: u32 = 500;
/// One in so many is larger than any webhook may be.
const LARGE_EVERY: u32 = 1_000;
const LARGE_BYTES: usize = 1_048_577;
/// Older than any provider's tolerance.
const STALE_S: u64 = 3_600;

/// What must become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Yes,
    No,
    /// A byte that the provider does not sign was changed: it may be taken for what it was, and the accounts show that it was.
    NothingElse,
}

impl Expected {
    /// `status`: 0 where the connection was closed without an answer.
    fn allows(self, status: u16) -> bool {
        let is_refused = (400..500).contains(&status);
        match self {
            Self::Yes => status == 200,
            Self::No => status == 0 || is_refused,
            Self::NothingElse => status == 200 || is_refused,
        }
    }
}

/// What became of all.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By status; 0: the connection was closed without an answer.
    pub answers: BTreeMap<u16, u64>,
    pub wrong: Vec<String>,
    pub memory_mib: Quarters,
}

/// Sends `count` hostile requests.
pub async fn flood(
    front: &Arc<Front>,
    webhooks: &Arc<Vec<Arc<Webhook>>>,
    ingress: &Ingress,
    count: u32,
    seed: u64,
) -> anyhow::Result<Outcome> {
    let next = Arc::new(AtomicUsize::new(0));
    let address = ingress.address;
    let memory = Memory::watch(vec![ingress.id()?], Arc::clone(&next), count as usize);
    let sending: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (front, webhooks, next) = (Arc::clone(front), Arc::clone(webhooks), Arc::clone(&next));
            tokio::spawn(async move {
                let (mut client, mut outcome) = (Client::new(address), Outcome::default());
                loop {
                    let number = u32::try_from(next.fetch_add(1, Ordering::Relaxed))?;
                    if number >= count {
                        return anyhow::Ok(outcome);
                    }
                    let mut random = StdRng::seed_from_u64(seed ^ (u64::from(number) << 20) ^ 0x4e6f);
                    let (what, bytes, expected) = request(&front, &webhooks, number, &mut random)?;
                    let mut answer = client.ask(&bytes).await;
                    if answer.is_err() && expected != Expected::No {
                        // The request before was one after which a server closes.
                        answer = client.ask(&bytes).await;
                    }
                    let status = answer.as_ref().map_or(0, |answer| answer.status);
                    *outcome.answers.entry(status).or_default() += 1;
                    if !expected.allows(status) {
                        let answer = answer.map_err(|cause| format!("{cause:#}"));
                        outcome.wrong.push(format!("{number}, {what}: {answer:?}"));
                    }
                }
            })
        })
        .collect();
    let mut total = Outcome::default();
    for sent in sending {
        let sent = sent.await.context("a sender panicked")??;
        total.wrong.extend(sent.wrong);
        for (status, n) in sent.answers {
            *total.answers.entry(status).or_default() += n;
        }
    }
    total.memory_mib = memory.stop().await;
    Ok(total)
}

/// What it is, its bytes, and what must become of it.
fn request(
    front: &Front,
    webhooks: &[Arc<Webhook>],
    number: u32,
    random: &mut StdRng,
) -> anyhow::Result<(&'static str, Vec<u8>, Expected)> {
    let victim = &webhooks[random.random_range(0..webhooks.len())];
    let (provider, ..) = PROVIDERS[victim.endpoint];
    let mut parts = front.parts(victim, 0)?;
    if number.is_multiple_of(HONEST_EVERY) {
        return Ok(("an honest copy", parts.bytes(), Expected::Yes));
    }
    if number % LARGE_EVERY == 1 {
        parts.body.resize(LARGE_BYTES, b' ');
        return Ok(("too large", parts.bytes(), Expected::No));
    }
    // Adyen's signature is over some values, and stands in the body.
    let signs_all = provider != "adyen";
    let mut expected = Expected::No;
    let what = match random.random_range(0..11) {
        0 => {
            let at = random.random_range(0..parts.body.len());
            parts.body[at] ^= random.random_range(1..=255_u8);
            if !signs_all {
                expected = Expected::NothingElse;
            }
            "a byte changed"
        }
        1 => {
            parts.body = text(&parts)
                .replace(&format!(":{}", victim.amount), &format!(":{}", victim.amount + 1))
                .into();
            "another amount"
        }
        2 => {
            parts.body = text(&parts).replace("web-", "web-9").into();
            "another account"
        }
        3 => {
            change_signature(&mut parts, random);
            "another signature"
        }
        4 => {
            let is_content = |name: &str| name == "content-type";
            parts.headers.retain(|(name, _)| is_content(name));
            parts.body = text(&parts).replace("hmacSignature", "nothing").into();
            "no signature"
        }
        5 => {
            parts = front.forged(victim)?;
            "signed with another secret"
        }
        6 => {
            let other = (victim.endpoint + random.random_range(1..PROVIDERS.len())) % PROVIDERS.len();
            parts.path = format!("/{}", PROVIDERS[other].0);
            "at another provider's endpoint"
        }
        7 => {
            parts = front.parts(victim, STALE_S)?;
            // The others sign no time.
            if !["stripe", "standard-webhooks"].contains(&provider) {
                expected = Expected::Yes;
            }
            "signed an hour ago"
        }
        8 => {
            parts.body = (0..random.random_range(0..2_000)).map(|_| random.random()).collect();
            "random bytes"
        }
        9 => {
            match random.random_range(0..4) {
                0 => parts.method = "PUT",
                1 => parts.path.push('/'),
                2 => parts.path = "/admin".to_owned(),
                _ => parts.headers.push(("content-encoding".to_owned(), "gzip".to_owned())),
            }
            "not what the endpoint takes"
        }
        _ => {
            let mut noise: Vec<u8> = (0..random.random_range(1..500)).map(|_| random.random()).collect();
            noise.extend_from_slice(b"\r\n\r\n");
            return Ok(("no HTTP", noise, Expected::No));
        }
    };
    Ok((what, parts.bytes(), expected))
}

fn text(parts: &Parts) -> String {
    String::from_utf8_lossy(&parts.body).into_owned()
}

/// Another character early in the signature, which is never one of padding.
fn change_signature(parts: &mut Parts, random: &mut StdRng) {
    let at = random.random_range(0..16);
    let other = |signature: &str| {
        let mut bytes = signature.as_bytes().to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = if *byte == b'0' { b'1' } else { b'0' };
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mark = "\"hmacSignature\":\"";
    let body = text(parts);
    if let Some((before, after)) = body.split_once(mark) {
        parts.body = format!("{before}{mark}{}", other(after)).into_bytes();
    } else if let Some((_, value)) = parts.headers.last_mut() {
        // `t=…,v1=…`, `v1,…`, or the signature alone, in which `v1` can stand by chance.
        let prefix = match value.get(..2) {
            Some("t=") => value.find(",v1=").map_or(0, |at| at + ",v1=".len()),
            Some("v1") => "v1,".len(),
            Some(_) | None => 0,
        };
        *value = format!("{}{}", &value[..prefix], other(&value[prefix..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_a_hostile_request_must_not_get_is_found() {
        for (expected, right, wrong) in [
            (Expected::Yes, &[200][..], &[0, 204, 401, 500, 503][..]),
            (Expected::No, &[0, 400, 401, 404, 413], &[200, 202, 302, 500, 503]),
            (Expected::NothingElse, &[200, 400, 401], &[0, 500, 503]),
        ] {
            assert!(right.iter().all(|status| expected.allows(*status)), "{expected:?}");
            assert!(!wrong.iter().any(|status| expected.allows(*status)), "{expected:?}");
        }
    }
}
