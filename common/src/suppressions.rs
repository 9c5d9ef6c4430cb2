//! Addresses that must not get mail any more: because their owner said so, because mail to them comes back, or because
//! an administrator decided (semantics §10). Addresses are kept as hashes, so that one that was deleted stays unknown.

mod list;

use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, HasQuery, OptionalExtension as _,
    PgSortExpressionMethods as _, QueryDsl as _, sql_types,
};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::{
    clock::Now,
    db::{RunQueryDsl as _, Tx, pg_enum, sql},
    error::Result,
    ids::UserId,
    schema::mail_suppressions,
};

pub use self::list::{SuppressionEntry, SuppressionFilter};

pg_enum! {
    /// What a mail is about; each kind can be stopped alone.
    MailKind: MailKind {
        /// A reminder.
        Reminder = "reminder",
        /// The daily summary.
        DailySummary = "daily_summary",
        /// The weekly report.
        WeeklyReport = "weekly_report",
        /// A webhook endpoint of theirs was switched off.
        WebhookNotice = "webhook_notice",
        /// The account itself; never suppressed.
        Security = "security",
    }
}

pg_enum! {
    /// Why an address gets no mail.
    SuppressionReason: SuppressionReason {
        /// Its owner unsubscribed.
        Unsubscribe = "unsubscribe",
        /// Mail to it came back for good, twice.
        Bounce = "bounce",
        /// An administrator.
        Admin = "admin",
    }
}

/// How an address is kept: addresses compare without regard to case.
pub fn address_hash(address: &str) -> Vec<u8> {
    Sha256::digest(address.trim().to_lowercase().as_bytes()).to_vec()
}

/// Why an address must not get mail of a kind; `None` if it may. Security mail always may.
///
/// # Errors
/// If the database is away.
pub async fn held(
    conn: &mut AsyncPgConnection,
    address: &str,
    kind: MailKind,
) -> Result<Option<SuppressionReason>> {
    if kind == MailKind::Security {
        return Ok(None);
    }
    Ok(mail_suppressions::table
        .filter(mail_suppressions::address_hash.eq(address_hash(address)))
        .filter(mail_suppressions::kind.is_null().or(mail_suppressions::kind.eq(kind)))
        .order(mail_suppressions::kind.asc().nulls_first())
        .select(mail_suppressions::reason)
        .first(conn)
        .await
        .optional()?)
}

/// Why an address gets no mail, as its owner sees it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = mail_suppressions, check_for_backend(diesel::pg::Pg))]
pub struct Suppression {
    /// Which mail; null for all but security mail.
    pub kind: Option<MailKind>,
    /// Why.
    pub reason: SuppressionReason,
    /// Since when.
    #[diesel(select_expression = mail_suppressions::created_at)]
    pub since: DateTime<Utc>,
}

/// Everything that keeps mail from an address.
///
/// # Errors
/// If the database is away.
pub async fn of_address(conn: &mut AsyncPgConnection, address: &str) -> Result<Vec<Suppression>> {
    Ok(Suppression::query()
        .filter(mail_suppressions::address_hash.eq(address_hash(address)))
        .order(mail_suppressions::kind.asc().nulls_first())
        .load(conn)
        .await?)
}

/// Takes back that the owner of an address unsubscribed from a kind. What others decided stays.
///
/// # Errors
/// If the database is away.
pub async fn lift_unsubscribe(tx: &mut Tx, address: &str, kind: MailKind) -> Result<()> {
    let theirs = mail_suppressions::table
        .filter(mail_suppressions::address_hash.eq(address_hash(address)))
        .filter(mail_suppressions::kind.eq(kind))
        .filter(mail_suppressions::reason.eq(SuppressionReason::Unsubscribe));
    diesel::delete(theirs).execute(tx.conn()).await?;
    Ok(())
}

/// The owner of an account wants no more mail of a kind. Nothing happens if it is stopped already.
///
/// # Errors
/// If the database is away.
pub async fn unsubscribe(tx: &mut Tx, user: UserId, kind: MailKind) -> Result<()> {
    sql!(
        "INSERT INTO mail_suppressions (id, user_id, address_hash, kind, reason, created_at)
         SELECT {id}, u.id, sha256(convert_to(lower(u.email::text), 'UTF8')), {kind}, 'unsubscribe', {now}
         FROM users u WHERE u.id = {user} ON CONFLICT DO NOTHING",
        id: sql_types::Uuid = uuid::Uuid::now_v7(),
        kind: crate::schema::sql_types::MailKind = kind,
        now = tx.clock().now(),
        user: sql_types::Uuid = user,
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Permanent errors (5xx) after which an address gets no more mail: one may be the fault of the server.
pub const BOUNCES: i32 = 2;

/// A mail server refused an address for good. The second time the address is suppressed for all but security mail.
///
/// # Errors
/// If the database is away.
pub async fn bounced(conn: &mut AsyncPgConnection, now: Now, user: UserId, reply: &str) -> Result<()> {
    sql!(
        "WITH bounce AS (
             INSERT INTO mail_bounces AS b (address_hash, last_reply, last_at)
             SELECT sha256(convert_to(lower(u.email::text), 'UTF8')), left({reply}, 500), {now} FROM users u WHERE u.id = {user}
             ON CONFLICT (address_hash) DO UPDATE SET bounces = b.bounces + 1, last_reply = excluded.last_reply,
                 last_at = excluded.last_at
             RETURNING address_hash, bounces)
         INSERT INTO mail_suppressions (id, user_id, address_hash, reason, detail, created_at)
         SELECT {id}, {user}, address_hash, 'bounce', left({reply}, 500), {now} FROM bounce WHERE bounces >= {enough}
         ON CONFLICT DO NOTHING",
        id: sql_types::Uuid = uuid::Uuid::now_v7(),
        user: sql_types::Uuid = user,
        reply: sql_types::Text = reply,
        now = now,
        enough: sql_types::Integer = BOUNCES,
    )
    .execute(conn)
    .await?;
    Ok(())
}
