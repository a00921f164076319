//! `application/x-www-form-urlencoded` as bytes: signatures are over what was sent in whatever character set, not over text. What must not
//! live here: signatures.

/// A name and a value, as bytes.
pub(super) type Member = (Vec<u8>, Vec<u8>);

/// Members of a form that are looked at.
pub(super) const MEMBERS_MAX: usize = 200;

/// Decodes a form once, name by name, in order. Members without `=` have an empty value.
///
/// # Errors
/// Words for a `%` without two hexadecimal digits, or too many members.
pub(super) fn members(body: &[u8]) -> Result<Vec<Member>, String> {
    let mut members = Vec::new();
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        if members.len() == MEMBERS_MAX {
            return Err(format!("more than {MEMBERS_MAX} members"));
        }
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at(at);
        members.push((decode(name)?, decode(value.strip_prefix(b"=").unwrap_or(value))?));
    }
    Ok(members)
}

/// The text of a member that came once and is UTF-8; `None` where it did not.
pub(super) fn text<'a>(members: &'a [Member], name: &str) -> Option<&'a str> {
    let mut found = members.iter().filter(|(found, _)| found == name.as_bytes());
    let (_, value) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    std::str::from_utf8(value).ok().filter(|text| !text.is_empty())
}

fn decode(text: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(text.get(at)), digit(text.get(at + 1)));
                let (Some(high), Some(low)) = (high, low) else {
                    return Err("a % without two hexadecimal digits".to_owned());
                };
                at += 2;
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            other => *other,
        });
    }
    Ok(bytes)
}

/// A text decoded once more, for what was encoded twice.
pub(super) fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    decode(text).ok()
}
