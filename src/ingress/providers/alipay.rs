//! Alipay: asynchronous notifies of trades (<https://opendocs.alipay.com/open/270/105902>), RSA2 over the form's members. Global Alipay+ is
//! another API.

use super::{Answer, Kind, Provider, Refused, by_table, form};
use crate::{
    ingress::{
        amount::decimal,
        mapping::{Fact, Item, Means, Reading, Row, Step, Terms, nothing, row},
        members::amount_problem,
        paths::is_id,
        request::Request,
        verify::{Cause, Certificate, RsaKey, from_base64},
    },
    ledger::Currency,
};

/// Notifies carry no currency.
const CURRENCY: &str = "CNY";

pub(super) const KIND: Kind = Kind {
    name: "alipay",
    title: "Alipay",
    account: "passback_params.account_id",
    account_until: "",
    needs_purpose: true,
    needs_capture: false,
    says_live: false,
    names: &[
        ("app_id", "an application whose notifies are money here; several lines for several"),
        ("seller_id", "a seller whose notifies are money here; several lines for several"),
        ("certificate", "file with alipayCertPublicKey_RSA2.crt, in place of a public key"),
    ],
    rows: &ROWS,
    build: |secrets| {
        let mut keys = Vec::new();
        for text in secrets.bare_or_none() {
            let der = from_base64(text).ok_or("a public key is not base64 without line breaks")?;
            keys.push(RsaKey::from_spki(&der)?);
        }
        for name in secrets.all("certificate") {
            keys.push(Certificate::from_pem(&secrets.file(name)?)?.key);
        }
        if keys.is_empty() {
            return Err(
                "expected Alipay's public key (not the application's own) in base64 on a line".to_owned()
            );
        }
        let all = |name| secrets.all(name).map(str::to_owned).collect();
        Ok(Box::new(Alipay { keys, app_ids: all("app_id"), seller_ids: all("seller_id") }))
    },
};

const ROWS: [Row; 4] = [
    row(
        "TRADE_SUCCESS",
        Means::Money(Step::Succeeded),
        "total_amount; operation trade_no. With refund_fee or gmt_refund: a refund, a running total, operation trade_no:out_biz_no",
    ),
    row(
        "TRADE_FINISHED",
        Means::Money(Step::Succeeded),
        "the same money as TRADE_SUCCESS, or in its place; with refund_fee as there",
    ),
    row(
        "TRADE_CLOSED",
        Means::Money(Step::Refunded),
        "with gmt_refund: the rest was refunded, a running total; without: it timed out, nothing was paid",
    ),
    row("WAIT_BUYER_PAY", Means::Nothing, "no money yet"),
];

struct Alipay {
    keys: Vec<RsaKey>,
    /// Empty: any.
    app_ids: Vec<String>,
    seller_ids: Vec<String>,
}

impl Provider for Alipay {
    fn verify(&self, request: &Request, _now_s: i64) -> Result<(), Refused> {
        let members = form::members(&request.body).map_err(Refused::Malformed)?;
        let signature = form::text(&members, "sign").ok_or(Cause::Missing)?;
        let signature = from_base64(signature).ok_or(Cause::Unreadable)?;
        // sign_type is not signed: nothing is read from it.
        let mut signed: Vec<&form::Member> =
            members.iter().filter(|(name, _)| name != b"sign" && name != b"sign_type").collect();
        signed.sort();
        if signed.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            return Err(Refused::Malformed("a member stands twice".to_owned()));
        }
        let pairs: Vec<Vec<u8>> =
            signed.iter().map(|(name, value)| [name, &b"="[..], value].concat()).collect();
        let content = pairs.join(&b'&');
        let verified = self.keys.iter().map(|key| key.verify(&content, &signature));
        verified.reduce(Result::or).unwrap_or(Err(Cause::NoMatch))?;
        for (name, ours) in [("app_id", &self.app_ids), ("seller_id", &self.seller_ids)] {
            let found = form::text(&members, name).unwrap_or_default();
            if !ours.is_empty() && !ours.iter().any(|ours| ours == found) {
                return Err(Cause::OtherAccount.into());
            }
        }
        Ok(())
    }

    fn map(&self, request: &Request, terms: &Terms) -> Result<Vec<Item>, String> {
        let members = form::members(&request.body)?;
        let kind = form::text(&members, "trade_status").or_else(|| form::text(&members, "notify_type"));
        let kind = kind.unwrap_or_default();
        // Of states that no row knows each may be money.
        let reading = by_table(&ROWS, &[""], kind, |step| fact(&members, kind, step, terms));
        Ok(vec![terms.item(form::text(&members, "notify_id"), kind, reading)])
    }

    fn yes(&self) -> Answer {
        Answer { content_type: "text/plain", ..Answer::text(200, "success") }
    }

    fn no(&self, status: u16) -> Answer {
        Answer { content_type: "text/plain", ..Answer::text(status, "failure") }
    }
}

/// The text at a path: of a member, or of one within it.
fn passed(members: &[form::Member], path: &str) -> Option<String> {
    match path.split_once('.') {
        None => form::text(members, path).map(str::to_owned),
        // What the merchant passed along is still encoded once more.
        Some((outer, inner)) => {
            let outer = form::text(members, outer)?;
            let direct = form::members(outer.as_bytes()).ok()?;
            let decoded = || form::members(&form::decoded(outer.as_bytes())?).ok();
            let found = form::text(&direct, inner).map(str::to_owned);
            found.or_else(|| Some(form::text(&decoded()?, inner)?.to_owned()))
        }
    }
}

fn fact(members: &[form::Member], kind: &str, step: Step, terms: &Terms) -> Reading {
    let needed = |name: &str| form::text(members, name).ok_or_else(|| format!("{name}: missing"));
    let money = Currency::parse(CURRENCY).ok_or("CNY is no currency")?;
    let amount = |name: &str| decimal(needed(name)?, money).map_err(|problem| amount_problem(name, problem));
    let trade = needed("trade_no")?;
    let refunded = form::text(members, "refund_fee").is_some() || form::text(members, "gmt_refund").is_some();
    let mut fact = Fact {
        account: passed(members, &terms.account.path).and_then(|found| terms.account.cut(&found)),
        references: terms.references.each(|path| passed(members, path).filter(|found| is_id(found))),
        time: form::text(members, "gmt_payment").and_then(in_china),
        ..Fact::new(step, trade, trade, amount("total_amount")?, money)
    };
    if refunded {
        // notify_type and trade_status are those of the payment: only these members tell.
        fact.step = Step::Refunded;
        fact.is_cumulative = true;
        fact.time = form::text(members, "gmt_refund").and_then(in_china);
        fact.operation_id = Some(match form::text(members, "out_biz_no") {
            Some(number) => format!("{trade}:{number}"),
            None => trade.to_owned(),
        });
        if form::text(members, "refund_fee").is_some() {
            let total = fact.amount;
            fact.amount = amount("refund_fee")?;
            if fact.amount > total {
                return Err("refund_fee: more than total_amount".to_owned());
            }
        } else if kind != "TRADE_CLOSED" {
            return Err("refund_fee: missing".to_owned());
        }
    } else if kind == "TRADE_CLOSED" {
        return nothing("it timed out; nothing was paid");
    }
    Ok(Ok(fact))
}

/// `2025-11-25 18:00:03[.456]`, in China's time, which has no summer.
fn in_china(text: &str) -> Option<String> {
    let (day, time) = text.split_once(' ')?;
    crate::ingress::members::rfc3339(&format!("{day}T{time}+08:00"))
}
