//! What a mail is: its envelope, its bytes, and what they say.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use common::clock::Clock;
use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use uuid::Uuid;

/// A mail that was accepted.
#[derive(Debug)]
pub struct Message {
    /// Ours, ordered by arrival.
    pub id: Uuid,
    /// When the last line of its data was read.
    pub arrived_at: DateTime<Utc>,
    /// What the SMTP client said, whatever the headers say.
    pub envelope: Envelope,
    /// `Message-ID` without the angle brackets, or empty.
    pub message_id: String,
    /// The first address of `From`.
    pub from: Option<Address>,
    /// The addresses of `To`.
    pub to: Vec<Address>,
    /// The addresses of `Cc`.
    pub cc: Vec<Address>,
    /// The addresses of `Bcc`, and the envelope's recipients that no header names.
    pub bcc: Vec<Address>,
    /// The addresses of `Reply-To`.
    pub reply_to: Vec<Address>,
    /// `Subject`, decoded, or empty.
    pub subject: String,
    /// `Date`.
    pub date: Option<DateTime<Utc>>,
    /// The `text/plain` bodies, decoded.
    pub text: String,
    /// The `text/html` bodies, decoded.
    pub html: String,
    /// Every header as sent, in order, unfolded but not decoded.
    pub headers: Vec<(String, String)>,
    /// Parts that are neither body.
    pub attachments: Vec<Attachment>,
    /// The bytes as sent, without the dots that SMTP adds (RFC 5321 §4.5.2).
    pub raw: Vec<u8>,
    read: AtomicBool,
}

/// Who sent a mail to whom, as SMTP has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse path of MAIL.
    pub from: String,
    /// The accepted recipients, in order.
    pub to: Vec<String>,
    /// The name given with AUTH.
    pub user: Option<String>,
}

/// A mailbox of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The display name, decoded, or empty.
    pub name: String,
    /// `local@domain`.
    pub address: String,
}

/// A part that is not shown as the mail's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its number among the mail's parts.
    pub part: String,
    /// The file name, or empty.
    pub file_name: String,
    /// As in `text/calendar`.
    pub content_type: String,
    /// `Content-ID` without the angle brackets, or empty.
    pub content_id: String,
    /// Decoded, in bytes.
    pub size: usize,
}

impl Message {
    /// Reads a mail that arrives now. Whatever cannot be understood stays empty; the bytes are kept in any case.
    pub(super) fn parse(envelope: Envelope, raw: Vec<u8>) -> Self {
        let mut message = Self {
            id: Uuid::now_v7(),
            arrived_at: Clock::Database.instant(),
            message_id: String::new(),
            from: None,
            to: Vec::new(),
            cc: Vec::new(),
            bcc: Vec::new(),
            reply_to: Vec::new(),
            subject: String::new(),
            date: None,
            text: String::new(),
            html: String::new(),
            headers: Vec::new(),
            attachments: Vec::new(),
            read: AtomicBool::new(false),
            envelope,
            raw: Vec::new(),
        };
        if let Some(parsed) = MessageParser::default().parse(&raw) {
            message.read_from(&parsed);
        }
        message.raw = raw;
        message
    }

    fn read_from(&mut self, parsed: &mail_parser::Message<'_>) {
        self.message_id = parsed.message_id().unwrap_or_default().to_owned();
        self.from = addresses(parsed.from()).into_iter().next();
        self.to = addresses(parsed.to());
        self.cc = addresses(parsed.cc());
        self.bcc = addresses(parsed.bcc());
        self.reply_to = addresses(parsed.reply_to());
        for recipient in &self.envelope.to {
            let mut named = self.to.iter().chain(&self.cc).chain(&self.bcc);
            if !named.any(|known| known.address.eq_ignore_ascii_case(recipient)) {
                self.bcc.push(Address { name: String::new(), address: recipient.clone() });
            }
        }
        self.subject = parsed.subject().unwrap_or_default().to_owned();
        self.date = parsed.date().and_then(|date| DateTime::from_timestamp(date.to_timestamp(), 0));
        self.headers = parsed.headers_raw().map(|(name, value)| (name.to_owned(), unfold(value))).collect();
        // mail-parser offers a lone plain body as the HTML body too, and the other way round.
        self.text = join_bodies(parsed.text_bodies().filter_map(|part| match &part.body {
            PartType::Text(text) => Some(text.as_ref()),
            _ => None,
        }));
        self.html = join_bodies(parsed.html_bodies().filter_map(|part| match &part.body {
            PartType::Html(html) => Some(html.as_ref()),
            _ => None,
        }));
        let numbers = parsed.attachments.iter();
        self.attachments =
            numbers.zip(parsed.attachments()).map(|(number, part)| attachment(*number, part)).collect();
    }

    /// The first header of this name, whatever its case, unfolded.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The beginning of the text (or of the HTML without its tags), at most 250 characters, on one line.
    pub fn snippet(&self) -> String {
        let text = if self.text.is_empty() {
            mail_parser::decoders::html::html_to_text(&self.html)
        } else {
            self.text.clone()
        };
        let words: Vec<&str> = text.split_whitespace().take(250).collect();
        words.join(" ").chars().take(250).collect()
    }

    /// Whether somebody has opened it through the API or the page.
    pub fn is_read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }

    /// Marks it as opened, and says whether it was not before.
    pub(super) fn open(&self) -> bool {
        !self.read.swap(true, Ordering::Relaxed)
    }
}

fn addresses(header: Option<&mail_parser::Address<'_>>) -> Vec<Address> {
    let listed = header.into_iter().flat_map(|header| header.iter());
    listed
        .map(|address| Address {
            name: address.name().unwrap_or_default().to_owned(),
            address: address.address().unwrap_or_default().to_owned(),
        })
        .collect()
}

fn attachment(number: u32, part: &mail_parser::MessagePart<'_>) -> Attachment {
    let content_type = match part.content_type() {
        Some(kind) => format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("*")).to_ascii_lowercase(),
        None => "application/octet-stream".to_owned(),
    };
    Attachment {
        part: number.to_string(),
        file_name: part.attachment_name().unwrap_or_default().to_owned(),
        content_type,
        content_id: part.content_id().unwrap_or_default().to_owned(),
        size: part.contents().len(),
    }
}

fn join_bodies<'a>(bodies: impl Iterator<Item = &'a str>) -> String {
    bodies.collect::<Vec<_>>().join("\n")
}

/// Removes the line breaks of a folded header (RFC 5322 §2.2.3).
fn unfold(value: &str) -> String {
    value.replace("\r\n", "").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALTERNATIVE: &str = concat!(
        "From: =?utf-8?q?J=C3=BCrgen?= <jurgen@example.com>\r\n",
        "To: Ann <ann@example.com>,\r\n bob@example.com\r\n",
        "Subject: =?utf-8?b?U2hpcCBpdCDwn5qA?=\r\n",
        "Message-ID: <42@example.com>\r\n",
        "Date: Tue, 01 Dec 2026 17:00:00 +0100\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/mixed; boundary=outer\r\n\r\n",
        "--outer\r\nContent-Type: multipart/alternative; boundary=inner\r\n\r\n",
        "--inner\r\nContent-Type: text/plain; charset=utf-8\r\n",
        "Content-Transfer-Encoding: quoted-printable\r\n\r\nDue t=C3=B4day =\r\nat 5\r\n",
        "--inner\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Due <b>today</b></p>\r\n--inner--\r\n",
        "--outer\r\nContent-Type: text/calendar; name=due.ics\r\nContent-Disposition: attachment; filename=due.ics\r\n\r\n",
        "BEGIN:VCALENDAR\r\n--outer--\r\n",
    );

    fn to(recipients: &[&str]) -> Envelope {
        Envelope { to: recipients.iter().map(|&to| to.to_owned()).collect(), ..Envelope::default() }
    }

    #[test]
    fn reads_headers_and_both_bodies() {
        let mail =
            Message::parse(to(&["ANN@example.com", "eve@example.com"]), ALTERNATIVE.as_bytes().to_vec());
        assert_eq!(mail.subject, "Ship it 🚀");
        assert_eq!(mail.from.as_ref().unwrap().name, "Jürgen");
        assert_eq!(mail.message_id, "42@example.com");
        assert_eq!(mail.date.unwrap().to_rfc3339(), "2026-12-01T16:00:00+00:00");
        assert_eq!(mail.text.trim_end(), "Due tôday at 5");
        assert_eq!(mail.html.trim_end(), "<p>Due <b>today</b></p>");
        assert_eq!(mail.header("to"), Some("Ann <ann@example.com>, bob@example.com"));
        assert_eq!(mail.snippet(), "Due tôday at 5");
        let [attachment] = &mail.attachments[..] else { panic!("{:?}", mail.attachments) };
        assert_eq!(
            (attachment.file_name.as_str(), attachment.content_type.as_str()),
            ("due.ics", "text/calendar")
        );
    }

    #[test]
    fn a_recipient_that_no_header_names_is_a_blind_copy() {
        let mail =
            Message::parse(to(&["ANN@example.com", "eve@example.com"]), ALTERNATIVE.as_bytes().to_vec());
        let blind: Vec<&str> = mail.bcc.iter().map(|address| address.address.as_str()).collect();
        assert_eq!(blind, ["eve@example.com"]);
    }

    #[test]
    fn a_lone_body_is_not_offered_as_the_other_kind() {
        let plain = Message::parse(Envelope::default(), b"Subject: a\r\n\r\nhello\r\n".to_vec());
        assert_eq!((plain.text.trim(), plain.html.as_str()), ("hello", ""));
        let html = b"Content-Type: text/html\r\n\r\n<p>hello <i>you</i></p>\r\n".to_vec();
        let html = Message::parse(Envelope::default(), html);
        assert_eq!((html.text.as_str(), html.snippet().as_str()), ("", "hello you"));
    }

    #[test]
    fn bytes_that_are_no_mail_are_kept() {
        for raw in [&b""[..], b"\r\n", b"\xff\xfe\x00", b"no header at all"] {
            assert_eq!(Message::parse(Envelope::default(), raw.to_vec()).raw, raw);
        }
    }
}
