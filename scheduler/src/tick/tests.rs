use chrono_tz::Tz;
use common::{
    clock::Clock,
    health::Health,
    jobs::PruneHistory,
    schema::jobs,
    testing::{TestDatabase, at, database_at, setting},
};
use diesel::QueryDsl as _;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{rounds::repeat, schedule::CatchUp};

fn schedule(name: &'static str, cron: &str, catch_up: CatchUp) -> Schedule {
    Schedule::new(name, cron, Tz::UTC, catch_up, &PruneHistory {}).unwrap()
}

fn every_second() -> Vec<Schedule> {
    vec![schedule("probe", "* * * * * *", CatchUp::All { max: 3600 })]
}

/// The unique keys of all jobs, in order of their slots.
async fn keys(db: &Db) -> Vec<String> {
    let keys: Vec<Option<String>> = jobs::table
        .select(jobs::unique_key)
        .order((jobs::run_at, jobs::id))
        .load(&mut db.conn().await.unwrap())
        .await
        .unwrap();
    keys.into_iter().flatten().collect()
}

#[tokio::test]
async fn the_first_start_catches_up_with_nothing_and_the_next_slot_runs() {
    let (_database, db, mut due) = database_at("2026-05-04T10:00:30Z").await;
    let ticker = Ticker::new(db.clone(), vec![schedule("minutely", "0 * * * * *", CatchUp::All { max: 10 })]);
    assert_eq!(ticker.tick().await.unwrap().as_millis().div_ceil(1000), 1, "at most a second");
    ticker.tick().await.unwrap();
    assert_eq!(keys(&db).await, [""; 0]);

    db.clock().set(at("2026-05-04T10:01:00Z"));
    ticker.tick().await.unwrap();
    ticker.tick().await.unwrap();
    assert_eq!(keys(&db).await, ["cron:minutely:2026-05-04T10:01:00Z"]);
    let pushed = due.try_recv().unwrap();
    assert_eq!(pushed.run_at, at("2026-05-04T10:01:00Z"), "handed to the dispatcher at commit");
    assert_eq!(due.try_recv().ok(), None);
}

/// R17.
#[tokio::test]
async fn after_ten_minutes_down_each_policy_runs_what_it_should() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:30Z").await;
    let ticker = Ticker::new(
        db.clone(),
        vec![
            schedule("skip", "0 * * * * *", CatchUp::Skip),
            schedule("latest", "0 * * * * *", CatchUp::Latest),
            schedule("all", "0 * * * * *", CatchUp::All { max: 100 }),
        ],
    );
    ticker.tick().await.unwrap();
    db.clock().set(at("2026-05-04T10:10:30Z"));
    ticker.tick().await.unwrap();
    ticker.tick().await.unwrap();

    let keys = keys(&db).await;
    let of = |name: &str| keys.iter().filter(|key| key.starts_with(&format!("cron:{name}:"))).count();
    assert_eq!([of("skip"), of("latest"), of("all")], [0, 1, 10]);
    assert!(keys.contains(&"cron:latest:2026-05-04T10:10:00Z".to_owned()));

    db.clock().set(at("2026-05-04T10:11:01Z"));
    ticker.tick().await.unwrap();
    assert_eq!(self::keys(&db).await.len(), 11 + 3, "all three run again");
}

/// R16, in one process: five schedulers at once, whose rounds are cut off at random.
#[tokio::test(flavor = "multi_thread")]
async fn five_schedulers_that_die_in_mid_round_neither_miss_nor_double_a_tick() {
    let (database, db, _due) = database_at("2026-05-04T10:00:00Z").await;
    let clock = db.clock().clone();
    let tickers: Vec<_> =
        (0..5).map(|_| Ticker::new(database.open(clock.clone()).0, every_second())).collect();
    tickers[0].tick().await.unwrap();
    let start = clock.instant();
    let mut killed = 0;
    for step in 1..=120_u32 {
        clock.set(start + TimeDelta::milliseconds(500) * i32::try_from(step).unwrap());
        let rounds = tickers.iter().zip(0_u32..).map(|(ticker, n)| {
            let life = Duration::from_micros(u64::from((step * 7 + n * 613) % 4_000));
            tokio::time::timeout(life, ticker.tick())
        });
        let ended = futures::future::join_all(rounds).await;
        killed += ended.iter().filter(|round| round.is_err()).count();
    }
    tickers[0].tick().await.unwrap();

    let expected: Vec<_> = (1..=60)
        .map(|second| format!("cron:probe:2026-05-04T10:{:02}:{:02}Z", second / 60, second % 60))
        .collect();
    assert_eq!(keys(&db).await, expected);
    assert!(killed > 50, "only {killed} rounds were cut off");
}

#[tokio::test]
async fn the_unique_key_holds_where_the_state_is_lost() {
    let (_database, db, _due) = database_at("2026-05-04T10:00:30Z").await;
    let ticker = Ticker::new(db.clone(), vec![schedule("minutely", "0 * * * * *", CatchUp::All { max: 10 })]);
    ticker.tick().await.unwrap();
    db.clock().set(at("2026-05-04T10:03:00Z"));
    ticker.tick().await.unwrap();
    sql!("UPDATE scheduler_state SET last_slot_at = last_slot_at - interval '2 min'")
        .execute(&mut db.conn().await.unwrap())
        .await
        .unwrap();
    ticker.tick().await.unwrap();
    assert_eq!(keys(&db).await.len(), 3);
}

/// Design §4.9: while PostgreSQL refuses, the loop goes on, and then makes up for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_postgres_does_not_end_the_loop() {
    let database = TestDatabase::create().await;
    let (db, _due) = database.open(Clock::default());
    let (health, stop) = (Health::default(), CancellationToken::new());
    let work = tokio::spawn(repeat(Ticker::new(db.clone(), every_second()), health, stop.clone()));
    let more_than = async |count: usize| {
        let wait = async {
            while keys(&db).await.len() <= count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the loop goes on");
    };
    more_than(0).await;

    let mut server = AsyncPgConnection::establish(&setting("TEST_DATABASE_URL")).await.unwrap();
    let name: String = diesel::select(diesel::dsl::sql::<Text>("current_database()"))
        .get_result(&mut db.conn().await.unwrap())
        .await
        .unwrap();
    for statement in [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
        "SELECT pg_sleep(1.5)".to_owned(),
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"),
    ] {
        diesel::sql_query(statement).execute(&mut server).await.unwrap();
    }
    // Connections that were cut say so once, at their next use.
    while db.conn().await.is_err() || keys_if_there(&db).await.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = keys(&db).await.len();
    more_than(before).await;
    stop.cancel();
    work.await.unwrap();

    let keys = keys(&db).await;
    let slot = |key: &String| at(key.strip_prefix("cron:probe:").unwrap());
    let span = slot(keys.last().unwrap()) - slot(&keys[0]);
    assert_eq!(i64::try_from(keys.len()).unwrap(), span.num_seconds() + 1, "no slot is missing: {keys:?}");
}

async fn keys_if_there(db: &Db) -> Option<i64> {
    jobs::table.count().get_result(&mut db.conn().await.ok()?).await.ok()
}
