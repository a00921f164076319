//! Text from outside on its way to a terminal: what could steer it, or reorder or hide what a person reads, is spelled out.

/// The text with control characters, line separators, and invisible or direction-changing characters as `\u{…}`.
#[must_use]
pub fn safe(text: &str) -> String {
    text.chars().flat_map(|c| if is_hidden(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// The same inside of a JSON document, whose own line breaks stay: `\uXXXX` means the same to every reader.
#[must_use]
pub fn safe_json(document: &str) -> String {
    let mut safe = String::with_capacity(document.len());
    for c in document.chars() {
        if is_hidden(c) && !matches!(c, '\n' | '\r' | '\t') {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Whether a character steers a terminal, reorders a line, or cannot be seen: control characters (Cc), line and paragraph separators, what
/// Unicode calls `Default_Ignorable_Code_Point` (Unicode 17, DerivedCoreProperties.txt: joiners, marks of direction, fillers, variation
/// selectors, tags), and the marks of interlinear annotations. Persian, Hindi and emoji are written with joiners; but an account whose id
/// ends in one would look like its neighbour, and this is where a person tells them apart.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::{safe, safe_json};

    #[test]
    fn what_could_deceive_a_reader_is_spelled_out_and_all_else_stays() {
        for (text, expected) in [
            ("evt_1 日本語 émoji 🦀 नमस्ते نص", "evt_1 日本語 émoji 🦀 नमस्ते نص"),
            ("\u{1b}[2J\u{9b}31m\r\n\u{7}", "\\u{1b}[2J\\u{9b}31m\\r\\n\\u{7}"),
            (
                "a\u{202e}b\u{2066}c\u{200b}d\u{2028}e\u{feff}f\u{e0041}g\u{200d}h\u{fe0f}",
                "a\\u{202e}b\\u{2066}c\\u{200b}d\\u{2028}e\\u{feff}f\\u{e0041}g\\u{200d}h\\u{fe0f}",
            ),
        ] {
            assert_eq!(safe(text), expected);
        }
    }

    #[test]
    fn a_json_document_means_the_same_after_it() {
        let value = serde_json::json!({ "a\u{202e}": "\u{9b}31m\u{7f}\n\u{e0041}" });
        let safe = safe_json(&value.to_string());
        assert!(safe.is_ascii(), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).ok(), Some(value));
    }
}
