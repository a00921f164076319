//! Proxies before us: of whom their headers are believed, and which person they name. What must not live here: which roles that person has.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};

use super::NAME_BYTES_MAX;
use crate::config::{Networks, ProxyConfig};

/// Longest list of groups, in bytes.
const GROUPS_BYTES_MAX: usize = 16 * 1024;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where they are, and what they say.
pub(super) struct Proxy {
    addresses: Networks,
    user: Option<HeaderName>,
    groups: Option<HeaderName>,
}

/// Whom a proxy has logged in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

impl Proxy {
    /// # Errors
    /// Words, where a header has a name that none can have.
    pub(super) fn new(config: ProxyConfig) -> Result<Self, String> {
        let header = |setting: &str, name: Option<String>| {
            let parsed = name.map(|name| HeaderName::from_bytes(name.as_bytes())).transpose();
            parsed.map_err(|_| format!("{setting}: not a name that a header can have"))
        };
        Ok(Self {
            addresses: config.addresses,
            user: header("ops_proxy_user_header", config.user_header)?,
            groups: header("ops_proxy_groups_header", config.groups_header)?,
        })
    }

    /// Whether people come logged in.
    pub(super) fn names_people(&self) -> bool {
        self.user.is_some()
    }

    /// The person whom the proxy names; `None`: it names nobody, or the request does not come through it.
    ///
    /// # Errors
    /// Words, where somebody else says what only the proxy may, or the proxy passes on what it should have taken out: then it cannot be told who
    /// has written it, and the request is refused rather than answered as if it had said nothing.
    pub(super) fn person(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Option<Person>, String> {
        let Some(user) = &self.user else { return Ok(None) };
        let says = |header: &HeaderName| headers.contains_key(header);
        if !self.addresses.contain(peer) {
            return match [Some(user), self.groups.as_ref()].into_iter().flatten().find(|header| says(header))
            {
                None => Ok(None),
                Some(header) => Err(format!(
                    "{header} is believed only of the proxies in ops_proxy_addresses, and this request comes from {peer}"
                )),
            };
        }
        let groups = match &self.groups {
            Some(groups) => single(headers, groups, GROUPS_BYTES_MAX)?.unwrap_or_default(),
            None => String::new(),
        };
        let Some(name) = single(headers, user, NAME_BYTES_MAX)? else { return Ok(None) };
        // Two headers that somebody on the way has made one of.
        if name.contains(',') {
            return Err(format!(
                "{user} names several people; the proxy has to remove what clients send under that name"
            ));
        }
        let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
        Ok(Some(Person { name, groups: groups.map(str::to_owned).collect() }))
    }

    /// Whose request it is, as far as that can be known: the last address that a proxy of ours did not have itself.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).into_iter().rev().filter_map(|line| line.to_str().ok());
        for text in lines.flat_map(|line| line.rsplit(',')) {
            if !self.addresses.contain(client) {
                break;
            }
            let Ok(before) = text.trim().parse::<IpAddr>() else { break };
            client = before.to_canonical();
        }
        client
    }
}

/// The value of a header that is given once; `None`: not at all, or empty.
fn single(headers: &HeaderMap, name: &HeaderName, bytes_max: usize) -> Result<Option<String>, String> {
    let mut values = headers.get_all(name).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!(
            "{name} is given twice; the proxy has to remove what clients send under that name"
        ));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| format!("{name}: not UTF-8"))?.trim();
    if text.len() > bytes_max || text.chars().any(char::is_control) {
        return Err(format!("{name}: expected at most {bytes_max} bytes without control characters"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
