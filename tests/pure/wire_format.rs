//! The message on the queue: what is a callback, what is not and why, and what makes two messages the same.

use std::collections::HashSet;

use payonce::{
    ledger::{Callback, Fingerprint, Kind, Reason},
    wire::{BODY_BYTES_MAX, decode},
};
use proptest::{collection::vec, prelude::*, sample::Index};

/// The contract's example, every member of the table in §2 present.
const BODY: &str = r#"{
  "specversion": "1.0",
  "id": "evt_1QXb2T",
  "source": "/providers/stripe",
  "type": "payment.captured",
  "subject": "acct-1001",
  "time": "2026-11-22T13:44:14Z",
  "datacontenttype": "application/json",
  "data": {
    "payment_id": "pay_77",
    "operation_id": "ch_3QXb2T",
    "amount": 1999,
    "currency": "CNY",
    "final": true
  }
}"#;

/// A detail is for a person and goes into logs and tables: it does not grow with what it describes.
const DETAIL_BYTES_MAX: usize = 2_000;

/// The example with `from` replaced, which must occur once.
#[track_caller]
fn with(from: &str, to: &str) -> String {
    assert_eq!(BODY.matches(from).count(), 1, "{from} in the example");
    BODY.replace(from, to)
}

/// The example without a member.
#[track_caller]
fn without(member: &str) -> String {
    let mut event: serde_json::Value = serde_json::from_str(BODY).unwrap();
    let removed = match member.strip_prefix("data.") {
        Some(member) => event["data"].as_object_mut().unwrap().remove(member),
        None => event.as_object_mut().unwrap().remove(member),
    };
    assert!(removed.is_some(), "{member} in the example");
    event.to_string()
}

#[track_caller]
fn good(body: &str) -> Callback {
    decode(body.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

#[track_caller]
fn fingerprint(body: &str) -> Fingerprint {
    good(body).fingerprint
}

/// What may come over the queue.
fn queue_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| *kind != Kind::AdjustmentPosted)
}

/// The example with this type, and what a transfer needs.
fn of_kind(kind: Kind) -> String {
    let body = with("payment.captured", kind.as_str());
    let to = if kind == Kind::TransferSucceeded { "\"to\": \"acct-1002\"," } else { "" };
    body.replace("\"data\": {", &format!("\"data\": {{ {to}"))
}

/// That this body is refused, for this reason, with a detail that names this member.
#[track_caller]
fn bad(body: &[u8], reason: Reason, member: &str) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(600)]).into_owned();
    let Err(error) = decode(body) else {
        panic!("expected {reason:?} ({member}), but it is a callback:\n{shown}")
    };
    assert_eq!(error.reason, reason, "{}\n{shown}", error.detail);
    let mut words = error.detail.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    assert!(words.any(|word| word == member), "the detail does not name {member}: {}\n{shown}", error.detail);
    assert!(error.detail.len() <= DETAIL_BYTES_MAX, "a detail of {} bytes\n{shown}", error.detail.len());
}

#[track_caller]
fn malformed(body: &str, member: &str) {
    bad(body.as_bytes(), Reason::Malformed, member);
}

#[test]
fn the_contracts_example_is_read_member_by_member() {
    let callback = good(BODY);
    assert_eq!(callback.key.source.as_str(), "/providers/stripe");
    assert_eq!(callback.key.event_id.as_str(), "evt_1QXb2T");
    assert_eq!(callback.kind, Kind::PaymentCaptured);
    assert_eq!(callback.account_id.unwrap().as_str(), "acct-1001");
    assert_eq!(callback.payment_id.unwrap().as_str(), "pay_77");
    assert_eq!(callback.operation_id.unwrap().as_str(), "ch_3QXb2T");
    assert_eq!(callback.amount.minor_units(), 1999);
    assert_eq!(callback.currency.as_str(), "CNY");
    assert!(callback.is_final);
    // 2026-11-22T13:44:14Z
    assert_eq!(callback.occurred_at_us, Some(1_795_355_054_000_000));
}

#[test]
fn every_type_of_the_contract_is_read() {
    for kind in queue_kinds() {
        let callback = good(&of_kind(kind));
        assert_eq!(callback.kind, kind);
        let stands_alone = matches!(kind, Kind::FeeCharged | Kind::TransferSucceeded);
        assert_eq!(callback.payment_key().is_some(), !stands_alone, "{kind:?}");
    }
}

#[test]
fn only_the_members_the_contract_allows_may_be_missing() {
    for member in ["specversion", "id", "source", "type", "data"] {
        malformed(&without(member), member);
    }
    for member in ["payment_id", "amount", "currency"] {
        malformed(&without(&format!("data.{member}")), member);
    }
    for member in ["subject", "time", "datacontenttype", "data.operation_id", "data.final"] {
        good(&without(member));
    }
}

#[test]
fn a_payment_id_is_required_but_for_deposits_fees_and_transfers() {
    for kind in queue_kinds() {
        let body = of_kind(kind).replace("\"payment_id\": \"pay_77\",", "");
        if matches!(kind, Kind::DepositSucceeded | Kind::FeeCharged | Kind::TransferSucceeded) {
            assert_eq!(good(&body).payment_id, None);
        } else {
            malformed(&body, "payment_id");
        }
    }
}

#[test]
fn an_operation_id_is_required_where_a_movement_is_taken_back() {
    for kind in queue_kinds() {
        let body = of_kind(kind).replace("\"operation_id\": \"ch_3QXb2T\",", "");
        if matches!(kind, Kind::PaymentCaptureFailed | Kind::RefundFailed) {
            malformed(&body, "operation_id");
        } else {
            assert_eq!(good(&body).operation_id, None);
        }
    }
}

#[test]
fn a_subject_may_be_missing_where_the_payment_says_whose_it_is() {
    for kind in queue_kinds() {
        let body = of_kind(kind).replace("\"subject\": \"acct-1001\",", "");
        let starts_something = matches!(
            kind,
            Kind::DepositSucceeded
                | Kind::PaymentAuthorized
                | Kind::PaymentSucceeded
                | Kind::PaymentFailed
                | Kind::FeeCharged
                | Kind::TransferSucceeded
        );
        if starts_something {
            malformed(&body, "subject");
        } else {
            assert_eq!(good(&body).account_id, None, "{kind:?}");
        }
    }
}

#[test]
fn an_amount_of_0_is_read_where_no_money_is_moved_by_it() {
    for kind in queue_kinds() {
        let body = of_kind(kind).replace("1999", "0");
        if matches!(kind, Kind::PaymentFailed | Kind::PaymentVoided) {
            assert_eq!(good(&body).amount.minor_units(), 0);
        } else {
            malformed(&body, "amount");
        }
    }
    malformed(&of_kind(Kind::PaymentVoided).replace("1999", "0").replace("true", "false"), "amount");
}

#[test]
fn what_operators_post_is_not_read_from_the_queue() {
    malformed(&with("payment.captured", "adjustment.posted"), "adjustment");
    bad(with("/providers/stripe", "urn:payonce:operator").as_bytes(), Reason::BadSignature, "payonce");
}

#[test]
fn a_transfer_names_another_account() {
    let transfer = of_kind(Kind::TransferSucceeded);
    assert_eq!(good(&transfer).to.unwrap().as_str(), "acct-1002");
    malformed(&transfer.replace("\"to\": \"acct-1002\",", ""), "to");
    malformed(&transfer.replace("acct-1002", "acct-1001"), "to");
    malformed(&transfer.replace("acct-1002", ""), "to");
}

#[test]
fn an_adjusted_authorization_says_when() {
    // Of several the latest holds; so of this type alone the time decides something.
    let adjusted = of_kind(Kind::PaymentAuthorizationAdjusted);
    malformed(&adjusted.replace("2026-11-22T13:44:14Z", "yesterday"), "time");
    malformed(&adjusted.replace("\"time\": \"2026-11-22T13:44:14Z\",", ""), "time");
}

#[test]
fn the_end_of_a_hold_is_an_rfc_3339_timestamp() {
    let expires = |token: &str| with("\"data\": {", &format!("\"data\": {{ \"expires_at\": {token},"));
    assert_eq!(good(&expires("\"1970-01-01T02:00:01+02:00\"")).expires_at_us, Some(1_000_000));
    assert_eq!(good(&expires("null")).expires_at_us, None);
    for token in ["\"\"", "\"tomorrow\"", "\"2026-11-22\"", "\"9999-12-31T23:59:59-08:00\"", "1795355054"] {
        malformed(&expires(token), "expires_at");
    }
}

#[test]
fn a_void_releases_the_rest_unless_it_says_not() {
    let void = of_kind(Kind::PaymentVoided);
    assert!(good(&void).is_final && good(&void.replace("true", "null")).is_final);
    assert!(!good(&void.replace("true", "false")).is_final);
    assert!(!good(&with("true", "null")).is_final, "a capture keeps the rest");
}

#[test]
fn an_amount_is_an_integer_from_1_to_2_to_the_53_minus_1() {
    let amount = |token: &str| with("\"amount\": 1999", &format!("\"amount\": {token}"));
    assert_eq!(good(&amount("1")).amount.minor_units(), 1);
    assert_eq!(good(&amount("9007199254740991")).amount.minor_units(), 9_007_199_254_740_991);
    for token in [
        "9007199254740992",
        "0",
        "-0",
        "-1",
        "1.0",
        "1.5",
        "1999.00",
        "1e3",
        "1E0",
        "0.1e1",
        "\"1\"",
        "\"1999\"",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999999999999999999",
        "1e400",
        "null",
        "true",
        "[1999]",
        "{}",
    ] {
        malformed(&amount(token), "amount");
    }
    // Not JSON at all.
    for token in ["01", "+1", "1.", ".5", "0x10", "1_000", "NaN", "Infinity", "１", ""] {
        assert_eq!(decode(amount(token).as_bytes()).unwrap_err().reason, Reason::Malformed, "{token}");
    }
}

#[test]
fn every_identifier_has_1_to_200_bytes() {
    let members = [
        ("id", "evt_1QXb2T"),
        ("source", "/providers/stripe"),
        ("subject", "acct-1001"),
        ("payment_id", "pay_77"),
        ("operation_id", "ch_3QXb2T"),
    ];
    for (member, text) in members {
        let replaced =
            |by: &str| with(&format!("\"{member}\": \"{text}\""), &format!("\"{member}\": \"{by}\""));
        good(&replaced("x"));
        good(&replaced(&"x".repeat(200)));
        // Two bytes each: the limit counts bytes, not characters.
        good(&replaced(&"é".repeat(100)));
        malformed(&replaced(""), member);
        malformed(&replaced(&"x".repeat(201)), member);
        malformed(&replaced(&"é".repeat(101)), member);
        malformed(&replaced(&"x".repeat(200_000)), member);
    }
}

#[test]
fn no_identifier_holds_a_control_character() {
    let members = ["evt_1QXb2T", "/providers/stripe", "acct-1001", "pay_77", "ch_3QXb2T"];
    let names = ["id", "source", "subject", "payment_id", "operation_id"];
    for (text, member) in members.into_iter().zip(names) {
        for escape in ["\\u0000", "\\n", "\\t", "\\u001b", "\\u007f", "\\u0085"] {
            malformed(&with(text, &format!("x{escape}y")), member);
        }
        // Raw control characters are not JSON.
        assert_eq!(decode(with(text, "x\ny").as_bytes()).unwrap_err().reason, Reason::Malformed);
        good(&with(text, "Ünïcode 日本 \u{1f980} \\\" \\\\"));
    }
}

#[test]
fn a_currency_is_an_iso_4217_code_in_capitals() {
    for code in ["CNY", "EUR", "JPY", "KWD"] {
        assert_eq!(good(&with("CNY", code)).currency.as_str(), code);
    }
    for code in ["cny", "Cny", "CNYX", "CN", "", "XXX", "ABC", "156", "C\\u0000Y"] {
        malformed(&with("CNY", code), "currency");
    }
}

#[test]
fn a_member_of_the_wrong_type_is_named() {
    let swaps = [
        ("specversion", "\"1.0\""),
        ("id", "\"evt_1QXb2T\""),
        ("source", "\"/providers/stripe\""),
        ("type", "\"payment.captured\""),
        ("subject", "\"acct-1001\""),
        ("payment_id", "\"pay_77\""),
        ("operation_id", "\"ch_3QXb2T\""),
        ("currency", "\"CNY\""),
        ("final", "true"),
    ];
    for (member, token) in swaps {
        for other in ["1", "1.5", "[]", "{}", "[\"x\"]"] {
            malformed(&with(&format!("\"{member}\": {token}"), &format!("\"{member}\": {other}")), member);
        }
    }
    malformed(&with("\"final\": true", "\"final\": \"true\""), "final");
    malformed(&with("\"final\": true", "\"final\": 1"), "final");
}

#[test]
fn null_is_as_good_as_absent_and_no_better() {
    let operation = with("\"ch_3QXb2T\"", "null");
    assert_eq!(fingerprint(&operation), fingerprint(&without("data.operation_id")));
    assert_eq!(fingerprint(&with("true", "null")), fingerprint(&without("data.final")));
    assert_eq!(good(&with("\"2026-11-22T13:44:14Z\"", "null")).occurred_at_us, None);
    malformed(&with("\"pay_77\"", "null"), "payment_id");
    assert_eq!(fingerprint(&with("\"acct-1001\"", "null")), fingerprint(&without("subject")));
    malformed(&with("\"evt_1QXb2T\"", "null"), "id");
}

#[test]
fn an_event_and_its_data_are_json_objects() {
    let data = &BODY[BODY.find("\"data\": {").unwrap() + 8..BODY.rfind('}').unwrap()];
    for other in ["[]", "\"text\"", "1", "true", "[\"pay_77\", \"ch_3QXb2T\", 1999, \"CNY\", true]"] {
        malformed(&with(data, other), "data");
    }
    let [event, bare] = [data, "{}"].map(|data| {
        format!(
            "[\"1.0\", \"evt_1QXb2T\", \"/providers/stripe\", \"payment.captured\", \"acct-1001\", \
             \"2026-11-22T13:44:14Z\", {data}]"
        )
    });
    for other in ["", " ", "null", "1", "\"text\"", "[]", "{", "{}", &event, &bare] {
        let result = decode(other.as_bytes());
        assert_eq!(result.expect_err(other).reason, Reason::Malformed, "{other}");
    }
}

#[test]
fn a_member_that_stands_twice_is_refused() {
    let twice = [
        ("specversion", "\"1.0\""),
        ("id", "\"evt_2\""),
        ("source", "\"/x\""),
        ("type", "\"deposit.succeeded\""),
        ("subject", "\"acct-2\""),
        ("time", "\"2026-11-22T13:44:14Z\""),
        ("data", "{}"),
    ];
    for (member, token) in twice {
        malformed(&with("{\n  \"spec", &format!("{{ \"{member}\": {token}, \"spec")), member);
    }
    let twice_in_data = [
        ("payment_id", "\"pay_78\""),
        ("operation_id", "\"ch_4\""),
        ("amount", "1"),
        ("amount", "1999"),
        ("currency", "\"EUR\""),
        ("final", "false"),
    ];
    for (member, token) in twice_in_data {
        malformed(&with("\"data\": {", &format!("\"data\": {{ \"{member}\": {token},")), member);
    }
    // Also where one of them is spelled with an escape.
    malformed(&with("\"data\": {", "\"data\": { \"\\u0061mount\": 1,"), "amount");
}

#[test]
fn an_unknown_type_is_unsupported_whatever_its_data() {
    for name in ["payment.disputed", "Payment.Captured", "payment.captured ", "", "deposit"] {
        bad(with("payment.captured", name).as_bytes(), Reason::UnsupportedType, "type");
    }
    bad(with("payment.captured", &"x".repeat(200_000)).as_bytes(), Reason::UnsupportedType, "type");
    let future = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "payout.sent", "data": [1]}"#;
    bad(future.as_bytes(), Reason::UnsupportedType, "type");
}

#[test]
fn only_specversion_1_0_is_read() {
    for version in ["0.3", "1.1", "2.0", "1", ""] {
        malformed(&with("\"1.0\"", &format!("\"{version}\"")), "specversion");
    }
    malformed(&with("\"1.0\"", &format!("\"{}\"", "9".repeat(200_000))), "specversion");
}

#[test]
fn a_time_is_an_rfc_3339_timestamp() {
    let time = |text: &str| with("2026-11-22T13:44:14Z", text);
    let at = |text: &str| good(&time(text)).occurred_at_us.unwrap();
    assert_eq!(at("1970-01-01T00:00:00Z"), 0);
    assert_eq!(at("1970-01-01T00:00:00.000001Z"), 1);
    assert_eq!(at("1970-01-01T02:00:01+02:00"), 1_000_000);
    assert_eq!(at("2026-11-22t13:44:14z"), at("2026-11-22T13:44:14Z"));
    // A leap second.
    at("2016-12-31T23:59:60Z");
    at("9999-12-31T23:59:59.999999999Z");
    at("0000-01-01T00:00:00Z");
    at("9999-12-31T22:59:59-01:00");
}

#[test]
fn a_time_that_cannot_be_read_is_dropped_and_the_payment_is_not() {
    let time = |text: &str| with("2026-11-22T13:44:14Z", text);
    for text in [
        "",
        "yesterday",
        "2026-11-22",
        "2026-13-01T00:00:00Z",
        "2026-11-22T13:44:14",
        "1795355054",
        // In UTC these are of the years -1 and 10000, which RFC 3339 cannot write: they would spoil every answer they are part of.
        "0000-01-01T00:00:00+08:00",
        "0000-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-08:00",
        "2026-11-22T13:44:14Z\\u0000",
        &"9".repeat(200_000),
    ] {
        let callback = good(&time(text));
        assert_eq!((callback.occurred_at_us, callback.fingerprint), (None, fingerprint(BODY)), "{text:.40}");
    }
    for token in ["1795355054", "1e400", "true", "[]", "{\"seconds\": 1}"] {
        assert_eq!(good(&with("\"2026-11-22T13:44:14Z\"", token)).occurred_at_us, None, "{token}");
    }
}

/// What people really send, and the words that let them find their mistake.
#[test]
fn a_common_mistake_is_named_with_what_to_do() {
    let found = |body: &[u8]| decode(body).expect_err("it is no callback").detail;
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(BODY.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    for (body, words) in [
        (with("CNY", "cny").into_bytes(), "data.currency: found \"cny\", upper case is expected: \"CNY\""),
        (
            with("CNY", "Yuan").into_bytes(),
            "data.currency: found \"Yuan\", expected an ISO 4217 alphabetic code",
        ),
        (
            format!("[{BODY}, {BODY}]").into_bytes(),
            "found a JSON array, expected a JSON object; of a batch, publish each event",
        ),
        (
            with("ch_3QXb2T", "").into_bytes(),
            "data.operation_id: is empty, expected 1 to 200 bytes; leave it out",
        ),
        (vec![0x1f, 0x8b, 8, 0, 0, 0], "it looks like gzip: compressed bodies are not read"),
        (utf16, "it looks like UTF-16: UTF-8 is expected"),
    ] {
        let detail = found(&body);
        assert!(detail.contains(words), "{words:?} is not in {detail:?}");
    }
}

#[test]
fn a_byte_order_mark_in_front_is_passed_over() {
    assert_eq!(good(&format!("\u{feff}{BODY}")).fingerprint, fingerprint(BODY));
    // One, and only in front.
    malformed(&format!("\u{feff}\u{feff}{BODY}"), "object");
    malformed(&format!(" \u{feff}{BODY}"), "object");
    // The key of what is refused for another reason is still found.
    let refused = decode(format!("\u{feff}{}", with("1999", "0")).as_bytes()).unwrap_err();
    assert_eq!(refused.key, Some(good(BODY).key));
}

/// Characters that nobody sees are no control characters: such an account is real to its provider. Pages and the command line spell
/// them out.
#[test]
fn an_identifier_may_hold_characters_that_cannot_be_seen() {
    for hidden in ["\u{200b}", "\u{200d}", "\u{feff}", "\u{2028}", "\u{ad}", "\u{e0041}"] {
        let account = format!("acct-1001{hidden}");
        let callback = good(&with("acct-1001", &account));
        assert_eq!(callback.account_id.as_ref().unwrap().as_str(), account);
        assert_ne!(callback.fingerprint, fingerprint(BODY), "another account");
    }
}

#[test]
fn unknown_members_are_ignored_at_every_level() {
    let unknown =
        r#""unknown": {"amount": -1, "deep": [null, 1e400, {"id": 5}]}, "ID": 1, "data_base64": "x","#;
    let outside = with("{\n  \"spec", &format!("{{ {unknown} \"spec"));
    let inside = with("\"data\": {", &format!("\"data\": {{ {unknown}"));
    // An unknown member may stand twice, and may not be read as its escaped neighbour.
    let twice = with("\"data\": {", "\"data\": { \"x\": 1, \"x\": 2, \"amounts\": 3,");
    for body in [outside, inside, twice] {
        assert_eq!(fingerprint(&body), fingerprint(BODY));
    }
}

#[test]
fn a_body_of_256_kib_is_read_and_one_byte_more_is_not() {
    assert_eq!(BODY_BYTES_MAX, 262_144);
    let spaces = " ".repeat(BODY_BYTES_MAX - BODY.len());
    let filled = |filler: &str| with("{\n  \"spec", &format!("{{ \"x\": \"{filler}\", \"spec"));
    let unknown = filled(&"x".repeat(BODY_BYTES_MAX - filled("").len()));
    for full in [format!("{BODY}{spaces}"), unknown] {
        assert_eq!(full.len(), BODY_BYTES_MAX);
        assert_eq!(fingerprint(&full), fingerprint(BODY));
        bad(format!("{full} ").as_bytes(), Reason::Malformed, "bytes");
    }
    // Size is judged before content.
    bad(&vec![0xff; BODY_BYTES_MAX + 1], Reason::Malformed, "bytes");
}

#[test]
fn deep_nesting_does_not_end_the_worker() {
    let deep = (BODY_BYTES_MAX - BODY.len() - 20) / 2;
    let nested = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let unknown = with("{\n  \"spec", &format!("{{ \"x\": {nested}, \"spec"));
    assert_eq!(fingerprint(&unknown), fingerprint(BODY));
    let objects = (BODY_BYTES_MAX - BODY.len() - 20) / 6;
    let nested = format!("{}0{}", "{\"x\":".repeat(objects), "}".repeat(objects));
    let inside = with("\"data\": {", &format!("\"data\": {{ \"x\": {nested},"));
    assert_eq!(fingerprint(&inside), fingerprint(BODY));
    // Where it is also malformed, the key is looked for in a second reading.
    for body in [unknown.replace("\"1.0\"", "1"), "[".repeat(BODY_BYTES_MAX), nested] {
        assert_eq!(decode(body.as_bytes()).unwrap_err().reason, Reason::Malformed);
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_malformed() {
    for bytes in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80"] {
        bad(bytes, Reason::Malformed, "UTF");
        let mut body = BODY.as_bytes().to_vec();
        let at = BODY.find("pay_77").unwrap();
        body.splice(at..at, bytes.iter().copied());
        bad(&body, Reason::Malformed, "UTF");
    }
    // Half of a surrogate pair is no character; both halves are one.
    assert_eq!(decode(with("pay_77", "\\ud83e").as_bytes()).unwrap_err().reason, Reason::Malformed);
    assert_eq!(
        good(&with("pay_77", "\\ud83e\\udd80")).payment_id,
        good(&with("pay_77", "\u{1f980}")).payment_id
    );
}

#[test]
fn a_refused_message_keeps_its_key_where_it_can_be_read() {
    let key = good(BODY).key;
    let readable = [
        with("1999", "0"),
        with("1999", "1.5"),
        with("payment.captured", "payment.disputed"),
        with("\"1.0\"", "\"2.0\""),
        with("\"1.0\"", "1"),
        with("\"acct-1001\"", "17"),
        without("data"),
    ];
    for body in readable {
        assert_eq!(decode(body.as_bytes()).unwrap_err().key.as_ref(), Some(&key), "{body}");
    }
    for body in [without("id"), without("source"), with("evt_1QXb2T", ""), BODY[..100].to_owned()] {
        assert_eq!(decode(body.as_bytes()).unwrap_err().key, None, "{body}");
    }
}

#[test]
fn spelling_order_time_and_unknown_members_do_not_count() {
    let compact = serde_json::from_str::<serde_json::Value>(BODY).unwrap().to_string();
    let spaced = BODY.replace('\n', "\r\n\t").replace(':', " : ");
    let reversed = {
        let event: serde_json::Map<_, _> = serde_json::from_str(BODY).unwrap();
        let members: Vec<String> =
            event.iter().rev().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    };
    let same = [
        compact,
        // The time holds colons.
        spaced.replace("13 : 44 : 14", "13:44:14"),
        reversed,
        with("acct-1001", "\\u0061cct\\u002d1001"),
        with("\"amount\"", "\"\\u0061mount\""),
        with("/providers/stripe", "\\/providers\\/stripe"),
        with("2026-11-22T13:44:14Z", "2030-01-01T00:00:00+08:00"),
        without("time"),
        without("datacontenttype"),
        with("\"data\": {", "\"data\": { \"memo\": \"x\","),
        // The key is compared by itself; it is not part of the content.
        with("evt_1QXb2T", "evt_2"),
        with("/providers/stripe", "/providers/adyen"),
    ];
    for body in same {
        assert_eq!(fingerprint(&body), fingerprint(BODY), "{body}");
    }
    assert_eq!(fingerprint(&with("true", "false")), fingerprint(&without("data.final")));
}

#[test]
fn each_member_of_the_content_counts() {
    let member = |member: &str| with("\"data\": {", &format!("\"data\": {{ {member},"));
    let other = [
        member("\"cumulative\": true"),
        member("\"expires_at\": \"2026-11-22T13:44:14Z\""),
        member("\"expires_at\": \"2026-11-22T13:44:15Z\""),
        member("\"to\": \"acct-1002\""),
        with("\"acct-1001\"", "null"),
        with("payment.captured", "payment.voided"),
        with("acct-1001", "acct-1002"),
        with("pay_77", "pay_78"),
        with("ch_3QXb2T", "ch_4"),
        without("data.operation_id"),
        with("1999", "1998"),
        with("CNY", "USD"),
        with("true", "false"),
    ];
    let fingerprints: HashSet<Fingerprint> =
        other.iter().map(|body| fingerprint(body)).chain([fingerprint(BODY)]).collect();
    assert_eq!(fingerprints.len(), other.len() + 1);
    // Of a capture these say nothing, as any member that is unknown.
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for name in ["direction", "reverses"] {
        for nothing in
            ["\"credit\"", "\"deposit.refunded\"", "\"x\"", "7", "1e999", "true", "{\"a\": []}", &deep]
        {
            assert_eq!(
                fingerprint(&member(&format!("\"{name}\": {nothing}"))),
                fingerprint(BODY),
                "{name}: {nothing}"
            );
        }
    }
    // As if they were not there: hashes of versions that did not know them stay what they were.
    assert_eq!(fingerprint(&member("\"cumulative\": false, \"expires_at\": null")), fingerprint(BODY));
}

#[test]
fn a_void_of_a_part_is_no_copy_of_a_void_of_the_rest() {
    let void = of_kind(Kind::PaymentVoided);
    assert_ne!(fingerprint(&void), fingerprint(&void.replace("true", "false")));
    assert_eq!(fingerprint(&void), fingerprint(&void.replace("true", "null")));
}

#[test]
fn texts_that_run_into_each_other_are_told_apart() {
    // A deposit may leave out either id.
    let body = with("payment.captured", "deposit.succeeded");
    let ids = |payment: &str, operation: &str| {
        body.replace("\"pay_77\"", payment).replace("\"ch_3QXb2T\"", operation)
    };
    let all = [
        ("\"ab\"", "\"c\""),
        ("\"a\"", "\"bc\""),
        ("\"abc\"", "null"),
        ("null", "\"abc\""),
        ("null", "null"),
    ];
    let fingerprints: HashSet<Fingerprint> =
        all.iter().map(|(payment, operation)| fingerprint(&ids(payment, operation))).collect();
    assert_eq!(fingerprints.len(), all.len());
}

#[test]
fn the_canonical_form_is_the_one_the_ledger_was_written_with() {
    // Hashes are stored for good: another form would turn every later copy of an old callback into a mismatch. Computed with
    // Python: for each of type, subject, payment_id, operation_id, amount, currency, final: its length (4 bytes, big-endian)
    // and its text; 0xffffffff for an absent one.
    assert_eq!(
        fingerprint(BODY).to_string(),
        "7bd37df42a7256731357c29f91f3f5b1fa7823a71aa7c9868091a2356d020b85"
    );
    let deposit = with("payment.captured", "deposit.succeeded")
        .replace("\"pay_77\"", "null")
        .replace("\"ch_3QXb2T\"", "null")
        .replace("true", "false");
    assert_eq!(
        fingerprint(&deposit).to_string(),
        "a175d9db77355798c70e02b8f63f5b4cfac0a8d402b2fa8436cd2a9862557bec"
    );
}

/// The example after some edits that a broken publisher, proxy or cable could make.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(vec![
            "\"", "{", "}", "[", "]", ",", ":", "null", "-", "1e999", "\\u", "\\ud800", "\0"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 0..8),
    ];
    vec((any::<Index>(), 0..6_usize, pieces), 1..6).prop_map(|edits| {
        let mut body = BODY.as_bytes().to_vec();
        for (at, removed, piece) in edits {
            let at = at.index(body.len());
            let end = (at + removed).min(body.len());
            body.splice(at..end, piece);
            if body.is_empty() {
                break;
            }
        }
        body
    })
}

/// That whatever is read keeps its promises, and whatever is refused says why in a few words.
fn check_any(body: &[u8]) -> Result<(), TestCaseError> {
    match decode(body) {
        Ok(callback) => {
            let least = i64::from(!callback.kind.takes_zero(callback.is_final));
            prop_assert!((least..=9_007_199_254_740_991).contains(&callback.amount.minor_units()));
            let texts = [
                Some(callback.key.source.as_str()),
                Some(callback.key.event_id.as_str()),
                callback.account_id.as_ref().map(|id| id.as_str()),
                callback.to.as_ref().map(|id| id.as_str()),
                callback.payment_id.as_ref().map(|id| id.as_str()),
                callback.operation_id.as_ref().map(|id| id.as_str()),
            ];
            for text in texts.into_iter().flatten() {
                prop_assert!((1..=200).contains(&text.len()) && !text.chars().any(char::is_control));
            }
            prop_assert!(callback.payment_id.is_some() || !callback.kind.needs_payment_id());
            prop_assert!(callback.account_id.is_some() || callback.kind.finds_account());
        }
        Err(error) => {
            prop_assert!(matches!(error.reason, Reason::Malformed | Reason::UnsupportedType));
            prop_assert!((1..=DETAIL_BYTES_MAX).contains(&error.detail.len()), "{}", error.detail);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in vec(any::<u8>(), 0..2000)) {
        check_any(&body)?;
    }

    #[test]
    fn any_text_is_read_or_refused(body in "\\PC{0,400}") {
        check_any(body.as_bytes())?;
    }

    #[test]
    fn any_edit_of_a_sound_body_is_read_or_refused(body in mutated()) {
        check_any(&body)?;
    }

    #[test]
    fn any_beginning_of_a_sound_body_is_refused(length in 0..BODY.len()) {
        prop_assert!(decode(&BODY.as_bytes()[..length]).is_err());
        check_any(&BODY.as_bytes()[..length])?;
    }
}
