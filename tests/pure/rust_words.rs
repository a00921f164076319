//! Just enough of a lexer to read names off Rust sources without finding them in comments and texts.

/// The words of a source: identifiers, `::`, and other characters one by one. Comments and texts are left out.
pub fn words(source: &str) -> Vec<String> {
    let source: Vec<char> = source.chars().collect();
    let mut words: Vec<String> = Vec::new();
    let mut at = 0;
    let starts =
        |at: usize, text: &str| text.chars().enumerate().all(|(n, c)| source.get(at + n) == Some(&c));
    while let Some(&c) = source.get(at) {
        if starts(at, "//") {
            at += source[at..].iter().take_while(|c| **c != '\n').count();
        } else if starts(at, "/*") {
            at = end_of(&source, at + 2, "*/");
        } else if let Some((start, hashes)) = raw_text(&source, at) {
            at = end_of(&source, start, &format!("\"{}", "#".repeat(hashes)));
        } else if c == '"' {
            at = end_of_text(&source, at + 1, '"');
        } else if c == '\'' && (source.get(at + 1) == Some(&'\\') || source.get(at + 2) == Some(&'\'')) {
            // A character; anything else that starts like this is a lifetime.
            at = end_of_text(&source, at + 1, '\'');
        } else if c.is_alphanumeric() || c == '_' {
            let word: String =
                source[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
            at += word.chars().count();
            words.push(word);
        } else {
            let word = if starts(at, "::") { "::".to_owned() } else { c.to_string() };
            at += word.chars().count();
            if !c.is_whitespace() {
                words.push(word);
            }
        }
    }
    words
}

fn end_of(source: &[char], from: usize, end: &str) -> usize {
    let end: Vec<char> = end.chars().collect();
    (from..source.len()).find(|at| source[*at..].starts_with(&end)).map_or(source.len(), |at| at + end.len())
}

fn end_of_text(source: &[char], from: usize, quote: char) -> usize {
    let mut at = from;
    while let Some(&c) = source.get(at) {
        at += if c == '\\' { 2 } else { 1 };
        if c == quote {
            break;
        }
    }
    at
}

/// Where the text of a raw literal at this place begins, and its number of `#`.
fn raw_text(source: &[char], at: usize) -> Option<(usize, usize)> {
    let is_in_word = at > 0 && (source[at - 1].is_alphanumeric() || source[at - 1] == '_');
    let mut after = at;
    if source.get(after) == Some(&'b') {
        after += 1;
    }
    if is_in_word || source.get(after) != Some(&'r') {
        return None;
    }
    after += 1;
    let hashes = source[after..].iter().take_while(|c| **c == '#').count();
    (source.get(after + hashes) == Some(&'"')).then_some((after + hashes + 1, hashes))
}

#[test]
fn comments_and_texts_are_no_words() {
    let check = |source: &str, expected: &str| assert_eq!(words(source).join(" "), expected, "{source}");
    check("use a::b; // c::d", "use a :: b ;");
    check("/* a */ b /* c\nd */", "b");
    check(r#"f("a \" b", c)"#, "f ( , c )");
    check("r\"a\\\" b r#\"c\" d\"# e br\"f\"", "b e");
    check("bar\"x\" y", "bar y");
    check("'a' b '\\'' c '\"' d &'e f", "b c d & ' e f");
    check("a\"unfinished", "a");
}
