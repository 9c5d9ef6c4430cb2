//! Mails as text: pure rendering, from what is known to subject, text part and HTML part, which say the same. Only the
//! worker sends. What a user typed is escaped in HTML by askama and made one line for headers here; no tracking, no
//! remote images (semantics §10).

mod daily_summary;
mod letter;
pub mod links;
mod reminder;
mod words;

pub use daily_summary::daily_summary;
pub use letter::{Letter, letter};
pub use reminder::{Line, reminder};

/// A mail, ready to be put into an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// One line, without control characters.
    pub subject: String,
    /// The plain part.
    pub text: String,
    /// The HTML part, with the same facts.
    pub html: String,
}

/// Characters of a subject at most.
const SUBJECT: usize = 150;

/// What may stand in a header: one line of at most `limit` characters, without control characters (so without CR and
/// LF) and without what changes the direction of the text around it.
fn header_safe(text: &str, limit: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() || is_unseen(c) { ' ' } else { c });
    let mut line = String::new();
    for word in plain.collect::<String>().split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    cut(&line, limit)
}

/// Line and paragraph separators, and bidirectional controls.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first `limit` characters, with an ellipsis if that was not all.
fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => {
            let end = text.char_indices().nth(limit.saturating_sub(1)).map_or(text.len(), |(at, _)| at);
            format!("{}…", text[..end].trim_end())
        }
    }
}

/// What message ids and `List-Id` end in: the host of `PUBLIC_URL`.
pub fn host(public_url: &url::Url) -> &str {
    public_url.host_str().unwrap_or("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_one_short_line() {
        assert_eq!(header_safe("Ship\r\nBcc: eve@example.com", 150), "Ship Bcc: eve@example.com");
        assert_eq!(header_safe("a\u{2028}b\u{202e}c\0d", 150), "a b c d");
        assert_eq!(header_safe(&"é".repeat(200), 150).chars().count(), 150);
        assert_eq!(header_safe("  exact ", 5), "exact");
    }
}
