//! From whom a request comes that a proxy has passed on: the header in which proxies of ours say it, X-Forwarded-For or RFC 7239's Forwarded. What
//! must not live here: what a sender may do.

use std::net::{IpAddr, SocketAddr};

/// The header of RFC 7239; any other is a list of addresses, as X-Forwarded-For is.
pub const STANDARD: &str = "forwarded";

/// Which header is believed, and from whom.
pub struct Forwarded {
    /// In lower case.
    header: String,
    proxies: Vec<IpAddr>,
}

impl Forwarded {
    /// What these proxies write into this header is believed.
    #[must_use]
    pub fn new(header: &str, proxies: Vec<IpAddr>) -> Self {
        Self { header: header.to_ascii_lowercase(), proxies }
    }

    /// The header's name, in lower case.
    #[must_use]
    pub fn header(&self) -> &str {
        &self.header
    }

    /// From whom a request comes whose connection is of `peer`, and which has these lines of the header: what a trusted proxy says, else `peer`.
    pub fn sender<'a>(&self, lines: impl Iterator<Item = &'a [u8]>, peer: IpAddr) -> IpAddr {
        let is_proxy = |address: &IpAddr| self.proxies.contains(&address.to_canonical());
        if !is_proxy(&peer) {
            return peer;
        }
        let mut addresses = Vec::new();
        for line in lines {
            if self.header == STANDARD {
                // Where a line of it ends is for its quotes to say: one that cannot be read hides which part of it our proxy wrote.
                match std::str::from_utf8(line).ok().and_then(elements) {
                    Some(found) => addresses.extend(found),
                    None => return peer,
                }
            } else {
                let entries = line.split(|byte| *byte == b',');
                addresses.extend(entries.map(|entry| address(std::str::from_utf8(entry).ok()?)));
            }
        }
        // The last one that is no proxy of ours was written by a proxy of ours; those before it by anybody. One that cannot be read is no
        // proxy of ours, and nobody's address: what stands before it is not believed either.
        let last = addresses.into_iter().rfind(|address| !address.is_some_and(|address| is_proxy(&address)));
        last.flatten().unwrap_or(peer)
    }
}

/// An address as proxies write it: alone, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

/// The `for` of each element of a line (RFC 7239 §4); `None` for one without, and for one that is no address (`unknown`, `_hidden`).
fn elements(line: &str) -> Option<Vec<Option<IpAddr>>> {
    let (mut found, mut rest) = (Vec::new(), line);
    loop {
        let (mut is_empty, mut node) = (true, None);
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with([',', ';']) {
                let (name, value, after) = pair(rest)?;
                is_empty = false;
                // No parameter may stand twice in an element.
                if name.eq_ignore_ascii_case("for") && node.replace(address(&value)).is_some() {
                    return None;
                }
                rest = after.trim_start_matches([' ', '\t']);
            }
            match rest.strip_prefix(';') {
                Some(after) => rest = after,
                None => break,
            }
        }
        if !is_empty {
            found.push(node.flatten());
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => break,
        }
    }
    rest.is_empty().then_some(found)
}

/// A name, its value without quotes, and what stands after it.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_at(text.find(|c| !is_token(c))?);
    let rest = rest.strip_prefix('=').filter(|_| !name.is_empty())?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let (value, after) = rest.split_at(rest.find(|c| !is_token(c)).unwrap_or(rest.len()));
        return (!value.is_empty()).then(|| (name, value.to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == '"' {
            return Some((name, value, quoted.get(at + 1..)?));
        }
        value.push(if c == '\\' { chars.next()?.1 } else { c });
    }
    None
}

/// RFC 9110 §5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}
