use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

/// Ann in Berlin, where it is one hour later. She finishes a task on each of two days, one of them late.
async fn ann(app: &TestApp) -> Person {
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let first = ann.create_task(json!({"title": "First"})).await;
    let late = ann.create_task(json!({"title": "Late", "due": "2030-01-01"})).await;
    ann.create_task(json!({"title": "Open", "due": "2030-01-01"})).await;
    app.advance_to("2030-01-01T22:59:59Z").await;
    ann.act(&format!("{}/complete", path(&first))).await.assert(200);
    app.advance_to("2030-01-01T23:00:01Z").await;
    ann.act(&format!("{}/complete", path(&late))).await.assert(200);
    app.user("bob").await.create_task(json!({"title": "Not hers"})).await;
    assert!(app.mail().await.iter().all(|mail| mail.subject.contains("due")), "her summaries of these days");
    ann
}

fn line(day: &str, created: i64, completed: i64, late: i64, seconds: Value) -> Value {
    json!({"from": day, "to": day, "created": created, "completed": completed, "completed_late": late,
           "average_completion_seconds": seconds})
}

#[tokio::test]
async fn figures_are_of_the_callers_tasks_and_days() {
    let app = TestApp::start().await;
    let ann = ann(&app).await;
    let stats = ann.get("/stats").await.assert(200).json;
    let counts = ["todo", "in_progress", "done", "cancelled", "overdue"].map(|name| stats[name].clone());
    assert_eq!(counts, [1, 0, 2, 0, 1].map(|count| json!(count)));
    assert_eq!(stats["average_completion_seconds"], json!(82_800.0));
    let days = stats["days"].as_array().unwrap();
    assert_eq!(days.len(), 30);
    assert_eq!(
        days[28..],
        [line("2030-01-01", 3, 1, 0, json!(82_799.0)), line("2030-01-02", 0, 1, 1, json!(82_801.0))]
    );

    let url = "/reports/productivity?from=2030-01-01&to=2030-01-02";
    let report = ann.get(url).await.assert(200).json;
    assert_eq!(
        (&report["id"], &report["state"], &report["progress"]),
        (&json!(null), &json!("done"), &json!(1.0))
    );
    assert_eq!(report["lines"], json!(days[28..]));
    let weeks =
        ann.get("/reports/productivity?from=2029-12-31&to=2030-01-06&group=week").await.assert(200).json;
    assert_eq!(
        weeks["lines"],
        json!([{"from": "2029-12-31", "to": "2030-01-06", "created": 3, "completed": 2, "completed_late": 1,
                "average_completion_seconds": 82_800.0}])
    );
    for csv in [
        ann.get(&format!("{url}&format=csv")).await.assert(200),
        ann.send(Method::GET, url, &[("accept", "text/csv")], None).await.assert(200),
    ] {
        let lines: Vec<&str> = csv.text.lines().collect();
        assert_eq!(lines[0], "from,to,created,completed,completed_late,average_completion_seconds");
        assert_eq!(
            lines[1..],
            ["2030-01-01,2030-01-01,3,1,0,82799.0", "2030-01-02,2030-01-02,0,1,1,82801.0"]
        );
    }
}

#[tokio::test]
async fn a_long_report_is_a_job_that_can_be_watched() {
    let app = TestApp::start().await;
    let ann = ann(&app).await;
    let url = "/reports/productivity?from=2029-01-01&to=2030-12-31";
    let asked = ann.get(url).await.assert(202);
    let location = asked.header("location").trim_start_matches("/api/v1").to_owned();
    assert_eq!((&asked.json["state"], &asked.json["progress"]), (&json!("running"), &json!(0.0)));
    assert_eq!(ann.get(url).await.assert(202).json["id"], asked.json["id"], "the same, not another");
    ann.send(Method::GET, &location, &[("accept", "text/csv")], None)
        .await
        .assert_problem(409, "report_running");
    app.work().await;
    let report = ann.get(&location).await.assert(200).json;
    assert_eq!((&report["state"], &report["progress"]), (&json!("done"), &json!(1.0)));
    let lines = report["lines"].as_array().unwrap();
    assert_eq!((lines.len(), &lines[365]), (730, &line("2030-01-01", 3, 1, 0, json!(82_799.0))));
    let csv = ann.send(Method::GET, &location, &[("accept", "text/csv")], None).await.assert(200);
    assert_eq!(csv.text.lines().count(), 731);
    let bob = app.user("carl").await;
    bob.get(&location).await.assert_problem(404, "not_found");
}

#[tokio::test]
async fn a_report_that_cannot_be_is_refused_with_its_parameter() {
    let app = TestApp::start().await;
    let ann = app.user("ann").await;
    for query in [
        "",
        "from=2030-01-02",
        "from=2030-01-02&to=2030-01-01",
        "from=2020-01-01&to=2030-12-31",
        "from=tomorrow&to=2030-01-01",
        "from=2030-02-30&to=2030-03-01",
        "from=2030-01-01&to=2030-01-02&group=hour",
        "from=2030-01-01&to=2030-01-02&format=xml",
        "from=2030-01-01&to=2030-01-02&of=bob",
    ] {
        ann.get(&format!("/reports/productivity?{query}")).await.assert_problem(400, "malformed_parameter");
    }
    ann.get("/reports/0197c1f2-a7c0-7b1f-9b1e-2d3c4b5a6978").await.assert_problem(404, "not_found");
    app.anybody.get("/stats").await.assert_problem(401, "unauthenticated");
}
