//! Messages as bytes: a small writer of CloudEvents JSON that varies the spelling of copies.

use crate::{
    content::Content,
    money::Fact,
    plan::{Distinct, Expires, Fate, Kind, Plan, Sending},
    poison::Poison,
};

/// How many ways `malformed` knows to make bytes that no other message has.
pub const MALFORMED_WAYS: usize = 16;
/// The way in which all have one body: only their routing keys tell them apart.
pub const SAME_BODY: u8 = 16;

/// The providers of every plan.
pub const SOURCES: [&str; 3] = ["/providers/stripe", "/providers/adyen", "/providers/wechatpay"];
/// An account's is the one at its number.
pub const CURRENCIES: [&str; 5] = ["EUR", "USD", "CNY", "JPY", "KWD"];

/// When everything happens, in seconds since 1970: 2026-11-22T13:44:00Z. Adjustments of one payment differ in their seconds.
const AT_S: i64 = 1_795_355_040;
/// 2026-11-21T00:00:00Z and 2199-01-01T00:00:00Z.
pub const EXPIRES: [(i64, &str); 2] =
    [(1_795_219_200, "2026-11-21T00:00:00Z"), (7_226_582_400, "2199-01-01T00:00:00Z")];

/// (source, id): two providers use the same id now and then.
pub fn key(plan: &Plan, one: &Distinct) -> (String, String) {
    match (one.poison, one.fate, one.story) {
        // Their own events, of what they contradict.
        (
            Some(Poison::InvalidTransition(of) | Poison::OtherAccount(of) | Poison::OperationMismatch(of)),
            ..,
        ) => {
            let first = &plan.distinct[of as usize];
            (key(plan, first).0, format!("evt_{}_again", plan.ids.of(plan.seed, one.number)))
        }
        (Some(Poison::PayloadMismatch(of, _)), ..) => key(plan, &plan.distinct[of as usize]),
        (_, Fate::Contradicts(first), _) => key(plan, &plan.distinct[first as usize]),
        // A payment's events come from its provider.
        (_, Fate::Applied | Fate::Contends | Fate::Twin(_), Some(story)) => {
            (event(plan, story).0, format!("evt_{}_of_{story}", plan.ids.of(plan.seed, one.number)))
        }
        (_, Fate::Applied | Fate::Contends | Fate::Twin(_), None) => event(plan, one.number),
    }
}

fn event(plan: &Plan, number: u32) -> (String, String) {
    let shared = if number % 10 == 9 { number - 1 } else { number };
    (SOURCES[number as usize % SOURCES.len()].to_owned(), format!("evt_{}", plan.ids.of(plan.seed, shared)))
}

/// The account's id: most are plain, some are what a provider's customer may call itself, one in eleven is as long as can be.
pub fn account(number: u32) -> String {
    match number % 11 {
        3 if number > PLAIN => format!("счёт № {number}"),
        5 if number > PLAIN => format!("口座-{number}-🏦"),
        7 if number > PLAIN => format!("acct \"{number}\" <b>\\%s'"),
        9 if number > PLAIN => format!("{:x<ID_BYTES_MAX$}", format!("acct-{number}-")),
        _ => format!("acct-{number}"),
    }
}

/// Accounts up to here have plain ids, for people to type.
const PLAIN: u32 = 30;
/// Longest id (contract §2).
const ID_BYTES_MAX: usize = 200;

/// The account's currency.
pub fn currency(account: u32) -> &'static str {
    CURRENCIES[account as usize % CURRENCIES.len()]
}

/// The provider's id of the payment.
pub fn payment_id(plan: &Plan, one: &Distinct) -> Option<String> {
    one.payment.map(|number| match number % 13 {
        4 => format!("{:p<ID_BYTES_MAX$}", format!("pay_{number}_")),
        8 => format!("платёж {number}"),
        _ => format!("pay_{}", plan.ids.of(plan.seed, number)),
    })
}

/// The provider's id of the money movement, where it has one.
pub fn operation_id(plan: &Plan, one: &Distinct) -> Option<String> {
    one.operation.map(|number| match number % 17 {
        4 => format!("{:o<ID_BYTES_MAX$}", format!("op_{number}_")),
        9 => format!("op/{number}?a=b&c"),
        _ => format!("op_{}", plan.ids.of(plan.seed, number)),
    })
}

/// What of a callback counts for its payment.
pub fn fact(one: &Distinct) -> Fact {
    Fact {
        kind: one.kind,
        amount: one.amount,
        is_final: one.is_final.unwrap_or(one.kind == Kind::Voided),
        is_cumulative: one.is_cumulative,
        at_s: AT_S + one.at_s,
    }
}

/// What the message of a callback says; of a bad one, before it is broken.
pub fn content(plan: &Plan, one: &Distinct) -> Content {
    let (source, id) = key(plan, one);
    let own = currency(one.account);
    let mut content = Content {
        source,
        id,
        kind: one.kind,
        subject: (!one.is_nameless).then(|| account(one.account)),
        payment_id: payment_id(plan, one),
        operation_id: operation_id(plan, one),
        amount: one.amount,
        currency: own.to_owned(),
        is_final: one.is_final,
        is_cumulative: one.is_cumulative,
        expires_at_s: match one.expires {
            Expires::Never => None,
            Expires::Past => Some(EXPIRES[0].0),
            Expires::Future => Some(EXPIRES[1].0),
        },
        to: one.to.map(account),
        at_s: AT_S + one.at_s,
    };
    match one.poison {
        Some(Poison::CurrencyMismatch) => content.currency = "GBP".to_owned(),
        Some(Poison::UnknownAccount) => content.subject = Some(format!("never-opened-{}", one.number)),
        Some(Poison::PayloadMismatch(of, member)) => {
            content = self::content(plan, &plan.distinct[of as usize]);
            member.change(&mut content, account(plan.accounts));
        }
        Some(Poison::OperationMismatch(of)) => {
            let first = self::content(plan, &plan.distinct[of as usize]);
            content = Content { id: content.id, amount: first.amount + 1, ..first };
        }
        Some(
            Poison::Malformed(_)
            | Poison::UnsupportedType
            | Poison::InsufficientFunds
            | Poison::InvalidTransition(_)
            | Poison::OtherAccount(_)
            | Poison::OverCapture
            | Poison::OverRefund
            | Poison::BadSignature(_),
        )
        | None => {}
    }
    content
}

/// (routing key, body) of one publishing. Every other copy of a sound callback is spelled another way. Some without an account are routed
/// by their payment, and where there is disorder some by what nobody knows.
pub fn message(plan: &Plan, sending: Sending, number: usize) -> (String, Vec<u8>) {
    let one = &plan.distinct[sending.distinct as usize];
    let content = content(plan, one);
    let is_respelled = sending.way.is_some() && one.poison.is_none() && number.is_multiple_of(2);
    let body = if is_respelled { respelled(&content) } else { spelled(&content) };
    let body = match one.poison {
        Some(Poison::Malformed(way)) => malformed(body, way, one.number),
        Some(Poison::UnsupportedType) => body.replace("deposit.succeeded", "customer.created").into_bytes(),
        Some(
            Poison::UnknownAccount
            | Poison::CurrencyMismatch
            | Poison::InsufficientFunds
            | Poison::PayloadMismatch(..)
            | Poison::OperationMismatch(_)
            | Poison::InvalidTransition(_)
            | Poison::OtherAccount(_)
            | Poison::OverCapture
            | Poison::OverRefund
            | Poison::BadSignature(_),
        )
        | None => body.into_bytes(),
    };
    let routing_key = match (one.story, one.number % 8) {
        (_, _) if one.poison == Some(Poison::Malformed(SAME_BODY)) => format!("same-body.{}", one.number),
        (Some(_), 0) if plan.disorder => format!("elsewhere.{}", one.number),
        (_, _) => content.subject.or(content.payment_id).unwrap_or_default(),
    };
    (routing_key, body)
}

/// A text as JSON.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `"name":value,`, or nothing.
fn member(name: &str, value: Option<String>) -> String {
    value.map_or(String::new(), |value| format!("\"{name}\":{value},"))
}

/// The members of `data` that most callbacks do not have.
fn rare(content: &Content) -> String {
    let expires = content.expires_at_s.and_then(|at| EXPIRES.iter().find(|(known, _)| *known == at));
    [
        member("final", content.is_final.map(|is_final| is_final.to_string())),
        member("cumulative", content.is_cumulative.then(|| "true".to_owned())),
        member("expires_at", expires.map(|(_, text)| json(text))),
        member("to", content.to.as_deref().map(json)),
    ]
    .concat()
}

fn spelled(content: &Content) -> String {
    let Content { source, kind, amount, currency, .. } = content;
    format!(
        "{{\"specversion\":\"1.0\",\"id\":{id},\"source\":\"{source}\",\"type\":\"{kind}\",{subject}\
         \"time\":\"2026-11-22T13:44:{second:02}Z\",\"datacontenttype\":\"application/json\",\
         \"data\":{{{payment}{operation}{rare}\"amount\":{amount},\"currency\":\"{currency}\"}}}}",
        id = json(&content.id),
        kind = kind.name(),
        subject = member("subject", content.subject.as_deref().map(json)),
        second = content.at_s - AT_S,
        payment = member("payment_id", content.payment_id.as_deref().map(json)),
        operation = member("operation_id", content.operation_id.as_deref().map(json)),
        rare = rare(content),
    )
}

/// Other member order, white space, time zone, escapes and unknown members: still the same callback.
fn respelled(content: &Content) -> String {
    let Content { source, kind, amount, currency, .. } = content;
    format!(
        "{{ \"data\": {{ {operation}{rare}\"currency\": \"{currency}\", {payment}\"note\": {{\"deep\": [1, 2.5, null]}}, \
         \"amount\": {amount} }},\n  \"time\": \"2026-11-22T21:44:{second:02}+08:00\", {subject}\
         \"traceparent\": \"00-0-0-00\", \"type\": \"{kind}\", \"source\": \"\\u002f{source}\", \"id\": {id}, \
         \"specversion\": \"1.0\" }}",
        id = json(&content.id),
        kind = kind.name(),
        source = &source[1..],
        subject = member("subject", content.subject.as_deref().map(json)),
        second = content.at_s - AT_S,
        payment = member("payment_id", content.payment_id.as_deref().map(json)),
        operation = member("operation_id", content.operation_id.as_deref().map(json)),
        rare = rare(content),
    )
}

/// What tells a bad message from every other: its body, and of what cannot be decoded the routing key too.
pub fn identity(plan: &Plan, one: &Distinct) -> (String, Vec<u8>) {
    let (routing_key, body) = message(plan, Sending { distinct: one.number, way: None }, 0);
    match one.poison {
        Some(Poison::Malformed(_)) => (routing_key, body),
        Some(_) | None => (String::new(), body),
    }
}

/// A sound body, broken. The number makes each one's bytes its own, but for those of [`SAME_BODY`].
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
        SAME_BODY => b"not JSON, and the body of others too".to_vec(),
        14 => body.replace("\"source\":\"", &format!("\"source\":\"{}", "x".repeat(200))).into_bytes(),
        _ => [body.as_bytes(), &vec![b' '; 256 * 1024]].concat(),
    }
}
