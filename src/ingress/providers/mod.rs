//! One file a provider, each pure: how its requests are verified, and what its events mean. What must not live here: clocks, files, sockets,
//! and anything that two providers share (`mapping`, `verify`).

mod adyen;
mod alipay;
mod braintree;
mod checkout;
mod cloudevents;
mod form;
mod gocardless;
mod mollie;
mod one_event;
pub mod paypal;
mod razorpay;
mod square;
mod standard_webhooks;
mod stripe;
mod wechatpay;

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{
    mapping::{Item, Means, Reading, Row, Step, Terms, nothing},
    paths::AccountPath,
    request::Request,
    secrets::Secrets,
    verify::Cause,
};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It does not prove where it comes from: answered with 401.
    BadSignature(Cause),
    /// It is not what this provider sends: answered with 400.
    Malformed(String),
}

impl From<Cause> for Refused {
    fn from(cause: Cause) -> Self {
        Self::BadSignature(cause)
    }
}

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Of the body; empty: no body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    /// A status without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { status, content_type: "", body: String::new(), headers: Vec::new() }
    }

    /// A status with a text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into(), headers: Vec::new() }
    }

    /// A status with JSON.
    #[must_use]
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "application/json", body: body.into(), headers: Vec::new() }
    }
}

/// What a request that is no webhook asks for.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// `GET` or `OPTIONS`.
    pub method: &'a str,
    /// What stands after `?`.
    pub query: &'a str,
    /// Its headers.
    pub request: &'a Request,
}

/// A certificate that a request has to be verified by, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateAt {
    /// The host, by HTTPS on its usual port: one that the configuration names.
    pub host: String,
    /// The path there.
    pub path: String,
    /// The DNS name that the certificate must be made for.
    pub name: &'static str,
}

/// A provider's webhooks, with the secrets of one endpoint.
pub trait Provider: Send + Sync {
    /// Whether the request proves that it comes from the provider, at `now_s` (seconds since 1970).
    ///
    /// # Errors
    /// [`Refused`].
    fn verify(&self, request: &Request, now_s: i64) -> Result<(), Refused>;

    /// What its events are, in order. Depends on the request and the configuration alone. Not a decision about where it comes from: that is
    /// [`Provider::verify`].
    ///
    /// # Errors
    /// Words for a body that is not what this provider sends.
    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String>;

    /// The bodies of requests with one event of this request each, in order and in the bytes that came: [`Provider::map`] reads each as it reads
    /// that event here. Asked only of a request that has several.
    ///
    /// # Errors
    /// Words where it has not.
    fn apart(&self, _request: &Request) -> Result<Vec<Vec<u8>>, String> {
        Err("a request has one event".to_owned())
    }

    /// Whether a request that [`Provider::verify`] took holds any proof of its sender: some providers leave what moves no money unsigned.
    fn is_signed(&self, _request: &Request) -> bool {
        true
    }

    /// Headers that [`Provider::map`] reads.
    fn kept_headers(&self) -> &'static [&'static str] {
        &[]
    }

    /// The certificate that [`Provider::verify`] needs to find in [`Request::certificate`]; `None`: it needs none. Only an address that is the
    /// provider's own, and only of a request that could be right: whoever sends one decides what is fetched.
    fn certificate_at(&self, _request: &Request) -> Option<CertificateAt> {
        None
    }

    /// Until when one of the certificates that verify its webhooks is valid, in seconds since 1970; `None`: none is pinned.
    fn certificates_end_s(&self) -> Option<i64> {
        None
    }

    /// The provider's own form of yes.
    fn yes(&self) -> Answer {
        Answer::empty(200)
    }

    /// The answer that says no in the provider's form, with this status.
    fn no(&self, status: u16) -> Answer {
        Answer::empty(status)
    }

    /// The answer to a request that is no webhook but belongs to the provider's set-up; `None`: there is none.
    fn probe(&self, _probe: Probe<'_>) -> Option<Answer> {
        None
    }
}

/// A provider that payonce knows.
pub struct Kind {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its name in sentences.
    pub title: &'static str,
    /// Where its object holds the account id, where the endpoint does not say.
    pub account: &'static str,
    /// What ends the account there; empty: nothing.
    pub account_until: &'static str,
    /// Whether its events are money of one purpose, so that the endpoint must name it.
    pub needs_purpose: bool,
    /// Whether the endpoint must say what an authorisation is.
    pub needs_capture: bool,
    /// Whether `live` chooses among its events, which say whether they are.
    pub says_live: bool,
    /// Names of lines in its secrets file, with what each holds; a line without a name is a secret.
    pub names: &'static [(&'static str, &'static str)],
    /// What its events mean.
    pub rows: &'static [Row],
    /// Reads the secrets.
    pub build: fn(&Secrets) -> Result<Box<dyn Provider>, String>,
}

impl Kind {
    /// Where the account stands by default.
    #[must_use]
    pub fn default_account(&self) -> AccountPath {
        let until = Some(self.account_until).filter(|until| !until.is_empty());
        AccountPath { path: self.account.to_owned(), until: until.map(str::to_owned) }
    }
}

/// Every provider.
pub const KINDS: [&Kind; 13] = [
    &stripe::KIND,
    &adyen::KIND,
    &paypal::KIND,
    &alipay::KIND,
    &wechatpay::KIND,
    &square::KIND,
    &razorpay::KIND,
    &checkout::KIND,
    &gocardless::KIND,
    &mollie::KIND,
    &braintree::KIND,
    &standard_webhooks::KIND,
    &cloudevents::KIND,
];

/// The provider of this name.
#[must_use]
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.into_iter().find(|kind| kind.name == name)
}

/// The body as JSON whose outermost value is an object. A text that was cut in the midst of a character beyond U+FFFF, as a description is that
/// ends with half an emoji, is no text of Rust's: the half that is left is read as U+FFFD. A byte order mark is passed over.
fn json(body: &[u8]) -> Result<serde_json::Value, String> {
    let body = without_mark(body);
    let value: serde_json::Value = serde_json::from_slice(body)
        .or_else(|error| serde_json::from_slice(&without_halves(body)).map_err(|_| error))
        .map_err(|error| format!("the body is not JSON: {error}"))?;
    if value.is_object() { Ok(value) } else { Err("the body is not a JSON object".to_owned()) }
}

/// The body without a byte order mark in front.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// The same JSON, in which each escape of a surrogate without its other half (RFC 8259, 8.2) is that of U+FFFD.
fn without_halves(json: &[u8]) -> Vec<u8> {
    let escaped = |at: usize| {
        let digits = json.get(at..)?.strip_prefix(b"\\u")?.get(..4)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut whole = Vec::with_capacity(json.len());
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        let length = match escaped(at) {
            Some(0xd800..=0xdbff) if matches!(escaped(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                whole.extend_from_slice(b"\\ufffd");
                at += 6;
                continue;
            }
            Some(_) => 6,
            None if *byte == b'\\' => 2,
            None => 1,
        };
        whole.extend(json.get(at..).into_iter().flatten().take(length));
        at += length;
    }
    whole
}

/// Bodies with one element each of the array `member` of the outermost object, in the bytes that came.
fn each_apart(body: &[u8], member: &str) -> Result<Vec<Vec<u8>>, String> {
    let not = |error: serde_json::Error| format!("{member}: {error}");
    // Of members with one name the last counts, as where the body is mapped.
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(without_mark(body)).map_err(not)?;
    let array = members.get(member).ok_or_else(|| format!("{member}: missing"))?;
    let elements: Vec<&RawValue> = serde_json::from_str(array.get()).map_err(not)?;
    Ok(elements.iter().map(|one| format!("{{\"{member}\":[{one}]}}").into_bytes()).collect())
}

/// Reads an event by its provider's table. `fact` is asked only for events that are money. One that no row knows may be money where its name
/// begins with one of `money`.
fn by_table(rows: &'static [Row], money: &[&str], kind: &str, fact: impl FnOnce(Step) -> Reading) -> Reading {
    match rows.iter().find(|row| row.event == kind) {
        Some(Row { means: Means::Money(step), .. }) => fact(*step),
        Some(Row { means: Means::Nothing, note, .. }) => nothing(note),
        Some(Row { means: Means::Unclear, note, .. }) => Err((*note).to_owned()),
        None if money.iter().any(|prefix| kind.starts_with(prefix)) => {
            Err(format!("event {kind:?} is not known"))
        }
        None => nothing("not an event of a payment"),
    }
}
