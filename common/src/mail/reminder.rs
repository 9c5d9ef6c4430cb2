use askama::Template;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Mail, SUBJECT, cut, header_safe, words};
use crate::tasks::due::Meaning;

/// Tasks that one mail lists; the rest is counted.
const LINES: usize = 50;
/// Characters of a description that are shown (semantics §10).
const DESCRIPTION: usize = 300;

/// What the mail says of one task.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// Its title.
    pub title: &'a str,
    /// The name of its project.
    pub project: Option<&'a str>,
    /// When it is due.
    pub due: Option<Meaning>,
    /// How much it matters, as a word; `none` is not said.
    pub priority: &'a str,
    /// Its description, or the beginning of it.
    pub description: Option<&'a str>,
    /// When the reminder was to fire.
    pub fire_at: DateTime<Utc>,
    /// What can be done without a login: what it says, and where it leads.
    pub actions: Vec<(&'static str, String)>,
}

struct Block {
    title: String,
    facts: Vec<(&'static str, String)>,
    description: Option<String>,
    late: Option<String>,
    actions: Vec<(&'static str, String)>,
}

#[derive(Template)]
#[template(path = "mail/reminder.txt", escape = "none")]
struct Text<'a> {
    blocks: &'a [Block],
    more: usize,
    host: &'a str,
    unsubscribe: &'a str,
}

#[derive(Template)]
#[template(path = "mail/reminder.html")]
struct Html<'a> {
    blocks: &'a [Block],
    more: usize,
    host: &'a str,
    unsubscribe: &'a str,
    subject: &'a str,
}

/// The mail that reminds somebody in `tz` of these tasks, `now`, from the installation at `host`; `unsubscribe` is where
/// they stop it.
///
/// # Errors
/// Only if a template is wrong.
pub fn reminder(
    lines: &[Line<'_>],
    tz: Tz,
    now: DateTime<Utc>,
    host: &str,
    unsubscribe: &str,
) -> Result<Mail, askama::Error> {
    let more = match lines.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let title = lines.first().map(|line| line.title).unwrap_or_default();
    let subject = header_safe(title, SUBJECT.saturating_sub(more.len())) + &more;
    let blocks: Vec<Block> = lines.iter().take(LINES).map(|line| block(line, tz, now)).collect();
    let more = lines.len().saturating_sub(LINES);
    let text = Text { blocks: &blocks, more, host, unsubscribe }.render()?;
    let html = Html { blocks: &blocks, more, host, unsubscribe, subject: &subject }.render()?;
    Ok(Mail { subject, text, html })
}

fn block(line: &Line<'_>, tz: Tz, now: DateTime<Utc>) -> Block {
    let mut facts = Vec::new();
    if let Some(project) = line.project {
        facts.push(("Project", header_safe(project, 200)));
    }
    if let Some(due) = &line.due {
        facts.push(("Due", words::due(due, tz, now)));
    }
    if line.priority != "none" {
        facts.push(("Priority", line.priority.to_owned()));
    }
    Block {
        title: header_safe(line.title, 500),
        facts,
        description: line.description.and_then(paragraph),
        late: words::late("reminder", line.fire_at, tz, now),
        actions: line.actions.clone(),
    }
}

/// The beginning of a description: its lines, without other control characters.
fn paragraph(text: &str) -> Option<String> {
    let plain = text.replace("\r\n", "\n");
    let plain: String = plain.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let plain = plain.trim();
    (!plain.is_empty()).then(|| cut(plain, DESCRIPTION))
}

#[cfg(test)]
mod tests {
    use chrono_tz::Europe;
    use proptest::prelude::*;

    use super::*;

    fn line(title: &str) -> Line<'_> {
        Line {
            title,
            project: Some("Release <1>"),
            due: Some(Meaning::Floating("2026-12-01T17:00:00".parse().unwrap())),
            priority: "high",
            description: Some("All of it & more.\r\nSee the <list>."),
            fire_at: "2026-12-01T15:30:00Z".parse().unwrap(),
            actions: vec![("Done", "https://tasks.example.com/a/1".to_owned())],
        }
    }

    fn render(lines: &[Line<'_>], now: &str) -> Mail {
        reminder(
            lines,
            Europe::Berlin,
            now.parse().unwrap(),
            "tasks.example.com",
            "https://tasks.example.com/u/1",
        )
        .unwrap()
    }

    #[test]
    fn both_parts_are_as_the_golden_files() {
        let bare = Line {
            project: None,
            due: None,
            priority: "none",
            description: None,
            actions: Vec::new(),
            ..line("Call Bob")
        };
        let mail = render(&[line("Ship <it>"), bare], "2026-12-01T15:35:10Z");
        assert_eq!(mail.subject, "Ship <it> and 1 more");
        assert_eq!(mail.text + "\n", include_str!("golden/reminder.txt"));
        assert_eq!(mail.html + "\n", include_str!("golden/reminder.html"));
    }

    #[test]
    fn many_tasks_are_counted() {
        let lines = vec![line("Ship it"); LINES + 12];
        let mail = render(&lines, "2026-12-01T15:30:00Z");
        assert_eq!(mail.subject, "Ship it and 61 more");
        assert!(mail.text.contains("and 12 more") && mail.html.contains("and 12 more"));
    }

    #[test]
    fn a_long_description_is_cut() {
        let long = "x".repeat(1000);
        let mail = render(&[Line { description: Some(&long), ..line("Ship it") }], "2026-12-01T15:30:00Z");
        assert!(
            mail.text.contains(&format!("{}…", "x".repeat(299))) && !mail.text.contains(&"x".repeat(300))
        );
    }

    proptest! {
        #[test]
        fn whatever_is_typed_stays_text(title in ".{1,500}", description in any::<String>()) {
            let mail = render(&[Line { description: Some(&description), ..line(&title) }], "2026-12-01T15:30:00Z");
            prop_assert!(!mail.subject.contains(char::is_control));
            prop_assert!(mail.subject.chars().count() <= SUBJECT);
            // Our own template has no script and no attribute besides style, lang, charset.
            let ours = render(&[Line { description: Some("x"), ..line("x") }], "2026-12-01T15:30:00Z");
            let tags = |html: &str| html.matches('<').count();
            let lines = description.lines().count();
            prop_assert!(tags(&mail.html) <= tags(&ours.html) + lines);
        }
    }
}
