//! Senders that follow Standard Webhooks (<https://www.standardwebhooks.com>): `{"type", "timestamp", "data"}`, or a CloudEvents event, with
//! types of contract §2. The id is the signed `webhook-id`.

use serde_json::{Value, json};

use super::{Kind, Provider, Refused, cloudevents, json as object};
use crate::{
    ingress::{
        mapping::{Item, Terms, nothing},
        members::{rfc3339, text},
        paths::is_id,
        request::Request,
        secrets::Secrets,
        verify::{Cause, is_recent, seconds},
    },
    signature::{Headers, ID_HEADER, Key, Policy, Rule, SIGNATURE_HEADER, TIMESTAMP_HEADER},
};

/// How old a signature may be, in seconds: what the libraries allow.
const TOLERANCE_S: u64 = 300;

pub(super) const KIND: Kind = Kind {
    name: "standard-webhooks",
    title: "Standard Webhooks",
    account: "account_id",
    account_until: "",
    needs_purpose: false,
    needs_capture: false,
    says_live: false,
    names: &[],
    rows: &[],
    build: |secrets| {
        secrets.bare("a key (whsec_… or whpk_…)")?;
        Ok(Box::new(StandardWebhooks { rule: rule(secrets)? }))
    },
};

/// The keys of a secrets file.
pub(super) fn rule(secrets: &Secrets) -> Result<Rule, String> {
    let keys: Result<Vec<Key>, _> = secrets.bare_or_none().iter().map(|text| Key::parse(text)).collect();
    Ok(Rule { policy: Policy::Required, keys: keys.map_err(|problem| problem.to_string())? })
}

/// Whether the request is signed, and lately.
pub(super) fn verify(rule: &Rule, request: &Request, now_s: i64) -> Result<(), Refused> {
    let header = |name| request.header(name).ok_or(Cause::Missing);
    let (id, timestamp) = (header(ID_HEADER)?, header(TIMESTAMP_HEADER)?);
    let signature = header(SIGNATURE_HEADER)?;
    let headers =
        Headers::received(Some(id.as_bytes()), Some(timestamp.as_bytes()), Some(signature.as_bytes()));
    use crate::signature::Refusal;
    rule.verify(&headers, id, &request.body).map_err(|refusal| match refusal {
        Refusal::NoRule | Refusal::NoKey | Refusal::NoMatch(_) | Refusal::OtherEvent => Cause::NoMatch,
        Refusal::Missing(_) => Cause::Missing,
        Refusal::Unusable { .. } => Cause::Unreadable,
    })?;
    Ok(is_recent(seconds(timestamp).ok_or(Cause::Unreadable)?, now_s, TOLERANCE_S)?)
}

struct StandardWebhooks {
    rule: Rule,
}

impl Provider for StandardWebhooks {
    fn verify(&self, request: &Request, now_s: i64) -> Result<(), Refused> {
        verify(&self.rule, request, now_s)
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let body = object(&request.body)?;
        if body.get("specversion").is_some() {
            return Ok(vec![cloudevents::item(&request.body, terms)]);
        }
        let id = request.header(ID_HEADER);
        let kind = text(&body, "type").unwrap_or_default();
        if kind.is_empty() {
            return Ok(vec![terms.item(id, kind, Err("type: missing".to_owned()))]);
        }
        if !cloudevents::is_money(kind) {
            return Ok(vec![terms.item(id, kind, nothing("not an event of a payment"))]);
        }
        let data = body.get("data").unwrap_or(&Value::Null);
        let Some(id) = id.filter(|id| is_id(id)) else {
            return Ok(vec![terms.item(None, kind, Err("webhook-id: not 1 to 200 bytes".to_owned()))]);
        };
        let mut event = json!({
            "specversion": "1.0", "id": id, "source": terms.source, "type": kind,
            "datacontenttype": "application/json", "data": data,
        });
        if let Some(event) = event.as_object_mut() {
            event.extend(terms.account.of(data).map(|account| ("subject".to_owned(), json!(account))));
            let time = text(&body, "timestamp").and_then(rfc3339);
            event.extend(time.map(|time| ("time".to_owned(), json!(time))));
        }
        Ok(vec![cloudevents::item(event.to_string().as_bytes(), terms)])
    }

    fn kept_headers(&self) -> &'static [&'static str] {
        &[ID_HEADER]
    }
}
