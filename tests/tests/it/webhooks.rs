//! Endpoints, events and deliveries, up to the job that sends: that one is not run here.

mod deliveries;
mod endpoints;
mod events;

use common::{ids::EventId, webhooks};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Text, Uuid},
};
use diesel_async::RunQueryDsl as _;
use serde_json::{Value, json};
use tests::app::{Person, TestApp};

const URL: &str = "https://receiver.example/hook";

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = Uuid)]
    id: EventId,
}

async fn run(app: &TestApp, statement: &str) {
    diesel::sql_query(statement).execute(&mut app.db.conn().await.unwrap()).await.unwrap();
}

async fn count(app: &TestApp, what: &str) -> i64 {
    let statement = format!("SELECT count(*) AS number FROM {what}");
    let row: Number =
        diesel::sql_query(statement).get_result(&mut app.db.conn().await.unwrap()).await.unwrap();
    row.number
}

/// The one column `line` of a statement.
async fn lines(app: &TestApp, statement: &str) -> Vec<String> {
    let rows: Vec<Line> = diesel::sql_query(statement).load(&mut app.db.conn().await.unwrap()).await.unwrap();
    rows.into_iter().map(|row| row.line).collect()
}

async fn event_ids(app: &TestApp) -> Vec<EventId> {
    let rows: Vec<Id> = diesel::sql_query("SELECT id FROM events ORDER BY seq")
        .load(&mut app.db.conn().await.unwrap())
        .await
        .unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// What the jobs `fan_out_event` do, and answers how many deliveries that made.
async fn fan_out(app: &TestApp) -> usize {
    let mut made = 0;
    for event in event_ids(app).await {
        let mut tx = app.db.begin().await.unwrap();
        made += webhooks::fan_out(&mut tx, event).await.unwrap();
        tx.commit().await.unwrap();
    }
    app.dispatch().await;
    made
}

/// An endpoint for these types.
async fn endpoint(person: &Person, events: &[&str]) -> Value {
    person.post("/webhooks", json!({"url": URL, "events": events})).await.assert(201).json
}

fn at(endpoint: &Value) -> String {
    format!("/webhooks/{}", endpoint["id"].as_str().unwrap())
}
