//! Who may do what, for each operation of `openapi.json`: [`table`] is the place to read it. An operation without a row
//! fails here, and so does a row without an operation.
//!
//! Everybody tries everything. Those who may get the answer that the row names, each on a thing of its own; those who may
//! not are refused with the status and code that say why, see nothing of what is kept there, and change nothing.

mod stage;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::Value;
use tests::app::Answer;

use self::{
    Gets::{Done, Forbidden, LoggedOut, Missing, NeedsScope, NeedsSession, Revoked},
    stage::{Made, On, SECRET, Stage},
    table::TABLE,
};

/// Who tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    /// Without credentials.
    Nobody,
    /// Has an account, and nothing to do with what the others share.
    Stranger,
    /// Of the project and the team, as the next two; each thing that is there is the owner's.
    Viewer,
    Editor,
    Owner,
    /// An administrator of the installation, who is as strange to the project as a stranger.
    Admin,
    /// An API token of the owner's that has the scope which the operation needs, and no other.
    Token,
    /// One that has all other scopes.
    WrongToken,
    /// One that has all scopes, for another project of the owner's.
    OtherToken,
    /// One that had all scopes.
    RevokedToken,
}

const ACTORS: [Actor; 10] = [
    Actor::Nobody,
    Actor::Stranger,
    Actor::Viewer,
    Actor::Editor,
    Actor::Owner,
    Actor::Admin,
    Actor::Token,
    Actor::WrongToken,
    Actor::OtherToken,
    Actor::RevokedToken,
];

/// What somebody gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gets {
    /// What the row says.
    Done,
    /// 401: nobody in particular may.
    LoggedOut,
    /// 401: the token is good for nothing.
    Revoked,
    /// 403: they see it, and may not.
    Forbidden,
    /// 404: they do not see it.
    Missing,
    /// 403: the token may do other things.
    NeedsScope,
    /// 403: no token may.
    NeedsSession,
    /// A refusal that the row names, because what they do not see stands in the body.
    Refused(u16),
}

/// What nobody, a stranger, viewer, editor, owner and administrator get. What tokens get follows from that, from the
/// scope and from what the owner gets.
type Who = [Gets; 6];

/// Everybody, whoever they say they are.
const ALL: Who = [Done, Done, Done, Done, Done, Done];
/// Everybody who is logged in, on what is their own.
const OWN: Who = [LoggedOut, Done, Done, Done, Done, Done];
/// Whoever sees the project, the team or the task.
const SEEN: Who = [LoggedOut, Missing, Done, Done, Done, Missing];
/// Editors.
const EDIT: Who = [LoggedOut, Missing, Forbidden, Done, Done, Missing];
/// Owners; also what the author of a comment alone may do, who is the owner here.
const RULE: Who = [LoggedOut, Missing, Forbidden, Forbidden, Done, Missing];
/// Its owner, and nobody else sees it, however near.
const MINE: Who = [LoggedOut, Missing, Missing, Missing, Done, Missing];
/// Administrators.
const ROOT: Who = [LoggedOut, Forbidden, Forbidden, Forbidden, Forbidden, Done];

/// In the place of a scope: public, no token is needed.
const OPEN: &str = "";
/// In the place of a scope: no API token may.
const SESSION: &str = "session";

/// One operation.
struct Row {
    operation: &'static str,
    who: Who,
    scope: &'static str,
    /// The status for those who may. A conflict means as well that they were let through.
    status: u16,
    /// What it is done to.
    on: On,
    /// With its question mark.
    query: &'static str,
    body: Option<fn() -> Value>,
    /// Who gets another status, and which.
    but: &'static [(Actor, u16)],
}

impl Row {
    fn gets(&self, actor: Actor) -> Gets {
        if let Some((_, status)) = self.but.iter().find(|(who, _)| *who == actor) {
            return Gets::Refused(*status);
        }
        let of_projects = ["tasks", "projects", "reminders", "comments"];
        let is_of_projects = self.scope.split(':').next().is_some_and(|area| of_projects.contains(&area));
        match (actor, self.scope) {
            (Actor::Nobody, _) => self.who[0],
            (Actor::Stranger, _) => self.who[1],
            (Actor::Viewer, _) => self.who[2],
            (Actor::Editor, _) => self.who[3],
            (Actor::Owner, _) => self.who[4],
            (Actor::Admin, _) => self.who[5],
            (_, OPEN) => Done,
            (Actor::RevokedToken, _) => Revoked,
            (_, SESSION) => NeedsSession,
            (Actor::Token, _) => self.who[4],
            (Actor::WrongToken, _) => NeedsScope,
            // No token for a project can have the others.
            (Actor::OtherToken, _) if !is_of_projects => NeedsScope,
            (Actor::OtherToken, _) if self.who == OWN => Done,
            (Actor::OtherToken, _) => Missing,
        }
    }
}

/// An operation, as the document describes it.
struct Operation {
    method: Method,
    path: String,
    /// As in [`Row::scope`].
    scope: String,
    statuses: BTreeSet<String>,
}

fn operations() -> BTreeMap<String, Operation> {
    let document: Value = serde_json::from_str(&api::openapi::json().unwrap()).unwrap();
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(id) = operation["operationId"].as_str() else { continue };
            let security = operation["security"].as_array().unwrap();
            let scope = security.iter().find_map(|by| by["api_token"][0].as_str());
            let is_public = security.iter().any(|by| by.as_object().unwrap().is_empty());
            found.insert(
                id.to_owned(),
                Operation {
                    method: method.to_uppercase().parse().unwrap(),
                    path: path.strip_prefix("/api/v1").unwrap().to_owned(),
                    scope: scope.unwrap_or(if is_public { OPEN } else { SESSION }).to_owned(),
                    statuses: operation["responses"].as_object().unwrap().keys().cloned().collect(),
                },
            );
        }
    }
    found
}

#[test]
fn every_operation_has_a_row_and_every_row_an_operation() {
    let operations = operations();
    let documented: BTreeSet<(&str, &str)> =
        operations.iter().map(|(id, operation)| (id.as_str(), operation.scope.as_str())).collect();
    let listed: BTreeSet<(&str, &str)> = TABLE.iter().map(|row| (row.operation, row.scope)).collect();
    let differ: Vec<_> = listed.symmetric_difference(&documented).collect();
    assert!(differ.is_empty(), "tests/tests/it/authorization/table.rs and openapi.json differ: {differ:?}");
    assert_eq!(TABLE.len(), operations.len(), "an operation has two rows");
}

/// The routes, in parts that are tried beside each other.
const ACCOUNTS: &[&str] = &["/auth", "/me", "/meta", "/health"];
const TASKS: &[&str] = &["/tasks", "/comments", "/tags", "/reminders"];
const SHARED: &[&str] = &["/projects", "/teams", "/webhooks", "/stats", "/reports"];
const ADMIN: &[&str] = &["/admin"];

#[tokio::test]
async fn accounts() {
    everybody_gets_what_the_table_says(ACCOUNTS).await;
}

#[tokio::test]
async fn tasks() {
    everybody_gets_what_the_table_says(TASKS).await;
}

#[tokio::test]
async fn projects_teams_webhooks_and_reports() {
    everybody_gets_what_the_table_says(SHARED).await;
}

#[tokio::test]
async fn operations_of_administrators() {
    everybody_gets_what_the_table_says(ADMIN).await;
}

#[test]
fn the_walks_above_leave_nothing_out() {
    let walked = [ACCOUNTS, TASKS, SHARED, ADMIN].concat();
    for operation in operations().values() {
        assert!(walked.iter().any(|below| is_below(&operation.path, below)), "{}", operation.path);
    }
}

fn is_below(path: &str, route: &str) -> bool {
    path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Tries the operations below these routes.
async fn everybody_gets_what_the_table_says(routes: &[&str]) {
    let stage = Stage::set().await;
    let operations = operations();
    let mut wrong = Vec::new();
    for row in TABLE {
        let operation = &operations[row.operation];
        if !routes.iter().any(|route| is_below(&operation.path, route)) {
            continue;
        }
        let (may, may_not): (Vec<Actor>, Vec<Actor>) =
            ACTORS.into_iter().partition(|actor| row.gets(*actor) == Done);
        let made = stage.make(row.on, Actor::Owner).await;
        let before = stage.look(&made).await;
        for actor in may_not {
            wrong.extend(attempt(&stage, row, operation, actor, &made).await);
        }
        if stage.look(&made).await != before {
            wrong.push(format!("{}: somebody changed what they may not", row.operation));
        }
        for actor in may {
            let made = stage.make(row.on, actor).await;
            wrong.extend(attempt(&stage, row, operation, actor, &made).await);
        }
    }
    stage.close().await;
    assert!(wrong.is_empty(), "{} of the attempts:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with what this one got.
async fn attempt(
    stage: &Stage,
    row: &Row,
    operation: &Operation,
    actor: Actor,
    made: &Made,
) -> Option<String> {
    let client = match &made.client {
        Some(client) if row.gets(actor) == Done => client.clone(),
        _ => stage.client(actor, &operation.scope).await,
    };
    let path = made.fill(&format!("{}{}", operation.path, row.query));
    assert!(!path.contains('{'), "{}: nothing made fills {path}", row.operation);
    let body = row.body.map(|body| made.fill_in(body()));
    let address = stage.address();
    let headers = [("x-forwarded-for", address.as_str())];
    let answer = client.send(operation.method.clone(), &path, &headers, body).await;
    let (status, code) = match row.gets(actor) {
        Done => (row.status, None),
        Gets::Refused(status) => (status, None),
        LoggedOut => (401, Some("unauthenticated")),
        Revoked => (401, Some("invalid_token")),
        Forbidden => (403, Some("forbidden")),
        NeedsScope => (403, Some("insufficient_scope")),
        NeedsSession => (403, Some("session_required")),
        Missing => (404, Some("not_found")),
    };
    let is_as_expected = answer.status.as_u16() == status
        && code.is_none_or(|code| answer.json["code"] == code)
        && operation.statuses.contains(&status.to_string());
    // Who has no part in it reads none of it, by whichever way.
    let is_outside = ![Actor::Viewer, Actor::Editor, Actor::Owner, Actor::Token].contains(&actor);
    // The audit trail is there to say what changed.
    let tells = is_outside && row.operation != "list_audit" && answer.text.contains(SECRET);
    (!is_as_expected || tells).then(|| report(row, operation, actor, &path, &answer, tells))
}

fn report(
    row: &Row,
    operation: &Operation,
    actor: Actor,
    path: &str,
    answer: &Answer,
    tells: bool,
) -> String {
    let text: String = answer.text.chars().take(200).collect();
    let why = if tells { " and tells what they must not know" } else { "" };
    let expected = row.gets(actor);
    let status = answer.status.as_u16();
    format!(
        "{}: {actor:?} is to get {expected:?} of {} {path}, gets {status}{why}: {text}",
        row.operation, operation.method
    )
}
