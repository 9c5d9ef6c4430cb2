//! `/tasks/{id}/reminders` and `/reminders/upcoming`: what reminds a person, and what came of it.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use common::{
    ids::{ReminderId, TaskId},
    page::Page,
    reminders::{
        self, Changed, Fire, NewReminder, Reminder, Snooze, Snoozed, UpcomingFilter, UpcomingFire, Warning,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answer::{All, Paged},
    auth::Auth,
    error::{Problem, Result},
    extract::{Json, Path, Query},
    idempotency::Idempotency,
    middleware::did,
    routes::{Routes, routes},
    state::AppState,
};

/// The routes of this resource.
pub(crate) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(create, list))
        .routes(routes!(get, update, delete))
        .routes(routes!(fires))
        .routes(routes!(snooze))
        .routes(routes!(upcoming))
}

/// A reminder after a change.
#[derive(Debug, Serialize, ToSchema)]
struct ChangedReminder {
    #[serde(flatten)]
    reminder: Reminder,
    /// What the person should know, such as that its time has passed; absent if there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

impl From<Changed> for ChangedReminder {
    fn from(Changed { reminder, warnings }: Changed) -> Self {
        Self { reminder, warnings }
    }
}

/// Add a reminder
///
/// At most 20 on a task. The task's version rises: it answers with its reminders.
#[utoipa::path(
    post, path = "/tasks/{id}/reminders", tag = "reminders", operation_id = "create_reminder",
    params(("id" = TaskId, Path), Idempotency), request_body = NewReminder,
    responses(
        (status = 201, description = "Created", body = ChangedReminder,
            headers(("Location" = String, description = "Where the reminder is"))),
        Problem,
    ),
)]
async fn create(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
    idempotency: Idempotency,
    Json(new): Json<NewReminder>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            let created = Reminder::create(tx, auth.viewer, id, &new).await?;
            let location = format!("/api/v1/tasks/{id}/reminders/{}", created.reminder.id);
            let answer = axum::Json(ChangedReminder::from(created));
            Ok((StatusCode::CREATED, did("add_reminder"), [(header::LOCATION, location)], answer)
                .into_response())
        })
        .await
}

/// List a task's reminders
#[utoipa::path(
    get, path = "/tasks/{id}/reminders", tag = "reminders", operation_id = "list_reminders", params(("id" = TaskId, Path)),
    responses((status = 200, description = "All of them", body = All<Reminder>), Problem),
)]
async fn list(
    State(app): State<AppState>,
    auth: Auth,
    Path(id): Path<TaskId>,
) -> Result<axum::Json<All<Reminder>>> {
    let data = Reminder::of_task(&mut *app.db.conn().await?, auth.viewer, id).await?;
    Ok(axum::Json(All { data }))
}

/// Read a reminder
#[utoipa::path(
    get, path = "/tasks/{id}/reminders/{rid}", tag = "reminders", operation_id = "get_reminder",
    params(("id" = TaskId, Path), ("rid" = ReminderId, Path)),
    responses((status = 200, description = "The reminder", body = Reminder), Problem),
)]
async fn get(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, rid)): Path<(TaskId, ReminderId)>,
) -> Result<axum::Json<Reminder>> {
    Ok(axum::Json(Reminder::find(&mut *app.db.conn().await?, auth.viewer, id, rid).await?))
}

/// Change a reminder
///
/// It fires at another time, or by another rule. What it has sent stays as it is.
#[utoipa::path(
    patch, path = "/tasks/{id}/reminders/{rid}", tag = "reminders", operation_id = "update_reminder",
    params(("id" = TaskId, Path), ("rid" = ReminderId, Path)), request_body = NewReminder,
    responses((status = 200, description = "The reminder as it is now", body = ChangedReminder), Problem),
)]
async fn update(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, rid)): Path<(TaskId, ReminderId)>,
    Json(new): Json<NewReminder>,
) -> Result<impl IntoResponse> {
    let mut tx = app.db.begin().await?;
    let changed = Reminder::change(&mut tx, auth.viewer, id, rid, &new).await;
    let changed = tx.finish(changed).await?;
    Ok((did("change_reminder"), axum::Json(ChangedReminder::from(changed))))
}

/// Remove a reminder
///
/// What it would have sent is cancelled; what it has sent stays explained by its fires.
#[utoipa::path(
    delete, path = "/tasks/{id}/reminders/{rid}", tag = "reminders", operation_id = "delete_reminder",
    params(("id" = TaskId, Path), ("rid" = ReminderId, Path)),
    responses((status = 204, description = "It is removed"), Problem),
)]
async fn delete(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, rid)): Path<(TaskId, ReminderId)>,
) -> Result<impl IntoResponse> {
    let mut tx = app.db.begin().await?;
    let removed = Reminder::remove(&mut tx, auth.viewer, id, rid).await;
    tx.finish(removed).await?;
    Ok((StatusCode::NO_CONTENT, did("remove_reminder")))
}

/// Why was it sent, or why not?
///
/// Every delivery that was planned for a reminder, the newest plan first: when, in which state, and for which reason.
#[utoipa::path(
    get, path = "/tasks/{id}/reminders/{rid}/fires", tag = "reminders", operation_id = "list_fires",
    params(("id" = TaskId, Path), ("rid" = ReminderId, Path)),
    responses((status = 200, description = "All of them", body = All<Fire>), Problem),
)]
async fn fires(
    State(app): State<AppState>,
    auth: Auth,
    Path((id, rid)): Path<(TaskId, ReminderId)>,
) -> Result<axum::Json<All<Fire>>> {
    let data = Fire::of_reminder(&mut *app.db.conn().await?, auth.viewer, id, rid).await?;
    Ok(axum::Json(All { data }))
}

/// Snooze a task
///
/// My next reminder of the task comes at another time; if none is to come, the last one comes again then. Other
/// reminders and the due date stay.
#[utoipa::path(
    post, path = "/tasks/{id}/snooze", tag = "reminders", operation_id = "snooze_task",
    params(("id" = TaskId, Path), Idempotency), request_body = Snooze,
    responses((status = 200, description = "What comes, and when", body = Snoozed), Problem),
)]
async fn snooze(
    State(app): State<AppState>,
    auth: Auth,
    Path(task): Path<TaskId>,
    idempotency: Idempotency,
    Json(wish): Json<Snooze>,
) -> Result<Response> {
    idempotency
        .once(&app.db, async |tx| {
            Ok(axum::Json(reminders::snooze(tx, auth.viewer, task, &wish).await?).into_response())
        })
        .await
}

/// What will remind me?
///
/// My reminders of the next days, the earliest first.
#[utoipa::path(
    get, path = "/reminders/upcoming", tag = "reminders", operation_id = "list_upcoming_fires", params(UpcomingFilter),
    responses((status = 200, description = "A page of what is planned", body = Page<UpcomingFire>), Problem),
)]
async fn upcoming(
    State(app): State<AppState>,
    auth: Auth,
    Query(filter): Query<UpcomingFilter>,
) -> Result<Paged<Page<UpcomingFire>>> {
    let (mut conn, now) = (app.db.conn().await?, app.db.clock().now());
    Ok(Paged(UpcomingFire::list(&mut conn, auth.viewer, now, &filter, &app.cursor_keys).await?))
}
