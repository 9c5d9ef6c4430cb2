use std::net::SocketAddr;

use axum::{Json, Router, routing::get};
use serde::Serialize;

/// Arguments of `tasktracker-dev bench bare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    bind: SocketAddr,
}

/// As many fields as a task has, of the same kinds.
#[derive(Serialize)]
struct Thing {
    id: uuid::Uuid,
    title: &'static str,
    description: &'static str,
    status: &'static str,
    completed: bool,
    priority: &'static str,
    tags: [&'static str; 1],
    due: Due,
    reminders: [(); 0],
    project_id: Option<uuid::Uuid>,
    parent_id: Option<uuid::Uuid>,
    position: f64,
    owner_id: uuid::Uuid,
    assignee_id: Option<uuid::Uuid>,
    completed_at: Option<&'static str>,
    archived_at: Option<&'static str>,
    deleted_at: Option<&'static str>,
    version: i32,
    created_at: &'static str,
    updated_at: &'static str,
}

#[derive(Serialize)]
struct Due {
    kind: &'static str,
    date: &'static str,
    at: &'static str,
}

/// Answers the same JSON to everybody until it is killed: what axum alone can do.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(args.bind).await?;
    Ok(axum::serve(listener, Router::new().route("/", get(thing))).await?)
}

async fn thing() -> Json<Thing> {
    Json(Thing {
        id: uuid::Uuid::nil(),
        title: "Task 12345: look after the printer",
        description: "The one on the second floor; it wants toner and a kind word.",
        status: "todo",
        completed: false,
        priority: "medium",
        tags: ["office"],
        due: Due { kind: "date", date: "2030-01-02", at: "2030-01-02T23:59:59Z" },
        reminders: [],
        project_id: None,
        parent_id: None,
        position: 1_893_456_000.5,
        owner_id: uuid::Uuid::nil(),
        assignee_id: None,
        completed_at: None,
        archived_at: None,
        deleted_at: None,
        version: 1,
        created_at: "2026-01-02T03:04:05.678901Z",
        updated_at: "2026-01-02T03:04:05.678901Z",
    })
}
