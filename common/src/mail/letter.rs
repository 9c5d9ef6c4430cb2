use askama::Template;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Mail, SUBJECT, header_safe, words};

/// A letter about an account, with what it says. Links are whole URLs of ours.
#[derive(Debug, Clone)]
pub enum Letter<'a> {
    /// Confirm the address.
    VerifyEmail {
        /// Leads to the page with the button.
        url: &'a str,
        /// Until when it is good.
        expires_at: DateTime<Utc>,
    },
    /// Set another password.
    ResetPassword {
        /// Leads to the page with the form.
        url: &'a str,
        /// Until when it is good.
        expires_at: DateTime<Utc>,
    },
    /// Set the first password of an account that somebody else made.
    SetPassword {
        /// Leads to the page with the form.
        url: &'a str,
        /// Until when it is good.
        expires_at: DateTime<Utc>,
    },
    /// Somebody registered with an address that has an account.
    AlreadyRegistered {
        /// Leads to the page that sets another password.
        url: &'a str,
        /// Until when it is good.
        expires_at: DateTime<Utc>,
    },
    /// Confirm the address that the account is to have.
    ChangeEmail {
        /// Leads to the page with the button.
        url: &'a str,
        /// Until when it is good.
        expires_at: DateTime<Utc>,
    },
    /// The account is to have another address; to the present one.
    EmailChangeRequested {
        /// The other address.
        to: &'a str,
    },
    /// The account is to be deleted.
    DeletionRequested {
        /// When.
        deletes_at: DateTime<Utc>,
    },
    /// A webhook endpoint was switched off.
    WebhookDisabled {
        /// Where its deliveries went.
        endpoint: &'a str,
        /// What its owner says of it.
        description: Option<&'a str>,
    },
    /// Mails leave.
    Test,
}

#[derive(Template)]
#[template(path = "mail/letter.txt", escape = "none")]
struct Text<'a> {
    before: &'a [String],
    link: Option<(&'static str, &'a str)>,
    after: &'a [String],
    host: &'a str,
}

#[derive(Template)]
#[template(path = "mail/letter.html")]
struct Html<'a> {
    before: &'a [String],
    link: Option<(&'static str, &'a str)>,
    after: &'a [String],
    host: &'a str,
    subject: &'a str,
}

/// The mail for a letter to somebody in `tz`, from the installation at `host`.
///
/// # Errors
/// Only if a template is wrong.
pub fn letter(letter: &Letter<'_>, tz: Tz, host: &str) -> Result<Mail, askama::Error> {
    let good_until =
        |at: &DateTime<Utc>| format!("The link is good once, until {}.", words::instant(*at, tz));
    let ignore = "If that was not you, ignore this mail: nothing happens.".to_owned();
    let (subject, before, link, after) = match letter {
        Letter::VerifyEmail { url, expires_at } => (
            "Confirm your address".to_owned(),
            vec![format!(
                "Somebody made an account at {host} with this address. If it was you, confirm that it is yours."
            )],
            Some(("Confirm the address", *url)),
            vec![good_until(expires_at), ignore],
        ),
        Letter::ResetPassword { url, expires_at } => (
            "Set another password".to_owned(),
            vec![format!(
                "Somebody asked for another password for your account at {host}. If it was you, set it here."
            )],
            Some(("Set another password", *url)),
            vec![format!("{} It ends all sessions of the account.", good_until(expires_at)), ignore],
        ),
        Letter::SetPassword { url, expires_at } => (
            "Your account".to_owned(),
            vec![format!("There is an account for you at {host}. Set its password to use it.")],
            Some(("Set the password", *url)),
            vec![good_until(expires_at)],
        ),
        Letter::AlreadyRegistered { url, expires_at } => (
            "You have an account already".to_owned(),
            vec![format!(
                "Somebody registered at {host} with this address, which has an account already. If it was you, log in \
                 with it. If you do not know the password any more, set another one."
            )],
            Some(("Set another password", *url)),
            vec![good_until(expires_at), ignore],
        ),
        Letter::ChangeEmail { url, expires_at } => (
            "Confirm your new address".to_owned(),
            vec![format!(
                "Somebody wants this address for their account at {host}. If it was you, confirm that it is yours."
            )],
            Some(("Confirm the address", *url)),
            vec![good_until(expires_at), ignore],
        ),
        Letter::EmailChangeRequested { to } => (
            "Your address is to be changed".to_owned(),
            vec![
                format!("Somebody who knows your password asked that mails of your account at {host} go to"),
                header_safe(to, 254),
            ],
            None,
            vec![
                "Nothing changes before the link that was mailed there is followed. If that was not you, set another \
                 password now: that ends all other sessions, and the link is not good any more."
                    .to_owned(),
            ],
        ),
        Letter::DeletionRequested { deletes_at } => (
            "Your account is to be deleted".to_owned(),
            vec![format!(
                "Somebody asked for the deletion of your account at {host}. It will be deleted, with everything in it, \
                 on {}.",
                words::instant(*deletes_at, tz)
            )],
            None,
            vec!["To keep it, log in before then. If that was not you, set another password as well.".to_owned()],
        ),
        Letter::WebhookDisabled { endpoint, description } => {
            let mut facts = vec![
                "None of the deliveries to this webhook endpoint has succeeded for five days, so it was switched off. \
                 What has not been delivered is kept for 30 days."
                    .to_owned(),
                header_safe(endpoint, 2048),
            ];
            facts.extend(description.map(|text| header_safe(text, 500)));
            let after = "Mend the receiver, switch the endpoint on again (PATCH /api/v1/webhooks/{id}), and have what \
                         was missed delivered again (POST /api/v1/webhooks/{id}/redeliver).";
            ("A webhook endpoint was switched off".to_owned(), facts, None, vec![after.to_owned()])
        }
        Letter::Test => (
            format!("Test mail from {host}"),
            vec!["Mails leave this installation: an administrator has tried it.".to_owned()],
            None,
            Vec::new(),
        ),
    };
    let subject = header_safe(&subject, SUBJECT);
    let text = Text { before: &before, link, after: &after, host }.render()?;
    let html = Html { before: &before, link, after: &after, host, subject: &subject }.render()?;
    Ok(Mail { subject, text, html })
}

#[cfg(test)]
mod tests {
    use chrono_tz::Europe;

    use super::*;

    #[test]
    fn a_link_and_its_end_are_in_both_parts() {
        let expires_at = "2030-01-02T00:00:00Z".parse().unwrap();
        let url = "https://tasks.example.com/account/verify?token=tto_x&y";
        let verify = Letter::VerifyEmail { url, expires_at };
        let mail = letter(&verify, Europe::Berlin, "tasks.example.com").unwrap();
        assert_eq!(mail.subject, "Confirm your address");
        assert!(mail.text.contains(&format!("Confirm the address:\n{url}\n")), "{}", mail.text);
        assert!(mail.html.contains("token=tto_x&#38;y\""), "{}", mail.html);
        for part in [&mail.text, &mail.html] {
            assert!(part.contains("good once, until Wed 2 Jan 2030, 01:00 CET."), "{part}");
        }
    }

    #[test]
    fn what_a_person_wrote_stays_text() {
        let disabled = Letter::WebhookDisabled {
            endpoint: "https://example.com/<hook>",
            description: Some("a\r\nBcc: b"),
        };
        let mail = letter(&disabled, Europe::Berlin, "example.com").unwrap();
        assert!(mail.html.contains("&#60;hook&#62;") && !mail.html.contains("<hook>"), "{}", mail.html);
        assert!(mail.text.contains("a Bcc: b"), "{}", mail.text);
    }
}
