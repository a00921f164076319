//! One HTTP request as a provider sent it: the headers, the query and the bytes of the body, unchanged. What must not live here: sockets.

use std::sync::Arc;

use super::verify::Certificate;

/// Header values that are looked at have at most this many bytes; a longer one counts as unreadable.
pub const HEADER_BYTES_MAX: usize = 8_192;
/// Values of one header that are looked at.
pub const HEADER_LINES_MAX: usize = 4;

/// A request with its body complete.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Names in lower case, in the order they came.
    headers: Vec<(String, Vec<u8>)>,
    /// The bytes as they came: signatures are over these, never over what a parser made of them.
    pub body: Vec<u8>,
    /// What was found where `Provider::certificate_at` says, whose chain and name are right.
    pub certificate: Option<Arc<Certificate>>,
}

impl Request {
    /// A request with these headers and body.
    pub fn new<N: Into<String>, V: Into<Vec<u8>>>(
        headers: impl IntoIterator<Item = (N, V)>,
        body: Vec<u8>,
    ) -> Self {
        let lower = |name: N| {
            let mut name = name.into();
            name.make_ascii_lowercase();
            name
        };
        let headers = headers.into_iter().map(|(name, value)| (lower(name), value.into())).collect();
        Self { headers, body, certificate: None }
    }

    /// The values of a header (its name in lower case) that are short, visible text. At most [`HEADER_LINES_MAX`] are looked at.
    pub fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |(found, _)| found == name).take(HEADER_LINES_MAX);
        named.filter_map(|(_, value)| usable(value))
    }

    /// The value of a header that came with one line; `None` where it is missing, repeated (which of them counts is a matter of taste, and
    /// so no way around it), or no text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.headers.iter().filter(|(found, _)| found == name);
        match (lines.next(), lines.next()) {
            (Some((_, value)), None) => usable(value),
            (None, _) | (Some(_), Some(_)) => None,
        }
    }

    /// Those of `names` that came, as they have to be kept where the request is mapped again later.
    #[must_use]
    pub fn kept(&self, names: &[&str]) -> Vec<(String, String)> {
        let kept = names.iter().filter_map(|name| Some(((*name).to_owned(), self.header(name)?.to_owned())));
        kept.collect()
    }
}

fn usable(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let is_usable = text.len() <= HEADER_BYTES_MAX && !text.chars().any(char::is_control);
    is_usable.then_some(text)
}
