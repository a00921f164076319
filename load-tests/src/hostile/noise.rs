//! Hostile messages, each made from the seed and its number alone, so that the audit can make it again.

use std::sync::Arc;

use payonce::signature::Headers;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    body,
    plan::{Distinct, Plan, Sending},
    signing::Signing,
};

/// Largest body that is read, in bytes (contract §2).
const BODY_BYTES_MAX: usize = 256 * 1024;
/// One in so many is as large as that, or larger by one byte.
const LARGE_EVERY: u32 = 200;

/// What a message must end as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Malformed,
    BadSignature,
    /// Mutated at random: one of malformed, unsupported_type and bad_signature, and never applied.
    NotApplied,
}

impl Expected {
    pub fn allows(self, reason: &str) -> bool {
        match self {
            Self::Malformed => reason == "malformed",
            Self::BadSignature => reason == "bad_signature",
            Self::NotApplied => ["malformed", "unsupported_type", "bad_signature"].contains(&reason),
        }
    }
}

pub struct Message {
    pub routing_key: String,
    pub body: Vec<u8>,
    pub headers: Headers,
    pub expected: Expected,
}

/// Makes hostile messages out of a plan's sound ones.
pub struct Noise {
    seed: u64,
    plan: Arc<Plan>,
    signing: Arc<Signing>,
}

impl Noise {
    pub fn new(seed: u64, plan: Arc<Plan>, signing: Arc<Signing>) -> Self {
        Self { seed, plan, signing }
    }

    /// The hostile message of this number.
    pub fn message(&self, number: u32) -> anyhow::Result<Message> {
        let mut random = StdRng::seed_from_u64(self.seed ^ (u64::from(number) << 20) ^ 0x486f_7374);
        let victim = random.random_range(0..self.plan.distinct.len());
        let one = &self.plan.distinct[victim];
        let (source, id) = body::key(&self.plan, one);
        let (routing_key, sound) = body::message(&self.plan, Sending { distinct: one.number, way: None }, 0);
        let signed = self.signing.sign(&source, &id, &sound)?;
        if number.is_multiple_of(LARGE_EVERY) {
            return Ok(large(one, routing_key, sound, signed, random.random_bool(0.5)));
        }
        let (body, headers, expected) = match number % 8 {
            0 => (mutated(sound, &mut random), signed, Expected::NotApplied),
            1 => {
                let length = random.random_range(1..2_000);
                let bytes = (0..length).map(|_| random.random_range(0..=255)).collect();
                (bytes, signed, Expected::Malformed)
            }
            // More money under the key of a real callback, which may not have come yet.
            2 => {
                let richer = richer(&sound, number);
                let headers = self.signing.sign_as_stranger(&id, &richer);
                (richer, headers, Expected::BadSignature)
            }
            // A real signature, of the body that the provider made.
            3 => (richer(&sound, number), signed, Expected::BadSignature),
            // A real message, replayed as another event: with the id that was signed, and with the new one.
            4 | 5 => {
                let other = format!("{id}_{number}");
                let text = String::from_utf8_lossy(&sound).replace(&id, &other);
                let headers = if number % 8 == 4 { signed } else { Headers { id: Some(other), ..signed } };
                (text.into_bytes(), headers, Expected::BadSignature)
            }
            // One provider's real key, under an event of another one.
            6 => {
                let others = body::SOURCES.into_iter().filter(|other| *other != source);
                let mut signers: Vec<&str> = others.collect();
                let signer = signers.swap_remove(random.random_range(0..signers.len()));
                let richer = richer(&sound, number);
                (richer.clone(), self.signing.sign(signer, &id, &richer)?, Expected::BadSignature)
            }
            // The real body to the byte, unsigned or signed by nobody known: it must not stand for the real one.
            _ => {
                let headers = self.signing.sign_as_stranger(&format!("{id}_{number}"), &sound);
                (sound, headers, Expected::BadSignature)
            }
        };
        Ok(Message { routing_key, body, headers, expected })
    }
}

/// A few bytes changed, added or taken out; white space does not count, so something else is changed too.
fn mutated(mut body: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    let before = body.clone();
    while body == before {
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..body.len());
            match random.random_range(0..3) {
                0 => body[at] = random.random_range(0..=255),
                1 => body.insert(at, random.random_range(32..127)),
                _ => drop(body.remove(at)),
            }
        }
    }
    body
}

fn richer(sound: &[u8], number: u32) -> Vec<u8> {
    let text = String::from_utf8_lossy(sound);
    text.replacen("\"amount\":", &format!("\"amount\":{}", 1 + number % 9), 1)
        .replacen("{", &format!("{{\"n\":{number},"), 1)
        .into_bytes()
}

/// As large as can be, or a byte larger.
fn large(
    one: &Distinct,
    routing_key: String,
    mut body: Vec<u8>,
    headers: Headers,
    too_large: bool,
) -> Message {
    // The padding says which it is, so that no two are one message.
    body.extend_from_slice(format!("{:>width$}", "", width = one.number as usize % 97).as_bytes());
    body.resize(BODY_BYTES_MAX + usize::from(too_large), b' ');
    let expected = if too_large { Expected::Malformed } else { Expected::BadSignature };
    Message { routing_key, body, headers, expected }
}
