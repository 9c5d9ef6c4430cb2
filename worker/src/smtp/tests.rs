#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use mail_parser::MessageParser;
use proptest::prelude::*;

use super::*;
use crate::testing::smtp;

mod secure;

const ORIGIN: Origin = Origin { request_id: None, traceparent: None };

fn header() -> Header<'static> {
    Header {
        message_id: "<1@example.com>",
        list_id: "reminder.example.com".to_owned(),
        thread: Some("<task-1@example.com>".to_owned()),
        unsubscribe: None,
        date: "2026-12-01T15:30:00Z".parse().unwrap(),
        origin: &ORIGIN,
    }
}

fn mail(subject: &str) -> Mail {
    Mail { subject: subject.to_owned(), text: "Text".to_owned(), html: "<p>Text</p>".to_owned() }
}

/// The connection of a mail that got no answer in time is not used again: the late answer to that mail would be taken
/// for the answer to the next.
#[tokio::test]
async fn a_connection_that_owes_an_answer_is_closed() {
    let sink = tools::mail_sink::MailSink::start(tools::mail_sink::Options {
        slow_for: Duration::from_millis(700),
        ..Default::default()
    })
    .await
    .unwrap();
    let smtp = smtp(&format!("smtp://{}", sink.smtp_addr()), Duration::from_millis(400));
    let draft = smtp.open("slow@example.com").await.unwrap();
    let failure = draft.send(&mail("first"), &header()).await.unwrap_err();
    assert!(matches!(failure, Failure::Temporary { ambiguous: true, .. }), "{failure:?}");
    assert!(lock(&smtp.0.idle).is_empty());

    for subject in ["second", "third"] {
        let reply =
            smtp.open("ann@example.com").await.unwrap().send(&mail(subject), &header()).await.unwrap();
        assert!(reply.starts_with("250"), "{reply}");
        assert_eq!(lock(&smtp.0.idle).len(), 1, "one connection for both");
    }
    smtp.open("ann@example.com").await.unwrap().abandon().await;
    assert_eq!(lock(&smtp.0.idle).len(), 1);
    assert_eq!(sink.messages().len(), 3);
}

#[tokio::test]
async fn nothing_leaves_in_the_clear_if_tls_is_required() {
    let sink = tools::mail_sink::MailSink::start(tools::mail_sink::Options::default()).await.unwrap();
    // The sink's certificate is its own: nobody vouches for it.
    let smtp = smtp(&format!("smtp://{}?tls=required", sink.smtp_addr()), LIMIT);
    let failure = smtp.open("ann@example.com").await.err().unwrap();
    assert!(matches!(failure, Failure::Temporary { ambiguous: false, .. }), "{failure:?}");
    assert!(sink.messages().is_empty());
}

#[tokio::test]
async fn an_address_that_cannot_be_written_is_refused_without_a_connection() {
    let smtp = smtp("smtp://127.0.0.1:9", LIMIT);
    for address in ["nobody", "a@b@c", "ann@example.com\r\nRCPT TO:<eve@example.com>"] {
        let failure = smtp.open(address).await.err().unwrap();
        assert!(matches!(failure, Failure::Rejected { .. }), "{address}: {failure:?}");
    }
}

/// What looks like an encoded word (RFC 2047) is read as it was typed.
#[tokio::test]
async fn a_subject_is_not_decoded_as_what_it_looks_like() {
    let smtp = smtp("smtp://127.0.0.1:9", LIMIT);
    for subject in ["=?utf-8?b?AAAA?=", "a =?utf-8?q?=0d=0aBcc:_eve@example.com?= b", "=?utf-8?q?=C3=A9?= é"]
    {
        let bytes = smtp.message("ann@example.com".parse().unwrap(), &mail(subject), &header()).unwrap();
        let message = MessageParser::default().parse(&bytes).unwrap();
        assert_eq!(message.subject().unwrap_or_default().replace('\u{2060}', ""), subject);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// R28 of the goals, on the title's way through subject, text and HTML.
    #[test]
    fn whatever_a_title_is_the_message_parses(title in any::<String>(), request_id in any::<String>()) {
        let line = common::mail::Line {
            title: &title, project: None, due: None, priority: "none", description: Some(&title),
            fire_at: header().date, actions: Vec::new(),
        };
        let rendered = common::mail::reminder(&[line], common::zone::Zone::UTC.tz(), header().date, "example.com", "https://example.com/u/1").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let smtp = smtp("smtp://127.0.0.1:9", LIMIT);
        let origin = Origin { request_id: Some(request_id), traceparent: None };
        let bytes = smtp
            .message("ann@example.com".parse().unwrap(), &rendered, &Header { origin: &origin, ..header() })
            .unwrap();
        prop_assert!(bytes.is_ascii());
        let message = MessageParser::default().parse(&bytes).unwrap();
        let names: Vec<String> = message.headers().iter().map(|header| header.name().to_owned()).collect();
        let expected = [
            "From", "To", "Subject", "Message-ID", "Date", "Auto-Submitted", "List-ID", "In-Reply-To", "References", "X-Request-Id",
            "MIME-Version", "Content-Type",
        ];
        for name in &names {
            prop_assert!(expected.contains(&name.as_str()), "{name}");
        }
        prop_assert_eq!(message.subject().unwrap_or_default(), literal(&rendered.subject));
        prop_assert_eq!(message.message_id(), Some("1@example.com"));
        prop_assert_eq!(message.to().and_then(|to| to.first()).and_then(|to| to.address()), Some("ann@example.com"));
        let text = message.body_text(0).unwrap().replace("\r\n", "\n");
        prop_assert_eq!(text.trim_end(), rendered.text.trim_end());
    }
}
