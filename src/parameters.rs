//! The parameters of an address or of a form, read strictly: each name is known, each is given once, each value can be used; else the answer is
//! 400 with words, and nothing else is answered than was asked for. What must not live here: HTTP, and what a parameter means.

use std::ops::RangeInclusive;

use percent_encoding::percent_decode;

/// Longest id of a callback, an account or a source, in bytes (contract §2).
pub const ID_BYTES_MAX: usize = 200;
/// Characters of somebody's own text that a refusal repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// Which parameter cannot be used, and what is expected of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

/// What was given, name by name.
#[derive(Debug, Clone, Default)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Those of a query, `None` where there is none.
    ///
    /// # Errors
    /// Where one is not among `known`, or is not UTF-8.
    pub fn of_query(query: Option<&str>, known: &[&str]) -> Result<Self, Wrong> {
        Self::read(query.unwrap_or_default().as_bytes(), known)
    }

    /// Those of a page's address: as [`Parameters::of_form`].
    ///
    /// # Errors
    /// As [`Parameters::of_query`].
    pub fn of_page(query: Option<&str>, known: &[&str]) -> Result<Self, Wrong> {
        Self::of_form(query.unwrap_or_default().as_bytes(), known)
    }

    /// Those of a page's form, as a query or as a body. A browser sends a field that nobody filled in, too: that one is not given.
    ///
    /// # Errors
    /// As [`Parameters::of_query`].
    pub fn of_form(form: &[u8], known: &[&str]) -> Result<Self, Wrong> {
        let mut parameters = Self::read(form, known)?;
        parameters.0.retain(|(_, value)| !value.is_empty());
        Ok(parameters)
    }

    /// `application/x-www-form-urlencoded` (WHATWG URL, 5.1), but that bytes which are not UTF-8 are refused: replaced they would ask for
    /// something else.
    fn read(encoded: &[u8], known: &[&str]) -> Result<Self, Wrong> {
        let mut pairs = Vec::new();
        for pair in encoded.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(end);
            let name = decoded(name).ok_or_else(|| Wrong("a parameter's name is not UTF-8".to_owned()))?;
            if !known.contains(&name.as_str()) {
                let expected = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Wrong(format!("{}: unknown parameter; expected {expected}", shown(&name))));
            }
            let value = decoded(value.strip_prefix(b"=").unwrap_or(value))
                .ok_or_else(|| Wrong(format!("{name}: not UTF-8")))?;
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Members of a body, which were read strictly by then.
    #[must_use]
    pub fn of_members(members: Vec<(String, String)>) -> Self {
        Self(members)
    }

    /// Every pair, in order.
    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Every value of a name that may be given more than once.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The value of a name that may be given once.
    ///
    /// # Errors
    /// Where it is given more than once.
    pub fn single<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, Wrong> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Wrong(format!("{name}: given more than once")));
        }
        Ok(first)
    }

    /// An id that a callback could have.
    ///
    /// # Errors
    /// As [`checked_id`].
    pub fn id<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, Wrong> {
        self.single(name)?.map(|id| checked_id(name, id)).transpose()
    }

    /// An id that must be given.
    ///
    /// # Errors
    /// Where it is missing, and as [`checked_id`].
    pub fn required_id<'a>(&'a self, name: &'a str) -> Result<&'a str, Wrong> {
        self.id(name)?.ok_or_else(|| Wrong(format!("{name}: missing")))
    }

    /// A whole number, in digits.
    ///
    /// # Errors
    /// Where it is none, or not within `range`.
    pub fn number(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Wrong> {
        self.single(name)?.map(|text| whole(name, text, range)).transpose()
    }

    /// One of a closed list.
    ///
    /// # Errors
    /// Where `parse` does not know it; `expected` names those that it knows.
    pub fn choice<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>, Wrong> {
        let Some(text) = self.single(name)? else { return Ok(None) };
        let wrong = || Wrong(format!("{name}: {:?} is unknown; expected {expected}", shown(text)));
        parse(text).map(Some).ok_or_else(wrong)
    }
}

/// An id that a callback could have: what is not, PostgreSQL is not asked for.
///
/// # Errors
/// Where it is not 1 to 200 bytes, or has control characters (contract §2).
pub fn checked_id<'a>(name: &str, id: &'a str) -> Result<&'a str, Wrong> {
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        return Err(Wrong(format!(
            "{name}: expected 1 to {ID_BYTES_MAX} bytes of UTF-8 without control characters"
        )));
    }
    Ok(id)
}

/// A whole number, in digits alone.
///
/// # Errors
/// Where it is none, or not within `range`.
pub fn whole(name: &str, text: &str, range: RangeInclusive<i64>) -> Result<i64, Wrong> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_plain && range.contains(number));
    let (least, most) = (range.start(), range.end());
    number.ok_or_else(|| Wrong(format!("{name}: expected a whole number from {least} to {most}")))
}

fn decoded(encoded: &[u8]) -> Option<String> {
    let blanks: Vec<u8> = encoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&blanks).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_decoded_is_refused_and_nothing_is_replaced() {
        let known = ["id"];
        for (query, expected) in [
            ("id=%ff", "id: not UTF-8"),
            ("%ff=1", "a parameter's name is not UTF-8"),
            ("idd=1", "idd: unknown parameter; expected id"),
            ("%00x=1", "x: unknown parameter; expected id"),
        ] {
            let refused = Parameters::of_query(Some(query), &known).expect_err(query);
            assert_eq!(refused.0, expected, "{query}");
        }
        let read = Parameters::of_query(Some("&id=a+b%2B%zz%E2%82%AC&"), &known).expect("it can be read");
        assert_eq!(read.single("id"), Ok(Some("a b+%zz€")));
    }

    #[test]
    fn an_id_is_measured_in_bytes() {
        assert!(checked_id("id", &"a".repeat(200)).is_ok());
        assert!(checked_id("id", &"é".repeat(100)).is_ok());
        for id in ["a".repeat(201), "é".repeat(101), String::new(), "\0".to_owned()] {
            let Wrong(words) = checked_id("id", &id).expect_err("it is no id");
            assert_eq!(words, "id: expected 1 to 200 bytes of UTF-8 without control characters");
        }
    }
}
