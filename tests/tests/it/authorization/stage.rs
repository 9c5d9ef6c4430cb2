//! The people, what they share, and one thing of each kind as often as it is needed.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{
    api_tokens::Scope,
    db::RunQueryDsl as _,
    jobs::{Act, Job as _, Probe},
};
use serde_json::{Value, json};
use tests::app::{Client, PASSWORD, Person, TestApp};

use super::{Actor, OPEN, SESSION};

/// Stands in everything that those outside must not read.
pub(super) const SECRET: &str = "Zanzibar";

/// What an operation is done to. All that is in a project is its owner's; who is in it is a viewer, an editor and one
/// member more, whose id is `{user_id}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Nothing,
    /// A new account with a session of its own.
    Account,
    /// A session of whoever tries.
    Login,
    /// A session of the owner's.
    Session,
    ApiToken,
    /// A task in `{project}`.
    Task,
    TaskInTrash,
    /// With a reminder of each that sees it.
    TaskWithReminders,
    /// A task that has a comment, and the comment.
    CommentedTask,
    Comment,
    Reminder,
    /// A tag, and another of the same project.
    Tag,
    Project,
    Team,
    Webhook,
    /// What is delivered, and was tried often enough.
    Delivery,
    Report,
    Job,
    CancelledJob,
    Queue,
    PausedMail,
    Suppression,
}

/// What was made.
#[derive(Default)]
pub(super) struct Made {
    /// By the name in paths and bodies.
    parts: BTreeMap<&'static str, String>,
    /// What shows whether anything changed.
    watched: Vec<String>,
    /// With what the one who may is to try.
    pub(super) client: Option<Client>,
}

impl Made {
    fn new<const N: usize>(parts: [(&'static str, &Value); N], watched: &[&str]) -> Self {
        let parts = parts.map(|(name, value)| (name, value.as_str().unwrap().to_owned()));
        let mut made = Self { parts: parts.into(), ..Self::default() };
        made.watched = watched.iter().map(|path| made.fill(path)).collect();
        made
    }

    /// `text` with its `{names}` replaced.
    pub(super) fn fill(&self, text: &str) -> String {
        self.parts
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    /// A body with its `{names}` replaced.
    pub(super) fn fill_in(&self, body: Value) -> Value {
        match body {
            Value::String(text) => Value::String(self.fill(&text)),
            Value::Object(members) => {
                Value::Object(members.into_iter().map(|(name, value)| (name, self.fill_in(value))).collect())
            }
            Value::Array(items) => items.into_iter().map(|item| self.fill_in(item)).collect(),
            other => other,
        }
    }
}

/// The people, and the project that some of them share.
pub(super) struct Stage {
    app: TestApp,
    stranger: Person,
    viewer: Person,
    editor: Person,
    owner: Person,
    admin: Person,
    member: Person,
    project: Value,
    other_project: Value,
    /// API tokens of the owner's that were made, by what they are for.
    tokens: Mutex<BTreeMap<String, Client>>,
    count: AtomicUsize,
}

impl Stage {
    pub(super) async fn set() -> Self {
        let app = TestApp::start().await;
        let (stranger, viewer, editor) =
            (app.user("stranger").await, app.user("viewer").await, app.user("editor").await);
        let (owner, admin, member) =
            (app.user("owner").await, app.user("admin").await, app.user("member").await);
        app.make_admin(&admin).await;
        let project = project(&owner, [&viewer, &editor, &member]).await;
        let other_project = owner.post("/projects", json!({"name": "Other"})).await.assert(201).json;
        let (tokens, count) = (Mutex::default(), AtomicUsize::new(0));
        Self { app, stranger, viewer, editor, owner, admin, member, project, other_project, tokens, count }
    }

    /// Lets the jobs be that were committed: nothing is sent here.
    pub(super) async fn close(self) {
        self.app.dispatch().await;
    }

    /// Where a request comes from: each from an address of its own, so that none meets the limits of another.
    pub(super) fn address(&self) -> String {
        let count = self.number();
        format!("203.0.{}.{}", count / 250, count % 250 + 1)
    }

    fn number(&self) -> usize {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// The client of this one, for an operation that needs `scope`.
    pub(super) async fn client(&self, actor: Actor, scope: &str) -> Client {
        let person = match actor {
            Actor::Nobody => return self.app.anybody.clone(),
            Actor::Stranger => &self.stranger,
            Actor::Viewer => &self.viewer,
            Actor::Editor => &self.editor,
            Actor::Owner => &self.owner,
            Actor::Admin => &self.admin,
            Actor::Token | Actor::WrongToken | Actor::OtherToken | Actor::RevokedToken => {
                return self.token(actor, scope).await;
            }
        };
        person.client.clone()
    }

    async fn token(&self, actor: Actor, scope: &str) -> Client {
        let key = match actor {
            Actor::Token | Actor::WrongToken => format!("{actor:?} {scope}"),
            _ => format!("{actor:?}"),
        };
        let known = self.tokens.lock().unwrap().get(&key).cloned();
        if let Some(client) = known {
            return client;
        }
        let is_needed = |known: &Scope| known.to_string() == scope;
        let scopes: Vec<String> = Scope::all()
            .filter(|known| match actor {
                Actor::Token => is_needed(known) || [OPEN, SESSION].contains(&scope),
                Actor::WrongToken => !is_needed(known),
                Actor::OtherToken => known.area.is_of_projects(),
                _ => true,
            })
            .map(|scope| scope.to_string())
            .collect();
        let project = (actor == Actor::OtherToken).then(|| self.other_project["id"].clone());
        let new = json!({"name": "script", "scopes": scopes, "project_id": project});
        let made = self.owner.post("/me/tokens", new).await.assert(201).json;
        if actor == Actor::RevokedToken {
            self.owner.delete(&format!("/me/tokens/{}", id(&made))).await.assert(204);
        }
        let client = self.app.anybody.with_token(made["token"].as_str().unwrap());
        self.tokens.lock().unwrap().insert(key, client.clone());
        client
    }

    /// How what is watched stands.
    pub(super) async fn look(&self, made: &Made) -> Vec<Value> {
        let mut seen = Vec::new();
        for path in &made.watched {
            let by = if path.starts_with("/admin") { &self.admin } else { &self.owner };
            seen.push(by.get(path).await.assert(200).json);
        }
        seen
    }

    /// A new thing of this kind; it matters for a session alone by whom it will be tried.
    pub(super) async fn make(&self, on: On, actor: Actor) -> Made {
        let mut made = match on {
            On::Nothing => Made::new([], &["/me", "/me/notifications", "/projects", "/teams", "/webhooks"]),
            On::Account => self.account().await,
            On::Login => self.login(actor).await,
            On::Session => self.session().await,
            On::ApiToken => {
                let new = json!({"name": "script", "scopes": ["tasks:read"]});
                let token = self.owner.post("/me/tokens", new).await.assert(201).json;
                Made::new([("id", &token["id"])], &["/me/tokens/{id}"])
            }
            On::Project => self.project().await,
            On::Team => self.team().await,
            On::Tag => self.tag().await,
            On::Webhook | On::Delivery => self.webhook(on).await,
            On::Report => {
                let path = "/reports/productivity?from=2029-01-01&to=2030-12-31";
                let report = self.owner.get(path).await.assert(202).json;
                Made::new([("id", &report["id"])], &["/reports/{id}"])
            }
            On::Job | On::CancelledJob => self.job(on).await,
            On::Queue => Made::new([("queue", &json!("probe"))], &["/admin/queues"]),
            On::PausedMail => {
                self.admin.post("/admin/queues/mail/pause", json!({})).await.assert(200);
                Made::new([], &["/admin/queues", "/admin/jobs"])
            }
            On::Suppression => self.suppression().await,
            On::Task
            | On::TaskInTrash
            | On::TaskWithReminders
            | On::CommentedTask
            | On::Comment
            | On::Reminder => self.task(on).await,
        };
        made.parts.insert("new", format!("new-{}", self.number()));
        made
    }

    async fn task(&self, on: On) -> Made {
        let owner = &self.owner;
        let new = json!({"title": SECRET, "project_id": self.project["id"], "tags": [SECRET]});
        let task = owner.create_task(new).await;
        let ids = [("id", &task["id"]), ("project", &self.project["id"])];
        let path = format!("/tasks/{}", id(&task));
        let absolute = json!({"kind": "absolute", "at": "2030-03-01T00:00:00Z"});
        match on {
            On::TaskInTrash => {
                owner.delete(&path).await.assert(204);
            }
            On::TaskWithReminders => {
                for person in [owner, &self.editor, &self.viewer] {
                    person.post(&format!("{path}/reminders"), absolute.clone()).await.assert(201);
                }
            }
            On::CommentedTask | On::Comment => {
                let comment =
                    owner.post(&format!("{path}/comments"), json!({"body": SECRET})).await.assert(201).json;
                if on == On::Comment {
                    return Made::new(
                        [("id", &comment["id"]), ("task", &task["id"])],
                        &["/comments/{id}", "/tasks/{task}/comments"],
                    );
                }
            }
            On::Reminder => {
                let reminder = owner.post(&format!("{path}/reminders"), absolute).await.assert(201).json;
                let ids = [("id", &task["id"]), ("rid", &reminder["id"])];
                return Made::new(ids, &["/tasks/{id}", "/tasks/{id}/reminders/{rid}"]);
            }
            _ => {}
        }
        Made::new(ids, &["/tasks/{id}", "/tasks/{id}/comments", "/tasks/{id}/reminders"])
    }

    async fn project(&self) -> Made {
        let project = project(&self.owner, [&self.viewer, &self.editor, &self.member]).await;
        self.owner.create_task(json!({"title": SECRET, "project_id": project["id"]})).await;
        let ids = [("id", &project["id"]), ("user_id", &json!(self.member.id))];
        Made::new(ids, &["/projects/{id}", "/projects/{id}/tasks", "/projects/{id}/members", "/tags"])
    }

    async fn team(&self) -> Made {
        let team = self.owner.post("/teams", json!({"name": SECRET})).await.assert(201).json;
        let path = format!("/teams/{}", id(&team));
        admit(&self.owner, &path, [&self.viewer, &self.editor, &self.member]).await;
        let ids = [("id", &team["id"]), ("user_id", &json!(self.member.id))];
        Made::new(ids, &["/teams/{id}", "/teams/{id}/members"])
    }

    async fn tag(&self) -> Made {
        let mut tags = Vec::new();
        for _ in 0..2 {
            let name = format!("{SECRET} {}", self.number());
            let new = json!({"name": name, "project_id": self.project["id"]});
            tags.push(self.owner.post("/tags", new).await.assert(201).json);
        }
        Made::new([("id", &tags[0]["id"]), ("other", &tags[1]["id"])], &["/tags/{id}", "/tags/{other}"])
    }

    /// There are at most 20 for one owner.
    async fn webhook(&self, on: On) -> Made {
        self.sql("DELETE FROM webhook_endpoints").await;
        let new = json!({"url": format!("https://{SECRET}.example/"), "events": ["task.created"],
            "project_id": self.project["id"], "description": SECRET});
        let hook = self.owner.post("/webhooks", new).await.assert(201).json;
        if on == On::Webhook {
            return Made::new([("id", &hook["id"])], &["/webhooks/{id}", "/webhooks/{id}/deliveries"]);
        }
        let path = format!("/webhooks/{}/test?wait=0", id(&hook));
        let delivery = self.owner.act(&path).await.assert(202).json;
        self.sql(
            "UPDATE webhook_deliveries SET state = 'exhausted', attempts = 10, response_status = 500,
                 response_ms = 12, last_attempt_at = created_at, finished_at = created_at",
        )
        .await;
        let ids = [("id", &hook["id"]), ("did", &delivery["id"])];
        Made::new(ids, &["/webhooks/{id}/deliveries/{did}", "/webhooks/{id}/deliveries"])
    }

    async fn account(&self) -> Made {
        let address = self.address();
        let from = [("x-forwarded-for", address.as_str())];
        let email = format!("account-{}@example.com", self.number());
        let new = json!({"email": email, "password": PASSWORD, "full_name": "Account"});
        let anybody = &self.app.anybody;
        let user =
            anybody.send(reqwest::Method::POST, "/auth/register", &from, Some(new)).await.assert(201).json;
        let session = self.log_in(&email).await;
        Made::new(
            [("id", &user["id"]), ("email", &user["email"]), ("refresh_token", &session["refresh_token"])],
            &["/admin/users/{id}"],
        )
    }

    async fn log_in(&self, email: &str) -> Value {
        let address = self.address();
        let from = [("x-forwarded-for", address.as_str())];
        let body = json!({"email": email, "password": PASSWORD});
        let answer = self.app.anybody.send(reqwest::Method::POST, "/auth/login", &from, Some(body)).await;
        answer.assert(200).json
    }

    async fn login(&self, actor: Actor) -> Made {
        let person = match actor {
            Actor::Stranger => &self.stranger,
            Actor::Viewer => &self.viewer,
            Actor::Editor => &self.editor,
            Actor::Admin => &self.admin,
            _ => &self.owner,
        };
        let session = self.log_in(&person.email).await;
        let client = self.app.anybody.with_token(session["access_token"].as_str().unwrap());
        Made { client: Some(client), ..Made::new([], &["/me/sessions"]) }
    }

    async fn session(&self) -> Made {
        let session = self.log_in(&self.owner.email).await;
        let client = self.app.anybody.with_token(session["access_token"].as_str().unwrap());
        let open = client.get("/me/sessions").await.assert(200).json;
        let current = open["data"].as_array().unwrap().iter().find(|open| open["current"] == true).unwrap();
        Made::new([("id", &current["id"])], &["/me/sessions"])
    }

    async fn job(&self, on: On) -> Made {
        let mut tx = self.app.db.begin().await.unwrap();
        let job = Probe { lane: "stage".into(), log: None, act: Act::Nothing };
        let job = job.enqueue(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        if on == On::CancelledJob {
            self.admin.act(&format!("/admin/jobs/{job}/cancel")).await.assert(202);
        }
        Made::new([("id", &json!(job))], &["/admin/jobs/{id}"])
    }

    /// For an address as good as any.
    async fn suppression(&self) -> Made {
        let id = uuid::Uuid::now_v7();
        self.sql("DELETE FROM mail_suppressions").await;
        self.sql(&format!(
            "INSERT INTO mail_suppressions (id, user_id, address_hash, reason, created_at)
             SELECT '{id}', id, sha256(convert_to(lower(email::text), 'UTF8')), 'admin', created_at
             FROM users WHERE id = '{}'",
            self.member.id
        ))
        .await;
        let parts = [("id", &json!(id)), ("email", &json!(self.member.email))];
        Made::new(parts, &["/admin/suppressions?address={email}"])
    }

    async fn sql(&self, statement: &str) {
        let mut conn = self.app.db.conn().await.unwrap();
        diesel::sql_query(statement).execute(&mut conn).await.unwrap();
    }
}

fn id(thing: &Value) -> &str {
    thing["id"].as_str().unwrap()
}

/// A project of the owner's with a viewer, an editor and one more.
async fn project(owner: &Person, people: [&Person; 3]) -> Value {
    let project = owner.post("/projects", json!({"name": SECRET})).await.assert(201).json;
    admit(owner, &format!("/projects/{}", id(&project)), people).await;
    project
}

async fn admit(owner: &Person, place: &str, people: [&Person; 3]) {
    for (person, role) in people.into_iter().zip(["viewer", "editor", "viewer"]) {
        let path = format!("{place}/members/{}", person.id);
        owner.put(&path, json!({"role": role})).await.assert(200);
    }
}
