//! Card data in texts from outside, made unreadable before they are stored or shown: card numbers, found by their check digit, but
//! for the first six and the last four digits (PCI DSS v4.0.1, requirement 3.4.1), and the values of members such as `cvv` or
//! `track2`, which may not be kept at all after authorization (requirement 3.3.1).
//!
//! Bytes, not JSON: what could not be decoded is masked too. Only digits and those values change, each byte to `*`, so that all
//! else stays as it came. Not found are numbers that are spelled otherwise: escaped, encoded, or cut by other signs than single
//! spaces and dashes.

use std::{borrow::Cow, ops::Range};

/// A card number has 12 to 19 digits (ISO/IEC 7812-1:2017); those of 12 are only in national use.
const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// What PCI DSS lets a person see.
const SHOWN_FIRST: usize = 6;
const SHOWN_LAST: usize = 4;

/// Members whose value is masked whole, in lower case without `_` and `-`.
pub const MEMBERS: [&str; 17] = [
    "cvv",
    "cvv2",
    "cvc",
    "cvc2",
    "csc",
    "cid",
    "securitycode",
    "cardsecuritycode",
    "cardnumber",
    "pan",
    "primaryaccountnumber",
    "track",
    "track1",
    "track2",
    "trackdata",
    "pin",
    "pinblock",
];
const MEMBER_BYTES_MAX: usize = 30;

/// The text with card data masked. What is part of a text in `keep` stays: every tenth identifier of 16 digits has a right check
/// digit by chance, and those that payonce could read stand beside the text anyway.
#[must_use]
pub fn mask<'a>(text: &'a [u8], keep: &[&str]) -> Cow<'a, [u8]> {
    let mut hidden = values_of_members(text);
    hidden.extend(card_numbers(text, keep));
    if hidden.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut masked = text.to_vec();
    for at in hidden.into_iter().flatten() {
        if let Some(byte) = masked.get_mut(at) {
            *byte = b'*';
        }
    }
    Cow::Owned(masked)
}

/// The same for text.
#[must_use]
pub fn mask_text<'a>(text: &'a str, keep: &[&str]) -> Cow<'a, str> {
    match mask(text.as_bytes(), keep) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(masked) => Cow::Owned(String::from_utf8_lossy(&masked).into_owned()),
    }
}

/// Positions of the digits to hide, of every card number, also where two overlap.
fn card_numbers(text: &[u8], keep: &[&str]) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut at = 0;
    while let Some(start) = position(text, at, is_digit_or_hidden) {
        let groups = groups(text, start);
        at = groups.last().map_or(text.len(), |group| group.end);
        for first in 0..groups.len() {
            hide_card_at(text, groups.get(first..).unwrap_or_default(), keep, &mut hidden);
        }
    }
    hidden
}

/// What is left of a number that was masked before is no new number together with its neighbours.
fn is_digit_or_hidden(byte: &u8) -> bool {
    byte.is_ascii_digit() || *byte == b'*'
}

/// Runs of digits with a single space or dash between them, from `start` on.
fn groups(text: &[u8], start: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut from = start;
    loop {
        let end = position(text, from, |byte| !is_digit_or_hidden(byte)).unwrap_or(text.len());
        groups.push(from..end);
        let is_joined = text.get(end).is_some_and(|byte| matches!(byte, b' ' | b'-'))
            && text.get(end + 1).is_some_and(is_digit_or_hidden);
        if !is_joined {
            return groups;
        }
        from = end + 1;
    }
}

/// Where the first groups are a card number, the longest that they are, its hidden digits are added.
fn hide_card_at(text: &[u8], groups: &[Range<usize>], keep: &[&str], hidden: &mut Vec<Range<usize>>) {
    let mut positions: Vec<usize> = Vec::new();
    let mut length = 0;
    for group in groups {
        let is_hidden = text.get(group.clone()).is_some_and(|bytes| bytes.contains(&b'*'));
        if is_hidden || positions.len() + group.len() > *DIGITS.end() {
            break;
        }
        positions.extend(group.clone());
        if DIGITS.contains(&positions.len()) && has_check_digit(text, &positions) {
            length = positions.len();
        }
    }
    positions.truncate(length);
    let (Some(first), Some(last)) = (positions.first(), positions.last()) else { return };
    let spelled =
        text.get(*first..=*last).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    if !keep.iter().any(|kept| kept.contains(spelled)) {
        let shown_from = length.saturating_sub(SHOWN_LAST);
        hidden
            .extend(positions.get(SHOWN_FIRST..shown_from).unwrap_or_default().iter().map(|at| *at..at + 1));
    }
}

/// ISO/IEC 7812-1, annex B: from the right, every second digit counts twice, less nine where that has two digits.
fn has_check_digit(text: &[u8], positions: &[usize]) -> bool {
    let digits = positions.iter().rev().filter_map(|at| Some(u32::from(text.get(*at)? - b'0')));
    let sum: u32 = digits
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit) {
            (0, digit) => digit,
            (_, digit @ 0..=4) => 2 * digit,
            (_, digit) => 2 * digit - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// What stands between the quotes, or the number, after the name of such a member and a colon. Also in JSON inside of a JSON
/// string, where each quote has a backslash.
fn values_of_members(text: &[u8]) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut at = 0;
    while let Some(quote) = position(text, at, |byte| *byte == b'"') {
        at = quote + 1;
        let Some(end) = position(text, at, |byte| *byte == b'"') else { break };
        if !text.get(at..end).is_some_and(is_sensitive) {
            continue;
        }
        let is_space = |byte: &u8| !byte.is_ascii_whitespace();
        let Some(colon) = position(text, end + 1, is_space).filter(|colon| text.get(*colon) == Some(&b':'))
        else {
            continue;
        };
        let Some(value) = position(text, colon + 1, is_space) else { break };
        let range = value_at(text, value);
        at = range.end.max(at);
        hidden.push(range);
    }
    hidden
}

fn value_at(text: &[u8], start: usize) -> Range<usize> {
    match (text.get(start), text.get(start + 1)) {
        (Some(b'"'), _) => {
            let mut end = start + 1;
            while let Some(byte) = text.get(end).filter(|byte| **byte != b'"') {
                end += if *byte == b'\\' { 2 } else { 1 };
            }
            start + 1..end.min(text.len())
        }
        (Some(b'\\'), Some(b'"')) => {
            let end = position(text, start + 2, |byte| matches!(byte, b'\\' | b'"'));
            start + 2..end.unwrap_or(text.len())
        }
        (Some(b'-' | b'0'..=b'9'), _) => {
            let ends = |byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'));
            start..position(text, start, ends).unwrap_or(text.len())
        }
        // null, true, an array, an object: its members are looked at by themselves.
        (Some(_) | None, _) => start..start,
    }
}

fn is_sensitive(name: &[u8]) -> bool {
    if name.len() > MEMBER_BYTES_MAX {
        return false;
    }
    let plain: Vec<u8> = name
        .iter()
        .filter(|byte| !matches!(byte, b'_' | b'-' | b' ' | b'\\'))
        .map(u8::to_ascii_lowercase)
        .collect();
    MEMBERS.iter().any(|member| member.as_bytes() == plain)
}

fn position(text: &[u8], from: usize, is: impl Fn(&u8) -> bool) -> Option<usize> {
    Some(from + text.get(from..)?.iter().position(is)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn masks(text: &str, expected: &str) {
        assert_eq!(mask_text(text, &[]), expected);
    }

    #[test]
    fn card_numbers_keep_their_first_six_and_last_four_digits() {
        // Numbers that card networks and payment providers publish for tests.
        for (text, expected) in [
            ("4242424242424242", "424242******4242"),
            ("x4242 4242 4242 4242y", "x4242 42** **** 4242y"),
            ("3782-822463-10005", "3782-82****-*0005"),
            ("5555555555554444,6011111111111117", "555555******4444,601111******1117"),
            ("30569309025904", "305693****5904"),
            ("4222222222222", "422222***2222"),
            ("6304000000000000000", "630400*********0000"),
            ("order 7 4242424242424242 12", "order 7 424242******4242 12"),
            // Two that share their middle.
            ("4242 4242 4242 4242 4242", "4242 42** **** **** 4242"),
            (
                "{\"amount\":1,\"note\":\"4000 0566 5566 5556\"}",
                "{\"amount\":1,\"note\":\"4000 05** **** 5556\"}",
            ),
        ] {
            masks(text, expected);
        }
    }

    #[test]
    fn what_is_no_card_number_stays_byte_for_byte() {
        for text in [
            "",
            "4242424242424241",
            "424242424242",
            "42424242424242424242424242424242",
            "2026-11-22T13:44:14Z",
            "4242  4242  4242  4242",
            "{\"amount\":1999,\"payment_id\":\"pay_77\"}",
            "4242.4242.4242.4242",
        ] {
            assert!(matches!(mask_text(text, &[]), Cow::Borrowed(_)), "{text}");
        }
        assert!(matches!(mask(&[0xff, b'"', 0xfe], &[]), Cow::Borrowed(_)));
    }

    #[test]
    fn identifiers_that_only_look_like_card_numbers_stay_where_they_are_known() {
        let text = "{\"id\":\"evt_4242424242424242\",\"card\":\"5555555555554444\"}";
        let expected = "{\"id\":\"evt_4242424242424242\",\"card\":\"555555******4444\"}";
        assert_eq!(mask_text(text, &["a", "evt_4242424242424242"]), expected);
    }

    #[test]
    fn values_that_may_not_be_kept_go_by_the_name_of_their_member() {
        for (text, expected) in [
            ("{\"cvv\":\"123\"}", "{\"cvv\":\"***\"}"),
            ("{\"CVC\" : 1234, \"x\":1}", "{\"CVC\" : ****, \"x\":1}"),
            ("\"security_code\":\"a\\\"b\",\"y\":2", "\"security_code\":\"****\",\"y\":2"),
            ("{\"card-number\":\"4242424242424241\"}", "{\"card-number\":\"****************\"}"),
            ("\"raw\":\"{\\\"track2\\\":\\\"42=99\\\"}\"", "\"raw\":\"{\\\"track2\\\":\\\"*****\\\"}\""),
            ("{\"pan\":null,\"pin\":[\"cvv\"]}", "{\"pan\":null,\"pin\":[\"cvv\"]}"),
            ("{\"span\":\"12\",\"cvv\":\"9", "{\"span\":\"12\",\"cvv\":\"*"),
            ("\"\"cvv\":\"123\"", "\"\"cvv\":\"***\""),
        ] {
            masks(text, expected);
        }
    }
}
