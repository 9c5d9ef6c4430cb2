//! Secrets of endpoints under another key of `SECRET_KEYS`: what has to be done before the old key is thrown away.

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Binary, Bool, Nullable, Uuid},
};
use uuid::Uuid as Id;

use crate::{
    db::{Db, RunQueryDsl as _, sql},
    error::Result,
    ids::EndpointId,
    secrets::{Resealed, SecretKeys},
};

/// Endpoints in a batch.
const BATCH: i64 = 500;

/// What became of the secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sealed anew.
    pub moved: usize,
    /// Under the first key already.
    pub current: usize,
    /// Endpoints with a secret that no key opens.
    pub lost: Vec<EndpointId>,
}

#[derive(Debug, QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    id: EndpointId,
    #[diesel(sql_type = Binary)]
    secret: Vec<u8>,
    #[diesel(sql_type = Nullable<Binary>)]
    previous: Option<Vec<u8>>,
}

/// Seals every secret with the first key. May be run at any time, and again: each endpoint is changed by a statement of its own,
/// and only if its secret is still the one that was read.
///
/// # Errors
/// If the database is away. What was done by then stays done.
pub async fn reseal(db: &Db, keys: &SecretKeys) -> Result<Summary> {
    let mut conn = db.conn().await?;
    let mut summary = Summary::default();
    let mut after = Id::nil();
    loop {
        let rows: Vec<Row> = sql!(
            "SELECT id, secret_enc AS secret, previous_secret_enc AS previous FROM webhook_endpoints
             WHERE id > {after} ORDER BY id LIMIT {batch}",
            after: Uuid = after,
            batch: BigInt = BATCH,
        )
        .load(&mut conn)
        .await?;
        for row in &rows {
            after = row.id.uuid();
            for (sealed, is_previous) in
                [Some((&row.secret, false)), row.previous.as_ref().map(|sealed| (sealed, true))]
                    .into_iter()
                    .flatten()
            {
                match keys.reseal(sealed, row.id.uuid().as_bytes()) {
                    Resealed::Current => summary.current += 1,
                    Resealed::Lost => summary.lost.push(row.id),
                    Resealed::Anew(anew) => {
                        sql!(
                            "UPDATE webhook_endpoints
                             SET secret_enc = CASE WHEN {previous} THEN secret_enc ELSE {anew} END,
                                 previous_secret_enc = CASE WHEN {previous} THEN {anew} ELSE previous_secret_enc END
                             WHERE id = {id}
                               AND CASE WHEN {previous} THEN previous_secret_enc ELSE secret_enc END = {sealed}",
                            previous: Bool = is_previous,
                            anew: Binary = anew,
                            id: Uuid = row.id,
                            sealed: Binary = sealed,
                        )
                        .execute(&mut conn)
                        .await?;
                        summary.moved += 1;
                    }
                }
            }
        }
        if rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX) {
            summary.lost.dedup();
            return Ok(summary);
        }
    }
}
