//! The mail that the session's reminder promised: there, not early, not late.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use common::clock::Clock;
use reqwest::Url;
use serde::Deserialize;

/// How late the mail may be (issue "Foundation": the smoke test).
const LATEST: TimeDelta = TimeDelta::seconds(30);

/// The reminder of the task that the session made, as the session printed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reminder {
    pub(super) email: String,
    pub(super) title: String,
    pub(super) fire_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct Found {
    messages: Vec<Mail>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mail {
    created: DateTime<Utc>,
    subject: String,
}

impl Reminder {
    /// Finds the account's address, the task's title and the reminder's time in the JSON that the session printed.
    ///
    /// # Errors
    /// When one of them was not printed.
    pub(super) fn find(printed: &str) -> anyhow::Result<Self> {
        let value = |name: &str| {
            string_after(printed, name).with_context(|| {
                format!("the session printed no {name:?}, so its reminder cannot be checked:\n{printed}")
            })
        };
        let fire_at = value("fire_at")?;
        Ok(Self {
            email: value("email")?,
            title: value("title")?,
            fire_at: fire_at.parse().with_context(|| format!("\"fire_at\" is not an instant: {fire_at}"))?,
        })
    }

    /// Waits for the mail at the mail page `http`, and says how late it came.
    ///
    /// # Errors
    /// When it came before its time, later than 30 s after it, or not at all.
    pub(super) async fn await_mail(&self, http: &str) -> anyhow::Result<TimeDelta> {
        let query = format!("to:{} \"{}\"", self.email, self.title.replace('"', " "));
        let patience = (self.fire_at + LATEST - Clock::Database.instant()).max(TimeDelta::zero());
        let found: Found = crate::client()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build()?
            .get(Url::parse_with_params(
                &format!("{}/api/v1/search", http.trim_end_matches('/')),
                [("query", query.as_str()), ("wait", &(patience.num_seconds() + 1).to_string())],
            )?)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .with_context(|| format!("cannot ask the mail page at {http}"))?
            .json()
            .await
            .context("the mail page's answer is not a list of mails")?;
        self.judge(&found.messages)
    }

    fn judge(&self, mails: &[Mail]) -> anyhow::Result<TimeDelta> {
        let Self { email, title, fire_at } = self;
        let Some(first) = mails.iter().min_by_key(|mail| mail.created) else {
            bail!(
                "no mail about {title:?} came to {email} within {} s after {fire_at}",
                LATEST.num_seconds()
            );
        };
        let late = first.created - fire_at;
        let came = format!("the mail {:?} to {email} came at {}", first.subject, first.created);
        ensure!(late >= TimeDelta::zero(), "{came}, before its time, {fire_at}");
        ensure!(late <= LATEST, "{came}, more than {} s after its time, {fire_at}", LATEST.num_seconds());
        ensure!(mails.len() == 1, "{} mails about {title:?} came to {email}; one was due", mails.len());
        Ok(late)
    }
}

/// The first string that follows `"name":` in a text that is JSON here and there.
fn string_after(text: &str, name: &str) -> Option<String> {
    let name = format!("\"{name}\"");
    text.match_indices(&name).find_map(|(at, _)| {
        let value = text[at + name.len()..].trim_start().strip_prefix(':')?;
        serde_json::Deserializer::from_str(value).into_iter::<String>().next()?.ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "email: none\n{\"email\": \"ann@example.com\",\n \"full_name\":\"Ann\"}\n\
        {\"title\":\"Say \\\"hi\\\"\",\"reminders\":[{\"fire_at\":\"2026-12-01T15:30:00Z\"}]} and \"title\": 7\n";

    fn mail(created: &str) -> Mail {
        Mail { created: created.parse().unwrap(), subject: "Reminder".into() }
    }

    #[test]
    fn the_reminder_is_found_in_what_was_printed() {
        let reminder = Reminder::find(PRINTED).unwrap();
        assert_eq!(reminder.email, "ann@example.com");
        assert_eq!(reminder.title, "Say \"hi\"");
        assert_eq!(reminder.fire_at.to_rfc3339(), "2026-12-01T15:30:00+00:00");
        let error = Reminder::find("{\"email\": \"ann@example.com\"}").unwrap_err().to_string();
        assert!(error.contains("printed no \"fire_at\""), "{error}");
    }

    #[test]
    fn one_mail_at_its_time_and_no_other() {
        let reminder = Reminder::find(PRINTED).unwrap();
        let judge = |mails: &[&str]| {
            let mails: Vec<_> = mails.iter().map(|created| mail(created)).collect();
            reminder.judge(&mails).map(|late| late.num_milliseconds()).map_err(|error| error.to_string())
        };
        assert_eq!(judge(&["2026-12-01T15:30:00.250Z"]), Ok(250));
        assert_eq!(judge(&["2026-12-01T15:30:30Z"]), Ok(30_000));
        for (mails, message) in [
            (&[][..], "no mail about"),
            (&["2026-12-01T15:29:59.999Z"], "before its time"),
            (&["2026-12-01T15:30:30.001Z"], "more than 30 s after"),
            (&["2026-12-01T15:30:01Z", "2026-12-01T15:30:02Z"], "2 mails about"),
        ] {
            let error = judge(mails).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
