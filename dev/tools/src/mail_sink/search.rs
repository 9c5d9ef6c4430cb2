//! The query language of `GET /api/v1/search`: the part of Mailpit's that scripts need.
//!
//! Every term must match, whatever its case: `to:`, `from:`, `cc:`, `bcc:`, `reply-to:`, `addressed:` (any of
//! these), `subject:`, `message-id:`, or plain words, which are looked for in the subject, the text, the HTML and the
//! addresses. Quotes keep words together; `-` or `!` in front turns a term round.

use super::message::{Address, Message};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Search(Vec<Term>);

#[derive(Debug, PartialEq, Eq)]
struct Term {
    negated: bool,
    field: Field,
    /// Lower-case.
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Any,
    To,
    From,
    Cc,
    Bcc,
    ReplyTo,
    Addressed,
    Subject,
    MessageId,
}

const PREFIXES: [(&str, Field); 8] = [
    ("to:", Field::To),
    ("from:", Field::From),
    ("cc:", Field::Cc),
    ("bcc:", Field::Bcc),
    ("reply-to:", Field::ReplyTo),
    ("addressed:", Field::Addressed),
    ("subject:", Field::Subject),
    ("message-id:", Field::MessageId),
];

impl Search {
    pub(super) fn parse(query: &str) -> Self {
        Self(words(&query.to_lowercase()).iter().filter_map(|word| Term::parse(word)).collect())
    }

    pub(super) fn matches(&self, message: &Message) -> bool {
        self.0.iter().all(|term| term.matches(message))
    }
}

impl Term {
    fn parse(word: &str) -> Option<Self> {
        let (negated, word) = match word.strip_prefix(['-', '!']) {
            Some(rest) => (true, rest),
            None => (false, word),
        };
        let prefixed = PREFIXES.iter().find_map(|(prefix, field)| Some((*field, word.strip_prefix(prefix)?)));
        let (field, text) = prefixed.unwrap_or((Field::Any, word));
        (!text.is_empty()).then(|| Self { negated, field, text: text.to_owned() })
    }

    fn matches(&self, message: &Message) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.text);
        let one = |address: &Address| has(&format!("{} <{}>", address.name, address.address));
        let any = |addresses: &[Address]| addresses.iter().any(one);
        let addressed = || {
            message.from.iter().any(one)
                || [&message.to, &message.cc, &message.bcc, &message.reply_to]
                    .into_iter()
                    .any(|list| any(list))
        };
        let found = match self.field {
            Field::To => any(&message.to),
            Field::From => message.from.iter().any(one),
            Field::Cc => any(&message.cc),
            Field::Bcc => any(&message.bcc),
            Field::ReplyTo => any(&message.reply_to),
            Field::Addressed => addressed(),
            Field::Subject => has(&message.subject),
            Field::MessageId => has(&message.message_id),
            Field::Any => has(&message.subject) || has(&message.text) || has(&message.html) || addressed(),
        };
        found != self.negated
    }
}

/// Splits at white space outside of double quotes, and drops the quotes.
fn words(query: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in query.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(String::new()),
            c => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::message::Envelope;
    use super::*;

    #[test]
    fn every_term_must_match() {
        let raw = "From: TaskTracker <noreply@example.com>\r\nTo: Ann <ann@example.com>\r\n\
                   Subject: Reminder: Ship it\r\nMessage-ID: <42@example.com>\r\n\r\nDue at 17:00, soon.\r\n";
        let message = Message::parse(Envelope::default(), raw.as_bytes().to_vec());
        for (query, expected) in [
            ("", true),
            ("to:ann@example.com", true),
            ("to:ANN", true),
            ("to:noreply", false),
            ("from:tasktracker", true),
            ("addressed:noreply addressed:ann", true),
            ("subject:ship", true),
            ("subject:\"reminder: ship\"", true),
            ("subject:\"ship reminder\"", false),
            ("message-id:42@example.com", true),
            ("17:00 soon", true),
            ("17:00 later", false),
            ("-later", true),
            ("!to:ann", false),
            ("to:", true),
        ] {
            assert_eq!(Search::parse(query).matches(&message), expected, "{query}");
        }
    }
}
