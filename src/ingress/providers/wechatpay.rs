//! WeChat Pay API v3: `Wechatpay-Signature` over timestamp, nonce and body, and a resource sealed with AES-256-GCM
//! (<https://pay.weixin.qq.com/doc/v3/merchant/4012071382>).

use serde_json::Value;

use super::{Answer, Kind, Provider, Refused, by_table, json};
use crate::{
    ingress::{
        amount::Differences,
        mapping::{Fact, Item, Means, Reading, Row, Step, Terms, nothing, row},
        members::{currency, minor, needed, rfc3339, text},
        request::Request,
        verify::{Cause, Certificate, RsaKey, from_base64, is_recent, open_aes_256_gcm, seconds},
    },
    ledger::Currency,
};

/// How old a signature may be, in seconds: what the official libraries allow.
const TOLERANCE_S: u64 = 300;
/// Length of an APIv3 key, in bytes.
const APIV3_KEY_BYTES: usize = 32;
/// WeChat sends wrong signatures that begin so, to see whether they are refused.
const PROBE: &str = "WECHATPAY/SIGNTEST/";

pub(super) const KIND: Kind = Kind {
    name: "wechatpay",
    title: "WeChat Pay",
    account: "attach",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[
        ("apiv3_key", "the merchant's APIv3 key, 32 bytes; two lines while it changes"),
        ("public_key", "PUB_KEY_ID_… and a PEM file, separated by a blank"),
        ("certificate", "PEM file with a platform certificate; several lines for several"),
        ("mchid", "a merchant whose notifications are money here; several lines for several"),
        ("appid", "an application whose payments are money here; several lines for several"),
    ],
    rows: &ROWS,
    build: |secrets| {
        let mut keys = Vec::new();
        for line in secrets.all("public_key") {
            let (id, file) = line
                .split_once(' ')
                .ok_or("public_key: expected PUB_KEY_ID_… and a file, separated by a blank")?;
            keys.push((id.to_owned(), Signer::Key(RsaKey::from_pem(&secrets.file(file.trim())?)?)));
        }
        for file in secrets.all("certificate") {
            let certificate = Certificate::from_pem(&secrets.file(file)?)?;
            keys.push((certificate.serial.clone(), Signer::Certificate(certificate)));
        }
        if keys.is_empty() {
            return Err("expected a line `public_key = PUB_KEY_ID_… FILE` or `certificate = FILE`".to_owned());
        }
        let all = |name| secrets.all(name).map(str::to_owned).collect::<Vec<String>>();
        let apiv3_keys = all("apiv3_key");
        if apiv3_keys.is_empty() || apiv3_keys.iter().any(|key| key.len() != APIV3_KEY_BYTES) {
            return Err(format!("expected a line `apiv3_key = …` of {APIV3_KEY_BYTES} bytes"));
        }
        Ok(Box::new(WeChatPay { keys, apiv3_keys, mchids: all("mchid"), appids: all("appid") }))
    },
};

const ROWS: [Row; 4] = [
    row(
        "TRANSACTION.SUCCESS",
        Means::Money(Step::Succeeded),
        "trade_state SUCCESS; amount.total, not payer_total; operation transaction_id",
    ),
    row(
        "REFUND.SUCCESS",
        Means::Money(Step::Refunded),
        "amount.refund, this refund's; operation refund_id; CNY where it names no currency",
    ),
    row(
        "REFUND.ABNORMAL",
        Means::Nothing,
        "no money reached the payer; the merchant platform says what to do",
    ),
    row("REFUND.CLOSED", Means::Nothing, "the refund was abandoned"),
];

/// Events under these names that no row knows may be money.
const MONEY: [&str; 2] = ["TRANSACTION.", "REFUND."];

enum Signer {
    Key(RsaKey),
    Certificate(Certificate),
}

struct WeChatPay {
    /// By serial number: while keys change, both arrive.
    keys: Vec<(String, Signer)>,
    apiv3_keys: Vec<String>,
    /// Empty: any.
    mchids: Vec<String>,
    appids: Vec<String>,
}

impl WeChatPay {
    fn open(&self, body: &Value) -> Option<Value> {
        let resource = body.get("resource")?;
        let member = |name| text(resource, name).unwrap_or_default();
        if member("algorithm") != "AEAD_AES_256_GCM" {
            return None;
        }
        let ciphertext = from_base64(member("ciphertext"))?;
        let (nonce, associated) = (member("nonce").as_bytes(), member("associated_data").as_bytes());
        let mut keys = self.apiv3_keys.iter();
        let opened = keys.find_map(|key| open_aes_256_gcm(key.as_bytes(), nonce, associated, &ciphertext))?;
        serde_json::from_slice(&opened).ok()
    }
}

impl Provider for WeChatPay {
    fn certificates_end_s(&self) -> Option<i64> {
        let ends = self.keys.iter().filter_map(|(_, signer)| match signer {
            Signer::Key(_) => None,
            Signer::Certificate(certificate) => Some(certificate.not_after_s()),
        });
        ends.max()
    }

    fn verify(&self, request: &Request, now_s: i64) -> Result<(), Refused> {
        let header = |name| request.header(name).ok_or(Cause::Missing);
        let (timestamp, nonce) = (header("wechatpay-timestamp")?, header("wechatpay-nonce")?);
        let (signature, serial) = (header("wechatpay-signature")?, header("wechatpay-serial")?);
        let signed_at_s = seconds(timestamp).ok_or(Cause::Unreadable)?;
        if signature.starts_with(PROBE) {
            return Err(Cause::NoMatch.into());
        }
        let signature = from_base64(signature).ok_or(Cause::Unreadable)?;
        let found = self.keys.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(serial));
        let key = match found.map(|(_, key)| key).ok_or(Cause::UnknownKey)? {
            Signer::Key(key) => key,
            Signer::Certificate(certificate) => certificate.key_at(now_s)?,
        };
        let content = [timestamp.as_bytes(), b"\n", nonce.as_bytes(), b"\n", &request.body, b"\n"].concat();
        key.verify(&content, &signature)?;
        is_recent(signed_at_s, now_s, TOLERANCE_S)?;
        let body = json(&request.body).map_err(Refused::Malformed)?;
        // Right, but not for our ears: the APIv3 key is another one than the merchant's. WeChat sends it again once it is fixed.
        let resource = self.open(&body).ok_or(Cause::UnknownKey)?;
        for (name, ours) in [("mchid", &self.mchids), ("appid", &self.appids)] {
            // A refund names no application.
            if let Some(found) = text(&resource, name)
                && !ours.is_empty()
                && !ours.iter().any(|ours| ours == found)
            {
                return Err(Cause::OtherAccount.into());
            }
        }
        Ok(())
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let body = json(&request.body)?;
        let kind = text(&body, "event_type").unwrap_or_default();
        let reading = by_table(&ROWS, &MONEY, kind, |step| match self.open(&body) {
            Some(resource) => fact(&resource, step, &body, terms),
            None => Err("resource: does not open with this apiv3_key".to_owned()),
        });
        Ok(vec![terms.item(text(&body, "id"), kind, reading)])
    }

    fn yes(&self) -> Answer {
        Answer::empty(204)
    }

    fn no(&self, status: u16) -> Answer {
        let message = match status {
            401 => "signature",
            503 => "unavailable, send again",
            _ => "refused",
        };
        Answer::json(status, format!(r#"{{"code":"FAIL","message":"{message}"}}"#))
    }
}

fn fact(resource: &Value, step: Step, body: &Value, terms: &Terms) -> Reading {
    let is_refund = step == Step::Refunded;
    let (state, operation, amount) = if is_refund {
        ("refund_status", "refund_id", "amount.refund")
    } else {
        ("trade_state", "transaction_id", "amount.total")
    };
    if text(resource, state) != Some("SUCCESS") {
        return nothing("not a success");
    }
    let money = match currency(resource, "amount.currency") {
        Err(_) if is_refund && text(resource, "amount.currency").is_none() => {
            Currency::parse("CNY").ok_or("CNY is no currency")?
        }
        found => found?,
    };
    let payment = needed(resource, "transaction_id")?;
    let amount = minor(resource, amount, money, Differences::NONE)?;
    Ok(Ok(Fact {
        // A refund passes nothing along.
        account: if is_refund { None } else { terms.account.of(resource) },
        references: terms.references.of(resource),
        time: text(resource, "success_time").or_else(|| text(body, "create_time")).and_then(rfc3339),
        ..Fact::new(step, payment, needed(resource, operation)?, amount, money)
    }))
}
