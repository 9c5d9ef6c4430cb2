use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Effects, Shape, secs, until};
use common::{
    db::{AsyncPgConnection, RunQueryDsl as _, sql},
    ids::JobId,
    jobs::Act,
    ledger,
};
use diesel::sql_types::{Array, Text, Uuid};
use diesel_async::AsyncConnection as _;
use scheduler::relay::Relay;

use crate::{
    figures::{Figures, say},
    options::length,
};

/// Jobs that are looked at beside the load: nobody works on their queue.
const BESIDE: usize = 10;

/// R33: somebody holds a transaction open, so that nothing which has ended can be cleared away, while 200 jobs a second come and go.
/// Claims and rounds of the relay stay as they were. Half a minute; `SCENARIO_MINUTES` makes it longer.
#[tokio::test]
async fn r33_a_transaction_that_is_held_open_slows_neither_claims_nor_the_relay() {
    let shape =
        Shape { apis: 0, workers: 2, schedulers: 1, own_postgres: true, own_redis: true, ..Shape::default() };
    let mut cluster = Cluster::start(shape).await;
    let effects = cluster.effects("effects");
    let mut beside = Beside::new(&cluster);
    let mut jobs = load(&cluster, &effects, secs(3), &mut beside).await.0;
    let (more, calm) = load(&cluster, &effects, secs(8), &mut beside).await;
    jobs += more;

    let name = cluster.database_name().to_owned();
    let server = cluster.postgres_server().url();
    let (server, _) = server.rsplit_once('/').unwrap();
    let mut holder = AsyncPgConnection::establish(&format!("{server}/{name}")).await.unwrap();
    for statement in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT pg_current_xact_id()"] {
        diesel::sql_query(statement).execute(&mut holder).await.unwrap();
    }
    let whole = length(secs(24));
    jobs += load(&cluster, &effects, whole * 2 / 3, &mut beside).await.0;
    let (more, held) = load(&cluster, &effects, whole / 3, &mut beside).await;
    jobs += more;
    diesel::sql_query("COMMIT").execute(&mut holder).await.unwrap();
    until("everything is drained", secs(30), async || cluster.drained().await).await;
    cluster.assert_all_live();
    effects.started(jobs).unwrap();
    assert_eq!(effects.all().len(), jobs, "each starts once");

    for (what, calm, held) in [("claim", calm.claims, held.claims), ("relay", calm.relays, held.relays)] {
        let (calm, held) = (Figures::new(calm), Figures::new(held));
        let ratio = held.percentile(99).as_secs_f64() / calm.percentile(99).as_secs_f64();
        say!("R33: {what}: {calm} -> held open for {} s: {held} ({ratio:.1} x)", whole.as_secs());
        // What a busy machine adds is about the same for both; a scan of all that has ended would be much more.
        let limit = calm.percentile(50) * 3 + Duration::from_millis(20);
        assert!(held.percentile(50) < limit, "{what}: {calm} -> {held}");
    }
}

/// How long each took.
#[derive(Default)]
struct Took {
    claims: Vec<Duration>,
    relays: Vec<Duration>,
}

/// One more scheduler and one more worker, measured.
struct Beside {
    relay: Relay,
}

impl Beside {
    fn new(cluster: &Cluster) -> Self {
        Self { relay: Relay::new(cluster.db().clone(), cluster.redis().clone()) }
    }

    async fn measure(&mut self, cluster: &Cluster, took: &mut Took) {
        let since = Instant::now();
        self.relay.relay().await.unwrap();
        took.relays.push(since.elapsed());

        let ids: Vec<JobId> = (0..BESIDE).map(|_| JobId::new()).collect();
        let db = cluster.db();
        let mut conn = db.conn().await.unwrap();
        sql!(
            "INSERT INTO jobs (id, kind, queue, lane, args, max_attempts, run_at, created_at, pushed_at)
             SELECT id, 'probe', {queue}, 'lane', '[]', 1, {now}, {now}, {now} FROM unnest({ids}) AS j (id)",
            queue: Text = "beside",
            now = db.clock().now(),
            ids: Array<Uuid> = ids.clone(),
        )
        .execute(&mut conn)
        .await
        .unwrap();
        let since = Instant::now();
        let claims = ledger::claim(&mut conn, db.clock(), &ids, "beside", secs(15)).await.unwrap();
        took.claims.push(since.elapsed());
        assert_eq!(claims.len(), BESIDE);
        sql!(
            "UPDATE jobs SET state = 'done', finished_at = {now}, alive_until = NULL WHERE id = ANY({ids})",
            now = db.clock().now(),
            ids: Array<Uuid> = ids,
        )
        .execute(&mut conn)
        .await
        .unwrap();
    }
}

/// 200 jobs a second. Answers how many it made, and how long the measured ones took beside it.
async fn load(cluster: &Cluster, effects: &Effects, length: Duration, beside: &mut Beside) -> (usize, Took) {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let (mut jobs, mut took) = (0, Took::default());
    let end = Instant::now() + length;
    loop {
        every.tick().await;
        if Instant::now() > end {
            return (jobs, took);
        }
        jobs += cluster.enqueue_many(effects, 20, Act::Nothing).await.len();
        beside.measure(cluster, &mut took).await;
    }
}
