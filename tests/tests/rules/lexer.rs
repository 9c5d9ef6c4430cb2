//! Rust source taken apart as far as the rules need it: what is code, and what stands in string literals. Comments
//! are neither.

/// The parts of a source text, each with the line that it begins on (from 1).
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Code, line by line, with `""` in the place of every string literal.
    pub(crate) code: Vec<(usize, String)>,
    /// The content of string literals, as written.
    pub(crate) strings: Vec<(usize, String)>,
}

/// Takes a source text apart.
pub(crate) fn parts(text: &str) -> Parts {
    let mut parts = Parts::default();
    let mut code = String::new();
    let mut rest = text;
    // Code goes up to the next thing that is none; each branch answers how much it takes.
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            let length = block_comment(rest);
            code.extend(rest[..length].chars().filter(|c| *c == '\n'));
            length
        } else if let Some((opening, closing)) = string_delimiters(rest, code.chars().next_back()) {
            let body = &rest[opening..];
            let length = string_end(body, &closing);
            let line = line_of(&code);
            parts.strings.push((line, body[..length].to_owned()));
            code.push_str("\"\"");
            code.extend(body[..length].chars().filter(|c| *c == '\n'));
            opening + length + closing.len()
        } else if let Some(length) = character(rest) {
            code.push_str("' '");
            length
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[taken.min(rest.len())..];
    }
    parts.code = code.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned())).collect();
    parts
}

fn line_of(code: &str) -> usize {
    code.matches('\n').count() + 1
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// If a string literal begins here: the length of its opening, and what closes it.
fn string_delimiters(text: &str, before: Option<char>) -> Option<(usize, String)> {
    if text.starts_with('"') {
        return Some((1, "\"".to_owned()));
    }
    // The r of an identifier opens nothing.
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let raw = ["br", "cr", "r"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[raw.len()..].chars().take_while(|c| *c == '#').count();
    let opening = raw.len() + hashes + 1;
    text[raw.len() + hashes..].starts_with('"').then(|| (opening, format!("\"{}", "#".repeat(hashes))))
}

fn string_end(body: &str, closing: &str) -> usize {
    if closing != "\"" || body.is_empty() {
        return body.find(closing).unwrap_or(body.len());
    }
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    body.len()
}

/// The length of the character literal that begins here; `None` for anything else, a lifetime above all.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    if first == '\\' {
        let escaped = body.char_indices().nth(2).map(|(at, _)| at)?;
        return Some(1 + escaped + body[escaped..].find('\'')? + 1);
    }
    body[first.len_utf8()..].starts_with('\'').then_some(1 + first.len_utf8() + 1)
}

#[test]
fn code_and_strings_are_told_apart() {
    let text = r##"
// "not" a string
let a = "one \" two"; /* "nor /* this */ " */ let b = r#"raw " now()"#;
fn f<'a>(c: &'a char) -> bool { *c == '"' || *c == '\'' || *c == '\\' }
let d = "over
lines"; let e = 1;
"##;
    let parts = parts(text);
    let strings: Vec<&str> = parts.strings.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(strings, ["one \\\" two", "raw \" now()", "over\nlines"]);
    assert_eq!(parts.strings.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 3, 5]);
    let (line, last) = parts.code.iter().rfind(|(_, line)| !line.trim().is_empty()).unwrap();
    assert_eq!((*line, last.as_str()), (6, "; let e = 1;"));
    assert!(parts.code.iter().all(|(_, line)| !line.contains("this") && !line.contains("not")));
}
