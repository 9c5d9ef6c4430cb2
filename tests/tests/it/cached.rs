//! A task that is read again comes from a copy in Redis, and never as it was before a change that was acknowledged. Each way to
//! change a task is tried here: who adds one to the code adds it here.

use common::{
    jobs::{ArchiveCompleted, Job, PruneHistory, PurgeArchived},
    testing::at,
};
use redis::AsyncCommands as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{PASSWORD, Person, TestApp, path};

const ALL: &str = "title,description,status,completed,priority,tags,due,reminders,project_id,parent_id,position,owner_id,\
                   assignee_id,completed_at,archived_at,deleted_at,version,created_at,updated_at";

fn id(thing: &Value) -> &str {
    thing["id"].as_str().unwrap()
}

/// How many copies of the task there are.
async fn copies(app: &TestApp, task: &Value) -> usize {
    let key = app.redis.key(format_args!("copies:task:{}", id(task)));
    let fields: Vec<String> = app.redis.queue().hkeys(key).await.unwrap();
    fields.iter().filter(|field| !field.starts_with(['!', '?'])).count()
}

/// Reads the task until there is a copy of it for each of these.
pub(crate) async fn warm(app: &TestApp, people: &[&Person], task: &Value) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while copies(app, task).await < people.len() {
        assert!(tokio::time::Instant::now() < deadline, "no copy of {task}");
        for person in people {
            person.get(&path(task)).await.assert(200);
        }
    }
}

/// Fails if somebody sees the task otherwise than it is.
async fn assert_current(who: &Person, task: &Value, after: &str) {
    let shown = who.get(&path(task)).await;
    // Parts of a task come from the database.
    let stored = who.get(&format!("{}?fields={ALL}", path(task))).await;
    assert_eq!(shown.status, stored.status, "after {after}");
    if stored.status == 200 {
        assert_eq!(shown.json, stored.json, "after {after}");
        assert_eq!(shown.header("etag"), format!("\"t-{}\"", stored.json["version"]), "after {after}");
    }
}

/// What is changed: tasks of Ann's, the first with a reminder and inside of nothing, the second inside of it.
struct Scene {
    app: TestApp,
    ann: Person,
    eda: Person,
    project: Value,
    tasks: Vec<Value>,
}

impl Scene {
    async fn new() -> Self {
        let app = TestApp::start().await;
        let (ann, eda) = (app.user("ann").await, app.user("eda").await);
        let project = ann.post("/projects", json!({"name": "Launch"})).await.assert(201).json;
        let member = format!("/projects/{}/members/{}", id(&project), eda.id);
        ann.put(&member, json!({"role": "editor"})).await.assert(200);
        let mut scene = Self { app, ann, eda, project, tasks: Vec::new() };
        scene
            .add(json!({
                "title": "First", "due": {"date": "2030-01-03"}, "tags": ["red", "blue"],
                "reminders": [{"kind": "relative", "offset_minutes": -60}],
            }))
            .await;
        let inside = json!({"title": "Second", "parent_id": id(&scene.tasks[0])});
        scene.add(inside).await;
        let shared = json!({"title": "Third", "project_id": id(&scene.project), "assignee_id": scene.eda.id,
            "due": {"date": "2030-01-03"}});
        scene.add(shared).await;
        let edas = json!({"title": "Fourth", "project_id": id(&scene.project)});
        let edas = scene.eda.create_task(edas).await;
        scene.tasks.push(edas);
        scene
    }

    async fn add(&mut self, task: Value) {
        let task = self.ann.create_task(task).await;
        self.tasks.push(task);
    }

    async fn warm(&self) {
        warm(&self.app, &[&self.ann], &self.tasks[0]).await;
        warm(&self.app, &[&self.ann], &self.tasks[1]).await;
        warm(&self.app, &[&self.ann, &self.eda], &self.tasks[2]).await;
        warm(&self.app, &[&self.eda], &self.tasks[3]).await;
    }

    async fn assert_current(&self, after: &str) {
        for task in &self.tasks {
            assert_current(&self.ann, task, after).await;
            assert_current(&self.eda, task, after).await;
        }
    }

    /// Sends a request while all is copied, and looks whether all is shown as it is.
    async fn send(&self, who: &Person, method: Method, place: &str, body: Value) -> Value {
        self.warm().await;
        let body = (!body.is_null()).then_some(body);
        let answer = who.send(method.clone(), place, &[("if-match", "*")], body).await;
        assert!(answer.status.is_success(), "{method} {place}: {}", answer.text);
        self.assert_current(&format!("{method} {place}")).await;
        answer.json
    }

    /// Moves the clock by more than a login lasts.
    async fn later(&mut self, instant: &str) {
        self.app.db.clock().set(at(instant));
        for person in [&mut self.ann, &mut self.eda] {
            let login = json!({"email": person.email, "password": PASSWORD});
            let session = self.app.anybody.post("/auth/login", login).await.assert(200).json;
            person.client = person.client.with_token(session["access_token"].as_str().unwrap());
        }
    }

    /// Runs a job while there is a copy of this task.
    async fn run(&self, task: usize, job: impl Job + 'static, name: &str) {
        warm(&self.app, &[&self.ann], &self.tasks[task]).await;
        let mut tx = self.app.db.begin().await.unwrap();
        job.enqueue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        self.app.work().await;
        self.assert_current(name).await;
    }
}

#[tokio::test]
async fn no_change_of_a_task_leaves_a_copy_of_what_it_was() {
    let scene = Scene::new().await;
    let (ann, first, second) = (&scene.ann, path(&scene.tasks[0]), path(&scene.tasks[1]));
    let (patch, post) = (Method::PATCH, Method::POST);
    scene.send(ann, patch.clone(), &first, json!({"title": "Changed"})).await;
    scene.send(ann, patch.clone(), &first, json!({"tags": ["green"]})).await;
    scene.send(ann, patch.clone(), &first, json!({"due": {"date": "2030-01-04"}})).await;
    scene
        .send(ann, Method::PUT, &second, json!({"title": "Replaced", "parent_id": id(&scene.tasks[0])}))
        .await;
    for act in ["complete", "reopen", "archive", "unarchive"] {
        scene.send(ann, post.clone(), &format!("{first}/{act}"), Value::Null).await;
    }
    let batch = json!({"atomic": true, "operations": [{"complete": {"id": id(&scene.tasks[1])}}]});
    scene.send(ann, post.clone(), "/tasks/batch", batch).await;
    let reminder = json!({"kind": "relative", "offset_minutes": -5});
    let reminder = scene.send(ann, post.clone(), &format!("{first}/reminders"), reminder).await;
    scene.send(ann, post.clone(), &format!("{first}/snooze"), json!({"minutes": 30})).await;
    scene.send(ann, Method::DELETE, &format!("{first}/reminders/{}", id(&reminder)), Value::Null).await;
    scene.send(ann, patch.clone(), "/me", json!({"time_zone": "Asia/Tokyo"})).await;
    scene.send(ann, post.clone(), &format!("{second}/move"), json!({"parent_id": null})).await;
    scene.send(ann, post.clone(), &format!("{second}/move"), json!({"parent_id": id(&scene.tasks[0])})).await;
    scene.send(ann, Method::DELETE, &first, Value::Null).await;
    scene.send(ann, post.clone(), &format!("{first}/restore"), Value::Null).await;
    let into = json!({"project_id": id(&scene.project)});
    scene.send(ann, patch, &first, into).await;
}

#[tokio::test]
async fn neither_does_a_change_of_what_it_belongs_to() {
    let scene = Scene::new().await;
    let (ann, eda, project) = (&scene.ann, &scene.eda, format!("/projects/{}", id(&scene.project)));
    let tags = ann.get("/tags").await.assert(200).json;
    let tag = |name: &str| {
        let tags = tags["data"].as_array().unwrap();
        format!("/tags/{}", id(tags.iter().find(|tag| tag["name"] == name).unwrap()))
    };
    scene.send(ann, Method::PATCH, &tag("red"), json!({"name": "crimson"})).await;
    scene.send(ann, Method::DELETE, &tag("blue"), Value::Null).await;
    scene.send(eda, Method::PATCH, "/me", json!({"time_zone": "Asia/Tokyo"})).await;
    // She does not see it any more: what she did and owned there is somebody else's.
    scene.warm().await;
    ann.delete(&format!("{project}/members/{}", eda.id)).await.assert(204);
    scene.assert_current("the end of a membership").await;

    warm(&scene.app, &[ann], &scene.tasks[2]).await;
    let other = ann.post("/projects", json!({"name": "Other"})).await.assert(201).json;
    ann.send(Method::DELETE, &format!("{project}?tasks=move:{}", id(&other)), &[("if-match", "*")], None)
        .await
        .assert(204);
    scene.assert_current("a project that went into another").await;
    warm(&scene.app, &[ann], &scene.tasks[2]).await;
    let other = format!("/projects/{}?tasks=trash", id(&other));
    ann.send(Method::DELETE, &other, &[("if-match", "*")], None).await.assert(204);
    scene.assert_current("a project that went into the trash").await;
}

#[tokio::test]
async fn neither_does_a_job() {
    let mut scene = Scene::new().await;
    scene.app.context.settings.purge_archived_after_days = Some(7);
    let (first, second) = (path(&scene.tasks[0]), path(&scene.tasks[1]));
    let part = json!({"title": "Fifth", "parent_id": id(&scene.tasks[0])});
    scene.add(part).await;
    scene.ann.act(&format!("{first}/complete")).await.assert(200);
    scene.ann.delete(&second).await.assert(204);
    scene.later("2030-03-02T00:00:00Z").await;
    scene.run(0, ArchiveCompleted {}, "archive_completed").await;
    assert!(!scene.ann.get(&first).await.assert(200).json["archived_at"].is_null());
    scene.run(1, PruneHistory {}, "prune_history").await;
    scene.ann.get(&second).await.assert_problem(404, "not_found");
    scene.later("2030-03-11T00:00:00Z").await;
    scene.run(4, PurgeArchived {}, "purge_archived").await;
    scene.ann.get(&first).await.assert_problem(404, "not_found");
    let part = scene.ann.get(&path(&scene.tasks[4])).await.assert(200).json;
    assert_eq!((&part["parent_id"], &part["version"]), (&Value::Null, &json!(2)));
}

#[tokio::test]
async fn sending_a_snoozed_reminder_changes_nothing_of_its_task() {
    let mut scene = Scene::new().await;
    let fires_at = |task: &Value| task["reminders"][0]["fire_at"].as_str().unwrap().to_owned();
    let first = path(&scene.tasks[0]);
    let instant = fires_at(&scene.tasks[0]);
    scene.app.advance_to(&instant).await;
    scene.later(&instant).await;
    let snoozed = scene.ann.post(&format!("{first}/snooze"), json!({"minutes": 5})).await.assert(200).json;
    let instant = snoozed["fire"]["fire_at"].as_str().unwrap().to_owned();
    warm(&scene.app, &[&scene.ann], &scene.tasks[0]).await;
    scene.app.advance_to(&instant).await;
    assert_eq!(scene.app.mail().await.len(), 2);
    scene.assert_current("a snoozed reminder was sent").await;
    assert_eq!(fires_at(&scene.ann.get(&first).await.assert(200).json), instant);
}
