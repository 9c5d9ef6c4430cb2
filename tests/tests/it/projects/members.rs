//! Who is in a project or a team, and that somebody always owns it.

use serde_json::{Value, json};
use tests::app::{Person, TestApp};

use super::{admit, at, cast, id, project, put};

async fn roles(person: &Person, place: &str) -> Vec<(String, String)> {
    let members = person.get(&format!("{place}/members")).await.assert(200).json;
    let text = |member: &Value, name: &str| member[name].as_str().unwrap().to_owned();
    let rows = members["data"].as_array().unwrap().clone();
    rows.iter().map(|member| (text(member, "full_name"), text(member, "role"))).collect()
}

fn pairs(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(name, role)| ((*name).to_owned(), (*role).to_owned())).collect()
}

#[tokio::test]
async fn roles_are_given_changed_and_taken() {
    let c = cast().await;
    let place = at(&c.project);
    assert_eq!(roles(&c.vic, &place).await, pairs(&[("ann", "owner"), ("eda", "editor"), ("vic", "viewer")]));
    admit(&c.ann, &place, &c.vic, "editor").await;
    let vic = format!("{place}/members/{}", c.vic.id);
    assert_eq!(
        c.ann.get(&vic).await.assert(200).json,
        json!({"user_id": c.vic.id, "full_name": "vic", "role": "editor", "through_team": false})
    );
    // Editors say nothing about who is in it.
    put(&c.eda, &vic, "owner").await.assert_problem(403, "forbidden");
    c.eda.delete(&vic).await.assert_problem(403, "forbidden");
    put(&c.sam, &vic, "owner").await.assert_problem(404, "not_found");
    // But everybody may leave.
    c.vic.delete(&vic).await.assert(204);
    c.vic.get(&place).await.assert_problem(404, "not_found");
    c.ann.delete(&vic).await.assert_problem(404, "not_found");
    c.ann.get(&vic).await.assert_problem(404, "not_found");
    let nobody = format!("{place}/members/01900000-0000-7000-8000-000000000000");
    put(&c.ann, &nobody, "viewer").await.assert_problem(404, "not_found");
    let version = c.ann.get(&place).await.json["version"].as_i64().unwrap();
    assert_eq!(version, 5, "four changes of its members");
}

#[tokio::test]
async fn a_project_always_has_an_owner() {
    let c = cast().await;
    let place = at(&c.project);
    let ann = format!("{place}/members/{}", c.ann.id);
    c.ann.delete(&ann).await.assert_problem(409, "last_owner");
    put(&c.ann, &ann, "editor").await.assert_problem(409, "last_owner");
    put(&c.ann, &ann, "owner").await.assert(200);
    admit(&c.ann, &place, &c.eda, "owner").await;
    put(&c.ann, &ann, "viewer").await.assert(200);
    assert_eq!(c.ann.get(&place).await.json["owner_id"], json!(c.eda.id));
    assert_eq!(roles(&c.ann, &place).await, pairs(&[("ann", "viewer"), ("eda", "owner"), ("vic", "viewer")]));
    c.eda.delete(&format!("{place}/members/{}", c.eda.id)).await.assert_problem(409, "last_owner");
    admit(&c.eda, &place, &c.vic, "owner").await;
    c.eda.delete(&format!("{place}/members/{}", c.eda.id)).await.assert(204);
    assert_eq!(roles(&c.vic, &place).await, pairs(&[("ann", "viewer"), ("vic", "owner")]));
}

#[tokio::test]
async fn of_two_owners_who_leave_at_once_one_stays() {
    let c = cast().await;
    let team = c.ann.post("/teams", json!({"name": "T"})).await.assert(201).json;
    for place in [at(&c.project), format!("/teams/{}", id(&team))] {
        admit(&c.ann, &place, &c.eda, "owner").await;
        let (ann, eda) = (format!("{place}/members/{}", c.ann.id), format!("{place}/members/{}", c.eda.id));
        let (first, second) = tokio::join!(c.ann.delete(&ann), c.eda.delete(&eda));
        let mut statuses = [first.status.as_u16(), second.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 409], "{place}");
    }
}

#[tokio::test]
async fn a_team_gives_its_roles_in_all_its_projects() {
    let app = TestApp::start().await;
    let (ann, bob, cat) = (app.user("ann").await, app.user("bob").await, app.user("cat").await);
    let made = ann.post("/teams", json!({"name": "Marketing"})).await.assert(201);
    assert_eq!(made.header("etag"), "\"team-1\"");
    let team = made.json;
    let place = format!("/teams/{}", id(&team));
    bob.get(&place).await.assert_problem(404, "not_found");
    admit(&ann, &place, &bob, "editor").await;
    admit(&ann, &place, &cat, "viewer").await;
    assert_eq!(roles(&cat, &place).await, pairs(&[("ann", "owner"), ("bob", "editor"), ("cat", "viewer")]));
    put(&bob, &format!("{place}/members/{}", cat.id), "editor").await.assert_problem(403, "forbidden");
    bob.patch(&place, json!({"name": "Mine"})).await.assert_problem(403, "forbidden");
    assert_eq!(ann.patch(&place, json!({"name": "M"})).await.assert(200).json["version"], 4);

    // Who is no editor of a team gives it nothing.
    cat.post("/projects", json!({"name": "C", "team_id": id(&team)})).await.assert_problem(403, "forbidden");
    let shared = bob.post("/projects", json!({"name": "B", "team_id": id(&team)})).await.assert(201).json;
    assert_eq!(
        roles(&cat, &at(&shared)).await,
        pairs(&[("ann", "owner"), ("bob", "owner"), ("cat", "viewer")]),
        "bob owns it, whatever he is in the team"
    );
    let member = cat.get(&format!("{}/members/{}", at(&shared), cat.id)).await.assert(200).json;
    assert_eq!(member["through_team"], true);
    let listed = cat.get(&format!("/projects?team_id={}", id(&team))).await.assert(200).json;
    assert_eq!(listed["data"][0]["id"], shared["id"]);

    // The higher role counts.
    admit(&ann, &at(&shared), &cat, "editor").await;
    cat.create_task(json!({"title": "One", "project_id": id(&shared)})).await;
    cat.delete(&format!("{}/members/{}", at(&shared), cat.id)).await.assert(204);
    assert_eq!(cat.get(&at(&shared)).await.assert(200).json["id"], shared["id"], "still by the team");
    cat.delete(&format!("{}/members/{}", at(&shared), cat.id)).await.assert_problem(404, "not_found");

    ann.delete(&format!("{place}/members/{}", ann.id)).await.assert_problem(409, "last_owner");
    put(&ann, &format!("{place}/members/{}", ann.id), "viewer").await.assert_problem(409, "last_owner");
    cat.delete(&format!("{place}/members/{}", cat.id)).await.assert(204);
    cat.get(&at(&shared)).await.assert_problem(404, "not_found");

    bob.delete(&place).await.assert_problem(403, "forbidden");
    ann.delete(&place).await.assert(204);
    ann.get(&at(&shared)).await.assert_problem(404, "not_found");
    assert!(bob.get(&at(&shared)).await.assert(200).json["team_id"].is_null());
}

#[tokio::test]
async fn only_owners_change_a_project() {
    let c = cast().await;
    let place = at(&c.project);
    project(&c.eda, "Another").await;
    for (person, status) in [(&c.eda, 403), (&c.vic, 403), (&c.sam, 404)] {
        let code = if status == 403 { "forbidden" } else { "not_found" };
        person.patch(&place, json!({"name": "Mine"})).await.assert_problem(status, code);
        person.act(&format!("{place}/archive")).await.assert_problem(status, code);
        person.act(&format!("{place}/unarchive")).await.assert_problem(status, code);
        person.delete(&format!("{place}?tasks=trash")).await.assert_problem(status, code);
        let seen = if status == 403 { 200 } else { 404 };
        person.get(&place).await.assert(seen);
        person.get(&format!("{place}/members")).await.assert(seen);
        person.get(&format!("{place}/tasks")).await.assert(seen);
    }
    assert_eq!(c.ann.get(&place).await.json["name"], "Launch");
}
