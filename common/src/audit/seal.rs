use diesel::{
    OptionalExtension as _, QueryableByName,
    sql_types::{BigInt, Bool, Bytea, Integer, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use sha2::{Digest as _, Sha256};

use crate::{
    db::{RunQueryDsl as _, Tx, sql},
    error::Result,
};

/// Rows that one seal covers at most.
const BATCH: i64 = 1_000;
/// What stands before the first seal.
const BEGINNING: [u8; 32] = [0; 32];

/// A row, as it is sealed: everything that it says.
#[derive(Debug, QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    seq: i64,
    #[diesel(sql_type = Uuid)]
    id: uuid::Uuid,
    #[diesel(sql_type = Timestamptz)]
    happened_at: chrono::DateTime<chrono::Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    actor_id: Option<uuid::Uuid>,
    #[diesel(sql_type = Text)]
    actor_label: String,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = Text)]
    entity_type: String,
    #[diesel(sql_type = Nullable<Uuid>)]
    entity_id: Option<uuid::Uuid>,
    #[diesel(sql_type = Nullable<Uuid>)]
    task_id: Option<uuid::Uuid>,
    #[diesel(sql_type = Nullable<Bytea>)]
    ip_hash: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    request_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    details: Option<String>,
}

impl Row {
    /// Adds the row to a digest, each field with its length, so that no text can pass from one into the next.
    fn digest(&self, sha256: &mut Sha256) {
        fn add(sha256: &mut Sha256, field: Option<&[u8]>) {
            // An absent field differs from an empty one.
            let length = field.map_or(u64::MAX, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX - 1));
            sha256.update(length.to_be_bytes());
            sha256.update(field.unwrap_or_default());
        }
        sha256.update(self.seq.to_be_bytes());
        sha256.update(self.id.as_bytes());
        sha256.update(self.happened_at.timestamp_micros().to_be_bytes());
        for id in [&self.actor_id, &self.entity_id, &self.task_id] {
            add(sha256, id.as_ref().map(|id| id.as_bytes().as_slice()));
        }
        for text in [&self.actor_label, &self.event_type, &self.entity_type] {
            add(sha256, Some(text.as_bytes()));
        }
        add(sha256, self.ip_hash.as_deref());
        for text in [&self.request_id, &self.details] {
            add(sha256, text.as_ref().map(String::as_bytes));
        }
    }
}

/// The digest of a seal: of the one before, and of its rows.
fn digest(previous: &[u8], rows: &[Row]) -> Vec<u8> {
    let mut sha256 = Sha256::new_with_prefix(previous);
    rows.iter().for_each(|row| row.digest(&mut sha256));
    sha256.finalize().to_vec()
}

/// The rows after `after`, up to `until`, at most `limit`.
async fn rows(conn: &mut AsyncPgConnection, after: i64, until: i64, limit: i64) -> Result<Vec<Row>> {
    Ok(sql!(
        "SELECT seq, id, happened_at, actor_id, actor_label, event_type, entity_type, entity_id, task_id, ip_hash, request_id,
             details::text AS details
         FROM audit_events WHERE seq > {after} AND seq <= {until} ORDER BY seq LIMIT {limit}",
        after: BigInt = after,
        until: BigInt = until,
        limit: BigInt = limit,
    )
    .load(conn)
    .await?)
}

/// A seal, as it is stored.
#[derive(Debug, QueryableByName)]
struct Seal {
    #[diesel(sql_type = BigInt)]
    to_seq: i64,
    #[diesel(sql_type = Integer)]
    row_count: i32,
    #[diesel(sql_type = Bytea)]
    sha256: Vec<u8>,
    #[diesel(sql_type = Bytea)]
    prev_sha256: Vec<u8>,
}

/// What a round of sealing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Rows that are sealed now and were not before.
    pub rows: usize,
    /// Whether there may be more that can be sealed at once.
    pub is_full: bool,
}

/// Seals the next batch of rows under which no row can appear any more. A `seq` is taken before its transaction commits, so a
/// round remembers how far the rows reach and which transactions have begun; a later one, when all of those have ended,
/// seals up to there. One round at a time does so.
///
/// # Errors
/// If the database is away.
pub async fn seal(tx: &mut Tx) -> Result<Sealed> {
    #[derive(QueryableByName)]
    struct Horizon {
        #[diesel(sql_type = BigInt)]
        seq: i64,
        #[diesel(sql_type = Bool)]
        is_reached: bool,
    }

    let now = tx.clock().now();
    let horizon: Horizon = sql!(
        "SELECT seq, pg_snapshot_xmin(pg_current_snapshot()) >= xid OR xid > pg_snapshot_xmax(pg_current_snapshot()) AS is_reached
         FROM audit_horizon FOR UPDATE"
    )
    .get_result(tx.conn())
    .await?;
    let last: Option<Seal> =
        sql!("SELECT to_seq, row_count, sha256, prev_sha256 FROM audit_seals ORDER BY to_seq DESC LIMIT 1")
            .get_result(tx.conn())
            .await
            .optional()?;
    let (after, previous) = last.map_or((0, BEGINNING.to_vec()), |seal| (seal.to_seq, seal.sha256));
    let mut sealed = Sealed { rows: 0, is_full: false };
    if horizon.is_reached {
        let rows = rows(tx.conn(), after, horizon.seq, BATCH).await?;
        let ends = rows.as_slice();
        if let (Some(first), Some(newest)) = (ends.first(), ends.last()) {
            sql!(
                "INSERT INTO audit_seals (to_seq, from_seq, row_count, sha256, prev_sha256, sealed_at)
                 VALUES ({to}, {from}, {rows}, {sha256}, {previous}, {now})",
                to: BigInt = newest.seq,
                from: BigInt = first.seq,
                rows: Integer = i32::try_from(rows.len()).unwrap_or(i32::MAX),
                sha256: Bytea = digest(&previous, &rows),
                previous: Bytea = previous,
                now = now,
            )
            .execute(tx.conn())
            .await?;
        }
        sealed =
            Sealed { rows: rows.len(), is_full: rows.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX) };
    }
    if horizon.is_reached && !sealed.is_full {
        // First how far, then who: whoever took a number up to there has begun by then.
        let reach: Reach =
            sql!("SELECT coalesce(max(seq), 0) AS seq FROM audit_events").get_result(tx.conn()).await?;
        sql!(
            "UPDATE audit_horizon SET seq = {seq}, xid = pg_snapshot_xmax(pg_current_snapshot()) WHERE seq <> {seq}",
            seq: BigInt = reach.seq,
        )
        .execute(tx.conn())
        .await?;
    }
    Ok(sealed)
}

#[derive(QueryableByName)]
struct Reach {
    #[diesel(sql_type = BigInt)]
    seq: i64,
}

/// What a look through the whole trail has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intact {
    /// Rows that are as they were sealed.
    pub rows: usize,
    /// Seals that agree with their rows and with each other.
    pub seals: usize,
    /// Rows that no seal covers yet.
    pub unsealed: usize,
    /// What does not agree, each in a sentence, the first hundred.
    pub broken: Vec<String>,
}

/// Compares every row with its seal, and every seal with the one before.
///
/// # Errors
/// If the database is away.
pub async fn verify(conn: &mut AsyncPgConnection) -> Result<Intact> {
    const TOLD: usize = 100;
    let mut found = Intact { rows: 0, seals: 0, unsealed: 0, broken: Vec::new() };
    let (mut after, mut previous) = (0, BEGINNING.to_vec());
    loop {
        let seal: Option<Seal> = sql!(
            "SELECT to_seq, row_count, sha256, prev_sha256 FROM audit_seals WHERE to_seq > {after} ORDER BY to_seq LIMIT 1",
            after: BigInt = after,
        )
        .get_result(conn)
        .await
        .optional()?;
        let Some(seal) = seal else { break };
        let rows = rows(conn, after, seal.to_seq, i64::MAX).await?;
        let range = format!("rows {} to {}", after + 1, seal.to_seq);
        if seal.prev_sha256 != previous {
            found.broken.push(format!("{range}: a seal before these is missing or was changed"));
        } else if usize::try_from(seal.row_count) != Ok(rows.len()) {
            found.broken.push(format!("{range}: {} were sealed, {} are there", seal.row_count, rows.len()));
        } else if digest(&previous, &rows) != seal.sha256 {
            found.broken.push(format!("{range}: at least one is not as it was sealed"));
        } else {
            found.rows += rows.len();
            found.seals += 1;
        }
        (after, previous) = (seal.to_seq, seal.sha256);
        if found.broken.len() >= TOLD {
            break;
        }
    }
    let rest: Reach =
        sql!("SELECT count(*) AS seq FROM audit_events WHERE seq > {after}", after: BigInt = after)
            .get_result(conn)
            .await?;
    found.unsealed = usize::try_from(rest.seq).unwrap_or_default();
    Ok(found)
}
