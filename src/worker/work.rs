//! A part of a batch on its way through the stages: what was decoded, what was not, and where each stands in the batch.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{batch::Taken, dead_letter, lane::Origin};
use crate::{
    broker::Delivery,
    keys::Keyring,
    ledger::{Callback, Fingerprint, Key, Reason},
    references::{Reference, ReferenceFields},
    signature::Headers,
    store::{Remembered, Undecodable},
    wire::{self, WireError},
};

/// A part of a batch on its way through the stages.
pub(super) struct Work<'a> {
    /// Where in the batch each callback is, ascending.
    pub(super) positions: Vec<usize>,
    pub(super) callbacks: Vec<Callback>,
    pub(super) bodies: Vec<&'a [u8]>,
    /// The references of each callback; empty where none are kept.
    pub(super) references: Vec<Vec<Reference>>,
    /// Whether Redis believes that nobody has seen the callback.
    pub(super) is_new: Vec<bool>,
    pub(super) undecodable: Vec<Undecodable<'a>>,
    /// Where in the batch those are whose account somebody has locked.
    pub(super) locked: Vec<usize>,
    /// What done markers say to be copies, neither proved nor counted yet.
    pub(super) remembered: Vec<Remembered>,
    /// Whether all but `callbacks` is committed.
    pub(super) is_partly_committed: bool,
    /// Dead letters that a worker had before, and perhaps ended over: they become cases first, and are decided then.
    pub(super) is_suspect: bool,
    /// Whether a suspect's case is new.
    pub(super) is_stored: bool,
}

/// Said of a case that PostgreSQL took only without what was read of its message: `is_plain`.
const PLAIN_DETAIL: &str =
    "PostgreSQL refused what was read of this message, the log says why; kept is the message as it came";
static NO_SIGNATURE: Headers = Headers { id: None, timestamp: None, signature: None };

impl<'a> Work<'a> {
    pub(super) fn new(
        positions: &[usize],
        batch: &'a [Taken],
        decoded: &[Result<Callback, WireError>],
        is_plain: &[bool],
        origin: Origin,
        keyring: &Keyring,
    ) -> Self {
        let mut work = Self {
            positions: Vec::new(),
            locked: Vec::new(),
            is_partly_committed: false,
            is_suspect: origin == Origin::DeadLetter,
            is_stored: false,
            callbacks: Vec::new(),
            bodies: Vec::new(),
            references: Vec::new(),
            is_new: Vec::new(),
            undecodable: Vec::new(),
            remembered: Vec::new(),
        };
        let mut first_copies: HashMap<(Option<Key>, Fingerprint), usize> = HashMap::new();
        for at in positions.iter().copied() {
            let (Some(taken), Some(decoded)) = (batch.get(at), decoded.get(at)) else { continue };
            let body = taken.delivery.body.as_slice();
            work.is_suspect &= taken.delivery.is_redelivered;
            match decoded {
                Ok(callback) => {
                    work.positions.push(at);
                    work.callbacks.push(callback.clone());
                    work.bodies.push(body);
                    work.is_new.push(false);
                }
                Err(WireError { reason, detail, key }) => {
                    let Delivery { envelope, signature, .. } = &taken.delivery;
                    let fingerprint = if *reason == Reason::BadSignature {
                        signed_identity(signature, body)
                    } else {
                        Fingerprint::of_bytes(&[&envelope.identity(), body].concat())
                    };
                    let is_plain = is_plain.get(at).copied().unwrap_or(false);
                    let signature = if is_plain { &NO_SIGNATURE } else { signature };
                    let (key, detail) =
                        if is_plain { (&None, &PLAIN_DETAIL.to_owned()) } else { (key, detail) };
                    let at = *first_copies.entry((key.clone(), fingerprint)).or_insert_with(|| {
                        let (key, detail) = (key.clone(), detail.clone());
                        work.undecodable.push(Undecodable {
                            is_vouched_for: key
                                .as_ref()
                                .is_some_and(|key| keyring.vouches_for(key.source.as_str())),
                            key,
                            reason: dead_letter::reason(*reason, origin, envelope.death()),
                            detail,
                            body,
                            routing_key: if is_plain { String::new() } else { envelope.routing_key.clone() },
                            properties: Value::Object(if is_plain {
                                Map::new()
                            } else {
                                envelope.properties()
                            }),
                            headers: Value::Object(if is_plain {
                                Map::new()
                            } else {
                                envelope.kept_headers()
                            }),
                            signature,
                            claims: (*reason == Reason::BadSignature && !is_plain)
                                .then(|| wire::decode(body).ok())
                                .flatten(),
                            fingerprint,
                            attempts: 0,
                        });
                        work.undecodable.len() - 1
                    });
                    if let Some(message) = work.undecodable.get_mut(at) {
                        message.attempts += 1;
                    }
                }
            }
        }
        work
    }

    /// Reads the references of each callback.
    pub(super) fn with_references(mut self, fields: &ReferenceFields, mask_cards: bool) -> Self {
        if !fields.is_empty() {
            self.references = self.bodies.iter().map(|body| fields.of_message(body, mask_cards)).collect();
        }
        self
    }

    /// Keeps only the callbacks that `keep` says, with their bodies.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(usize, &Callback) -> bool) {
        let kept: Vec<bool> =
            self.callbacks.iter().enumerate().map(|(at, callback)| keep(at, callback)).collect();
        retain_flagged(&mut self.positions, &kept);
        retain_flagged(&mut self.callbacks, &kept);
        retain_flagged(&mut self.bodies, &kept);
        retain_flagged(&mut self.references, &kept);
        retain_flagged(&mut self.is_new, &kept);
    }
}

fn retain_flagged<T>(list: &mut Vec<T>, kept: &[bool]) {
    let mut flags = kept.iter();
    list.retain(|_| flags.next().copied().unwrap_or(true));
}

/// What makes two callbacks that nobody vouches for the same one. Who and what they are is in the body. Of those with one body and different
/// signatures one may be the provider's, and show it when its key is known: so the signature belongs to the identity, and no other header,
/// or a forger could make any number of cases of one message. Headers hold no control characters, which makes the marks before each
/// unmistakable.
fn signed_identity(signature: &Headers, body: &[u8]) -> Fingerprint {
    if signature.is_empty() {
        return Fingerprint::of_bytes(body);
    }
    let mut bytes = Vec::with_capacity(body.len());
    for header in [&signature.id, &signature.timestamp, &signature.signature] {
        bytes.push(u8::from(header.is_some()));
        bytes.extend_from_slice(header.as_deref().unwrap_or_default().as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(body);
    Fingerprint::of_bytes(&bytes)
}
