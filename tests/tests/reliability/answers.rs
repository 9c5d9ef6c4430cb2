use std::{collections::BTreeMap, time::Duration};

use chaos::{
    cluster::{Answer, Cluster, Person, Shape, secs, until},
    proxy::Mode,
};
use chrono::TimeDelta;
use common::{
    clock::Clock,
    db::{AsyncPgConnection, RunQueryDsl as _},
};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::figures::say;

/// What PostgreSQL says takes so long to arrive: time enough to see a commit, and to kill who does not know of it yet.
const LATE: Duration = Duration::from_millis(100);
/// Who asks for something at the same time.
const PEOPLE: usize = 20;

/// R3: the API is killed under load when it has committed and not answered. Each client asks again with the same
/// `Idempotency-Key` and gets one answer however often it asks; there is one row and one mail for each.
#[tokio::test]
async fn r3_what_was_committed_and_not_answered_is_answered_once_more() {
    const ROUNDS: usize = 3;
    let shape = Shape {
        own_postgres: true,
        own_redis: true,
        proxied: true,
        workers: 1,
        schedulers: 1,
        ..Shape::default()
    };
    let mut cluster = Cluster::start(shape).await;
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        people.push(cluster.person(&format!("person-{number}")).await);
    }
    let mut owner = cluster.owner().await;
    let (mut replayed, mut answered) = (0, 0);
    for round in 0..ROUNDS {
        let asked: Vec<Asked> = (0..PEOPLE).map(|number| Asked::new(round, number)).collect();
        cluster.proxies().postgres.set(Mode::Delay(LATE));
        let first = join_all(asked.iter().zip(&people).map(|(asked, person)| asked.send(person)));
        let api = &mut cluster.apis[0];
        let kill = async {
            until("one is committed", secs(10), async || match tasks(&mut owner, round).await.len() {
                0 => Err("none is".to_owned()),
                _ => Ok(()),
            })
            .await;
            api.kill9().await;
        };
        let (first, ()) = tokio::join!(first, kill);
        answered += first.iter().filter(|answer| answer.is_ok()).count();
        cluster.proxies().postgres.set(Mode::Pass);
        let committed = tasks(&mut owner, round).await;
        cluster.apis[0].restart();
        cluster.apis[0].wait_ready().await;

        for (asked, person) in asked.iter().zip(&people) {
            let again = asked.until_made(person).await;
            let once_more = asked.until_made(person).await;
            assert_eq!(again.body, once_more.body, "the same answer");
            assert!(once_more.headers.contains_key("idempotency-replayed"), "{:?}", once_more.headers);
            let id = again.body["id"].as_str().unwrap();
            let was_committed = committed.get(&asked.title).map(Vec::as_slice);
            if again.headers.contains_key("idempotency-replayed") {
                assert_eq!(was_committed, Some(&[id.to_owned()][..]), "{}", asked.title);
                replayed += 1;
            } else {
                assert_eq!(was_committed, None, "{} was committed without its answer", asked.title);
            }
        }
        let all = tasks(&mut owner, round).await;
        assert_eq!(all.len(), PEOPLE);
        assert!(all.values().all(|ids| ids.len() == 1), "one row each: {all:?}");
    }

    let mailed = || {
        let mails = cluster.mail().messages();
        let all = (0..ROUNDS).flat_map(|round| (0..PEOPLE).map(move |number| title(round, number)));
        all.map(|title| mails.iter().filter(|mail| mail.text.contains(&title)).count())
            .collect::<Vec<usize>>()
    };
    until("every reminder is sent", secs(30), async || {
        match mailed().iter().filter(|count| **count == 0).count() {
            0 => cluster.drained().await,
            missing => Err(format!("{missing} are missing")),
        }
    })
    .await;
    assert_eq!(mailed(), [1; ROUNDS * PEOPLE], "one mail each");
    say!(
        "R3: {ROUNDS} kills of the API with {PEOPLE} requests under way; of {} one row and one mail each, {answered} answered \
         at once, {replayed} committed before and answered by their replay",
        ROUNDS * PEOPLE
    );
    assert!(replayed > 0, "no kill came between commit and reply");
}

/// Something that is asked for until there is an answer.
struct Asked {
    title: String,
    body: Value,
}

fn title(round: usize, number: usize) -> String {
    format!("task-{round}-{number:02}.")
}

impl Asked {
    fn new(round: usize, number: usize) -> Self {
        let (title, at) = (title(round, number), Clock::Database.instant() + TimeDelta::seconds(1));
        let body = json!({ "title": title, "reminders": [{ "kind": "absolute", "at": at }] });
        Self { title, body }
    }

    async fn send(&self, person: &Person) -> reqwest::Result<Answer> {
        person.request_keyed(Method::POST, "/tasks", &self.title, self.body.clone()).await
    }

    /// Asks again while the first request holds its key: PostgreSQL may not have noticed yet that nobody is there.
    async fn until_made(&self, person: &Person) -> Answer {
        until(format!("{} is made", self.title), secs(10), async || {
            let answer = self.send(person).await.map_err(|error| error.to_string())?;
            match answer.status {
                StatusCode::CREATED => Ok(answer),
                StatusCode::CONFLICT => Err(answer.body.to_string()),
                _ => panic!("{}: {}", answer.status, answer.body),
            }
        })
        .await
    }
}

/// The ids of the tasks of a round, by their titles, as PostgreSQL has committed them.
async fn tasks(owner: &mut AsyncPgConnection, round: usize) -> BTreeMap<String, Vec<String>> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        title: String,
        #[diesel(sql_type = diesel::sql_types::Text)]
        id: String,
    }
    let statement = format!("SELECT title, id::text FROM tasks WHERE title LIKE 'task-{round}-%'");
    let rows: Vec<Row> = diesel::sql_query(statement).load(owner).await.unwrap();
    let mut tasks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        tasks.entry(row.title).or_default().push(row.id);
    }
    tasks
}
