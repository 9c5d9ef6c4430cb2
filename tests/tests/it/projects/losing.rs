//! Who loses a project loses its tasks: as owner, as assignee, by reminders, by webhooks and by links in mails.

use common::{
    access::Viewer,
    error::Error,
    ids::{ProjectId, TaskId, UserId},
    tasks::{NewTask, ShownTask, Task, TaskFilter},
};
use diesel::{QueryableByName, sql_types::Text};
use diesel_async::RunQueryDsl as _;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

use super::{Cast, admit, at, cast, id};

async fn lines(app: &TestApp, statement: &str) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = Text)]
        line: String,
    }

    let rows: Vec<Line> = diesel::sql_query(statement).load(&mut app.db.conn().await.unwrap()).await.unwrap();
    rows.into_iter().map(|row| row.line).collect()
}

#[tokio::test]
async fn what_one_owned_and_did_in_a_project_stays_there() {
    let Cast { ann, eda, vic, project, .. } = cast().await;
    let within = |assignee: &Person| json!({"title": "One", "project_id": id(&project), "assignee_id": assignee.id, "due": "2030-01-05"});
    let owned = eda.create_task(within(&eda)).await;
    let done_by = ann.create_task(within(&eda)).await;
    let untouched = ann.create_task(within(&vic)).await;
    let private = eda.create_task(json!({"title": "Private"})).await;
    ann.delete(&format!("{}/members/{}", at(&project), eda.id)).await.assert(204);

    for task in [&owned, &done_by] {
        eda.get(&path(task)).await.assert_problem(404, "not_found");
        let after = ann.get(&path(task)).await.assert(200).json;
        assert_eq!((&after["owner_id"], &after["assignee_id"]), (&json!(ann.id), &Value::Null));
        assert_eq!(after["version"], 2);
    }
    assert_eq!(ann.get(&path(&untouched)).await.json, untouched);
    eda.get(&path(&private)).await.assert(200);
    let left = eda.get("/tasks").await.json;
    assert_eq!((left["data"].as_array().unwrap().len(), &left["data"][0]["id"]), (1, &private["id"]));
}

/// Whichever comes first: who is not in the project has nothing to do there.
#[tokio::test]
async fn nobody_is_given_something_to_do_while_they_are_taken_out() {
    let Cast { ann, eda, vic, project, .. } = cast().await;
    let member = format!("{}/members/{}", at(&project), vic.id);
    for round in 0..10 {
        let task = ann.create_task(json!({"title": "One", "project_id": id(&project)})).await;
        let (place, given) = (path(&task), json!({"assignee_id": vic.id}));
        let (given, taken) = tokio::join!(eda.patch(&place, given), ann.delete(&member));
        taken.assert(204);
        assert!([200, 422].contains(&given.status.as_u16()), "{}", given.text);
        assert_eq!(ann.get(&place).await.json["assignee_id"], Value::Null, "round {round}");
        vic.get(&place).await.assert_problem(404, "not_found");
        admit(&ann, &at(&project), &vic, "viewer").await;
    }
}

/// By any of the ways in which one loses a team's project.
#[tokio::test]
async fn leaving_a_team_deleting_it_and_taking_the_project_from_it_are_the_same() {
    let app = TestApp::start().await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    for how in ["leave", "delete", "detach", "stay"] {
        let team = ann.post("/teams", json!({"name": "T"})).await.assert(201).json;
        let place = format!("/teams/{}", id(&team));
        admit(&ann, &place, &bob, "editor").await;
        let new = json!({"name": "P", "team_id": id(&team)});
        let project = ann.post("/projects", new).await.assert(201).json;
        let task =
            bob.create_task(json!({"title": "One", "project_id": id(&project), "assignee_id": bob.id})).await;
        if how == "stay" {
            admit(&ann, &at(&project), &bob, "viewer").await;
        }
        match how {
            "leave" | "stay" => bob.delete(&format!("{place}/members/{}", bob.id)).await.assert(204),
            "delete" => ann.delete(&place).await.assert(204),
            _ => ann.patch(&at(&project), json!({"team_id": null})).await.assert(200),
        };
        let after = ann.get(&path(&task)).await.assert(200).json;
        let expected =
            if how == "stay" { (json!(bob.id), json!(bob.id)) } else { (json!(ann.id), json!(null)) };
        assert_eq!((&after["owner_id"], &after["assignee_id"]), (&expected.0, &expected.1), "{how}");
    }
}

#[tokio::test]
async fn reminders_of_what_one_does_not_see_end() {
    let Cast { app, ann, eda, project, .. } = cast().await;
    let task = ann.create_task(json!({"title": "Secret", "project_id": id(&project)})).await;
    for hour in ["08", "09"] {
        let reminder = json!({"kind": "absolute", "at": format!("2030-01-02T{hour}:00:00Z")});
        eda.post(&format!("{}/reminders", path(&task)), reminder).await.assert(201);
    }
    app.advance_to("2030-01-02T08:00:00Z").await;
    let mails = app.mail().await;
    assert_eq!(mails.len(), 1);
    let text = mails[0].text.clone();
    let link = text.split_whitespace().find(|word| word.contains("/a/")).unwrap();
    let link = link[link.find("/a/").unwrap()..].to_owned();
    let url = format!("{}{link}", app.url);
    app.anybody.send(reqwest::Method::GET, &url, &[], None).await.assert(200);

    ann.delete(&format!("{}/members/{}", at(&project), eda.id)).await.assert(204);
    app.advance_to("2030-01-02T09:00:00Z").await;
    assert_eq!(app.mail().await.len(), 0);
    let fires = lines(
        &app,
        "SELECT state::text || ' ' || coalesce(reason, '') AS line FROM reminder_fires ORDER BY fire_at",
    )
    .await;
    assert_eq!(fires, ["sent ", "skipped no_access"]);
    app.anybody.send(reqwest::Method::GET, &url, &[], None).await.assert(410);
    app.anybody.send(reqwest::Method::POST, &url, &[], None).await.assert(410);
    assert_eq!(ann.get(&path(&task)).await.json["status"], "todo");
}

/// A viewer is reminded; that the mail has a button makes them no editor.
#[tokio::test]
async fn a_link_in_a_mail_does_no_more_than_its_person_may() {
    let Cast { app, ann, vic, project, .. } = cast().await;
    let task = ann.create_task(json!({"title": "One", "project_id": id(&project)})).await;
    let reminder = json!({"kind": "absolute", "at": "2030-01-02T08:00:00Z"});
    vic.post(&format!("{}/reminders", path(&task)), reminder).await.assert(201);
    app.advance_to("2030-01-02T08:00:00Z").await;
    let mails = app.mail().await;
    let (text, mut statuses) = (mails[0].text.clone(), Vec::new());
    for link in text.split_whitespace().filter(|word| word.contains("/a/")) {
        let url = format!("{}{}", app.url, &link[link.find("/a/").unwrap()..]);
        statuses.push(app.anybody.send(reqwest::Method::POST, &url, &[], None).await.status.as_u16());
    }
    assert_eq!(
        (statuses.iter().filter(|s| **s == 403).count(), statuses.contains(&200)),
        (1, true),
        "{statuses:?}"
    );
    assert_eq!(ann.get(&path(&task)).await.json["status"], "todo");
}

#[tokio::test]
async fn webhooks_hear_of_what_their_owner_sees() {
    let Cast { app, ann, eda, vic, sam, project } = cast().await;
    let names =
        json!(["task.created", "task.assigned", "project.updated", "project.archived", "project.deleted"]);
    let mut endpoints = Vec::new();
    for person in [&ann, &eda, &vic, &sam] {
        let new = json!({"url": "https://receiver.example/hook", "events": names});
        endpoints.push(person.post("/webhooks", new).await.assert(201).json);
    }
    let heard = async || {
        for event in lines(&app, "SELECT id::text AS line FROM events ORDER BY seq").await {
            let mut tx = app.db.begin().await.unwrap();
            common::webhooks::fan_out(&mut tx, event.parse().unwrap()).await.unwrap();
            tx.commit().await.unwrap();
        }
        let heard = "SELECT split_part(u.email::text, '@', 1) || ' ' || d.event_type AS line FROM webhook_deliveries d
            JOIN webhook_endpoints e ON e.id = d.endpoint_id JOIN users u ON u.id = e.owner_id
            JOIN events ev ON ev.id = d.event_id ORDER BY ev.seq, 1";
        let heard = lines(&app, heard).await;
        diesel::sql_query("DELETE FROM events").execute(&mut app.db.conn().await.unwrap()).await.unwrap();
        app.dispatch().await;
        heard
    };
    let task = ann.create_task(json!({"title": "One", "project_id": id(&project)})).await;
    assert_eq!(heard().await, ["ann task.created", "eda task.created", "vic task.created"]);
    ann.patch(&path(&task), json!({"assignee_id": vic.id})).await.assert(200);
    assert_eq!(heard().await, ["ann task.assigned", "eda task.assigned", "vic task.assigned"]);
    sam.create_task(json!({"title": "Sam's"})).await;
    assert_eq!(heard().await, ["sam task.created"]);

    // What happens is told to those who see it when it is told.
    ann.patch(&at(&project), json!({"name": "New"})).await.assert(200);
    let taken = format!("UPDATE project_members SET user_id = '{}' WHERE user_id = '{}'", sam.id, eda.id);
    diesel::sql_query(taken).execute(&mut app.db.conn().await.unwrap()).await.unwrap();
    assert_eq!(heard().await, ["ann project.updated", "sam project.updated", "vic project.updated"]);
    ann.act(&format!("{}/archive", at(&project))).await.assert(200);
    assert_eq!(heard().await, ["ann project.archived", "sam project.archived", "vic project.archived"]);
    ann.delete(&format!("{}?tasks=trash", at(&project))).await.assert(204);
    assert_eq!(heard().await, ["ann project.deleted"], "nobody else can tell what it was");
}

/// A delivery that waits when its owner loses sight is not sent, and what it said is not shown.
#[tokio::test]
async fn deliveries_of_what_one_has_lost_are_cancelled_and_hidden() {
    let Cast { app, ann, eda, project, .. } = cast().await;
    let new = json!({"url": "https://receiver.example/hook", "events": ["task.created", "project.updated"]});
    let endpoint = eda.post("/webhooks", new).await.assert(201).json;
    ann.create_task(json!({"title": "Secret", "project_id": id(&project)})).await;
    ann.patch(&at(&project), json!({"name": "Secret"})).await.assert(200);
    for event in lines(&app, "SELECT id::text AS line FROM events ORDER BY seq").await {
        let mut tx = app.db.begin().await.unwrap();
        assert_eq!(common::webhooks::fan_out(&mut tx, event.parse().unwrap()).await.unwrap(), 1);
        tx.commit().await.unwrap();
    }
    let place = format!("/webhooks/{}/deliveries", id(&endpoint));
    let shown = async || {
        let mut shown = Vec::new();
        for delivery in eda.get(&place).await.assert(200).json["data"].as_array().unwrap() {
            let one = eda.get(&format!("{place}/{}", id(delivery))).await.assert(200).json;
            shown.push(one["request"]["body"].as_str().is_some_and(|body| body.contains("Secret")));
        }
        shown
    };
    assert_eq!(shown().await, [true, true]);
    ann.delete(&format!("{}/members/{}", at(&project), eda.id)).await.assert(204);
    assert_eq!(shown().await, [false, false]);
    app.work().await;
    let ends = "SELECT state::text || ' ' || error AS line FROM webhook_deliveries";
    assert_eq!(lines(&app, ends).await, ["cancelled no_access", "cancelled no_access"]);
}

/// A token may be for one project: the rest is as if it were not there.
#[tokio::test]
async fn a_viewer_may_be_held_to_one_project() {
    let Cast { app, ann, eda, project, .. } = cast().await;
    let inside = ann.create_task(json!({"title": "inside", "project_id": id(&project)})).await;
    let outside = ann.create_task(json!({"title": "outside"})).await;
    let elsewhere = super::project(&ann, "Other").await;
    let other = ann.create_task(json!({"title": "other", "project_id": id(&elsewhere)})).await;
    let only: ProjectId = id(&project).parse().unwrap();
    let ann: UserId = ann.id.parse().unwrap();
    let viewer = Viewer { user_id: ann, project: Some(only) };
    let mut conn = app.db.conn().await.unwrap();
    let task = |task: &Value| id(task).parse::<TaskId>().unwrap();
    assert!(Task::find(&mut conn, viewer, task(&inside)).await.is_ok());
    for hidden in [&outside, &other] {
        let found = Task::find(&mut conn, viewer, task(hidden)).await;
        assert!(matches!(found, Err(Error::NotFound(_))), "{found:?}");
    }
    let keys = common::testing::secret_keys().derive(common::secrets::Purpose::Cursor);
    let filter = TaskFilter::default();
    let page = Task::list(&mut conn, viewer, app.db.clock().now(), &filter, &keys).await.unwrap();
    let titles: Vec<&str> = page
        .data
        .iter()
        .map(|task| match task {
            ShownTask::Whole(task) => task.title.as_str(),
            ShownTask::Shaped(task) => panic!("{task:?}"),
        })
        .collect();
    assert_eq!(titles, ["inside"]);
    drop(conn);

    let new = |project: Option<ProjectId>| -> NewTask {
        serde_json::from_value(json!({"title": "new", "project_id": project})).unwrap()
    };
    for (project, fine) in [(None, false), (Some(id(&elsewhere).parse().unwrap()), false), (Some(only), true)]
    {
        let mut tx = app.db.begin().await.unwrap();
        let made = Task::create(&mut tx, viewer, &new(project)).await.map(drop);
        assert_eq!(tx.finish(made).await.is_ok(), fine, "{project:?}");
    }
    let mut conn = app.db.conn().await.unwrap();
    let stranger =
        Viewer { user_id: eda.id.parse().unwrap(), project: Some(id(&elsewhere).parse().unwrap()) };
    assert!(Task::find(&mut conn, stranger, task(&inside)).await.is_err());
}

/// The account goes, and what it shared stays with the others.
#[tokio::test]
async fn a_project_outlives_the_account_of_its_owner() {
    let Cast { app, ann, eda, vic, project, .. } = cast().await;
    let mine =
        ann.create_task(json!({"title": "One", "project_id": id(&project), "assignee_id": ann.id})).await;
    let hers = eda.create_task(json!({"title": "Two", "project_id": id(&project)})).await;
    ann.create_task(json!({"title": "Private"})).await;
    let alone = super::project(&ann, "Alone").await;
    ann.create_task(json!({"title": "Three", "project_id": id(&alone)})).await;
    ann.delete("/me").await.assert(202);
    app.run_due().await;
    assert_eq!(app.mail().await.len(), 1);
    app.db.clock().set(common::testing::at("2030-01-08T00:00:01Z"));
    let mut tx = app.db.begin().await.unwrap();
    common::jobs::Job::enqueue(&common::jobs::PruneHistory {}, &mut tx).await.unwrap();
    tx.commit().await.unwrap();
    app.work().await;

    let owners = "SELECT name || ' ' || owner_id AS line FROM projects";
    let name = project["name"].as_str().unwrap();
    assert_eq!(
        lines(&app, owners).await,
        [format!("{name} {}", eda.id)],
        "the editor comes before the viewer"
    );
    let left = "SELECT title || ' ' || owner_id || ' ' || coalesce(assignee_id::text, '-') AS line FROM tasks ORDER BY title";
    assert_eq!(lines(&app, left).await, ["One", "Two"].map(|title| format!("{title} {} -", eda.id)));
    let members = "SELECT user_id::text AS line FROM project_members";
    assert_eq!(lines(&app, members).await, std::slice::from_ref(&vic.id));
    assert_ne!(id(&mine), id(&hers));
}
