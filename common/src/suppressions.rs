//! Addresses that must not get mail any more: because their owner said so, because mail to them comes back, or because
//! an administrator decided (semantics §10). Addresses are kept as hashes, so that one that was deleted stays unknown.

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, PgSortExpressionMethods as _,
    QueryDsl as _,
};
use diesel_async::AsyncPgConnection;
use sha2::{Digest as _, Sha256};

use crate::{
    db::{RunQueryDsl as _, pg_enum},
    error::Result,
    schema::mail_suppressions,
};

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
