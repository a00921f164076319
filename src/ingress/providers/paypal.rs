//! PayPal: RSA over transmission id, time, webhook id and the body's CRC-32
//! (<https://developer.paypal.com/api/rest/webhooks/rest/>), with certificates pinned by file, else fetched by the edge. CRC-32 binds 32 bits of the body: whoever holds
//! one genuine delivery can make another body that verifies, so the address must be reached by TLS alone.

use serde_json::Value;

use super::{CertificateAt, Kind, Provider, Refused, by_table, json};
use crate::ingress::{
    amount::decimal,
    mapping::{Fact, Item, Means, Purpose, Reading, Row, Step, Terms, nothing, row},
    members::{amount_problem, at, currency, decimal_at, needed, rfc3339, text},
    request::Request,
    verify::{Cause, Certificate, from_base64},
};

/// The webhook id that PayPal's simulator signs for, with the live certificate: whoever has a developer's login can make such events.
const SIMULATOR: &str = "WEBHOOK_ID";
const ALGORITHM: &str = "SHA256withRSA";
const CERTIFICATE_PATH: &str = "/v1/notifications/certs/CERT-";
/// Longest name of a certificate in its address, in bytes.
const CERTIFICATE_NAME_BYTES_MAX: usize = 128;
/// An RSA signature of 2048 to 8192 bits, in bytes.
const SIGNATURE_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;
/// Hosts that a configuration may name.
const HOSTS_MAX: usize = 8;

/// What differs between money and play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Money.
    Live,
    /// Play.
    Sandbox,
}

impl Environment {
    fn hosts(self) -> [&'static str; 2] {
        match self {
            Self::Live => ["api.paypal.com", "api-m.paypal.com"],
            Self::Sandbox => ["api.sandbox.paypal.com", "api-m.sandbox.paypal.com"],
        }
    }

    /// The name that its certificates are made for.
    fn certificate_name(self) -> &'static str {
        match self {
            Self::Live => "messageverificationcerts.paypal.com",
            Self::Sandbox => "messageverificationcerts.sandbox.paypal.com",
        }
    }
}

pub(super) const KIND: Kind = Kind {
    name: "paypal",
    title: "PayPal",
    account: "custom_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[
        ("webhook_id", "the webhook's id, as the developer dashboard shows it; several lines for several"),
        (
            "certificate",
            "PEM file with the certificate that PayPal signs with; several lines for several; none: fetched",
        ),
        (
            "certificate_host",
            "a host that certificates may be fetched from; several lines for several; none: PayPal's own",
        ),
        ("environment", "live (the default) or sandbox"),
    ],
    rows: &ROWS,
    build: |secrets| {
        let webhook_ids: Vec<String> = secrets.all("webhook_id").map(str::to_owned).collect();
        if webhook_ids.is_empty() || webhook_ids.iter().any(|id| id == SIMULATOR) {
            return Err(format!(
                "expected a line `webhook_id = …`, and not {SIMULATOR}: anybody can make the simulator sign for that"
            ));
        }
        let environment = match secrets.all("environment").next() {
            None | Some("live") => Environment::Live,
            Some("sandbox") => Environment::Sandbox,
            Some(_) => return Err("environment: expected live or sandbox".to_owned()),
        };
        let certificates: Result<Vec<Certificate>, String> =
            secrets.all("certificate").map(|name| Certificate::from_pem(&secrets.file(name)?)).collect();
        let mut paypal = PayPal::pinned(webhook_ids, environment, certificates?);
        let hosts: Vec<String> = secrets.all("certificate_host").map(str::to_owned).collect();
        if hosts.len() > HOSTS_MAX || !hosts.iter().all(|host| is_host(host)) {
            return Err(format!(
                "certificate_host: expected at most {HOSTS_MAX} names such as api.paypal.com, in lower case, without https:// and a port"
            ));
        }
        if !hosts.is_empty() {
            paypal.hosts = hosts;
        }
        Ok(Box::new(paypal))
    },
};

const ROWS: [Row; 27] = [
    row(
        "PAYMENT.AUTHORIZATION.CREATED",
        Means::Money(Step::Authorized),
        "amount; payment and operation the authorization's id",
    ),
    row("PAYMENT.AUTHORIZATION.VOIDED", Means::Money(Step::Ended), "amount"),
    row(
        "PAYMENT.CAPTURE.COMPLETED",
        Means::Money(Step::Succeeded),
        "amount; operation the capture's id. With related_ids.authorization_id and purpose payment: a capture of that hold, final by final_capture",
    ),
    row(
        "PAYMENT.CAPTURE.DENIED",
        Means::Money(Step::Failed),
        "without an authorization only: else another capture may follow",
    ),
    row(
        "PAYMENT.CAPTURE.DECLINED",
        Means::Money(Step::Failed),
        "without an authorization only: else another capture may follow",
    ),
    row(
        "PAYMENT.CAPTURE.REFUNDED",
        Means::Money(Step::Refunded),
        "amount, this refund's; operation the refund's id; payment the capture's id, from links rel=up",
    ),
    row(
        "PAYMENT.CAPTURE.REVERSED",
        Means::Money(Step::Disputed),
        "amount; operation the reversal's id; payment the capture's id, from links rel=up",
    ),
    row(
        "PAYMENT.SALE.COMPLETED",
        Means::Money(Step::Succeeded),
        "amount.total; payment and operation the sale's id",
    ),
    row(
        "PAYMENT.SALE.REFUNDED",
        Means::Money(Step::Refunded),
        "amount.total without its sign; payment sale_id",
    ),
    row(
        "PAYMENT.SALE.REVERSED",
        Means::Money(Step::Disputed),
        "amount.total without its sign; payment sale_id, else the id",
    ),
    row("PAYMENT.CAPTURE.PENDING", Means::Nothing, "no money yet"),
    row("PAYMENT.SALE.PENDING", Means::Nothing, "no money yet"),
    row("PAYMENT.SALE.DENIED", Means::Nothing, "no money moved"),
    row("PAYMENT.REFUND.PENDING", Means::Nothing, "no money yet"),
    row("PAYMENT.REFUND.FAILED", Means::Money(Step::RefundFailed), "takes back the refund of the same id"),
    row("PAYMENT.ORDER.CREATED", Means::Nothing, "no money moves"),
    row("PAYMENT.ORDER.CANCELLED", Means::Nothing, "no money moves"),
    row("CHECKOUT.ORDER.APPROVED", Means::Nothing, "no money yet"),
    row("CHECKOUT.ORDER.COMPLETED", Means::Nothing, "the same fact as PAYMENT.CAPTURE.COMPLETED"),
    row("CHECKOUT.ORDER.SAVED", Means::Nothing, "no money moves"),
    row("CHECKOUT.ORDER.VOIDED", Means::Nothing, "PAYMENT.AUTHORIZATION.VOIDED says it"),
    row("CHECKOUT.PAYMENT-APPROVAL.REVERSED", Means::Nothing, "no money moved"),
    row("CUSTOMER.DISPUTE.CREATED", Means::Nothing, "no money by itself"),
    row("CUSTOMER.DISPUTE.UPDATED", Means::Nothing, "no money by itself"),
    row("CUSTOMER.DISPUTE.RESOLVED", Means::Nothing, "no money by itself; a reversal says it"),
    row("PAYMENT.PAYOUTSBATCH.SUCCESS", Means::Nothing, "not a customer's money"),
    row("RISK.DISPUTE.CREATED", Means::Nothing, "no money by itself"),
];

/// Events under these names that no row knows may be money.
const MONEY: [&str; 4] = ["PAYMENT.AUTHORIZATION.", "PAYMENT.CAPTURE.", "PAYMENT.SALE.", "PAYMENT.REFUND."];

/// Whether a text is the name of a host as certificates have it.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(is_letter)
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(is_label)
}

/// PayPal's webhooks, for these webhook ids.
pub struct PayPal {
    webhook_ids: Vec<String>,
    environment: Environment,
    hosts: Vec<String>,
    /// None: the certificate of a request is fetched.
    certificates: Vec<Certificate>,
}

impl PayPal {
    /// For webhooks with these ids, signed by these certificates; without one the edge fetches it from PayPal's hosts. That nobody else can
    /// make PayPal sign for such an id is for the configuration to see to.
    #[must_use]
    pub fn pinned(
        webhook_ids: Vec<String>,
        environment: Environment,
        certificates: Vec<Certificate>,
    ) -> Self {
        let hosts = environment.hosts().map(str::to_owned).to_vec();
        Self { webhook_ids, environment, hosts, certificates }
    }

    /// The certificate at an address that is one of the hosts' own, character by character; `None` for any other, which is a forgery's.
    fn theirs(&self, url: &str) -> Option<CertificateAt> {
        let rest = url.strip_prefix("https://")?;
        let (host, name) = rest.split_once(CERTIFICATE_PATH)?;
        let is_name = (1..=CERTIFICATE_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let host = self.hosts.iter().find(|known| *known == host).filter(|_| is_name)?;
        let path = format!("{CERTIFICATE_PATH}{name}");
        Some(CertificateAt { host: host.clone(), path, name: self.environment.certificate_name() })
    }

    /// What a request says of its signature.
    fn claim<'a>(&self, request: &'a Request) -> Result<Claim<'a>, Cause> {
        let header = |name| request.header(name).ok_or(Cause::Missing);
        let (id, time) = (header("paypal-transmission-id")?, header("paypal-transmission-time")?);
        if header("paypal-auth-algo")? != ALGORITHM {
            return Err(Cause::Unreadable);
        }
        let certificate = self.theirs(header("paypal-cert-url")?).ok_or(Cause::UnknownKey)?;
        let signature = from_base64(header("paypal-transmission-sig")?);
        let signature = signature.filter(|bytes| SIGNATURE_BYTES.contains(&bytes.len()));
        Ok(Claim { id, time, certificate, signature: signature.ok_or(Cause::Unreadable)? })
    }
}

struct Claim<'a> {
    id: &'a str,
    time: &'a str,
    certificate: CertificateAt,
    signature: Vec<u8>,
}

impl Provider for PayPal {
    fn certificates_end_s(&self) -> Option<i64> {
        self.certificates.iter().map(Certificate::not_after_s).max()
    }

    fn certificate_at(&self, request: &Request) -> Option<CertificateAt> {
        let claim = self.certificates.is_empty().then(|| self.claim(request))?;
        claim.ok().map(|claim| claim.certificate)
    }

    fn verify(&self, request: &Request, now_s: i64) -> Result<(), Refused> {
        let Claim { id, time, signature, .. } = self.claim(request)?;
        let checksum = crc32fast::hash(&request.body);
        let mut why = Cause::Certificate;
        // What was fetched for a request counts where nothing is pinned.
        let fetched = request.certificate.as_deref().filter(|_| self.certificates.is_empty());
        for certificate in self.certificates.iter().chain(fetched) {
            let Ok(key) = certificate.key_at(now_s) else { continue };
            why = Cause::NoMatch;
            for webhook_id in &self.webhook_ids {
                let content = format!("{id}|{time}|{webhook_id}|{checksum}");
                if key.verify(content.as_bytes(), &signature).is_ok() {
                    return Ok(());
                }
            }
        }
        Err(why.into())
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let event = json(&request.body)?;
        let kind = text(&event, "event_type").unwrap_or_default();
        let reading = by_table(&ROWS, &MONEY, kind, |step| fact(&event, step, terms));
        Ok(vec![terms.item(text(&event, "id"), kind, reading)])
    }
}

fn fact(event: &Value, mut step: Step, terms: &Terms) -> Reading {
    let object = event.get("resource").ok_or("resource: missing")?;
    let id = needed(object, "id")?;
    let authorization = text(object, "supplementary_data.related_ids.authorization_id");
    let is_v1 = at(object, "amount.total").is_some();
    let (code, value) =
        if is_v1 { ("amount.currency", "amount.total") } else { ("amount.currency_code", "amount.value") };
    let money = currency(object, code)?;
    let goes_back = matches!(step, Step::Refunded | Step::Disputed | Step::RefundFailed);
    let amount = match needed(object, value)?.strip_prefix('-') {
        // Reversals of the first version carry their sign.
        Some(positive) if is_v1 && goes_back => {
            decimal(positive, money).map_err(|problem| amount_problem(value, problem))?
        }
        Some(_) | None => decimal_at(object, value, money)?,
    };
    let mut is_final = None;
    let mut payment_id = id;
    if goes_back {
        payment_id = if is_v1 {
            text(object, "sale_id").unwrap_or(id)
        } else {
            up(object).ok_or("links: none with rel up")?
        };
    } else if let Some(authorization) = authorization {
        if step == Step::Failed {
            return nothing("another capture of the authorization may follow");
        }
        if step == Step::Succeeded {
            step = Step::CapturedOfHold;
            is_final = object.get("final_capture").and_then(Value::as_bool);
            // A deposit is each capture by itself: what goes back of it names the capture, and never the authorization.
            if terms.purpose != Some(Purpose::Deposit) {
                payment_id = authorization;
            }
        }
    }
    let custom = || terms.account.cut(text(object, "custom").filter(|_| is_v1)?);
    Ok(Ok(Fact {
        account: if goes_back { None } else { terms.account.of(object).or_else(custom) },
        references: terms.references.of(object),
        time: text(event, "create_time").and_then(rfc3339),
        is_final,
        expires_at: text(object, "expiration_time").and_then(rfc3339),
        ..Fact::new(step, payment_id, id, amount, money)
    }))
}

/// The id at the end of the link to what this object belongs to.
fn up(object: &Value) -> Option<&str> {
    let links = object.get("links")?.as_array()?;
    let link = links.iter().find(|link| text(link, "rel") == Some("up"))?;
    text(link, "href")?.rsplit('/').next().filter(|id| !id.is_empty())
}
