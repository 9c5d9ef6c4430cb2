use askama::Template;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Mail, header_safe, words};
use crate::{
    summaries::{Content, Item, Section},
    tasks::TaskPriority,
};

/// What the summary says of one task.
struct Line {
    title: String,
    /// Project, due date, priority: what there is of it.
    facts: String,
}

struct Block {
    heading: String,
    lines: Vec<Line>,
    more: i64,
}

struct Page {
    day: String,
    late: Option<String>,
    blocks: Vec<Block>,
    notes: Vec<String>,
}

#[derive(Template)]
#[template(path = "mail/daily_summary.txt", escape = "none")]
struct Text<'a> {
    page: &'a Page,
    link: &'a str,
    host: &'a str,
    unsubscribe: &'a str,
}

#[derive(Template)]
#[template(path = "mail/daily_summary.html")]
struct Html<'a> {
    page: &'a Page,
    link: &'a str,
    host: &'a str,
    unsubscribe: &'a str,
    subject: &'a str,
}

/// The mail that says what `content` holds. `scheduled_at` is when it was to be sent; `public_url` is where the rest of
/// a long list is found, `unsubscribe` where its reader stops summaries.
///
/// # Errors
/// Only if a template is wrong.
pub fn daily_summary(
    content: &Content,
    scheduled_at: DateTime<Utc>,
    public_url: &url::Url,
    unsubscribe: &str,
) -> Result<Mail, askama::Error> {
    let (tz, host) = (content.time_zone, super::host(public_url));
    let day = words::day(content.date);
    let page = Page {
        late: words::late("summary", scheduled_at, tz, content.at),
        blocks: blocks(content),
        notes: notes(content),
        day,
    };
    let subject = format!("{}: {}", page.day, headline(content));
    let link = public_url.as_str();
    let text = Text { page: &page, link, host, unsubscribe }.render()?;
    let html = Html { page: &page, link, host, unsubscribe, subject: &subject }.render()?;
    Ok(Mail { subject, text, html })
}

fn headline(content: &Content) -> String {
    let counts = [(content.overdue.total(), "overdue"), (content.today.total(), "due today")];
    let said: Vec<String> =
        counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if said.is_empty() { "nothing due".to_owned() } else { said.join(", ") }
}

fn blocks(content: &Content) -> Vec<Block> {
    let (tz, now) = (content.time_zone, content.at);
    let block = |heading: &str, section: &Section, is_overdue: bool| Block {
        heading: format!("{heading} ({})", section.total()),
        lines: section.tasks.iter().map(|item| line(item, is_overdue, tz, now)).collect(),
        more: section.more,
    };
    let ahead = match content.lookahead_days {
        1 => "Tomorrow".to_owned(),
        days => format!("Next {days} days"),
    };
    let mut blocks = vec![
        block("Overdue", &content.overdue, true),
        block("Today", &content.today, false),
        block(&ahead, &content.ahead, false),
        block("No date", &content.no_date, false),
    ];
    let missed = content.missed.iter().map(|missed| Line {
        title: header_safe(&missed.title, 500),
        facts: format!("was planned for {}", words::instant(missed.fire_at, tz)),
    });
    blocks.push(Block {
        heading: "Reminders missed while the server was down".to_owned(),
        lines: missed.collect(),
        more: 0,
    });
    blocks.retain(|block| !block.lines.is_empty());
    blocks
}

fn line(item: &Item, is_overdue: bool, tz: Tz, now: DateTime<Utc>) -> Line {
    let due = item.due.meaning().map(|due| match is_overdue {
        true => words::overdue(&due, tz, now),
        false => words::due(&due, tz, now),
    });
    let project = item.project.as_deref().map(|name| header_safe(name, 200));
    let priority = (item.priority != TaskPriority::None).then(|| format!("{} priority", item.priority));
    let facts: Vec<String> = [due, project, priority].into_iter().flatten().collect();
    Line { title: header_safe(&item.title, 500), facts: facts.join(" · ") }
}

fn notes(content: &Content) -> Vec<String> {
    let mut notes = Vec::new();
    if content.items() == 0 && content.missed.is_empty() {
        notes.push("Nothing is due.".to_owned());
    }
    if content.done_yesterday > 0 {
        notes.push(format!("Done yesterday: {}.", words::count(content.done_yesterday, "task")));
    }
    if content.archiving.tasks > 0 {
        notes.push(format!(
            "{} will be archived tomorrow, {} after {} done.",
            words::count(content.archiving.tasks, "task"),
            words::count(content.archiving.after_days.into(), "day"),
            if content.archiving.tasks == 1 { "it was" } else { "they were" },
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use chrono_tz::Europe;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ids::TaskId,
        summaries::{Archiving, Missed},
        tasks::due::{Due, Meaning},
    };

    fn item(title: &str, due: Option<Meaning>) -> Item {
        Item {
            id: TaskId::new(),
            title: title.to_owned(),
            project: Some("Release <1>".to_owned()),
            priority: TaskPriority::High,
            due: due.map(|due| Due::new(due, Europe::Berlin)).unwrap_or_default(),
        }
    }

    fn wall(text: &str) -> Option<Meaning> {
        Some(Meaning::Floating(text.parse().unwrap()))
    }

    fn section(tasks: Vec<Item>, more: i64) -> Section {
        Section { tasks, more }
    }

    fn content() -> Content {
        let all_day = |day: &str| Some(Meaning::Date(day.parse().unwrap()));
        let bare = Item { project: None, priority: TaskPriority::None, ..item("Sleep", None) };
        Content {
            date: "2026-12-01".parse().unwrap(),
            at: "2026-12-01T07:00:00Z".parse().unwrap(),
            time_zone: Europe::Berlin,
            overdue: section(
                vec![
                    item("Tax <return>", all_day("2026-11-28")),
                    item("Call Bob", wall("2026-12-01T06:00:00")),
                ],
                12,
            ),
            today: section(
                vec![item("Ship it", wall("2026-12-01T17:00:00")), item("Water", all_day("2026-12-01"))],
                0,
            ),
            lookahead_days: 3,
            ahead: section(vec![item("Pack & go", all_day("2026-12-03"))], 0),
            no_date: section(vec![bare], 0),
            done_yesterday: 4,
            archiving: Archiving { tasks: 12, after_days: 30 },
            missed: vec![Missed {
                task_id: TaskId::new(),
                title: "Take medicine".to_owned(),
                fire_at: "2026-11-29T08:00:00Z".parse().unwrap(),
            }],
        }
    }

    fn render(content: &Content, scheduled_at: &str) -> Mail {
        let url = "https://tasks.example.com".parse().unwrap();
        daily_summary(content, scheduled_at.parse().unwrap(), &url, "https://tasks.example.com/u/stop")
            .unwrap()
    }

    #[test]
    fn both_parts_are_as_the_golden_files() {
        let content = content();
        let mail = render(&content, "2026-12-01T05:00:00Z");
        assert_eq!(mail.subject, "Tue 1 Dec 2026: 14 overdue, 2 due today");
        assert_eq!(mail.text + "\n", include_str!("golden/daily_summary.txt"));
        assert_eq!(mail.html + "\n", include_str!("golden/daily_summary.html"));
    }

    #[test]
    fn an_empty_summary_says_so() {
        let content = Content {
            overdue: Section::default(),
            today: Section::default(),
            ahead: Section::default(),
            no_date: Section::default(),
            missed: Vec::new(),
            archiving: Archiving::default(),
            done_yesterday: 0,
            ..content()
        };
        let mail = render(&content, "2026-12-01T07:00:00Z");
        assert_eq!(mail.subject, "Tue 1 Dec 2026: nothing due");
        for part in [&mail.text, &mail.html] {
            assert!(part.contains("Nothing is due."), "{part}");
            assert!(!part.contains("late"), "{part}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_typed_stays_text(title in ".{1,500}") {
            let with = |title: &str| {
                let mut content = content();
                content.today.tasks = vec![item(title, None)];
                render(&content, "2026-12-01T07:00:00Z")
            };
            let (mail, ours) = (with(&title), with("x"));
            prop_assert_eq!(mail.html.matches('<').count(), ours.html.matches('<').count());
            prop_assert_eq!(mail.text.lines().count(), ours.text.lines().count());
        }
    }
}
