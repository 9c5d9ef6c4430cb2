//! The audit trail: nobody changes it, and it shows if somebody did.
#![cfg(feature = "testing")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::time::{Duration, Instant};

use common::{
    audit::{self, Act, Sealed},
    db::{AsyncPgConnection, Db, Tx},
    ids::UserId,
    testing::{TestDatabase, database_at},
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _, SimpleAsyncConnection as _};

async fn open() -> (TestDatabase, Db) {
    let (database, db, _due) = database_at("2030-01-01T00:00:00Z").await;
    (database, db)
}

async fn note(tx: &mut Tx, event_type: &'static str) {
    let act = Act::new(UserId::new(), event_type, "user", UserId::new().uuid());
    audit::record(tx, act.details(serde_json::json!({"full_name": ["Ann", "Anna"]}))).await.unwrap();
}

async fn write(db: &Db, event_type: &'static str) {
    let mut tx = db.begin().await.unwrap();
    note(&mut tx, event_type).await;
    tx.commit().await.unwrap();
}

async fn seal(db: &Db) -> Sealed {
    let mut tx = db.begin().await.unwrap();
    let sealed = audit::seal(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    sealed
}

/// Rounds that sealed something, until so many rows are sealed. A transaction of another database of this server holds a round
/// up, too.
async fn seal_all(db: &Db, rows: usize) -> Vec<Sealed> {
    let (mut rounds, end) = (Vec::new(), Instant::now() + Duration::from_secs(30));
    while rounds.iter().map(|sealed: &Sealed| sealed.rows).sum::<usize>() < rows {
        assert!(Instant::now() < end, "{rounds:?}");
        let sealed = seal(db).await;
        if sealed.rows > 0 {
            rounds.push(sealed);
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    rounds
}

/// What a verification says: rows that are right, rows without a seal, and what is wrong.
async fn verified(db: &Db) -> (usize, usize, Vec<String>) {
    let found = audit::verify(&mut db.conn().await.unwrap()).await.unwrap();
    (found.rows, found.unsealed, found.broken)
}

/// The owner of the schema can switch a trigger off, which the application cannot.
async fn behind_our_back(database: &TestDatabase, sql: &str) {
    let mut owner = AsyncPgConnection::establish(&database.owner_url).await.unwrap();
    let sql = format!(
        "ALTER TABLE audit_events DISABLE TRIGGER append_only; ALTER TABLE audit_seals DISABLE TRIGGER append_only; {sql}"
    );
    owner.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn nobody_changes_what_was_written() {
    let (database, db) = open().await;
    write(&db, "user.updated").await;
    seal_all(&db, 1).await;
    let mut owner = AsyncPgConnection::establish(&database.owner_url).await.unwrap();
    let mut app = db.conn().await.unwrap();
    for table in ["audit_events", "audit_seals"] {
        for sql in [
            format!("DELETE FROM {table}"),
            format!(
                "UPDATE {table} SET {} = {0}",
                if table == "audit_seals" { "row_count" } else { "details" }
            ),
            format!("TRUNCATE {table}"),
        ] {
            let sql = sql.replace("= {0}", if table == "audit_seals" { "= row_count" } else { "= details" });
            let refused = diesel::sql_query(&sql).execute(&mut owner).await.unwrap_err().to_string();
            assert!(refused.contains("is append-only"), "{sql}: {refused}");
            let refused = diesel::sql_query(&sql).execute(&mut app).await.unwrap_err().to_string();
            assert!(refused.contains("permission denied"), "{sql}: {refused}");
        }
    }
    drop(app);
    assert_eq!(verified(&db).await, (1, 0, vec![]));
}

#[tokio::test]
async fn what_is_changed_behind_our_back_shows() {
    for (sql, what) in [
        (
            "UPDATE audit_events SET actor_label = 'eve' WHERE seq = 2",
            "rows 1 to 3: at least one is not as it was sealed",
        ),
        (
            "UPDATE audit_events SET happened_at = happened_at + interval '1 us' WHERE seq = 2",
            "rows 1 to 3: at least one",
        ),
        ("DELETE FROM audit_events WHERE seq = 3", "rows 1 to 3: 3 were sealed, 2 are there"),
        ("DELETE FROM audit_seals WHERE to_seq = 3", "rows 1 to 4: a seal before these is missing"),
        (
            "UPDATE audit_seals SET sha256 = sha256(sha256) WHERE to_seq = 3",
            "rows 1 to 3: at least one is not",
        ),
    ] {
        let (database, db) = open().await;
        for _ in 0..3 {
            write(&db, "user.updated").await;
        }
        assert_eq!(
            seal(&db).await,
            Sealed { rows: 0, is_full: false },
            "the first round only looks how far it is"
        );
        assert_eq!(seal_all(&db, 3).await, [Sealed { rows: 3, is_full: false }]);
        write(&db, "user.updated").await;
        seal_all(&db, 1).await;
        write(&db, "user.updated").await;
        assert_eq!(verified(&db).await, (4, 1, vec![]));
        behind_our_back(&database, sql).await;
        let (_, _, broken) = verified(&db).await;
        assert!(broken.iter().any(|line| line.contains(what)), "{sql}: {broken:?}");
    }
}

/// A row takes its number before its transaction commits: nothing above it is sealed until that is known.
#[tokio::test]
async fn a_late_commit_does_not_slip_under_a_seal() {
    let (_database, db) = open().await;
    let mut late = db.begin().await.unwrap();
    note(&mut late, "user.late").await;
    write(&db, "user.updated").await;
    for _ in 0..3 {
        assert_eq!(seal(&db).await.rows, 0, "somebody may still be under way");
    }
    late.commit().await.unwrap();
    // One that begins now does not hold the others up.
    let mut later = db.begin().await.unwrap();
    note(&mut later, "user.later").await;
    assert_eq!(seal_all(&db, 2).await, [Sealed { rows: 2, is_full: false }]);
    later.commit().await.unwrap();
    assert_eq!(verified(&db).await, (2, 1, vec![]));
    seal_all(&db, 1).await;
    assert_eq!(verified(&db).await, (3, 0, vec![]));
}

#[tokio::test]
async fn a_long_trail_is_sealed_in_batches() {
    let (_database, db) = open().await;
    let mut tx = db.begin().await.unwrap();
    let act = Act::new(UserId::new(), "user.updated", "user", None);
    audit::record_all(&mut tx, vec![act; 2_500]).await.unwrap();
    tx.commit().await.unwrap();
    let rounds = seal_all(&db, 2_500).await;
    assert_eq!(
        rounds.iter().map(|sealed| (sealed.rows, sealed.is_full)).collect::<Vec<_>>(),
        [(1_000, true), (1_000, true), (500, false)]
    );
    assert_eq!(verified(&db).await, (2_500, 0, vec![]));
}
