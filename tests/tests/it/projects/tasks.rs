//! Tasks in projects: who sees, does, changes and lists them.

use reqwest::Method;
use serde_json::{Value, json};
use tests::app::{Person, TestApp, path};

use super::{Cast, admit, at, cast, id, project};

async fn titles(person: &Person, query: &str) -> Vec<String> {
    let page = person.get(&format!("/tasks{query}")).await.assert(200).json;
    page["data"].as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap().to_owned()).collect()
}

/// The table of `common/src/access.rs`, row by row.
#[tokio::test]
async fn each_may_do_what_the_table_says() {
    let Cast { app, ann, eda, vic, sam, project } = cast().await;
    // dan is the project's viewer, too, and has to do the task.
    let dan = app.user("dan").await;
    admit(&ann, &at(&project), &dan, "viewer").await;
    let new = json!({"title": "One", "project_id": id(&project), "assignee_id": dan.id});
    let task = eda.create_task(new).await;
    let one = path(&task);
    let who =
        [("owner", &eda), ("project owner", &ann), ("assignee", &dan), ("viewer", &vic), ("stranger", &sam)];
    let all = [200, 200, 200, 200, 404];
    let work = [200, 200, 200, 403, 404];
    let edit = [200, 200, 403, 403, 404];
    let reminder = json!({"kind": "absolute", "at": "2030-06-01T00:00:00Z"});
    for (method, path, body, expected) in [
        (Method::GET, one.clone(), None, all),
        (Method::GET, format!("{one}/reminders"), None, all),
        (
            Method::POST,
            format!("{one}/reminders"),
            Some(reminder),
            all.map(|s| if s == 200 { 201 } else { s }),
        ),
        (Method::POST, format!("{one}/snooze"), Some(json!({"minutes": 30})), all),
        (Method::POST, format!("{one}/complete"), None, work),
        (Method::POST, format!("{one}/reopen"), None, work),
        (Method::PATCH, one.clone(), Some(json!({"status": "in_progress"})), work),
        (Method::PATCH, one.clone(), Some(json!({"status": "todo", "title": "x"})), edit),
        (Method::PATCH, one.clone(), Some(json!({"title": "x"})), edit),
        (Method::PATCH, one.clone(), Some(json!({"description": "x"})), edit),
        (Method::PATCH, one.clone(), Some(json!({"due": "2030-06-01"})), edit),
        (Method::PATCH, one.clone(), Some(json!({"priority": "high"})), edit),
        (Method::PATCH, one.clone(), Some(json!({"tags": ["x"]})), edit),
        (Method::PATCH, one.clone(), Some(json!({"assignee_id": dan.id})), edit),
        (Method::PATCH, one.clone(), Some(json!({"project_id": id(&project)})), edit),
        (Method::PATCH, one.clone(), Some(json!({})), edit),
        (Method::POST, format!("{one}/archive"), None, edit),
        (Method::POST, format!("{one}/unarchive"), None, edit),
        (Method::DELETE, one.clone(), None, edit.map(|s| if s == 200 { 204 } else { s })),
        (Method::POST, format!("{one}/restore"), None, edit),
    ] {
        for ((role, person), status) in who.into_iter().zip(expected) {
            let answer = person.send(method.clone(), &path, &[], body.clone()).await;
            assert_eq!(answer.status, status, "{role}: {method} {path} {body:?}: {}", answer.text);
            match status {
                403 => drop(answer.assert_problem(403, "forbidden")),
                404 => drop(answer.assert_problem(404, "not_found")),
                _ => {}
            }
        }
    }
    // Into the project: editors only.
    for (person, status) in [(&ann, 201), (&eda, 201), (&dan, 403), (&sam, 422)] {
        person.post("/tasks", json!({"title": "Two", "project_id": id(&project)})).await.assert(status);
    }
}

#[tokio::test]
async fn everybody_has_reminders_of_their_own() {
    let Cast { app, ann, eda, vic, project, .. } = cast().await;
    let new = json!({"title": "One", "project_id": id(&project),
        "reminders": [{"kind": "absolute", "at": "2030-01-02T00:00:00Z"}]});
    let task = eda.create_task(new).await;
    assert_eq!(ann.get(&path(&task)).await.json["reminders"], json!([]), "eda's are not ann's");
    let absolute = json!({"kind": "absolute", "at": "2030-01-03T00:00:00Z"});
    let own = vic.post(&format!("{}/reminders", path(&task)), absolute).await.assert(201).json;
    for list in [vic.get(&path(&task)).await.json, vic.get("/tasks").await.json["data"][0].clone()] {
        let reminders = list["reminders"].as_array().unwrap();
        assert_eq!((reminders.len(), &reminders[0]["id"]), (1, &own["id"]));
    }
    let hers = format!("{}/reminders/{}", path(&task), task["reminders"][0]["id"].as_str().unwrap());
    vic.delete(&hers).await.assert_problem(404, "not_found");
    ann.get(&hers).await.assert_problem(404, "not_found");
    app.advance_to("2030-01-03T00:00:00Z").await;
    let to: Vec<String> = app.mail().await.iter().map(|mail| mail.to[0].address.clone()).collect();
    assert_eq!(to, ["eda@example.com", "vic@example.com"]);
}

#[tokio::test]
async fn a_list_holds_what_one_has_does_and_shares_each_once() {
    let Cast { app, ann, eda, vic, sam, project } = cast().await;
    let shared = id(&project);
    let other = super::project(&ann, "Other").await;
    // What one has and does and has in a project stands there once.
    let own = json!({"title": "own", "project_id": shared, "assignee_id": eda.id, "due": "2030-01-03"});
    eda.create_task(own).await;
    ann.create_task(
        json!({"title": "for eda", "project_id": shared, "assignee_id": eda.id, "due": "2030-01-01"}),
    )
    .await;
    ann.create_task(json!({"title": "nobody's", "project_id": shared, "due": "2030-01-02"})).await;
    ann.create_task(json!({"title": "elsewhere", "project_id": id(&other), "due": "2030-01-01"})).await;
    eda.create_task(json!({"title": "private", "due": "2030-01-04"})).await;
    let done = ann.create_task(json!({"title": "done", "project_id": shared, "due": "2029-01-01"})).await;
    ann.act(&format!("{}/complete", path(&done))).await.assert(200);

    assert_eq!(titles(&eda, "").await, ["for eda", "nobody's", "own", "private", "done"]);
    assert_eq!(titles(&vic, "").await, ["for eda", "nobody's", "own", "done"]);
    assert_eq!(titles(&ann, "").await, ["for eda", "elsewhere", "nobody's", "own", "done"]);
    assert_eq!(titles(&sam, "").await, [""; 0]);
    for limit in [1, 2, 3] {
        let mut seen = Vec::new();
        let mut query = format!("?limit={limit}");
        loop {
            let page = eda.get(&format!("/tasks{query}")).await.assert(200).json;
            let rows = page["data"].as_array().unwrap();
            seen.extend(rows.iter().map(|task| task["title"].as_str().unwrap().to_owned()));
            let Some(cursor) = page["page"]["next_cursor"].as_str() else { break };
            query = format!("?limit={limit}&cursor={cursor}");
        }
        assert_eq!(seen, ["for eda", "nobody's", "own", "private", "done"], "limit {limit}");
    }
    assert_eq!(titles(&eda, "?assignee=me").await, ["for eda", "own"]);
    assert_eq!(titles(&eda, "?assignee=none").await, ["nobody's", "private", "done"]);
    assert_eq!(titles(&ann, &format!("?assignee={}&status=todo", eda.id)).await, ["for eda", "own"]);
    assert_eq!(titles(&eda, &format!("?project_id={shared}")).await, ["for eda", "nobody's", "own", "done"]);
    assert_eq!(titles(&eda, &format!("?project_id={}", id(&other))).await, [""; 0], "she does not see it");
    eda.get(&format!("{}/tasks", at(&other))).await.assert_problem(404, "not_found");
    // In two ways.
    let team = ann.post("/teams", json!({"name": "T"})).await.assert(201).json;
    let member = format!("/teams/{}/members/{}", id(&team), vic.id);
    ann.put(&member, json!({"role": "viewer"})).await.assert(200);
    ann.patch(&at(&project), json!({"team_id": team["id"]})).await.assert(200);
    assert_eq!(titles(&vic, "").await, ["for eda", "nobody's", "own", "done"]);
    drop(app);
}

#[tokio::test]
async fn a_task_is_given_to_somebody_who_sees_it() {
    let Cast { app, ann, eda, vic, sam, project } = cast().await;
    let refused = |answer: tests::app::Answer| {
        let answer = answer.assert_problem(422, "validation_failed");
        assert_eq!(answer.json["errors"][0]["pointer"], "/assignee_id", "{}", answer.text);
    };
    refused(eda.post("/tasks", json!({"title": "a", "assignee_id": ann.id})).await);
    eda.create_task(json!({"title": "mine", "assignee_id": eda.id})).await;
    refused(
        eda.post("/tasks", json!({"title": "a", "project_id": id(&project), "assignee_id": sam.id})).await,
    );
    let task = eda.create_task(json!({"title": "a", "project_id": id(&project)})).await;
    refused(eda.patch(&path(&task), json!({"assignee_id": sam.id})).await);
    let given = eda.patch(&path(&task), json!({"assignee_id": vic.id})).await.assert(200).json;
    assert_eq!(given["assignee_id"], json!(vic.id));

    // In a project that she does not see she does it no more; where she does, she still does.
    let other = super::project(&eda, "Other").await;
    admit(&eda, &at(&other), &vic, "viewer").await;
    let moved = eda.patch(&path(&task), json!({"project_id": id(&other)})).await.assert(200).json;
    assert_eq!(moved["assignee_id"], json!(vic.id));
    let moved = eda.patch(&path(&task), json!({"project_id": null})).await.assert(200).json;
    assert_eq!((&moved["project_id"], &moved["assignee_id"]), (&Value::Null, &Value::Null));
    vic.get(&path(&task)).await.assert_problem(404, "not_found");

    // An account that is switched off gets nothing to do.
    app.make_admin(&ann).await;
    ann.patch(&format!("/admin/users/{}", vic.id), json!({"is_active": false})).await.assert(200);
    refused(
        eda.post("/tasks", json!({"title": "a", "project_id": id(&project), "assignee_id": vic.id})).await,
    );
}

#[tokio::test]
async fn only_its_owner_takes_a_task_out_of_projects() {
    let Cast { ann, eda, sam, project, .. } = cast().await;
    let task = eda.create_task(json!({"title": "a", "project_id": id(&project)})).await;
    ann.patch(&path(&task), json!({"project_id": null})).await.assert_problem(403, "forbidden");
    // To a project of her own ann may take it, and eda keeps it.
    let other = super::project(&ann, "Other").await;
    ann.patch(&path(&task), json!({"project_id": id(&other)})).await.assert(200);
    assert_eq!(eda.get(&path(&task)).await.assert(200).json["project_id"], other["id"]);
    // But eda is nobody in it: she cannot put another there.
    let refused = eda.post("/tasks", json!({"title": "b", "project_id": id(&other)})).await;
    refused.assert_problem(422, "validation_failed");
    let strange = super::project(&sam, "Sam's").await;
    let refused = ann.patch(&path(&task), json!({"project_id": id(&strange)})).await;
    assert_eq!(refused.assert_problem(422, "validation_failed").json["errors"][0]["pointer"], "/project_id");
}

/// Semantics §2: by the clock of who does it, else of its owner; and a time that others read is one moment.
#[tokio::test]
async fn a_task_is_due_by_the_clock_of_who_does_it() {
    let app = TestApp::start().await;
    let ann = app.user_in("ann", "Europe/Berlin").await;
    let kei = app.user_in("kei", "Asia/Tokyo").await;
    let bob = app.user_in("bob", "Europe/Berlin").await;
    let project = project(&ann, "Launch").await;
    for person in [&kei, &bob] {
        admit(&ann, &at(&project), person, "editor").await;
    }
    let due = |task: &Value| {
        let due = &task["due"];
        (due["kind"].as_str().unwrap().to_owned(), due["at"].as_str().unwrap().to_owned())
    };
    let pair = |kind: &str, at: &str| (kind.to_owned(), at.to_owned());
    let day = ann.create_task(json!({"title": "day", "project_id": id(&project), "due": "2030-01-10"})).await;
    assert_eq!(due(&day), pair("date", "2030-01-10T23:00:00Z"));
    let given = ann.patch(&path(&day), json!({"assignee_id": kei.id})).await.assert(200).json;
    assert_eq!((due(&given), &given["version"]), (pair("date", "2030-01-10T15:00:00Z"), &json!(2)));
    kei.patch("/me", json!({"time_zone": "UTC"})).await.assert(200);
    assert_eq!(due(&ann.get(&path(&day)).await.json), pair("date", "2030-01-11T00:00:00Z"));
    let back = ann.patch(&path(&day), json!({"assignee_id": null})).await.assert(200).json;
    assert_eq!(due(&back), pair("date", "2030-01-10T23:00:00Z"));

    let nine = json!({"date": "2030-01-10", "time": "09:00"});
    let for_bob = json!({"title": "b", "project_id": id(&project), "assignee_id": bob.id, "due": nine});
    assert_eq!(due(&ann.create_task(for_bob).await), pair("floating", "2030-01-10T08:00:00Z"));
    let for_kei = json!({"title": "k", "project_id": id(&project), "assignee_id": kei.id, "due": nine});
    assert_eq!(due(&ann.create_task(for_kei).await), pair("zoned", "2030-01-10T08:00:00Z"));
    let floating = json!({"kind": "floating", "date": "2030-01-10", "time": "09:00"});
    let said = json!({"title": "k", "project_id": id(&project), "assignee_id": kei.id, "due": floating});
    assert_eq!(due(&ann.create_task(said).await), pair("floating", "2030-01-10T09:00:00Z"));
    let team = ann.post("/teams", json!({"name": "T"})).await.assert(201).json;
    ann.patch(&at(&project), json!({"team_id": id(&team)})).await.assert(200);
    let in_team = json!({"title": "t", "project_id": id(&project), "due": nine});
    assert_eq!(due(&ann.create_task(in_team).await), pair("zoned", "2030-01-10T08:00:00Z"));
}

/// Semantics §7: a summary lists what is theirs to do, and nothing else that they see.
#[tokio::test]
async fn a_summary_lists_what_is_assigned_or_owned_and_unassigned() {
    let Cast { ann, eda, vic, project, .. } = cast().await;
    let within = |title: &str, assignee: Value| json!({"title": title, "project_id": id(&project), "assignee_id": assignee, "due": "2030-01-01"});
    ann.create_task(within("ann does", json!(null))).await;
    ann.create_task(within("eda does", json!(eda.id))).await;
    eda.create_task(within("eda owns, vic does", json!(vic.id))).await;
    let away = super::project(&eda, "Away").await;
    eda.create_task(json!({"title": "put away", "project_id": id(&away), "due": "2030-01-01"})).await;
    eda.act(&format!("{}/archive", at(&away))).await.assert(200);
    for (person, expected) in [(&ann, "ann does"), (&eda, "eda does"), (&vic, "eda owns, vic does")] {
        let preview = person.act("/me/digest/preview").await.assert(200).json;
        let today = preview["content"]["today"]["tasks"].as_array().unwrap();
        let titles: Vec<_> = today.iter().map(|task| task["title"].as_str().unwrap()).collect();
        assert_eq!(titles, [expected], "{preview}");
    }
}
