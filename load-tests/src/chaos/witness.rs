//! Stands between workers and broker, and writes down what was acknowledged when: the only one who can say that no acknowledgement came
//! before its commit. Knows the frames of AMQP 0-9-1 (specification 2.3.5, and 1.8.3 for class basic); must not know payonce.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// A frame: type, channel, size; then the payload and one closing octet.
const FRAME_HEADER_BYTES: usize = 7;
const GREETING: &[u8] = b"AMQP";
const GREETING_BYTES: usize = 8;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

const DELIVER: [u8; 4] = [0, 60, 0, 60];
const ACK: [u8; 4] = [0, 60, 0, 80];
const REJECT: [u8; 4] = [0, 60, 0, 90];
const NACK: [u8; 4] = [0, 60, 0, 120];
const RECOVER: [u8; 4] = [0, 60, 0, 110];

/// A message that a worker has acknowledged, and when.
#[derive(Debug, Clone)]
pub struct Acked {
    pub body: Vec<u8>,
    pub at: SystemTime,
}

/// What was seen on all connections.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    acked: Vec<Acked>,
    /// Messages that a worker has put back into the queue, which none may.
    returned: u64,
}

impl Witness {
    /// Acknowledgements, and how often a worker has returned messages.
    pub fn take(&self) -> (Vec<Acked>, u64) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        (seen.acked, seen.returned)
    }
}

/// One connection, as the two directions of a proxy tell it.
#[derive(Debug, Default)]
pub struct Testimony {
    channels: HashMap<[u8; 2], Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    /// Delivered and not settled, by delivery tag.
    unsettled: BTreeMap<u64, Vec<u8>>,
    incoming: Option<Incoming>,
}

/// A delivery whose body has not come whole.
#[derive(Debug)]
struct Incoming {
    tag: u64,
    bytes_left: u64,
    body: Vec<u8>,
}

impl Testimony {
    /// A frame from the broker.
    pub fn delivered(&mut self, frame: &[u8]) {
        let Some((kind, channel, payload)) = parts(frame) else { return };
        let channel = self.channels.entry(channel).or_default();
        match kind {
            METHOD if payload.starts_with(&DELIVER) => {
                channel.incoming =
                    delivery_tag(payload).map(|tag| Incoming { tag, bytes_left: 0, body: Vec::new() });
            }
            HEADER => {
                // Class, weight, then the size of the body.
                let size = payload.get(4..12).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
                if let Some((incoming, size)) = channel.incoming.as_mut().zip(size) {
                    incoming.bytes_left = size;
                }
            }
            BODY => {
                if let Some(incoming) = &mut channel.incoming {
                    incoming.body.extend_from_slice(payload);
                    incoming.bytes_left = incoming.bytes_left.saturating_sub(payload.len() as u64);
                }
            }
            _ => return,
        }
        if kind != METHOD
            && let Some(incoming) = channel.incoming.take_if(|incoming| incoming.bytes_left == 0)
        {
            channel.unsettled.insert(incoming.tag, incoming.body);
        }
    }

    /// A frame that is passed on to the broker.
    pub fn settled(&mut self, frame: &[u8], witness: &Witness) {
        let Some((METHOD, channel, payload)) = parts(frame) else { return };
        let method = payload.get(..4).unwrap_or_default();
        let mut seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if method == NACK || method == RECOVER {
            seen.returned += 1;
        }
        if method != ACK && method != REJECT {
            return;
        }
        let tag = payload.get(4..12).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let (Some(tag), Some(bit)) = (tag, payload.get(12)) else { return };
        let unsettled = &mut self.channels.entry(channel).or_default().unsettled;
        if method == REJECT {
            // The bit says "requeue".
            seen.returned += u64::from(bit & 1);
            unsettled.remove(&tag);
            return;
        }
        let rest = unsettled.split_off(&(tag + 1));
        // The bit says "multiple".
        let settled = if bit & 1 == 1 {
            std::mem::replace(unsettled, rest)
        } else {
            let one = unsettled.remove_entry(&tag).into_iter().collect();
            unsettled.extend(rest);
            one
        };
        let at = SystemTime::now();
        seen.acked.extend(settled.into_values().map(|body| Acked { body, at }));
    }
}

/// Type, channel, payload.
fn parts(frame: &[u8]) -> Option<(u8, [u8; 2], &[u8])> {
    let payload = frame.get(FRAME_HEADER_BYTES..frame.len().checked_sub(1)?)?;
    Some((*frame.first()?, frame.get(1..3)?.try_into().ok()?, payload))
}

/// Behind the consumer's tag, a text with its length before it.
fn delivery_tag(payload: &[u8]) -> Option<u64> {
    let at = 5 + usize::from(*payload.get(4)?);
    Some(u64::from_be_bytes(payload.get(at..at + 8)?.try_into().ok()?))
}

/// Cuts a direction of a conversation into frames; what a client says first is a greeting and no frame.
#[derive(Debug, Default)]
pub struct Frames {
    incomplete: Vec<u8>,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.incomplete.extend_from_slice(bytes);
    }

    /// The next whole frame, or the greeting.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let length = if self.incomplete.starts_with(GREETING) {
            (self.incomplete.len() >= GREETING_BYTES).then_some(GREETING_BYTES)
        } else {
            frame_length(&self.incomplete)
        };
        Some(self.incomplete.drain(..length?).collect())
    }
}

/// The first frame's length, once all of it is there.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let size: [u8; 4] = bytes.get(3..FRAME_HEADER_BYTES)?.try_into().ok()?;
    let length = FRAME_HEADER_BYTES + u32::from_be_bytes(size) as usize + 1;
    (bytes.len() >= length).then_some(length)
}

/// Whether a frame is a `basic.ack`.
pub fn is_ack(frame: &[u8]) -> bool {
    parts(frame).is_some_and(|(kind, _, payload)| kind == METHOD && payload.starts_with(&ACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 3], &size[..], payload, &[0xce]].concat()
    }

    fn deliver(testimony: &mut Testimony, tag: u8, body: &[u8]) {
        let method = [&DELIVER[..], b"\x02c1", &[0, 0, 0, 0, 0, 0, 0, tag], &[0, 0, 0]].concat();
        testimony.delivered(&frame(METHOD, &method));
        let size = (body.len() as u64).to_be_bytes();
        testimony.delivered(&frame(HEADER, &[&[0, 60, 0, 0], &size[..], &[0, 0]].concat()));
        body.chunks(2).for_each(|part| testimony.delivered(&frame(BODY, part)));
    }

    fn settle(testimony: &mut Testimony, witness: &Witness, method: [u8; 4], tag: u8, bit: u8) {
        let payload = [&method[..], &[0, 0, 0, 0, 0, 0, 0, tag, bit]].concat();
        testimony.settled(&frame(METHOD, &payload), witness);
    }

    fn bodies(witness: &Witness) -> Vec<Vec<u8>> {
        witness.take().0.into_iter().map(|acked| acked.body).collect()
    }

    #[test]
    fn acknowledgements_name_the_messages_that_they_settle() {
        let (mut testimony, witness) = (Testimony::default(), Witness::default());
        for (tag, body) in [(1, "one"), (2, ""), (3, "three"), (4, "four")] {
            deliver(&mut testimony, tag, body.as_bytes());
        }
        settle(&mut testimony, &witness, ACK, 3, 0);
        assert_eq!(bodies(&witness), [b"three"]);
        settle(&mut testimony, &witness, ACK, 2, 1);
        assert_eq!(bodies(&witness), [b"one".as_slice(), b""]);
        settle(&mut testimony, &witness, ACK, 3, 1);
        assert_eq!(bodies(&witness), Vec::<Vec<u8>>::new());
        settle(&mut testimony, &witness, REJECT, 4, 0);
        settle(&mut testimony, &witness, ACK, 4, 1);
        assert_eq!(bodies(&witness), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn returned_messages_are_counted() {
        let (mut testimony, witness) = (Testimony::default(), Witness::default());
        deliver(&mut testimony, 1, b"one");
        settle(&mut testimony, &witness, REJECT, 1, 1);
        settle(&mut testimony, &witness, NACK, 1, 0);
        assert_eq!(witness.take().1, 2);
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let frames_sent = [b"AMQP\0\0\x09\x01".to_vec(), frame(METHOD, b"first"), frame(BODY, b"second")];
        let bytes = frames_sent.concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for part in bytes.chunks(size) {
                frames.push(part);
                found.extend(std::iter::from_fn(|| frames.next()));
            }
            assert_eq!(found, frames_sent, "cut every {size} bytes");
        }
    }
}
