//! References: what a team calls a payment itself, such as its order or its customer, where a callback says it. They are found by name, kept
//! beside the ledger for searches, and decide nothing. What must not live here: where they are kept.

use serde_json::Value;

use crate::mask::mask_text;
use payonce_ledger::TEXT_BYTES_MAX;

/// Named references of a callback at most: each is a row.
pub const FIELDS_MAX: usize = 8;
/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 100;

/// One reference of a callback.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// One of the names that were set.
    pub name: String,
    /// 1 to 200 bytes without control characters.
    pub value: String,
}

/// Which references are kept: names of members, or paths to them with dots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceFields(Vec<String>);

impl ReferenceFields {
    /// Those of a list that [`ReferenceFields::is_list`] takes; what is more or is no name is left out.
    #[must_use]
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().filter(|name| is_name(name)).take(FIELDS_MAX);
        Self(names.map(str::to_owned).collect())
    }

    /// Whether these can be set: at most [`FIELDS_MAX`], none twice, each of letters, digits, `_` and `-`, with single dots between
    /// members, and no longer than [`NAME_BYTES_MAX`].
    #[must_use]
    pub fn is_list(names: &[&str]) -> bool {
        let is_new =
            |(at, name): (usize, &&str)| is_name(name) && !names.iter().take(at).any(|other| other == name);
        names.len() <= FIELDS_MAX && names.iter().enumerate().all(is_new)
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The references of a message on the queue, whose signature has been verified. Looked for is, in this order: a member of
    /// `data.references` of just this name, the path from `data` on, and the path from `data.metadata` on. A text or a whole number counts; what
    /// is no text of 1 to 200 bytes without control characters is left out, as is, where `mask_cards` says so, what looks like a card number.
    #[must_use]
    pub fn of_message(&self, body: &[u8], mask_cards: bool) -> Vec<Reference> {
        if self.is_empty() {
            return Vec::new();
        }
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        let Ok(event) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
        let Some(data) = event.get("data") else { return Vec::new() };
        let told = |name: &str| data.get("references").and_then(|references| references.get(name));
        self.each(|name| told(name).or_else(|| at(data, name)), mask_cards)
    }

    /// The references of a provider's object: as [`ReferenceFields::of_message`], but for `references`, which no provider has.
    #[must_use]
    pub fn of_object(&self, object: &Value, mask_cards: bool) -> Vec<Reference> {
        self.each(|name| at(object, name), mask_cards)
    }

    fn each<'a>(&self, find: impl Fn(&str) -> Option<&'a Value>, mask_cards: bool) -> Vec<Reference> {
        let references = self.0.iter().filter_map(|name| {
            let value = find(name).and_then(text)?;
            let is_card = mask_cards && mask_text(&value, &[]) != value;
            (!is_card).then(|| Reference { name: name.clone(), value })
        });
        references.collect()
    }
}

/// From the object on, else from its `metadata` on: so most providers call what their customers add.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let walk = |from: &'a Value| path.split('.').try_fold(from, |value, member| value.get(member));
    walk(object).or_else(|| object.get("metadata").and_then(walk))
}

/// A value as a reference: a text of 1 to 200 bytes without control characters, or a whole number in digits.
#[must_use]
pub fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::Number(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let is_kept = (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    is_kept.then_some(text)
}

fn is_name(name: &str) -> bool {
    let is_member = |member: &str| {
        !member.is_empty() && member.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_member)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(names: &[&str], data: Value) -> Vec<(String, String)> {
        let body = json!({ "specversion": "1.0", "data": data }).to_string();
        let references = ReferenceFields::new(names.iter().copied()).of_message(body.as_bytes(), true);
        references.into_iter().map(|Reference { name, value }| (name, value)).collect()
    }

    #[test]
    fn a_reference_is_found_at_its_path_in_the_data_or_its_metadata_and_what_says_references_goes_first() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let names = ["order_id", "customer.id"];
        for data in [
            json!({ "order_id": "o-1", "customer": { "id": 7 } }),
            json!({ "metadata": { "order_id": "o-1", "customer": { "id": "7" } } }),
            json!({ "references": { "order_id": "o-1", "customer.id": "7" }, "order_id": "other", "customer": { "id": 8 } }),
        ] {
            assert_eq!(
                found(&names, data.clone()),
                [pair("order_id", "o-1"), pair("customer.id", "7")],
                "{data}"
            );
        }
    }

    #[test]
    fn what_is_no_short_text_or_looks_like_a_card_is_left_out_and_never_refused() {
        for value in [
            json!(null),
            json!(true),
            json!(1.5),
            json!(["o-1"]),
            json!({ "id": "o-1" }),
            json!(""),
            json!("a\nb"),
            json!("a".repeat(201)),
            json!("4111 1111 1111 1111"),
            json!(4_111_111_111_111_111_u64),
        ] {
            assert_eq!(found(&["order_id"], json!({ "order_id": value })), [], "{value}");
        }
        let fields = ReferenceFields::new(["order_id"]);
        for body in [&b""[..], b"[]", b"\xff", b"{\"data\":1}", b"{\"data\":[{\"order_id\":\"o\"}]}"] {
            assert_eq!(fields.of_message(body, true), []);
        }
    }

    #[test]
    fn a_list_of_names_is_short_and_has_no_name_twice() {
        for names in
            [&[][..], &["order_id"], &["customer.id", "x-y"], &["a", "b", "c", "d", "e", "f", "g", "h"]]
        {
            assert!(ReferenceFields::is_list(names), "{names:?}");
        }
        let long = "a".repeat(101);
        for names in [
            &["a", "a"][..],
            &["a..b"],
            &[".a"],
            &["a."],
            &["a b"],
            &["é"],
            &[""],
            &[long.as_str()],
            &["a", "b", "c", "d", "e", "f", "g", "h", "i"],
        ] {
            assert!(!ReferenceFields::is_list(names), "{names:?}");
        }
    }
}
