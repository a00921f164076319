//! A request that is verified and cannot be mapped, as a message on the queue: a CloudEvents event of its own type, signed with the source's
//! key like any other, so that the worker keeps it as a case `unmapped`. A replay takes it apart here and maps it again. What must not live
//! here: why it could not be mapped.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    mapping::{Outcome, Terms},
    providers::Provider,
    request::Request,
    verify::{from_base64, to_base64, to_hex},
};
use crate::wire;

/// The CloudEvents `type` of such a message.
pub const UNMAPPED_TYPE: &str = wire::UNMAPPED_TYPE;
/// Bytes of a request that are kept, in base64: brokers are told to refuse messages of more than 1 MiB, and cases keep no more.
const KEPT_BASE64_BYTES_MAX: usize = 960_000;

#[derive(Serialize, Deserialize)]
struct Event {
    specversion: String,
    #[serde(rename = "type")]
    kind: String,
    id: String,
    source: String,
    datacontenttype: String,
    data: Data,
}

#[derive(Serialize, Deserialize)]
struct Data {
    /// Why it could not be mapped, and which kind of event it is.
    why: String,
    event: String,
    endpoint: String,
    provider: String,
    /// Those that the mapping reads; signatures and times of sending stay out, so that all copies are the same message.
    headers: Vec<(String, String)>,
    /// Of a request with several events the part with this one alone: with all of them in each message, its size would be the square of theirs.
    body_base64: String,
    /// Whether that is all of it.
    is_whole: bool,
}

/// A message for what could not be mapped.
pub struct Unmapped {
    /// The event's id where it has one, else one made of the request's hash.
    pub id: String,
    /// Its JSON.
    pub body: Vec<u8>,
}

/// What is needed to write one.
#[derive(Clone, Copy)]
pub struct About<'a> {
    /// The endpoint's path.
    pub endpoint: &'a str,
    /// Its provider's name.
    pub provider: &'a str,
    /// Its source.
    pub source: &'a str,
}

/// Writes the message of one event, the one at `at` (from 0) in its request: `body` is that of a request with this event alone, `headers` those
/// that the mapping reads. The same request gives the same bytes.
///
/// # Errors
/// Words where it cannot be written.
pub fn write(
    about: About<'_>,
    (at, id, kind, why): (usize, Option<String>, String, String),
    body: &[u8],
    headers: Vec<(String, String)>,
) -> Result<Unmapped, String> {
    let id = id.unwrap_or_else(|| format!("sha256:{}:{at}", to_hex(&Sha256::digest(body))));
    let mut body_base64 = to_base64(body);
    let is_whole = body_base64.len() <= KEPT_BASE64_BYTES_MAX;
    body_base64.truncate(KEPT_BASE64_BYTES_MAX);
    let event = Event {
        specversion: "1.0".to_owned(),
        kind: UNMAPPED_TYPE.to_owned(),
        id: id.clone(),
        source: about.source.to_owned(),
        datacontenttype: "application/json".to_owned(),
        data: Data {
            why,
            event: kind,
            endpoint: about.endpoint.to_owned(),
            provider: about.provider.to_owned(),
            headers,
            body_base64,
            is_whole,
        },
    };
    let body = serde_json::to_vec(&event).map_err(|error| error.to_string())?;
    Ok(Unmapped { id, body })
}

/// A request that waits to be mapped again.
pub struct Kept {
    /// The path of the endpoint that took it.
    pub endpoint: String,
    /// The source that it was signed for.
    pub source: String,
    /// The message's id.
    pub id: String,
    /// The request, with one event.
    pub request: Request,
}

/// Takes such a message apart.
///
/// # Errors
/// Words for what it is not.
pub fn read(body: &[u8]) -> Result<Kept, String> {
    let event: Event =
        serde_json::from_slice(body).map_err(|error| format!("not an unmapped request: {error}"))?;
    if event.kind != UNMAPPED_TYPE {
        return Err(format!("type: expected {UNMAPPED_TYPE}"));
    }
    if !event.data.is_whole {
        return Err("the request was too large to be kept whole; have the provider send it again".to_owned());
    }
    let body = from_base64(&event.data.body_base64).ok_or("data.body_base64: not base64")?;
    let request = Request::new(event.data.headers, body);
    Ok(Kept { endpoint: event.data.endpoint, source: event.source, id: event.id, request })
}

/// Maps a kept request again, with the configuration as it is now.
///
/// # Errors
/// Why it still cannot be mapped, or that it turned out to be no money.
pub fn map_again(kept: &Kept, provider: &dyn Provider, terms: &Terms) -> Result<Vec<u8>, String> {
    let mut items = provider.map(&kept.request, terms)?;
    let (Some(item), true) = (items.pop(), items.is_empty()) else {
        return Err("expected a request with one event; have the provider send it again".to_owned());
    };
    match item.outcome {
        Outcome::Accepted(accepted) => Ok(accepted.body),
        Outcome::Ignored(why) => Err(format!("no money, as it is mapped now: {why}; discard the case")),
        Outcome::Unmapped(why) => Err(why),
    }
}
