//! T28, T29, R23, R24: one delivery through its attempts, by a clock that stands still, at a real receiver.
#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests, which clippy.toml does not cover")]

use common::{
    db::RunQueryDsl as _,
    ids::{DeliveryId, EndpointId, EventId, TaskId, UserId},
    webhooks::{
        attempt::SCHEDULE,
        signature::Secret,
        target::{AllowList, Reach, network},
    },
};
use diesel::{
    QueryableByName,
    sql_types::{Bytea, Integer, Nullable, Text, Timestamptz, Uuid},
};
use tools::webhook_sink::{Answer, Call, WebhookSink};

use super::*;
use crate::{http::Http, testing::Bench};

const NOW: &str = "2030-01-02T08:00:00Z";

struct Hooks {
    bench: Bench,
    sink: WebhookSink,
    ann: UserId,
    task: TaskId,
    endpoint: EndpointId,
    secret: Secret,
}

#[derive(Debug, Clone, PartialEq, QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Nullable<Integer>)]
    status: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    error: Option<String>,
}

impl Row {
    fn stands(&self) -> (&str, i32, Option<i32>) {
        (&self.state, self.attempts, self.status)
    }
}

#[derive(Debug, Clone, PartialEq, QueryableByName)]
struct EndpointRow {
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Integer)]
    failure_streak: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    first_failure_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    last_success_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    retry_at: Option<DateTime<Utc>>,
}

impl Hooks {
    /// An admin with an endpoint at a receiver of this machine, which the operator allows.
    async fn new() -> Self {
        let mut bench = Bench::at(NOW).await;
        let sink = WebhookSink::start().await.unwrap();
        let allow = AllowList::new([network("127.0.0.1").unwrap()]);
        let reach = Reach { allow, ports: vec![sink.addr().port()] };
        bench.context.http = Http::new(reach).unwrap();
        let ann = bench.user("ann@example.com").await;
        bench.run(&format!("UPDATE users SET role = 'admin' WHERE id = '{ann}'")).await;
        let task = bench.task(ann, "Ship it").await;
        let (endpoint, secret) = (EndpointId::new(), Secret::random());
        let hooks = Self { bench, sink, ann, task, endpoint, secret };
        hooks.add_endpoint().await;
        hooks
    }

    async fn add_endpoint(&self) {
        let sealed =
            self.bench.context.secrets.seal(self.secret.reveal().as_bytes(), self.endpoint.uuid().as_bytes());
        diesel::sql_query(
            "INSERT INTO webhook_endpoints (id, owner_id, url, events, secret_enc, created_at, updated_at)
             VALUES ($1, $2, $3, '{task.created}', $4, now(), now())",
        )
        .bind::<Uuid, _>(self.endpoint)
        .bind::<Uuid, _>(self.ann)
        .bind::<Text, _>(self.sink.url("/hook"))
        .bind::<Bytea, _>(sealed)
        .execute(&mut self.bench.db().conn().await.unwrap())
        .await
        .unwrap();
    }

    async fn delivery(&self) -> DeliveryId {
        self.delivery_of("task.created").await
    }

    async fn delivery_of(&self, kind: &str) -> DeliveryId {
        let (event, id) = (EventId::new(), DeliveryId::new());
        let (task, endpoint, ann) = (self.task, self.endpoint, self.ann);
        self.bench
            .run(&format!(
                "INSERT INTO events (id, event_type, actor_id, owner_id, task_id, data, changes, created_at)
                 VALUES ('{event}', '{kind}', '{ann}', '{ann}', '{task}',
                     '{{\"id\": \"{task}\", \"version\": 3, \"title\": \"Ship it\"}}', '{{\"title\": [\"Ship\", \"Ship it\"]}}',
                     '2030-01-02T07:59:58Z')"
            ))
            .await;
        self.bench
            .run(&format!(
                "INSERT INTO webhook_deliveries (id, endpoint_id, event_id, event_type, task_id, request_id, created_at)
                 VALUES ('{id}', '{endpoint}', '{event}', '{kind}', '{task}', 'request-1', '2030-01-02T08:00:00Z')"
            ))
            .await;
        id
    }

    async fn run(&self, id: DeliveryId) -> Result<(), JobError> {
        SendWebhook { delivery_id: id, endpoint_id: self.endpoint }.run(&self.bench.context).await
    }

    /// Runs it, and answers after how many seconds it wants to run again.
    async fn again(&self, id: DeliveryId) -> f64 {
        match self.run(id).await {
            Err(JobError::Snooze(at)) => (at - self.bench.clock.instant()).as_seconds_f64(),
            other => panic!("{other:?}"),
        }
    }

    fn advance(&self, seconds: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "a few days")]
        let micros = (seconds * 1e6) as i64;
        let clock = &self.bench.clock;
        clock.set(clock.instant() + TimeDelta::microseconds(micros));
    }

    async fn row(&self, id: DeliveryId) -> Row {
        diesel::sql_query(
            "SELECT state::text, attempts, response_status::int AS status, error FROM webhook_deliveries WHERE id = $1",
        )
        .bind::<Uuid, _>(id)
        .get_result(&mut self.bench.db().conn().await.unwrap())
        .await
        .unwrap()
    }

    async fn endpoint(&self) -> EndpointRow {
        diesel::sql_query(
            "SELECT state::text, failure_streak, first_failure_at, last_success_at, retry_at FROM webhook_endpoints WHERE id = $1",
        )
        .bind::<Uuid, _>(self.endpoint)
        .get_result(&mut self.bench.db().conn().await.unwrap())
        .await
        .unwrap()
    }

    async fn set(&self, what: &str) {
        self.bench.run(&format!("UPDATE webhook_endpoints SET {what}")).await;
    }

    fn answers(&self, answers: &[u16]) {
        self.sink.script("/hook", answers.iter().copied().map(Answer::Status));
    }
}

/// T28, and ids that stay the same (R23).
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_tried_until_it_is_accepted() {
    let hooks = Hooks::new().await;
    hooks.answers(&[500, 500, 200]);
    let id = hooks.delivery().await;
    let first = hooks.again(id).await;
    assert!((4.0..=6.0).contains(&first), "{first}");
    assert_eq!(hooks.row(id).await.stands(), ("failed", 1, Some(500)));
    hooks.advance(first);
    let second = hooks.again(id).await;
    assert!((240.0..=360.0).contains(&second), "{second}");
    hooks.advance(second);
    hooks.run(id).await.unwrap();
    assert_eq!(hooks.row(id).await.stands(), ("succeeded", 3, Some(200)));
    let endpoint = hooks.endpoint().await;
    assert_eq!((endpoint.failure_streak, endpoint.first_failure_at), (0, None));
    assert_eq!(endpoint.last_success_at, Some(hooks.bench.clock.instant()));
    // Once more: nothing happens.
    hooks.run(id).await.unwrap();
    let calls = hooks.sink.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.header("webhook-id") == calls[0].header("webhook-id")));
    assert_eq!(calls[0].body, calls[2].body);
    assert_ne!(calls[0].header("webhook-timestamp"), calls[2].header("webhook-timestamp"));
    assert_eq!(calls[0].header("x-request-id"), "request-1");
    let body: serde_json::Value = serde_json::from_slice(&calls[0].body).unwrap();
    assert_eq!(body["id"], calls[0].header("webhook-id"));
    assert_eq!((&body["type"], &body["data"]["version"]), (&"task.created".into(), &3.into()));
    assert_eq!(body["actor"]["id"], hooks.ann.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_is_kept_to_its_end() {
    let hooks = Hooks::new().await;
    hooks.answers(&[503]);
    let id = hooks.delivery().await;
    for planned in SCHEDULE {
        // The circuit must not hide the schedule here, nor five days without a success.
        hooks.set("retry_at = NULL, failure_streak = 0, first_failure_at = NULL").await;
        let (planned, pause) = (planned.as_seconds_f64(), hooks.again(id).await);
        assert!((0.8 * planned..=1.2 * planned).contains(&pause), "{pause} for {planned}");
        hooks.advance(pause);
    }
    hooks.set("retry_at = NULL").await;
    hooks.run(id).await.unwrap();
    assert_eq!(hooks.row(id).await.stands(), ("exhausted", 10, Some(503)));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_fail_and_a_receiver_may_ask_for_time() {
    let hooks = Hooks::new().await;
    let busy =
        |status, value: &str| Answer::Full(status, vec![("retry-after", value.to_owned())], Vec::new());
    hooks.sink.script(
        "/hook",
        [Answer::Redirect("http://127.0.0.1:1/".into()), busy(500, "900"), busy(429, "600")],
    );
    let id = hooks.delivery().await;
    let pause = hooks.again(id).await;
    let row = hooks.row(id).await;
    assert_eq!(row.stands(), ("failed", 1, Some(302)));
    assert!(row.error.unwrap().contains("redirects are not followed"));
    hooks.advance(pause);
    assert_eq!(hooks.again(id).await, 900.0, "later than planned: as it asked");
    assert_eq!(hooks.endpoint().await.retry_at, None);
    hooks.advance(900.0);
    let pause = hooks.again(id).await;
    assert!((1440.0..=2160.0).contains(&pause), "the plan is later than it asked: {pause}");
    // Too busy: that goes for the others too.
    let other = hooks.delivery().await;
    let pause = hooks.again(other).await;
    assert!((300.0..=301.0).contains(&pause), "{pause}");
    assert_eq!((hooks.row(other).await.attempts, hooks.sink.calls().len()), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_is_sent_no_more() {
    let hooks = Hooks::new().await;
    hooks.answers(&[410]);
    let (id, other) = (hooks.delivery().await, hooks.delivery().await);
    hooks.run(id).await.unwrap();
    assert_eq!(hooks.row(id).await.stands(), ("exhausted", 1, Some(410)));
    assert_eq!(hooks.endpoint().await.state, "gone");
    assert_eq!(hooks.row(other).await.stands(), ("cancelled", 0, None));
    hooks.run(other).await.unwrap();
    let late = hooks.delivery().await;
    assert!(matches!(hooks.run(late).await, Err(JobError::Cancel(reason)) if reason == "endpoint_gone"));
    assert_eq!(hooks.sink.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_wanted_any_more_is_cancelled_before_each_attempt() {
    let hooks = Hooks::new().await;
    let ann = hooks.ann;
    let ben = hooks.bench.user("ben@example.com").await;
    for (change, undo, reason) in [
        (
            "webhook_endpoints SET state = 'paused'",
            "webhook_endpoints SET state = 'active'",
            "endpoint_paused",
        ),
        ("users SET is_active = false", "users SET is_active = true", "owner_disabled"),
        (&*format!("tasks SET owner_id = '{ben}'"), &*format!("tasks SET owner_id = '{ann}'"), "no_access"),
    ] {
        let id = hooks.delivery().await;
        hooks.bench.run(&format!("UPDATE {change}")).await;
        assert!(matches!(hooks.run(id).await, Err(JobError::Cancel(why)) if why == reason), "{reason}");
        let row = hooks.row(id).await;
        assert_eq!((row.stands(), row.error.as_deref()), (("cancelled", 0, None), Some(reason)));
        hooks.bench.run(&format!("UPDATE {undo}")).await;
    }
    let pruned = hooks.delivery().await;
    hooks.bench.run("DELETE FROM events").await;
    hooks.run(pruned).await.unwrap();
    assert_eq!(hooks.row(pruned).await.error.as_deref(), Some("event_pruned"));
    assert_eq!(hooks.sink.connections(), 0);
}

/// T29: the owner is no admin any more, so that the allow list is not theirs; and by name, for a user.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_refused_at_every_attempt() {
    let hooks = Hooks::new().await;
    hooks.bench.run("UPDATE users SET role = 'user'").await;
    let port = hooks.sink.addr().port();
    for url in
        [hooks.sink.url("/hook"), format!("http://localhost:{port}/"), format!("http://0x7f.1:{port}/")]
    {
        hooks.set(&format!("url = '{url}', retry_at = NULL, failure_streak = 0")).await;
        let id = hooks.delivery().await;
        let pause = hooks.again(id).await;
        assert!((4.0..=6.0).contains(&pause), "{pause}");
        assert!(hooks.row(id).await.error.unwrap().starts_with("ssrf_blocked: "));
    }
    assert_eq!(hooks.sink.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_days_without_a_success_switch_an_endpoint_off() {
    let hooks = Hooks::new().await;
    hooks.answers(&[500]);
    let (first, second) = (hooks.delivery().await, hooks.delivery().await);
    hooks.again(first).await;
    let began = hooks.endpoint().await.first_failure_at;
    assert_eq!(began, Some(hooks.bench.clock.instant()));
    hooks.advance(5.0 * 86_400.0 - 1.0);
    hooks.again(first).await;
    assert_eq!(
        (hooks.endpoint().await.state.as_str(), hooks.endpoint().await.first_failure_at),
        ("active", began)
    );
    hooks.advance(1.0);
    hooks.run(first).await.unwrap();
    assert_eq!(hooks.endpoint().await.state, "auto_disabled");
    assert_eq!(hooks.row(first).await.stands(), ("exhausted", 3, Some(500)));
    assert_eq!(hooks.row(second).await.stands(), ("cancelled", 0, None));
}

/// The circuit: open after five failures in a row, one probe at a time, closed by a success.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_is_probed_by_one_delivery_at_a_time() {
    let hooks = Hooks::new().await;
    hooks.answers(&[500]);
    let mut deliveries = Vec::new();
    for _ in 0..8 {
        deliveries.push(hooks.delivery().await);
    }
    for id in &deliveries[..5] {
        hooks.again(*id).await;
    }
    assert_eq!(hooks.sink.calls().len(), 5);
    let open = (hooks.endpoint().await.retry_at.unwrap() - hooks.bench.clock.instant()).as_seconds_f64();
    assert!((24.0..=36.0).contains(&open), "{open}");
    let pause = hooks.again(deliveries[5]).await;
    assert!((open..open + 1.0).contains(&pause), "{pause}, open for {open}");
    assert_eq!((hooks.row(deliveries[5]).await.attempts, hooks.sink.calls().len()), (0, 5), "uncharged");

    // Half open: of three at once one is sent, and its failure opens the circuit for twice as long.
    hooks.advance(open + 0.001);
    let ends = futures::future::join_all(deliveries[5..].iter().map(|id| hooks.run(*id))).await;
    assert!(ends.iter().all(|end| matches!(end, Err(JobError::Snooze(_)))), "{ends:?}");
    assert_eq!(hooks.sink.calls().len(), 6);
    let longer = (hooks.endpoint().await.retry_at.unwrap() - hooks.bench.clock.instant()).as_seconds_f64();
    assert!((48.0..=72.0).contains(&longer), "{longer}");

    // A ping waits for nothing, and closes the circuit.
    hooks.answers(&[200]);
    let ping = hooks.delivery_of("webhook.ping").await;
    hooks.run(ping).await.unwrap();
    assert_eq!((hooks.endpoint().await.retry_at, hooks.endpoint().await.failure_streak), (None, 0));
    for id in &deliveries {
        hooks.run(*id).await.unwrap();
        assert_eq!(hooks.row(*id).await.state, "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_tried_once_and_counts_against_nobody() {
    let hooks = Hooks::new().await;
    hooks.answers(&[500]);
    let ping = hooks.delivery_of("webhook.ping").await;
    hooks.run(ping).await.unwrap();
    assert_eq!(hooks.row(ping).await.stands(), ("exhausted", 1, Some(500)));
    assert_eq!(hooks.endpoint().await.failure_streak, 0);
}

/// R24: while the secret is replaced, a receiver that knows either verifies every delivery.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_replaced_without_a_failed_verification() {
    let hooks = Hooks::new().await;
    // The library judges by the real clock.
    let real = common::clock::Clock::default().instant();
    hooks.bench.clock.set(real);
    let new = Secret::random();
    let verify = |secret: &Secret, call: &Call| {
        standardwebhooks::Webhook::new(&secret.reveal()).unwrap().verify(&call.body, &call.headers).is_ok()
    };
    let sent = async || {
        let id = hooks.delivery().await;
        hooks.run(id).await.unwrap();
        hooks.sink.calls().pop().unwrap()
    };
    let before = sent().await;
    assert!(verify(&hooks.secret, &before) && !verify(&new, &before));

    let keys = &hooks.bench.context.secrets;
    let sealed = keys.seal(new.reveal().as_bytes(), hooks.endpoint.uuid().as_bytes());
    diesel::sql_query(
        "UPDATE webhook_endpoints SET previous_secret_enc = secret_enc, previous_secret_until = $1, secret_enc = $2",
    )
    .bind::<Timestamptz, _>(real + TimeDelta::hours(24))
    .bind::<Bytea, _>(sealed)
    .execute(&mut hooks.bench.db().conn().await.unwrap())
    .await
    .unwrap();
    let during = sent().await;
    assert!(verify(&hooks.secret, &during) && verify(&new, &during));
    hooks.set(&format!("previous_secret_until = '{real}'")).await;
    let after = sent().await;
    assert!(!verify(&hooks.secret, &after) && verify(&new, &after));
}

/// The delivery is not lost: it is our fault, and is retried as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_does_not_open_is_our_fault() {
    let hooks = Hooks::new().await;
    hooks.set("secret_enc = 'x'").await;
    let id = hooks.delivery().await;
    let Err(JobError::Retry(error)) = hooks.run(id).await else { panic!("it was sent") };
    assert!(format!("{error:#}").contains("SECRET_KEYS"), "{error:#}");
    assert_eq!(hooks.row(id).await.stands(), ("pending", 0, None));
    assert_eq!(hooks.sink.connections(), 0);
}
