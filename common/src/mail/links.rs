//! Signed links in mails, good without a login: complete or snooze the task that a reminder is about, and stop a kind of
//! mail (semantics §10). A token names what it is for and nothing else; what it may do is decided when it is used.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Duration, Utc};
use sha2::{Digest as _, Sha256};
use url::{Host, Url};
use uuid::Uuid;

use crate::{
    ids::{FireId, UserId},
    secrets::{Key, Purpose, SecretKeys},
    suppressions::MailKind,
    webhooks::target::is_global_unicast,
};

/// How long an action is good.
const LIFE: Duration = Duration::days(14);
/// Bytes of a signature: 128 bits cannot be guessed, and a mail is short.
const MAC: usize = 16;

/// What a link in a reminder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Finishes the task.
    Complete,
    /// Reminds again in an hour.
    SnoozeHour,
    /// Reminds again at the start of the person's next day.
    SnoozeTomorrow,
}

impl Action {
    /// All of them, in the order in which a mail lists them.
    pub const ALL: [Self; 3] = [Self::Complete, Self::SnoozeHour, Self::SnoozeTomorrow];

    /// Its name in the database, and in a token as a byte. Never changes: links are under way.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::SnoozeHour => "snooze=60",
            Self::SnoozeTomorrow => "snooze=tomorrow",
        }
    }

    /// What the link and its button say.
    pub fn label(self) -> &'static str {
        match self {
            Self::Complete => "Done",
            Self::SnoozeHour => "Remind me in an hour",
            Self::SnoozeTomorrow => "Remind me tomorrow",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Complete => 1,
            Self::SnoozeHour => 2,
            Self::SnoozeTomorrow => 3,
        }
    }
}

/// Makes and reads links.
pub struct Links {
    actions: Vec<Key>,
    unsubscribe: Vec<Key>,
}

/// An action that a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionLink {
    /// The reminder's delivery whose mail had the link: it says which task, person and occurrence.
    pub fire: FireId,
    /// What is to be done.
    pub action: Action,
}

impl ActionLink {
    /// The same for the same mail and action, however often the mail was tried: an action works once.
    pub fn id(&self) -> Uuid {
        let digest = Sha256::new()
            .chain_update(self.fire.uuid().as_bytes())
            .chain_update([self.action.code()])
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(digest.get(..16).unwrap_or(&[0; 16]));
        Uuid::from_bytes(id)
    }
}

impl Links {
    /// The first key signs, all verify.
    pub fn new(keys: &SecretKeys) -> Self {
        Self { actions: keys.derive(Purpose::MailAction), unsubscribe: keys.derive(Purpose::Unsubscribe) }
    }

    /// The page of an action, good for 14 days from `now`.
    pub fn action(&self, public_url: &Url, link: ActionLink, now: DateTime<Utc>) -> String {
        let mut body = link.fire.uuid().as_bytes().to_vec();
        body.push(link.action.code());
        body.extend((now + LIFE).timestamp().to_be_bytes());
        format!("{}/a/{}", base(public_url), sign(&self.actions, body))
    }

    /// What a token is good for; `None` if it is damaged, forged or expired.
    pub fn read_action(&self, token: &str, now: DateTime<Utc>) -> Option<ActionLink> {
        let body = verify(&self.actions, token)?;
        let fire = FireId::from(Uuid::from_bytes(*body.first_chunk()?));
        let action = Action::ALL.into_iter().find(|action| Some(&action.code()) == body.get(16))?;
        let expires = i64::from_be_bytes(body.get(17..)?.try_into().ok()?);
        (expires > now.timestamp()).then_some(ActionLink { fire, action })
    }

    /// The page that stops a kind of mail, and takes the one click of RFC 8058. It does not expire.
    pub fn unsubscribe(&self, public_url: &Url, user: UserId, kind: MailKind) -> String {
        let mut body = user.uuid().as_bytes().to_vec();
        body.push(kind_code(kind));
        format!("{}/u/{}", base(public_url), sign(&self.unsubscribe, body))
    }

    /// Whose mail of which kind a token stops; `None` if it is damaged or forged.
    pub fn read_unsubscribe(&self, token: &str) -> Option<(UserId, MailKind)> {
        const KINDS: [MailKind; 4] =
            [MailKind::Reminder, MailKind::DailySummary, MailKind::WeeklyReport, MailKind::WebhookNotice];

        let body = verify(&self.unsubscribe, token)?;
        let user = UserId::from(Uuid::from_bytes(*body.first_chunk()?));
        let kind = KINDS.into_iter().find(|kind| body.get(16) == Some(&kind_code(*kind)))?;
        (body.len() == 17).then_some((user, kind))
    }
}

/// Whether providers of mail can reach this address to unsubscribe somebody (RFC 8058 §3.1 wants https); otherwise the
/// header would promise what does not work.
pub fn takes_one_click(public_url: &Url) -> bool {
    let reachable = match public_url.host() {
        Some(Host::Domain(name)) => {
            name.contains('.')
                && ![".localhost", ".local", ".internal", ".test"].iter().any(|end| name.ends_with(end))
        }
        Some(Host::Ipv4(address)) => is_global_unicast(address.into()),
        Some(Host::Ipv6(address)) => is_global_unicast(address.into()),
        None => false,
    };
    public_url.scheme() == "https" && reachable
}

fn base(public_url: &Url) -> &str {
    public_url.as_str().trim_end_matches('/')
}

/// The byte of a kind. Never changes: links are under way.
fn kind_code(kind: MailKind) -> u8 {
    match kind {
        MailKind::Reminder => 1,
        MailKind::DailySummary => 2,
        MailKind::WeeklyReport => 3,
        MailKind::WebhookNotice => 4,
        MailKind::Security => 5,
    }
}

fn sign(keys: &[Key], mut body: Vec<u8>) -> String {
    let mac = keys.first().map(|key| key.sign(&body)).unwrap_or_default();
    body.extend(mac.iter().take(MAC));
    URL_SAFE_NO_PAD.encode(body)
}

fn verify(keys: &[Key], token: &str) -> Option<Vec<u8>> {
    let mut body = URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() > MAC)?;
    let mac = body.split_off(body.len() - MAC);
    keys.iter().any(|key| key.verify_truncated(&body, &mac)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn now() -> DateTime<Utc> {
        "2030-01-01T00:00:00Z".parse().unwrap()
    }

    fn token(url: &str) -> &str {
        url.rsplit('/').next().unwrap()
    }

    #[test]
    fn a_token_is_good_for_what_it_was_made_for() {
        let (links, url): (Links, Url) =
            (Links::new(&OLD.parse().unwrap()), "https://t.example/".parse().unwrap());
        for action in Action::ALL {
            let link = ActionLink { fire: FireId::new(), action };
            let made = links.action(&url, link, now());
            assert!(made.starts_with("https://t.example/a/") && made.len() < 90, "{made}");
            assert_eq!(links.read_action(token(&made), now()), Some(link));
            assert_eq!(links.read_action(token(&made), now() + LIFE), None, "after 14 days");
            assert_eq!(links.read_unsubscribe(token(&made)), None, "another purpose");
            for position in 0..token(&made).len() {
                let mut forged = token(&made).to_owned();
                let other = if forged.as_bytes()[position] == b'A' { "B" } else { "A" };
                forged.replace_range(position..=position, other);
                assert_ne!(
                    links.read_action(&forged, now()),
                    Some(link).filter(|_| forged != token(&made)),
                    "{forged}"
                );
            }
        }
        let user = UserId::new();
        let made = links.unsubscribe(&url, user, MailKind::DailySummary);
        assert_eq!(links.read_unsubscribe(token(&made)), Some((user, MailKind::DailySummary)));
        assert_eq!(links.read_action(token(&made), now()), None);
        for bad in ["", "a", "AAAA", &"A".repeat(1000)] {
            assert_eq!((links.read_action(bad, now()), links.read_unsubscribe(bad)), (None, None));
        }
    }

    #[test]
    fn an_older_key_still_opens_links() {
        let url: Url = "https://t.example".parse().unwrap();
        let made = Links::new(&OLD.parse().unwrap()).unsubscribe(&url, UserId::new(), MailKind::Reminder);
        let rotated = Links::new(&format!("b:{}=,{OLD}", "E".repeat(43)).parse().unwrap());
        assert!(rotated.read_unsubscribe(token(&made)).is_some());
        let other = Links::new(&format!("b:{}=", "E".repeat(43)).parse().unwrap());
        assert!(other.read_unsubscribe(token(&made)).is_none());
    }

    #[test]
    fn one_click_needs_an_address_that_providers_reach() {
        for (url, takes) in [
            ("https://tasks.example.com", true),
            ("http://tasks.example.com", false),
            ("https://localhost:8000", false),
            ("https://tasks.local", false),
            ("https://10.0.0.1", false),
            ("https://[fd00::1]", false),
            ("https://203.0.114.1", true),
        ] {
            assert_eq!(takes_one_click(&url.parse().unwrap()), takes, "{url}");
        }
    }
}
