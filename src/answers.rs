//! The one form of JSON answers, of `payonce api` and of the operators' API: money as whole minor units with its decimal text beside it,
//! errors as `{"error": {"code", "message"}}` (contract §10). What must not live here: HTTP, and what an answer is about.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::ledger::Currency;

/// Members that hold money, in minor units of the currency of their object or of the one around it.
const MONEY: [&str; 22] = [
    "amount",
    "balance",
    "held",
    "available",
    "debt",
    "authorized",
    "captured",
    "refunded",
    "reinstated",
    "deposited",
    "disputed",
    "balance_delta",
    "held_delta",
    "balance_after",
    "held_after",
    "available_after",
    // Of reports.
    "opening",
    "movements",
    "closing",
    "debts",
    "clearing",
    "trial_balance",
];

/// Levels that are looked into; answers have four.
const DEPTH_MAX: u32 = 16;

/// As JSON, with `NAME_decimal` beside each amount whose currency is known.
///
/// # Errors
/// What cannot be JSON, such as a map whose keys are no texts.
pub fn answer(value: &impl Serialize) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(value)?;
    add_decimals(&mut value, None, DEPTH_MAX);
    Ok(value)
}

/// The form of every refusal.
#[must_use]
pub fn error(code: &str, message: &str) -> Value {
    json!({ "error": { "code": code, "message": message } })
}

/// The code of a refusal with this HTTP status.
#[must_use]
pub fn code_of(status: u16) -> &'static str {
    match status {
        400 | 422 => "bad_request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        405 => "method_not_allowed",
        409 => "conflict",
        413 => "too_large",
        415 => "unsupported_media_type",
        429 => "too_many_requests",
        503 => "unavailable",
        _ => "refused",
    }
}

fn add_decimals(value: &mut Value, around: Option<Currency>, depth: u32) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| add_decimals(item, around, depth)),
        Value::Object(members) => {
            let own = members.get("currency").and_then(Value::as_str).and_then(Currency::parse);
            let currency = own.or(around);
            members.values_mut().for_each(|member| add_decimals(member, currency, depth));
            if let Some(currency) = currency {
                add_to(members, currency);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn add_to(members: &mut Map<String, Value>, currency: Currency) {
    for name in MONEY {
        // Text where 64 bits do not hold it.
        let minor_units = members.get(name).and_then(|value| match value {
            Value::Number(number) => number.as_i64().map(i128::from),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        });
        if let Some(minor_units) = minor_units {
            members.insert(format!("{name}_decimal"), Value::from(currency.decimal(minor_units)));
        }
    }
}

/// Minor units as decimal text ([`Currency::decimal`]); of a code that is no currency as they are.
#[must_use]
pub fn decimal_of(minor_units: impl Into<i128>, code: &str) -> String {
    let minor_units: i128 = minor_units.into();
    Currency::parse(code).map_or_else(|| minor_units.to_string(), |currency| currency.decimal(minor_units))
}

/// The reverse: minor units of a decimal text with an optional sign, such as `-19.99` of CNY. `None` where it has more digits than the
/// currency, an exponent, or does not fit. Never a float. Thousands may be apart by commas, as [`money`] writes them, where no comma can be
/// meant as a point: before a point, or of a currency without digits after it.
#[must_use]
pub fn minor_units(text: &str, currency: Currency) -> Option<i64> {
    let text = text.trim();
    let (is_negative, text) = match text.strip_prefix(['-', '\u{2212}']) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = currency.minor_digits() as usize;
    let text = match text.contains(',') {
        true => &together(text).filter(|text| digits == 0 || text.contains('.'))?,
        false => text,
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain(whole) || !is_plain(fraction) || (text.contains('.') && fraction.len() > digits) {
        return None;
    }
    let fraction = if digits == 0 { String::new() } else { format!("{fraction:0<digits$}") };
    let units: i64 = format!("{whole}{fraction}").parse().ok()?;
    if is_negative { units.checked_neg() } else { Some(units) }
}

/// Without the commas between thousands; `None` where they stand elsewhere.
fn together(text: &str) -> Option<String> {
    let whole = text.split('.').next().unwrap_or_default();
    let is_apart = whole.split(',').enumerate().all(|(at, group)| match at {
        0 => (1..=3).contains(&group.len()),
        _ => group.len() == 3,
    });
    let has_others = text.get(whole.len()..).is_some_and(|rest| rest.contains(','));
    (is_apart && !has_others).then(|| text.replace(',', ""))
}

/// The reverse of [`money`]: minor units and currency of a text such as `634.83 EUR`, the code before or after the number. Above zero.
///
/// # Errors
/// What was expected.
pub fn money_of(text: &str) -> Result<(i64, Currency), String> {
    const EXPECTED: &str =
        "expected an amount and its currency, such as 1,634.83 EUR, 178017 JPY or 519.354 KWD";
    let given: String = text.chars().take(40).collect();
    let expected = || format!("{given:?} is not an amount of money: {EXPECTED}");
    let mut words = text.split_whitespace();
    let (Some(first), Some(second), None) = (words.next(), words.next(), words.next()) else {
        return Err(expected());
    };
    let read =
        |number: &str, code: &str| Some((number.to_owned(), Currency::parse(&code.to_ascii_uppercase())?));
    let (number, currency) = read(first, second).or_else(|| read(second, first)).ok_or_else(expected)?;
    let units = minor_units(&number, currency).filter(|units| *units > 0);
    let wrong = || format!("{number:?} is no amount of {}: {EXPECTED}", currency.as_str());
    units.map(|units| (units, currency)).ok_or_else(wrong)
}

/// The same for people, with the code: `-19.99 CNY`. Of a code that is no currency the minor units stand as they are.
#[must_use]
pub fn money(minor_units: impl Into<i128>, code: &str) -> String {
    match Currency::parse(code) {
        Some(currency) => currency.money(minor_units),
        None => format!("{} {code} (minor units)", minor_units.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_are_read_where_none_can_be_meant_as_a_point() {
        for (text, read) in [
            ("1,234.50 EUR", Some(123_450)),
            ("1,001,188.20 EUR", Some(100_118_820)),
            ("178,017 JPY", Some(178_017)),
            ("42,50 EUR", None),
            ("42,500 EUR", None),
            ("519,354 KWD", None),
            ("1234,567.00 EUR", None),
            ("1,23.50 EUR", None),
            (",234.50 EUR", None),
            ("1.5,00 EUR", None),
            ("17,8017 JPY", None),
        ] {
            assert_eq!(money_of(text).ok().map(|(units, _)| units), read, "{text}");
        }
    }

    #[test]
    fn a_decimal_text_is_read_as_the_minor_units_that_it_is_written_from() {
        let of = |text, code| minor_units(text, Currency::parse(code).expect("a currency"));
        for (text, code, units) in [
            ("-12.50", "EUR", -1_250),
            ("+12.5", "EUR", 1_250),
            ("12", "EUR", 1_200),
            (" 0.05 ", "EUR", 5),
            ("\u{2212}1.999", "KWD", -1_999),
            ("1999", "JPY", 1_999),
        ] {
            assert_eq!(of(text, code), Some(units), "{text} {code}");
            let currency = Currency::parse(code).expect("a currency");
            assert_eq!(minor_units(&currency.decimal(units), currency), Some(units));
        }
        for (text, code) in [
            ("", "EUR"),
            ("-", "EUR"),
            ("1.", "EUR"),
            (".5", "EUR"),
            ("1.999", "EUR"),
            ("1.0", "JPY"),
            ("1,50", "EUR"),
            ("1e3", "EUR"),
            ("--1", "EUR"),
            ("1 000", "EUR"),
            ("99999999999999999999", "EUR"),
        ] {
            assert_eq!(of(text, code), None, "{text} {code}");
        }
    }

    #[test]
    fn every_amount_has_its_decimal_text_beside_it_and_nothing_else_has() {
        let found = answer(&json!({
            "currency": "EUR", "balance": 5, "version": 7,
            "entries": [{ "amount": 10, "balance_delta": -10 }, { "currency": "JPY", "amount": 10 }],
        }));
        let found = found.expect("JSON");
        assert_eq!(found["balance_decimal"], "0.05");
        assert_eq!(found.get("version_decimal"), None);
        assert_eq!(found["entries"][0]["amount_decimal"], "0.10");
        assert_eq!(found["entries"][0]["balance_delta_decimal"], "-0.10");
        assert_eq!(found["entries"][1]["amount_decimal"], "10");
        assert_eq!(answer(&json!({ "amount": 10 })).expect("JSON"), json!({ "amount": 10 }));
    }
}
