//! Braintree: `bt_signature` over `bt_payload`, HMAC-SHA1 with the SHA-1 of the private key, and the challenge of its set-up
//! (<https://developer.paypal.com/braintree/docs/guides/webhooks/parse>). The payload is XML; it is verified, and left to a person.

use super::{Answer, Kind, Probe, Provider, Refused, by_table, form};
use crate::ingress::{
    mapping::{Item, Means, Row, Terms, row},
    request::Request,
    verify::{CLAIMS_MAX, Cause, Mac, any_mac, from_base64, from_hex, to_hex},
};

/// Length of a challenge, in hexadecimal digits. What is answered is a signature: over anything else it could be one of a payload.
const CHALLENGE_DIGITS: std::ops::RangeInclusive<usize> = 20..=32;

pub(super) const KIND: Kind = Kind {
    name: "braintree",
    title: "Braintree",
    account: "order-id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[("public_key", "the API key's public half"), ("private_key", "the API key's private half")],
    rows: &ROWS,
    build: |secrets| {
        Ok(Box::new(Braintree {
            public_key: secrets.one("public_key")?.to_owned(),
            key: Mac::sha1_of(secrets.one("private_key")?.as_bytes()),
        }))
    },
};

const XML: &str = "the payload is XML, which payonce verifies and does not map";

const ROWS: [Row; 6] = [
    row("transaction_settled", Means::Unclear, XML),
    row("transaction_settlement_declined", Means::Unclear, XML),
    row("dispute_lost", Means::Unclear, XML),
    row("dispute_won", Means::Unclear, XML),
    row("disbursement", Means::Nothing, "not a customer's money"),
    row("check", Means::Nothing, "a test of the endpoint"),
];

/// Events under these names that no row knows may be money.
const MONEY: [&str; 2] = ["transaction_", "subscription_charged_"];

fn is_challenge(text: &str) -> bool {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_hex && CHALLENGE_DIGITS.contains(&text.len())
}

struct Braintree {
    public_key: String,
    key: Mac,
}

impl Provider for Braintree {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        let members = form::members(&request.body).map_err(Refused::Malformed)?;
        let signature = form::text(&members, "bt_signature").ok_or(Cause::Missing)?;
        let payload = form::text(&members, "bt_payload").ok_or(Cause::Missing)?;
        // A challenge is signed for anybody who asks (`probe`): such a text is nobody's webhook.
        if is_challenge(payload) {
            return Err(Cause::NoMatch.into());
        }
        // One pair for each key of the merchant; only that of our key is ours to judge.
        let pairs = signature.split('&').take(CLAIMS_MAX).filter_map(|pair| pair.split_once('|'));
        let ours = pairs.filter(|(key, _)| *key == self.public_key);
        let claims: Vec<Vec<u8>> = ours.filter_map(|(_, hex)| from_hex(hex)).collect();
        if claims.is_empty() {
            return Err(Cause::UnknownKey.into());
        }
        // Braintree's payloads end in a line feed, which some gateways cut off; its own libraries try both.
        let is_right =
            |end: &[u8]| any_mac(std::slice::from_ref(&self.key), &[payload.as_bytes(), end], &claims);
        Ok(is_right(b"").or_else(|_| is_right(b"\n"))?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let members = form::members(&request.body)?;
        let payload = form::text(&members, "bt_payload").ok_or("bt_payload: missing")?;
        let joined: String = payload.split_ascii_whitespace().collect();
        let xml = from_base64(&joined).ok_or("bt_payload: not base64")?;
        let xml = String::from_utf8_lossy(&xml);
        let kind = xml.split_once("<kind>").and_then(|(_, rest)| rest.split_once("</kind>"));
        let kind = kind.map(|(kind, _)| kind).unwrap_or_default();
        if kind.is_empty() {
            return Ok(vec![terms.item(None, kind, Err("kind: missing".to_owned()))]);
        }
        Ok(vec![terms.item(None, kind, by_table(&ROWS, &MONEY, kind, |_| Err(XML.to_owned())))])
    }

    fn probe(&self, probe: Probe<'_>) -> Option<Answer> {
        let challenge = form::members(probe.query.as_bytes()).ok()?;
        let challenge = form::text(&challenge, "bt_challenge").filter(|_| probe.method == "GET")?;
        let tag = is_challenge(challenge).then(|| to_hex(&self.key.tag(&[challenge.as_bytes()])))?;
        Some(Answer::text(200, format!("{}|{tag}", self.public_key)))
    }
}
