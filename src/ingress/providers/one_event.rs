//! What most providers share: a request is one event of JSON, signed as a whole by one HMAC-SHA256 in one header. What must not live here: any
//! provider's names.

use serde_json::Value;

use super::{Provider, Refused, by_table, json};
use crate::ingress::{
    mapping::{Item, Reading, Row, Step, Terms},
    members::text,
    request::Request,
    secrets::Secrets,
    verify::{Cause, Mac, any_mac},
};

/// What a provider's file says of its requests.
pub(super) struct OneEvent {
    /// The tags that a request carries.
    pub(super) claims: fn(&Request) -> Result<Vec<Vec<u8>>, Cause>,
    /// Where the provider's name of the kind of event stands; the first that is there counts.
    pub(super) kind: &'static [&'static str],
    /// The event's id: the same for every copy of it, and signed.
    pub(super) id: fn(&Value, &str) -> Option<String>,
    /// Its table.
    pub(super) rows: &'static [Row],
    /// Events under these names that no row knows may be money.
    pub(super) money: &'static [&'static str],
    /// What an event of the table says.
    pub(super) fact: fn(&Value, &str, Step, &Terms) -> Reading,
}

/// Such a provider with the secrets of an endpoint.
struct Keyed {
    says: &'static OneEvent,
    keys: Vec<Mac>,
    /// Signed before the body.
    before: Vec<u8>,
}

impl OneEvent {
    /// With the bare lines of a secrets file as keys, byte for byte; `what` names them, `before` is signed before the body.
    ///
    /// # Errors
    /// Words where there is none.
    pub(super) fn with(
        &'static self,
        secrets: &Secrets,
        what: &str,
        before: &str,
    ) -> Result<Box<dyn Provider>, String> {
        let keys = secrets.bare(what)?.iter().map(|secret| Mac::sha256(secret.as_bytes())).collect();
        Ok(Box::new(Keyed { says: self, keys, before: before.as_bytes().to_vec() }))
    }
}

impl Provider for Keyed {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        Ok(any_mac(&self.keys, &[&self.before, &request.body], &(self.says.claims)(request)?)?)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let OneEvent { kind, id, rows, money, fact, .. } = self.says;
        let event = json(&request.body)?;
        let kind = kind.iter().find_map(|path| text(&event, path)).unwrap_or_default();
        let reading = by_table(rows, money, kind, |step| fact(&event, kind, step, terms));
        Ok(vec![terms.item(id(&event, kind).as_deref(), kind, reading)])
    }
}

/// The one tag of a header.
///
/// # Errors
/// [`Cause::Missing`], [`Cause::Unreadable`].
pub(super) fn one_claim(
    request: &Request,
    header: &str,
    decode: fn(&str) -> Option<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, Cause> {
    let claim = request.header(header).ok_or(Cause::Missing)?;
    Ok(vec![decode(claim).ok_or(Cause::Unreadable)?])
}
