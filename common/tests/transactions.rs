//! What a transaction leaves behind when nobody waits for its end any more (design §4.1 and §4.2). A handler's future
//! may be dropped at any `await`: the client hung up, or a timeout struck. The first two tests show why [`Tx`] exists.

#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::time::Duration;

use common::{
    db::{Conn, Db, RunQueryDsl as _, Tx, sql},
    error::Error,
    jobs::{Job as _, PruneHistory},
    ledger::{self, NewJob},
    metrics,
    testing::{at, database_at},
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Text},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio::{sync::mpsc::error::TryRecvError, task::JoinHandle, time::Instant};

const START: &str = "2030-01-02T08:00:00Z";
/// What the UPDATE under test waits for, while it holds the lock of its row.
const GATE: i64 = 7002;
/// A condition that does not come true within this time fails its test.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

async fn count(conn: &mut AsyncPgConnection, statement: &str) -> i64 {
    diesel::sql_query(statement).get_result::<Count>(conn).await.unwrap().count
}

/// How many sessions of this database are in such a state, or wait for such a lock.
async fn sessions(conn: &mut AsyncPgConnection, condition: &str) -> i64 {
    let statement = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND {condition}"
    );
    count(conn, &statement).await
}

const WAITS: &str = "wait_event_type = 'Lock'";
const IDLE_IN_TRANSACTION: &str = "state LIKE 'idle in transaction%'";

async fn until_sessions(conn: &mut AsyncPgConnection, condition: &str, wanted: i64) {
    let end = Instant::now() + DEADLINE;
    while sessions(conn, condition).await != wanted {
        assert!(Instant::now() < end, "not {wanted} sessions where {condition}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the row can be locked now. Every statement of the application that waits would wait as well.
async fn row_is_free(conn: &mut AsyncPgConnection) -> bool {
    let locked = "SELECT count(*) FROM (SELECT FROM queues WHERE name = 'q' FOR UPDATE SKIP LOCKED) q";
    count(conn, locked).await == 1
}

async fn until_row_is_free(conn: &mut AsyncPgConnection) {
    let end = Instant::now() + DEADLINE;
    while !row_is_free(conn).await {
        assert!(Instant::now() < end, "the row stays locked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Locks the row, and stays in the middle of the statement until the gate opens.
async fn update(conn: &mut AsyncPgConnection) -> diesel::QueryResult<usize> {
    sql!("UPDATE queues SET reason = 'changed' WHERE name = 'q' RETURNING pg_advisory_xact_lock({gate})", gate: BigInt = GATE)
        .execute(conn)
        .await
}

/// A handler that is dropped half way through an UPDATE, as a timeout does it. Answers when the statement has ended,
/// with a connection that looks on.
async fn cancelled_half_way(db: &Db, onlooker: &Db, handler: JoinHandle<()>) -> Conn {
    let mut conn = onlooker.conn().await.unwrap();
    until_sessions(&mut conn, WAITS, 1).await;
    handler.abort();
    assert!(handler.await.unwrap_err().is_cancelled());
    let (in_use, _) = db.status();
    assert_eq!(in_use, 0, "nobody works in the pool any more");
    sql!("SELECT pg_advisory_unlock({gate})", gate: BigInt = GATE).execute(&mut conn).await.unwrap();
    until_sessions(&mut conn, WAITS, 0).await;
    conn
}

/// A queue to update, behind a closed gate. The gate is the onlooker's first connection.
async fn closed_gate(onlooker: &Db) {
    let mut conn = onlooker.conn().await.unwrap();
    sql!("INSERT INTO queues (name) VALUES ('q')").execute(&mut conn).await.unwrap();
    sql!("SELECT pg_advisory_lock({gate})", gate: BigInt = GATE).execute(&mut conn).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_tx_closes_its_connection_and_frees_its_locks() {
    let (database, db, _due) = database_at(START).await;
    let (onlooker, _) = database.open(db.clock().clone());
    let prometheus = metrics::install().unwrap();
    closed_gate(&onlooker).await;
    let handler = tokio::spawn({
        let db = db.clone();
        async move {
            let mut tx = db.begin().await.unwrap();
            update(tx.conn()).await.unwrap();
            tx.commit().await.unwrap();
        }
    });
    let mut conn = cancelled_half_way(&db, &onlooker, handler).await;

    until_row_is_free(&mut conn).await;
    assert_eq!(sessions(&mut conn, IDLE_IN_TRANSACTION).await, 0);
    assert_eq!(db.status(), (0, 0), "its connection did not go back to the pool");
    let unchanged = "SELECT count(*) FROM queues WHERE name = 'q' AND reason IS NULL";
    assert_eq!(count(&mut conn, unchanged).await, 1);
    let page = prometheus.render();
    let counted = page.lines().find_map(|line| line.strip_prefix("tasktracker_tx_dropped_total "));
    // Other tests of this process drop theirs as well.
    assert!(counted.is_some_and(|count| count != "0"), "{page}");
}

/// The same with diesel-async's closure: what our own transactions must not do. The experiment also shows the second
/// cure, `idle_in_transaction_session_timeout`, which every connection of the application has.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_closure_would_keep_its_locks_in_the_pool() {
    let (database, db, _due) = database_at(START).await;
    let (onlooker, _) = database.open(db.clock().clone());
    closed_gate(&onlooker).await;
    let handler = tokio::spawn({
        let db = db.clone();
        async move {
            let mut conn = db.conn().await.unwrap();
            conn.transaction(async |conn| {
                sql!("SET LOCAL idle_in_transaction_session_timeout = '1s'").execute(conn).await?;
                update(conn).await
            })
            .await
            .unwrap();
        }
    });
    let mut conn = cancelled_half_way(&db, &onlooker, handler).await;

    until_sessions(&mut conn, IDLE_IN_TRANSACTION, 1).await;
    assert!(!row_is_free(&mut conn).await, "the closure kept its connection, its transaction and its locks");
    assert_eq!(db.status(), (0, 1), "its connection is in the pool");
    until_row_is_free(&mut conn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_tx_gives_its_connection_back() {
    let (_database, db, _due) = database_at(START).await;
    let mut backends = Vec::new();
    for _ in 0..2 {
        let mut tx = db.begin().await.unwrap();
        backends.push(count(tx.conn(), "SELECT pg_backend_pid()::bigint AS count").await);
        assert_eq!(db.status(), (1, 0));
        tx.commit().await.unwrap();
        assert_eq!(db.status(), (0, 1));
    }
    assert_eq!(backends[0], backends[1]);
}

async fn kinds_in_ledger(db: &Db) -> i64 {
    let mut conn = db.conn().await.unwrap();
    count(&mut conn, "SELECT count(*) FROM jobs").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_dropped_tx_never_was() {
    let (_database, db, mut due) = database_at(START).await;
    let mut tx = db.begin().await.unwrap();
    PruneHistory {}.enqueue(&mut tx).await.unwrap();
    drop(tx);
    assert_eq!(kinds_in_ledger(&db).await, 0);
    assert_eq!(due.try_recv(), Err(TryRecvError::Empty));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dispatcher_gets_a_job_at_commit_and_not_before_nor_before_it_is_due() {
    let (_database, db, mut due) = database_at(START).await;
    let mut tx = db.begin().await.unwrap();
    let now = PruneHistory {}.enqueue(&mut tx).await.unwrap();
    let later = NewJob::of(&PruneHistory {}).unwrap().run_at(at("2030-01-02T08:00:01Z"));
    ledger::enqueue(&mut tx, later).await.unwrap();
    assert_eq!(kinds_in_ledger(&db).await, 0, "nobody sees it yet");
    assert_eq!(due.try_recv(), Err(TryRecvError::Empty));

    tx.commit().await.unwrap();
    assert_eq!(kinds_in_ledger(&db).await, 2);
    assert_eq!(due.try_recv().unwrap().id, now);
    assert_eq!(due.try_recv(), Err(TryRecvError::Empty), "the other one is the relay's, when it is due");
}

/// The limits that bound what the cures above leave open.
#[tokio::test(flavor = "multi_thread")]
async fn every_connection_of_the_application_has_limits() {
    #[derive(Debug, PartialEq, QueryableByName)]
    struct Limit {
        #[diesel(sql_type = Text)]
        name: String,
        #[diesel(sql_type = Text)]
        setting: String,
    }

    let (_database, db, _due) = database_at(START).await;
    let mut tx: Tx = db.begin().await.unwrap();
    let limits: Vec<Limit> = sql!(
        "SELECT name, setting FROM pg_settings WHERE name IN
             ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'TimeZone') ORDER BY name"
    )
    .load(tx.conn())
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let limits: Vec<(&str, &str)> = limits.iter().map(|l| (l.name.as_str(), l.setting.as_str())).collect();
    let milliseconds = [
        ("TimeZone", "UTC"),
        ("idle_in_transaction_session_timeout", "10000"),
        ("lock_timeout", "5000"),
        ("statement_timeout", "10000"),
    ];
    assert_eq!(limits, milliseconds);
}

/// Refusing what somebody asks for is nothing unusual: it costs no connection, and leaves nothing behind.
#[tokio::test]
async fn a_refused_change_gives_its_connection_back() {
    let (_database, db, mut due) = database_at(START).await;
    let mut tx = db.begin().await.unwrap();
    PruneHistory {}.enqueue(&mut tx).await.unwrap();
    let refused: Result<(), Error> = tx.finish(Err(Error::NotFound("task"))).await;
    assert!(matches!(refused, Err(Error::NotFound("task"))));
    assert_eq!(db.status(), (0, 1));
    assert_eq!(kinds_in_ledger(&db).await, 0);
    assert_eq!(due.try_recv(), Err(TryRecvError::Empty));
}

/// A step that is undone owes nothing, and those beside it what they owe.
#[tokio::test]
async fn a_step_is_undone_with_its_jobs_and_alone() {
    let (_database, db, mut due) = database_at(START).await;
    let mut tx = db.begin().await.unwrap();
    let mut kept = Vec::new();
    for keep in [true, false, true] {
        let step = tx.step().await.unwrap();
        let job = PruneHistory {}.enqueue(&mut tx).await.unwrap();
        tx.end_step(step, keep).await.unwrap();
        kept.extend(keep.then_some(job));
    }
    // A statement that PostgreSQL refuses breaks its step, and not the transaction.
    let step = tx.step().await.unwrap();
    let refused = sql!("SELECT 1 / {zero}", zero: BigInt = 0).execute(tx.conn()).await;
    tx.end_step(step, refused.is_ok()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(kinds_in_ledger(&db).await, 2);
    let pushed: Vec<_> = std::iter::from_fn(|| due.try_recv().ok()).map(|job| job.id).collect();
    assert_eq!(pushed, kept);
}
