//! The JSON on the queue ↔ [`Callback`]. The only place that knows the wire format (contract §2: a CloudEvents 1.0 event in
//! structured mode); what must not live here is any rule about money.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de::Visitor};
use serde_json::value::RawValue;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::mask::mask_text;
use payonce_ledger::{
    AccountId, Amount, Callback, Currency, EXPIRY_ID, EventId, Fingerprint, Key, Kind, OPERATOR_SOURCE,
    OperationId, PaymentId, Reason, Source, TextError,
};

/// Largest message body in bytes (contract §2).
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Largest message with a request that the ingress could not map, in bytes: it holds a request, not a callback.
pub const UNMAPPED_BYTES_MAX: usize = 1024 * 1024;
/// The `type` of such a message.
pub const UNMAPPED_TYPE: &str = "payonce.ingress.unmapped";
/// How it begins, as `ingress` writes it: that much is looked at before its size is.
const UNMAPPED_BEGINNING: &[u8] = br#"{"specversion":"1.0","type":"payonce.ingress.unmapped","#;

/// A longer detail is cut.
pub const DETAIL_BYTES_MAX: usize = 300;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// A message that is not a callback payonce can decide on. It goes to quarantine with its body; its neighbours go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    /// [`Reason::Malformed`] or [`Reason::UnsupportedType`]; [`Reason::BadSignature`] where a sound callback turned out to be nobody's.
    pub reason: Reason,
    /// Which member, what was found, what is expected.
    pub detail: String,
    /// The idempotency key, where that much could be read. It only helps to find the case: such a message owns no key.
    pub key: Option<Key>,
}

/// What properties and headers of a message say of its body. It changes the words of a refusal, and by which key its case is found;
/// whether a body is a callback, it alone decides.
#[derive(Debug, Clone, Default)]
pub struct Framing {
    /// `content_type`.
    pub content_type: Option<String>,
    /// `content_encoding`.
    pub content_encoding: Option<String>,
    /// The CloudEvents attribute `source`, where it travels as a header.
    pub source: Option<String>,
    /// The CloudEvents attribute `id`, where it travels as a header.
    pub id: Option<String>,
}

impl WireError {
    /// The same in the light of what came with the body.
    #[must_use]
    pub fn framed(self, framing: &Framing) -> Self {
        if self.reason != Reason::Malformed {
            return self;
        }
        let is = |found: &Option<String>, expected: &[&str]| {
            found.as_deref().is_none_or(|found| expected.iter().any(|name| found.eq_ignore_ascii_case(name)))
        };
        let is_json = framing.content_type.as_deref().is_none_or(|found| {
            found.split(';').next().unwrap_or_default().trim_end().to_ascii_lowercase().ends_with("json")
        });
        let hint = if framing.source.is_some() || framing.id.is_some() {
            "CloudEvents binary mode (attributes in headers) is not read; expected is structured mode: the whole event as one JSON \
             object in the body, content type application/cloudevents+json"
                .to_owned()
        } else if !is(&framing.content_encoding, &["", "identity", "utf-8", "utf8"]) {
            let found = framing.content_encoding.as_deref().unwrap_or_default();
            format!("content-encoding {found:?}: compressed bodies are not read, publish it uncompressed")
        } else if !is_json {
            let found = framing.content_type.as_deref().unwrap_or_default();
            format!("content type {found:?}, expected application/cloudevents+json")
        } else {
            return self;
        };
        let key_of_headers = || {
            Some(Key {
                source: Source::new(framing.source.as_deref()?).ok()?,
                event_id: EventId::new(framing.id.as_deref()?).ok()?,
            })
        };
        refused(self.reason, self.key.or_else(key_of_headers), format!("{hint}; {}", self.detail))
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}

impl std::error::Error for WireError {}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    subject: Option<Cow<'a, str>>,
    /// Any JSON value: a time that cannot be read is dropped, whatever it is.
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    payment_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation_id: Option<Cow<'a, str>>,
    #[serde(deserialize_with = "whole_units")]
    amount: i64,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    #[serde(rename = "final")]
    is_final: Option<bool>,
    #[serde(rename = "cumulative")]
    is_cumulative: Option<bool>,
    #[serde(borrow)]
    expires_at: Option<Cow<'a, str>>,
    #[serde(borrow)]
    to: Option<Cow<'a, str>>,
    /// Read for one type only: of any other it may be anything.
    #[serde(borrow)]
    reverses: Option<&'a RawValue>,
}

/// An amount. serde_json takes none but an integer token for one: a fraction, an exponent or a string is an error, never rounded.
fn whole_units<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    struct Whole;
    impl Visitor<'_> for Whole {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number of minor units, such as 1250 for 12.50 EUR")
        }

        fn visit_i64<E: serde::de::Error>(self, units: i64) -> Result<i64, E> {
            Ok(units)
        }

        fn visit_u64<E: serde::de::Error>(self, units: u64) -> Result<i64, E> {
            i64::try_from(units).map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(units), &self))
        }
    }
    deserializer.deserialize_i64(Whole)
}

/// Bytes from the queue → a checked callback. A UTF-8 byte order mark in front is passed over (RFC 8259 §8.1 lets a reader do so): the
/// event behind it is whole, and a payment is worth more than the mark is wrong.
///
/// # Errors
/// [`WireError`] with [`Reason::Malformed`] where the body is over [`BODY_BYTES_MAX`], is not UTF-8 JSON, or a member is
/// missing or outside its range; with [`Reason::UnsupportedType`] where all but the type is a sound event.
pub fn decode(body: &[u8]) -> Result<Callback, WireError> {
    let is_unmapped = body.starts_with(UNMAPPED_BEGINNING) && body.len() <= UNMAPPED_BYTES_MAX;
    if body.len() > BODY_BYTES_MAX && !is_unmapped {
        return Err(malformed(
            None,
            format!("the body has {} bytes, at most {BODY_BYTES_MAX} are allowed", body.len()),
        ));
    }
    let text = std::str::from_utf8(body).map_err(|error| malformed(None, not_utf8(body, error)))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let event: Event<'_> = object(text)
        .map_err(|detail| malformed(readable_key(text), format!("not a CloudEvents event: {detail}")))?;
    if event.specversion != "1.0" {
        return Err(malformed(
            readable_key(text),
            format!("specversion: found {:?}, expected \"1.0\"", event.specversion),
        ));
    }
    let key = Key {
        source: Source::new(&event.source).map_err(|error| text_error(None, "source", error))?,
        event_id: EventId::new(&event.id).map_err(|error| text_error(None, "id", error))?,
    };
    decode_event(&key, &event).map_err(|(reason, detail)| refused(reason, Some(key.clone()), detail))
}

fn decode_event(key: &Key, event: &Event<'_>) -> Result<Callback, (Reason, String)> {
    let invalid = |detail: String| (Reason::Malformed, detail);
    if event.kind == UNMAPPED_TYPE {
        return Err((Reason::Unmapped, unmapped_detail(event.data)));
    }
    let kind = Kind::parse(&event.kind).ok_or_else(|| {
        (
            Reason::UnsupportedType,
            format!("type: {:?} is not supported by this version of payonce", event.kind),
        )
    })?;
    check_source(key, kind)?;
    let account = |member: &'static str, text: Option<&str>| {
        text.map(AccountId::new).transpose().map_err(|error| invalid(format!("{member}: {error}")))
    };
    let account_id = account("subject", event.subject.as_deref())?;
    if account_id.is_none() && !kind.finds_account() {
        return Err(invalid("subject: missing, expected the account id".to_owned()));
    }
    let occurred_at_us = event.time.and_then(|time| readable_time(time.get()));
    if kind == Kind::PaymentAuthorizationAdjusted && occurred_at_us.is_none() {
        let detail =
            "time: missing or not an RFC 3339 timestamp, which says which of several adjustments holds";
        return Err(invalid(detail.to_owned()));
    }

    let raw = event.data.ok_or_else(|| invalid("data: missing, expected an object".to_owned()))?;
    let data: Data<'_> = object(raw.get()).map_err(|detail| invalid(format!("data: {detail}")))?;
    let payment_id = data
        .payment_id
        .as_deref()
        .map(PaymentId::new)
        .transpose()
        .map_err(|error| invalid(format!("data.payment_id: {error}")))?;
    if payment_id.is_none() && kind.needs_payment_id() {
        return Err(invalid(format!("data.payment_id: missing, {} needs it", kind.as_str())));
    }
    let operation_id =
        data.operation_id.as_deref().map(OperationId::new).transpose().map_err(|error| {
            invalid(format!("data.operation_id: {error}; leave it out where there is none"))
        })?;
    if let Some(reversed) = kind.reverses().filter(|_| operation_id.is_none()) {
        let (kind, reversed) = (kind.as_str(), reversed.as_str());
        return Err(invalid(format!("data.operation_id: missing, {kind} needs that of its {reversed}")));
    }
    let is_final = data.is_final.unwrap_or(kind.is_final_by_default());
    let least = i64::from(!kind.takes_zero(is_final));
    let amount =
        Amount::new(data.amount).filter(|amount| amount.minor_units() >= least).ok_or_else(|| {
            let found = data.amount;
            invalid(format!("data.amount: found {found}, expected {least} to {} minor units", Amount::MAX))
        })?;
    let currency = Currency::parse(&data.currency).ok_or_else(|| invalid(not_a_currency(&data.currency)))?;
    let expires_at_us = data
        .expires_at
        .map(|text| {
            parse_time(&text).ok_or_else(|| {
                invalid(format!("data.expires_at: found {text:?}, expected an RFC 3339 timestamp"))
            })
        })
        .transpose()?;
    let to = account("data.to", data.to.as_deref())?;
    if kind == Kind::TransferSucceeded {
        match &to {
            None => {
                return Err(invalid("data.to: missing, expected the account that receives".to_owned()));
            }
            Some(to) if Some(to) == account_id.as_ref() => {
                return Err(invalid("data.to: is the account that sends".to_owned()));
            }
            Some(_) => {}
        }
    }
    // Of any other type it is a member that means nothing.
    let reverses = data.reverses.filter(|_| kind == Kind::DepositReinstated);
    let reverses =
        reverses.map(|found| reversed(found).ok_or_else(|| invalid(not_reversed(found)))).transpose()?;
    if reverses.is_some() && operation_id.is_none() {
        return Err(invalid("data.operation_id: missing, expected that of what data.reverses is".to_owned()));
    }

    Ok(Callback {
        key: key.clone(),
        kind,
        account_id,
        assigned_to: None,
        payment_id,
        operation_id,
        amount,
        currency,
        is_final,
        is_cumulative: data.is_cumulative.unwrap_or(false),
        expires_at_us,
        to,
        // Of what operators post, which does not come this way.
        direction: None,
        reverses,
        occurred_at_us,
        fingerprint: Fingerprint([0; 32]),
    }
    .sealed())
}

/// What a reinstatement can take back.
fn reversed(found: &RawValue) -> Option<Kind> {
    let name: Cow<'_, str> = serde_json::from_str(found.get()).ok()?;
    Kind::parse(&name).filter(|kind| matches!(kind, Kind::DepositRefunded | Kind::DepositDisputed))
}

fn not_reversed(found: &RawValue) -> String {
    format!("data.reverses: found {found}, expected \"deposit.refunded\" or \"deposit.disputed\"")
}

/// What operators post does not come over the queue: there anybody who may publish could claim to be one.
fn check_source(key: &Key, kind: Kind) -> Result<(), (Reason, String)> {
    if key.event_id.as_str().starts_with(EXPIRY_ID) {
        let detail = format!("id: ids that begin with {EXPIRY_ID:?} are payonce's own");
        return Err((Reason::Malformed, detail));
    }
    let is_operators = key.source.as_str() == OPERATOR_SOURCE;
    if is_operators || kind == Kind::AdjustmentPosted {
        let detail = format!("source {OPERATOR_SOURCE} and {} are `payonce adjust`'s alone", kind.as_str());
        let reason = if is_operators { Reason::BadSignature } else { Reason::Malformed };
        return Err((reason, detail));
    }
    Ok(())
}

/// Microseconds since 1970 of an RFC 3339 timestamp whose UTC year is 0000 to 9999, beyond which none can be written down again. No money
/// depends on any other: such a one is `None`, and not a reason to refuse what happened.
fn readable_time(token: &str) -> Option<i64> {
    let text: Cow<'_, str> = serde_json::from_str(token).ok()?;
    parse_time(&text)
}

fn parse_time(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)?;
    if !(0..=9_999).contains(&time.year()) {
        return None;
    }
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).ok()
}

fn not_a_currency(found: &str) -> String {
    let upper = found.to_ascii_uppercase();
    if upper != found && Currency::parse(&upper).is_some() {
        return format!("data.currency: found {found:?}, upper case is expected: {upper:?}");
    }
    format!("data.currency: found {found:?}, expected an ISO 4217 alphabetic code such as \"EUR\"")
}

/// What a body that is no UTF-8 looks like, so that its sender finds the setting to change.
fn not_utf8(body: &[u8], error: std::str::Utf8Error) -> String {
    let looks_like = match body {
        [0x1f, 0x8b, ..] => "; it looks like gzip: compressed bodies are not read, publish it uncompressed",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "; it looks like UTF-16: UTF-8 is expected",
        _ => "",
    };
    format!("the body is not UTF-8 after byte {}{looks_like}", error.valid_up_to())
}

/// What the ingress says of it.
fn unmapped_detail(data: Option<&RawValue>) -> String {
    #[derive(Deserialize)]
    struct Said {
        why: String,
        event: String,
        endpoint: String,
    }
    let said = data.and_then(|data| serde_json::from_str::<Said>(data.get()).ok());
    said.map_or_else(
        || "the ingress could not map a request, and does not say why".to_owned(),
        |Said { why, event, endpoint }| format!("{endpoint}, event {event:?}: {why}"),
    )
}

/// Reads a JSON object. serde would take an array of the members' values too.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    let start = text.trim_start();
    if start.starts_with('[') {
        return Err("found a JSON array, expected a JSON object; of a batch, publish each event as a message of its own".to_owned());
    }
    if !start.starts_with('{') {
        return Err("expected a JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| {
        // Only now, once more, with an account of where: this reading is slower.
        match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text)) {
            Err(error) if error.path().iter().next().is_some() => {
                format!("{}: {}", error.path(), error.inner())
            }
            Err(_) | Ok(_) => error.to_string(),
        }
    })
}

fn text_error(key: Option<Key>, member: &str, error: TextError) -> WireError {
    malformed(key, format!("{member}: {error}"))
}

fn malformed(key: Option<Key>, detail: String) -> WireError {
    refused(Reason::Malformed, key, detail)
}

/// What is quoted from a message can be as long as the message, and may hold what should not be kept; a detail is for a person to
/// read.
fn refused(reason: Reason, key: Option<Key>, detail: String) -> WireError {
    let mut detail = mask_text(&detail, &[]).into_owned();
    if detail.len() > DETAIL_BYTES_MAX {
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        detail.push('…');
    }
    WireError { reason, detail, key }
}

/// The key of a message that is JSON but not an event, so that an operator can find its case by it.
fn readable_key(text: &str) -> Option<Key> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(Key {
        source: Source::new(value.get("source")?.as_str()?).ok()?,
        event_id: EventId::new(value.get("id")?.as_str()?).ok()?,
    })
}
