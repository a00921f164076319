//! A message's body as it may be shown: byte for byte as it came, but for what is known to be sensitive. Read as a run of JSON tokens,
//! not as JSON: what lies in quarantine is often not JSON, and a parser would hide just what was wrong with it.

use super::layout::visible;
use crate::mask::{MEMBERS, mask_text};

/// Members whose values are never shown besides [`MEMBERS`], compared in lower case and without `_`, `-` and spaces.
const SENSITIVE: [&str; 20] = [
    "accountholder",
    "accountnumber",
    "apikey",
    "authorization",
    "birthdate",
    "dateofbirth",
    "dob",
    "email",
    "expiry",
    "iban",
    "nationalid",
    "passport",
    "password",
    "phone",
    "phonenumber",
    "privatekey",
    "secret",
    "ssn",
    "taxid",
    "token",
];
/// Shown in place of a value.
const MASK: &str = "•••";
/// Bytes shown at most.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// The body, for a person. Identifiers in `keep` are no card numbers.
pub(super) fn body(bytes: &[u8], keep: &[&str]) -> String {
    let cut = bytes.get(..SHOWN_BYTES_MAX).unwrap_or(bytes);
    let text = String::from_utf8_lossy(cut);
    let mut shown = visible_lines(&mask_text(&members_masked(&text), keep));
    if cut.len() < bytes.len() {
        shown.push_str(&format!("\n… {} bytes more", bytes.len() - cut.len()));
    }
    shown
}

/// Line breaks and tabs stay.
fn visible_lines(text: &str) -> String {
    text.split('\n')
        .map(|line| line.split('\t').map(visible).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Replaces the value after each sensitive name and colon, whatever else the text is.
fn members_masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        let string = string_token(&rest[at..]);
        let after = &rest[at + string.len()..];
        let colon = after.len() - after.trim_start().len();
        shown.push_str(&rest[..at + string.len()]);
        rest = after;
        if after[colon..].starts_with(':') && is_sensitive(string) {
            let value = after[colon + 1..].trim_start();
            let gap = &after[..after.len() - value.len()];
            shown.push_str(gap);
            shown.push_str(MASK);
            rest = &value[value_token(value)..];
        }
    }
    shown + rest
}

/// The string that begins here, to its closing quote or the end of the text.
fn string_token(text: &str) -> &str {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return &text[..=at],
            _ => {}
        }
    }
    text
}

/// The length of the value that begins here: a string, an object or array with all that is in it, or a bare word.
fn value_token(text: &str) -> usize {
    if text.starts_with('"') {
        return string_token(text).len();
    }
    if !text.starts_with(['{', '[']) {
        return text.find([',', '}', ']', '\n']).unwrap_or(text.len());
    }
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' => {
                at += string_token(&text[at..]).len();
                continue;
            }
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn is_sensitive(name: &str) -> bool {
    // Escapes are undone, or "c\u0076v" would be shown.
    let name: String = serde_json::from_str(name).unwrap_or_else(|_| name.to_owned());
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    MEMBERS.iter().chain(&SENSITIVE).any(|member| *member == plain)
}

#[cfg(test)]
mod tests {
    fn body(bytes: &[u8]) -> String {
        super::body(bytes, &[])
    }

    #[test]
    fn sensitive_members_are_masked_and_all_else_stays_as_it_came() {
        for (text, expected) in [
            (
                r#"{"id":"e","data":{"amount":1e3,"cvv":"123"}}"#,
                r#"{"id":"e","data":{"amount":1e3,"cvv":•••}}"#,
            ),
            (r#"{"Card_Number" : 4242, "x":1}"#, r#"{"Card_Number" : •••, "x":1}"#),
            (r#"{"c\u0076v":"1","token":{"a":["}",{}]},"x":2}"#, r#"{"c\u0076v":•••,"token":•••,"x":2}"#),
            (r#"{"password":"a\"b","#, r#"{"password":•••,"#),
            (r#"{"password":"never closed"#, r#"{"password":•••"#),
            (r#"{"token":[1,2"#, r#"{"token":•••"#),
            (r#"{"note":"cvv: 1","cvv"}"#, r#"{"note":"cvv: 1","cvv"}"#),
            ("not JSON at all", "not JSON at all"),
            ("", ""),
            // What cases keep masked is masked here too, whatever it was called.
            (r#"{"pinBlock":"9","csc":1,"iban":"x"}"#, r#"{"pinBlock":•••,"csc":•••,"iban":•••}"#),
        ] {
            assert_eq!(body(text.as_bytes()), expected);
        }
    }

    #[test]
    fn card_numbers_keep_six_and_four_digits_and_other_numbers_all() {
        for (text, expected) in [
            ("4242424242424242", "424242******4242"),
            ("pan 4242-4242 4242-4242.", "pan 4242-42** ****-4242."),
            ("4242424242424243", "4242424242424243"),
            ("9007199254740991", "9007199254740991"),
            ("424242424242", "424242424242"),
        ] {
            assert_eq!(body(text.as_bytes()), expected);
        }
    }

    #[test]
    fn identifiers_that_stand_beside_the_body_are_shown_in_it() {
        let text = br#"{"id":"4242424242424242","note":"5555555555554444"}"#;
        let expected = r#"{"id":"4242424242424242","note":"555555******4444"}"#;
        assert_eq!(super::body(text, &["4242424242424242"]), expected);
    }

    #[test]
    fn bytes_that_are_no_text_and_characters_that_hide_are_visible() {
        assert_eq!(body(b"\xff\x00a\nb\tc"), "\u{FFFD}‹U+0000›a\nb\tc");
        assert_eq!(body("x\u{202E}y".as_bytes()), "x‹U+202E›y");
        assert!(body(&[b'x'; 70_000]).ends_with("… 4464 bytes more"));
    }
}
