//! `/a/…` and `/u/…`: where the links of reminders and summaries lead, without a login. Opening one changes nothing, for
//! scanners open links as well; only a POST does. A page shows no more than its mail did.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
    routing::get,
};
use chrono::TimeDelta;
use common::{
    access::{Expected, Viewer},
    error::{Code, Error},
    ids::UserId,
    mail::links::{Action, ActionLink, Links},
    notifications::Preferences,
    reminders::{self, Snooze, Subject},
    suppressions::{self, MailKind},
    tasks::Task,
    users::Person,
    zone,
};

use crate::{
    error::Result,
    html::{page, refused},
    state::AppState,
};

/// How long a pause is.
const PAUSE: TimeDelta = TimeDelta::days(7);

/// The pages.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/a/{token}", get(ask).post(act))
        .route("/u/{token}", get(ask_to_unsubscribe).post(unsubscribe))
}

fn read(app: &AppState, token: &str) -> Result<ActionLink> {
    let link = Links::new(&app.secrets).read_action(token, app.db.clock().instant());
    Ok(link.ok_or_else(gone)?)
}

fn gone() -> Error {
    Error::conflict(Code::InvalidLink, Code::InvalidLink.help())
}

async fn ask(State(app): State<AppState>, Path(token): Path<String>) -> Response {
    let found = async {
        let link = read(&app, &token)?;
        let subject = Subject::load(&mut *app.db.conn().await?, link)
            .await?
            .filter(|subject| !subject.used)
            .ok_or_else(gone)?;
        Ok((link, subject))
    };
    let found: Result<_> = found.await;
    match found {
        Ok((_, subject)) if subject.moved_on => moved_on(StatusCode::OK, &subject.title),
        Ok((link, subject)) => {
            let body = format!("<form method=\"post\"><button>{}</button></form>", link.action.label());
            page(StatusCode::OK, &subject.title, &body)
        }
        Err(error) => refused(&error),
    }
}

async fn act(State(app): State<AppState>, Path(token): Path<String>) -> Response {
    match try_act(&app, &token).await {
        Ok(Done::Acted(title, said)) => page(StatusCode::OK, &title, &format!("<p>{said}</p>")),
        Ok(Done::MovedOn(title)) => moved_on(StatusCode::CONFLICT, &title),
        Err(error) => refused(&error),
    }
}

enum Done {
    Acted(String, &'static str),
    MovedOn(String),
}

async fn try_act(app: &AppState, token: &str) -> Result<Done> {
    let link = read(app, token)?;
    let subject = Subject::load(&mut *app.db.conn().await?, link)
        .await?
        .filter(|subject| !subject.used)
        .ok_or_else(gone)?;
    if subject.moved_on {
        return Ok(Done::MovedOn(subject.title));
    }
    let viewer = Viewer { user_id: subject.user_id, project: None };
    let mut tx = app.db.begin().await?;
    let acted = async {
        if !subject.use_up(&mut tx, link).await? {
            return Err(gone());
        }
        match link.action {
            Action::Complete => {
                Task::complete(&mut tx, viewer, subject.task_id, &Expected::Any).await?;
                Ok("Done.")
            }
            Action::SnoozeHour => {
                let wish = Snooze { minutes: Some(60), until: None };
                reminders::snooze(&mut tx, viewer, subject.task_id, &wish).await?;
                Ok("You are reminded again in an hour.")
            }
            Action::SnoozeTomorrow => {
                let now = tx.clock().now();
                let person = Person::load(tx.conn(), subject.user_id, now).await?;
                let tomorrow = zone::local_date(person.now, person.zone) + chrono::Days::new(1);
                let until = zone::resolve(tomorrow.and_time(person.day_start), person.zone);
                reminders::snooze_until(&mut tx, viewer, subject.task_id, until).await?;
                Ok("You are reminded again tomorrow, when your day begins.")
            }
        }
    };
    let acted: common::error::Result<_> = acted.await;
    match tx.finish(acted).await {
        Ok(said) => Ok(Done::Acted(subject.title, said)),
        // Between the look and the lock somebody else was quicker.
        Err(Error::Conflict { code: Code::TaskDeleted | Code::TaskClosed, .. }) => {
            Ok(Done::MovedOn(subject.title))
        }
        Err(error) => Err(error.into()),
    }
}

fn moved_on(status: StatusCode, title: &str) -> Response {
    page(status, title, "<p>This task has moved on already: there is nothing left to do here.</p>")
}

fn what(kind: MailKind) -> &'static str {
    match kind {
        MailKind::Reminder => "reminders",
        MailKind::DailySummary => "daily summaries",
        MailKind::WeeklyReport => "weekly reports",
        MailKind::WebhookNotice => "notices about webhooks",
        MailKind::Security => "mails about the account",
    }
}

fn read_unsubscribe(app: &AppState, token: &str) -> Result<(UserId, MailKind)> {
    Ok(Links::new(&app.secrets).read_unsubscribe(token).ok_or_else(gone)?)
}

async fn ask_to_unsubscribe(State(app): State<AppState>, Path(token): Path<String>) -> Response {
    match read_unsubscribe(&app, &token) {
        Ok((_, kind)) => {
            let title = format!("No more {} by mail?", what(kind));
            let body = "<form method=\"post\"><button>Stop them</button></form>\
                        <form method=\"post\"><button name=\"do\" value=\"pause\">Pause reminders and summaries for 7 days</button></form>\
                        <p>To change when they come, log in: <code>PATCH /api/v1/me/notifications</code>.</p>";
            page(StatusCode::OK, &title, body)
        }
        Err(error) => refused(&error),
    }
}

/// The buttons of our page, and the one click of RFC 8058 §3.2: whatever else the body says, this link stops its kind.
async fn unsubscribe(State(app): State<AppState>, Path(token): Path<String>, body: Bytes) -> Response {
    let pauses = &*body == b"do=pause";
    let changed = async {
        let (user, kind) = read_unsubscribe(&app, &token)?;
        let mut tx = app.db.begin().await?;
        let changed = async {
            if !pauses {
                return suppressions::unsubscribe(&mut tx, user, kind).await;
            }
            let until = tx.clock().instant() + PAUSE;
            Preferences::pause(&mut tx, Viewer { user_id: user, project: None }, until).await.map(drop)
        };
        let changed = changed.await;
        tx.finish(changed).await?;
        Ok(kind)
    };
    let changed: Result<MailKind> = changed.await;
    match changed {
        Ok(kind) => {
            let title = if pauses {
                format!("No reminders and summaries for {} days", PAUSE.num_days())
            } else {
                format!("No more {} come by mail", what(kind))
            };
            let body =
                "<p>Logged in you can take that back: <code>PATCH /api/v1/me/notifications</code>.</p>";
            page(StatusCode::OK, &title, body)
        }
        Err(error) => refused(&error),
    }
}
