//! What an application asks, in which mix, and what a right answer is. What must not live here: when it is asked.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    http::Answer,
    place::{DEEP_ACCOUNT, DEEP_SINCE_S},
};

/// Entries of a page.
const PAGE_ROWS: usize = 20;

/// What there is to ask for.
pub struct Questions {
    /// With the version that each had before the first question.
    pub accounts: Vec<(String, i64)>,
    /// Source and id.
    pub payments: Vec<(String, String)>,
    /// Rows of the account whose past is asked for.
    pub deep_rows: u32,
}

/// One request.
pub enum Question {
    /// An account, and the version that the asker had last, which must not go back.
    Account(String, i64),
    /// The same, where an answer is only wanted if there is another version.
    IfChanged(String, i64),
    Entries(String),
    Payment(String, String),
    /// The account of many rows after so many of them.
    Past(u32),
}

impl Questions {
    /// 40 % accounts, 20 % accounts that may be unchanged, 15 % pages of entries, 15 % payments, 10 % the past.
    pub fn draw(&self, random: &mut StdRng, known: &BTreeMap<String, i64>) -> Question {
        let (account, version) = self.accounts.choose(random).cloned().unwrap_or_default();
        let version = known.get(&account).copied().unwrap_or(version);
        match random.random_range(0..100) {
            0..40 => Question::Account(account, version),
            40..60 => Question::IfChanged(account, version),
            60..75 => Question::Entries(account),
            75..90 => {
                let (source, id) = self.payments.choose(random).cloned().unwrap_or_default();
                Question::Payment(source, id)
            }
            _ => Question::Past(random.random_range(1..=self.deep_rows)),
        }
    }
}

impl Question {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Account(..) => "account",
            Self::IfChanged(..) => "account, if changed",
            Self::Entries(_) => "entries",
            Self::Payment(..) => "payment",
            Self::Past(_) => "account in the past",
        }
    }

    /// The whole request.
    pub fn request(&self, token: &str) -> anyhow::Result<Vec<u8>> {
        let account = |id: &str| format!("/v1/accounts/{}", escaped(id));
        let mut more = String::new();
        let path = match self {
            Self::Account(id, _) => account(id),
            Self::IfChanged(id, version) => {
                more = format!("if-none-match: \"{version}\"\r\n");
                account(id)
            }
            Self::Entries(id) => format!("{}/entries?limit={PAGE_ROWS}", account(id)),
            Self::Payment(source, id) => {
                format!("/v1/payments?source={}&id={}", escaped(source), escaped(id))
            }
            Self::Past(rows) => {
                let at = OffsetDateTime::from_unix_timestamp(DEEP_SINCE_S + i64::from(*rows))?;
                format!("{}?at={}", account(DEEP_ACCOUNT), escaped(&at.format(&Rfc3339)?))
            }
        };
        Ok(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n")
            .into_bytes())
    }

    /// Fails where the answer is not right. Returns what it says of an account's version now.
    pub fn check(&self, answer: &Answer) -> anyhow::Result<Option<(String, i64)>> {
        let wrong = || format!("{}: {} {}", self.kind(), answer.status, answer.body);
        if let (Self::IfChanged(_, version), 304) = (self, answer.status) {
            ensure!(answer.header("etag") == Some(&format!("\"{version}\"")), "304 for another version");
            return Ok(None);
        }
        ensure!(answer.status == 200, wrong());
        let body: Value = serde_json::from_str(&answer.body).with_context(wrong)?;
        let number = |name: &str| body[name].as_i64().with_context(|| format!("no {name}: {}", wrong()));
        match self {
            Self::Account(id, known) | Self::IfChanged(id, known) => {
                let version = number("version")?;
                ensure!(version >= *known, "version {known} was known: {}", wrong());
                ensure!(body["account_id"] == **id, wrong());
                ensure!(number("available")? == number("balance")? - number("held")?, wrong());
                ensure!(
                    answer.header("etag") == Some(&format!("\"{version}\"")),
                    "another etag: {}",
                    wrong()
                );
                if let Self::IfChanged(..) = self {
                    ensure!(version > *known, "not changed, and answered: {}", wrong());
                }
                Ok(Some((id.clone(), version)))
            }
            Self::Entries(_) => {
                let rows = body["entries"].as_array().with_context(wrong)?;
                ensure!(!rows.is_empty() && rows.len() <= PAGE_ROWS, wrong());
                let in_order = (1_i64..).zip(rows).all(|(version, row)| row["account_version"] == version);
                ensure!(in_order, wrong());
                Ok(None)
            }
            Self::Payment(source, id) => {
                ensure!(body["source"] == **source && body["payment_id"] == **id, wrong());
                Ok(None)
            }
            Self::Past(rows) => {
                let rows = i64::from(*rows);
                ensure!(
                    (number("version")?, number("balance")?) == (rows, rows),
                    "after {rows} rows: {}",
                    wrong()
                );
                Ok(None)
            }
        }
    }
}

/// For a path or a query (RFC 3986, 2.3).
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
