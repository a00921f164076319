//! Messages as bytes: a small writer of CloudEvents JSON that varies the spelling of copies.

use crate::{
    plan::{Distinct, Kind, Plan, Sending},
    poison::Poison,
};

/// How many ways `malformed` knows.
pub const MALFORMED_WAYS: usize = 16;

/// The providers of every plan.
pub const SOURCES: [&str; 3] = ["/providers/stripe", "/providers/adyen", "/providers/wechatpay"];
const CURRENCIES: [&str; 5] = ["EUR", "USD", "CNY", "JPY", "KWD"];

/// (source, id): two providers use the same id now and then.
pub fn key(plan: &Plan, one: &Distinct) -> (String, String) {
    match one.poison {
        // Its own event, of the payment that it debits again.
        Some(Poison::InvalidTransition(of)) => {
            (event(plan, of).0, format!("evt_{}_again_{}", plan.seed, one.number))
        }
        Some(Poison::PayloadMismatch(of)) => event(plan, of),
        Some(
            Poison::Malformed(_)
            | Poison::UnsupportedType
            | Poison::UnknownAccount
            | Poison::CurrencyMismatch
            | Poison::InsufficientFunds
            | Poison::OverCapture
            | Poison::OverRefund
            | Poison::BadSignature(_),
        )
        | None => match one.story {
            // A payment's events come from its provider.
            Some(story) => (event(plan, story).0, format!("evt_{}_of_{story}_{}", plan.seed, one.number)),
            None => event(plan, one.number),
        },
    }
}

fn event(plan: &Plan, number: u32) -> (String, String) {
    let shared = if number % 10 == 9 { number - 1 } else { number };
    (SOURCES[number as usize % SOURCES.len()].to_owned(), format!("evt_{}_{shared}", plan.seed))
}

/// The account's id.
pub fn account(number: u32) -> String {
    format!("acct-{number}")
}

/// The account's currency.
pub fn currency(account: u32) -> &'static str {
    CURRENCIES[account as usize % CURRENCIES.len()]
}

/// The provider's id of the payment; a second debit of one payment shares it.
pub fn payment_id(one: &Distinct) -> Option<String> {
    match one.poison {
        _ if one.kind == Kind::Deposit => None,
        Some(Poison::InvalidTransition(of)) => Some(format!("pay_{of}")),
        _ => Some(format!("pay_{}", one.story.unwrap_or(one.number))),
    }
}

/// The provider's id of the money movement, where it has one.
pub fn operation_id(one: &Distinct) -> Option<String> {
    one.has_operation.then(|| format!("op_{}", one.number))
}

/// The `type` member.
pub fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Deposit => "deposit.succeeded",
        Kind::Succeeded => "payment.succeeded",
        Kind::Failed => "payment.failed",
        Kind::Authorized => "payment.authorized",
        Kind::Captured => "payment.captured",
        Kind::Voided => "payment.voided",
        Kind::Refunded => "refund.succeeded",
    }
}

/// (routing key, body) of one publishing. Every other copy of a sound callback is spelled another way.
pub fn message(plan: &Plan, sending: Sending, number: usize) -> (String, Vec<u8>) {
    let one = &plan.distinct[sending.distinct as usize];
    let respelled = sending.way.is_some() && one.poison.is_none() && number.is_multiple_of(2);
    let account = match one.poison {
        Some(Poison::UnknownAccount) => format!("never-opened-{}", one.number),
        Some(Poison::InvalidTransition(of)) => account(plan.distinct[of as usize].account),
        Some(
            Poison::Malformed(_)
            | Poison::UnsupportedType
            | Poison::CurrencyMismatch
            | Poison::InsufficientFunds
            | Poison::PayloadMismatch(_)
            | Poison::OverCapture
            | Poison::OverRefund
            | Poison::BadSignature(_),
        )
        | None => account(one.account),
    };
    let body = sound(plan, one, &account, respelled);
    let body = match one.poison {
        Some(Poison::Malformed(way)) => malformed(body, way, one.number),
        Some(Poison::UnsupportedType) => body.replace("deposit.succeeded", "customer.created").into_bytes(),
        Some(
            Poison::UnknownAccount
            | Poison::CurrencyMismatch
            | Poison::InsufficientFunds
            | Poison::PayloadMismatch(_)
            | Poison::InvalidTransition(_)
            | Poison::OverCapture
            | Poison::OverRefund
            | Poison::BadSignature(_),
        )
        | None => body.into_bytes(),
    };
    (account, body)
}

fn sound(plan: &Plan, one: &Distinct, account: &str, respelled: bool) -> String {
    let (source, id) = key(plan, one);
    let own = currency(one.account);
    let currency = if one.poison == Some(Poison::CurrencyMismatch) {
        if own == "GBP" { "EUR" } else { "GBP" }
    } else {
        own
    };
    let optional = |name: &str, value: Option<String>| {
        value.map_or(String::new(), |value| format!("\"{name}\":\"{value}\","))
    };
    let payment = optional("payment_id", payment_id(one));
    let operation = optional("operation_id", operation_id(one));
    let (kind, amount) = (type_name(one.kind), one.amount);
    let is_final = if one.is_final { "\"final\":true," } else { "" };
    let second = one.number % 60;
    if respelled {
        // Other member order, white space, time, escapes and unknown members: still the same callback.
        return format!(
            "{{ \"data\": {{ {operation}{is_final}\"currency\": \"{currency}\", {payment}\"note\": {{\"deep\": [1, 2.5, null]}}, \
             \"amount\": {amount} }},\n  \"time\": \"2026-11-23T01:02:{second:02}.5+08:00\", \"subject\": \"{account}\", \
             \"traceparent\": \"00-0-0-00\", \"type\": \"{kind}\", \"source\": \"\\u002f{}\", \"id\": \"{id}\", \
             \"specversion\": \"1.0\" }}",
            &source[1..]
        );
    }
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"{source}\",\"type\":\"{kind}\",\"subject\":\"{account}\",\
         \"time\":\"2026-11-22T13:44:{second:02}Z\",\"datacontenttype\":\"application/json\",\
         \"data\":{{{payment}{operation}{is_final}\"amount\":{amount},\"currency\":\"{currency}\"}}}}"
    )
}

/// A sound body, broken. The number makes each one's bytes its own, since bytes are the identity of what cannot be decoded.
fn malformed(body: String, way: u8, number: u32) -> Vec<u8> {
    let amount = |to: &str| {
        let from = body.find("\"amount\":").map_or(0, |at| at + "\"amount\":".len());
        let end = body[from..].find(',').map_or(body.len(), |length| from + length);
        format!("{}{to}{}", &body[..from], &body[end..]).into_bytes()
    };
    match way {
        0 => format!("not JSON, number {number}").into_bytes(),
        1 => body.as_bytes()[..body.len() - 2].to_vec(),
        2 => amount("19.99"),
        3 => amount("1e3"),
        4 => amount("\"1999\""),
        5 => amount("0"),
        6 => amount("-1999"),
        7 => amount("9007199254740992"),
        8 => body.replace("\"subject\"", "\"object\"").into_bytes(),
        9 => body.replace("\"data\"", "\"date\"").into_bytes(),
        10 => body.replace("\"id\":\"", "\"id\":\"\\u0007").into_bytes(),
        11 => body.replace("\"currency\":\"", "\"currency\":\"Z").into_bytes(),
        12 => [body.as_bytes(), &[0xff, 0xfe]].concat(),
        13 => body.replace("\"specversion\":\"1.0\"", "\"specversion\":\"0.3\"").into_bytes(),
        14 => body.replace("\"source\":\"", &format!("\"source\":\"{}", "x".repeat(200))).into_bytes(),
        _ => [body.as_bytes(), &vec![b' '; 256 * 1024]].concat(),
    }
}
