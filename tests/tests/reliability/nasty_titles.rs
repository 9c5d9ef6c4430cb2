use std::sync::Arc;

use chaos::cluster::{Cluster, Shape, secs, until};
use chrono::{SubsecRound as _, TimeDelta};
use common::clock::Clock;
use futures::{StreamExt as _, stream};
use rand::{RngExt as _, rngs::StdRng};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tools::mail_sink::Message;

use crate::{figures::say, options::chance};

const PEOPLE: usize = 20;
const EACH: usize = 15;

/// The headers that a reminder may have, and no other.
const HEADERS: &[&str] = &[
    "from",
    "to",
    "subject",
    "message-id",
    "date",
    "auto-submitted",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "in-reply-to",
    "references",
    "x-request-id",
    "traceparent",
    "mime-version",
    "content-type",
];
const REQUIRED: &[&str] = &["from", "to", "subject", "message-id", "date", "auto-submitted", "content-type"];

/// What breaks mails, HTML, logs or terminals, if anything does.
const PIECES: &[&str] = &[
    "\r\nBcc: eve@example.com\r\n",
    "\nSubject: another",
    "\r\n.\r\nMAIL FROM:<eve@example.com>\r\n",
    "\r\n\r\n<script>alert(1)</script>",
    "=?utf-8?q?=0d=0aBcc:_eve@example.com?=",
    "=?utf-8?b?AAAA?=",
    "<img src=x onerror=alert(1)>",
    "</title></body>",
    "{{ 7 * 7 }} {% include \"x\" %} ${x} %s %n",
    "'; DROP TABLE tasks; --",
    "\"quoted\" \\ back\\slash `tick`",
    "Ünïcödé 日本語 한국어 ไทย עברית العربية",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪",
    "\u{202e}right to left\u{202c}",
    "\u{200b}\u{200d}\u{feff}\u{ad}",
    "e\u{301}\u{301}\u{301}\u{301}\u{301}",
    "\u{10ffff}\u{fffd}\u{e000}",
    "\u{0}\u{1}\u{7f}\u{85}",
    "\u{1b}[31mred\u{1b}[0m",
    "\u{2028}\u{2029}",
    "\t \u{a0} ",
    ". .. ... -- ",
    "From here on",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// R28: titles made of what breaks mails, from the API to the mail server; 10,000 in the goals, 300 here. Each mail can be
/// read, goes to its person alone, has the headers it should have and no other, and names its task. What the API does not
/// take is refused with 422.
#[tokio::test]
async fn r28_no_title_breaks_a_mail() {
    let mut chance = chance("R28");
    let cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        people.push(cluster.person(&format!("person-{number}")).await);
    }
    // One a second and person, so that most get a mail of their own with the title as its subject.
    let start = Clock::Database.instant().trunc_subsecs(0) + TimeDelta::seconds(4);
    let titles: Vec<_> =
        (0..PEOPLE * EACH).map(|number| (marker(number), title(number, &mut chance))).collect();
    let asked = titles.iter().enumerate().map(|(number, (marker, title))| {
        let person = &people[number % PEOPLE];
        let at = start + TimeDelta::seconds(i64::try_from(number / PEOPLE).unwrap());
        async move {
            let task = json!({
                "title": title, "description": title, "reminders": [{ "kind": "absolute", "at": at }],
            });
            let answer = person.request(Method::POST, "/tasks", Some(task)).await.unwrap();
            let taken = answer.status == StatusCode::CREATED;
            assert!(taken || answer.status == StatusCode::UNPROCESSABLE_ENTITY, "{title:?}: {}", answer.body);
            taken.then(|| (marker, person.email.clone()))
        }
    });
    // More at once than an API has connections would only show that it says 503.
    let taken: Vec<_> = stream::iter(asked).buffered(4).collect().await;
    let taken: Vec<_> = taken.into_iter().flatten().collect();
    assert!(taken.len() > titles.len() / 4, "the API takes hardly any title: {}", taken.len());

    let named = |mails: &[Arc<Message>]| {
        taken.iter().all(|(marker, _)| mails.iter().any(|mail| mail.text.contains(*marker)))
    };
    let mails = cluster.mail().wait_for(named, secs(60)).await.unwrap();
    until("everything is drained", secs(10), async || cluster.drained().await).await;
    for mail in &mails {
        check(mail);
    }
    let subjects = taken.iter().filter(|(marker, email)| {
        let found: Vec<_> = mails.iter().filter(|mail| mail.text.contains(*marker)).collect();
        let [mail] = found.as_slice() else { panic!("{marker} is in {} mails", found.len()) };
        assert_eq!(mail.envelope.to, std::slice::from_ref(email), "{marker}");
        assert!(mail.html.contains(*marker), "{marker} is not in the HTML");
        mail.subject.contains(*marker)
    });
    let subjects = subjects.count();
    say!(
        "R28: {} titles, {} refused by the API; {} mails, {subjects} with the title as subject",
        titles.len(),
        titles.len() - taken.len(),
        mails.len()
    );
    assert!(subjects > 0);
}

fn check(mail: &Message) {
    let raw = String::from_utf8_lossy(&mail.raw);
    let mut names: Vec<_> = mail.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a header stands twice: {raw}");
    assert!(names.iter().all(|name| HEADERS.contains(&name.as_str())), "{names:?}: {raw}");
    assert!(REQUIRED.iter().all(|name| names.iter().any(|known| known == name)), "{names:?}: {raw}");
    assert_eq!((mail.to.len(), mail.cc.len(), mail.bcc.len()), (1, 0, 0), "{raw}");
    assert_eq!(mail.envelope.to, [mail.to[0].address.as_str()]);
    assert!(mail.attachments.is_empty(), "{raw}");
    assert!(mail.date.is_some() && !mail.message_id.is_empty(), "{raw}");
    assert!(!mail.subject.is_empty() && !mail.subject.contains(char::is_control), "{:?}", mail.subject);
    assert!(!mail.html.contains("<script") && !mail.html.contains("<img"), "{}", mail.html);
    assert!(raw.lines().all(|line| line.len() <= 998), "a line is longer than SMTP allows");
    assert!(raw.is_ascii(), "it needs an extension of SMTP");
}

/// What a title can be found by.
fn marker(number: usize) -> String {
    format!("M{number:04}M")
}

fn title(number: usize, chance: &mut StdRng) -> String {
    let mut pieces: Vec<_> = (0..chance.random_range(1..4))
        .map(|_| PIECES[chance.random_range(0..PIECES.len())].to_owned())
        .collect();
    // In front often enough: a subject is cut.
    let place = chance.random_range(0..=pieces.len().min(1));
    pieces.insert(place, marker(number));
    pieces.concat()
}
