//! Links that are mailed to people: good once, for a while, and for the address that they were mailed to. The token in
//! a link is signed and not stored, so that nothing in the table opens an account. It is made where the mail is
//! written, from the row that the request left.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Duration, Utc};
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryableByName,
    sql_types::{BigInt, Double, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;

use crate::{
    clock::Now,
    credentials,
    db::{RunQueryDsl as _, Tx, pg_enum, sql},
    error::{Code, Error, Result},
    ids::{OneTimeTokenId, UserId},
    schema::one_time_tokens,
    secrets::Key,
};

pg_enum! {
    /// What a link is good for.
    TokenPurpose: TokenPurpose {
        /// Says that the address is its owner's.
        VerifyEmail = "verify_email",
        /// Sets another password.
        ResetPassword = "reset_password",
        /// Says that the new address is its owner's.
        ChangeEmail = "change_email",
        /// Sets the first password of an account that somebody else made.
        SetPassword = "set_password",
    }
}

impl TokenPurpose {
    /// How long a link is good.
    pub fn life(self) -> Duration {
        match self {
            Self::ResetPassword => Duration::hours(1),
            Self::VerifyEmail | Self::ChangeEmail | Self::SetPassword => Duration::hours(24),
        }
    }

    /// Its byte in a token. Never changes: links are under way.
    fn code(self) -> u8 {
        match self {
            Self::VerifyEmail => 1,
            Self::ResetPassword => 2,
            Self::ChangeEmail => 3,
            Self::SetPassword => 4,
        }
    }
}

/// Links of one purpose that an account is mailed within an hour at most: whoever asks for them need not be its owner.
pub const PER_HOUR: i64 = 5;

/// What a token begins with, so that people and scanners know what they see.
const PREFIX: &str = "tto_";
/// Id, purpose and expiry.
const BODY: usize = 16 + 1 + 8;

/// A link, as it is kept.
#[derive(Debug, Clone, QueryableByName)]
pub struct OneTimeToken {
    /// Its id.
    #[diesel(sql_type = Uuid)]
    pub id: OneTimeTokenId,
    /// Whose it is.
    #[diesel(sql_type = Uuid)]
    pub user_id: UserId,
    /// What it is good for.
    #[diesel(sql_type = crate::schema::sql_types::TokenPurpose)]
    pub purpose: TokenPurpose,
    /// Where it is mailed.
    #[diesel(sql_type = Text)]
    pub email: String,
    /// Until when it is good.
    #[diesel(sql_type = Timestamptz)]
    pub expires_at: DateTime<Utc>,
}

impl OneTimeToken {
    /// Makes a link for a person's present address. Links that are under way stay good: the mail that comes first may
    /// be the one that is read. `None` if [`PER_HOUR`] were made within the last hour.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such account, or it is switched off.
    pub async fn create(tx: &mut Tx, user: UserId, purpose: TokenPurpose) -> Result<Option<OneTimeTokenId>> {
        Self::make(tx, user, purpose, None).await
    }

    /// Makes a link that gives a person the address `email`. It goes there, and is good only while the account has the
    /// address that it has now; those that were made before are not good any more. `None` if [`PER_HOUR`] were made
    /// within the last hour.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such account, or it is switched off.
    pub async fn for_address(tx: &mut Tx, user: UserId, email: &str) -> Result<Option<OneTimeTokenId>> {
        Self::make(tx, user, TokenPurpose::ChangeEmail, Some(email)).await
    }

    async fn make(
        tx: &mut Tx,
        user: UserId,
        purpose: TokenPurpose,
        email: Option<&str>,
    ) -> Result<Option<OneTimeTokenId>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            recent: i64,
        }

        // Two requests at once must not both be the last that is allowed.
        credentials::lock(tx, user).await?;
        let now = tx.clock().now();
        let rows: Vec<Row> = sql!(
            "SELECT (SELECT count(*) FROM one_time_tokens t WHERE t.user_id = u.id AND t.purpose = {purpose}
                 AND t.created_at > {now} - interval '1 hour') AS recent
             FROM users u WHERE u.id = {user} AND u.is_active",
            user: Uuid = user,
            purpose: crate::schema::sql_types::TokenPurpose = purpose,
            now = now,
        )
        .load(tx.conn())
        .await?;
        let row = rows.into_iter().next().ok_or(Error::NotFound("account"))?;
        if row.recent >= PER_HOUR {
            return Ok(None);
        }
        if email.is_some() {
            end(tx, user, &[purpose]).await?;
        }
        let id = OneTimeTokenId::new();
        sql!(
            "INSERT INTO one_time_tokens (id, user_id, purpose, email, previous_email, expires_at, created_at)
             SELECT {id}, u.id, {purpose}, coalesce({email}, u.email), CASE WHEN {email} IS NOT NULL THEN u.email END,
                 {now} + make_interval(secs => {life}), {now} FROM users u WHERE u.id = {user}",
            id: Uuid = id,
            user: Uuid = user,
            purpose: crate::schema::sql_types::TokenPurpose = purpose,
            email: Nullable<Text> = email,
            life: Double = purpose.life().as_seconds_f64(),
            now = now,
        )
        .execute(tx.conn())
        .await?;
        Ok(Some(id))
    }

    /// A link that is still worth mailing: not used, not expired, and the account has the address that it had when
    /// the link was made.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn load(conn: &mut AsyncPgConnection, now: Now, id: OneTimeTokenId) -> Result<Option<Self>> {
        let rows = sql!(
            "SELECT t.id, t.user_id, t.purpose, t.email::text AS email, t.expires_at
             FROM one_time_tokens t JOIN users u ON u.id = t.user_id
             WHERE t.id = {id} AND t.used_at IS NULL AND t.expires_at > {now} AND u.is_active
             AND u.email = coalesce(t.previous_email, t.email)",
            id: Uuid = id,
            now = now,
        )
        .load(conn)
        .await?;
        Ok(rows.into_iter().next())
    }

    /// A change of address, for the notice that goes to the address before it; also when it has happened already, or will
    /// not any more: `(from, to)`.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn addresses(
        conn: &mut AsyncPgConnection,
        id: OneTimeTokenId,
    ) -> Result<Option<(String, String)>> {
        let row: Option<(Option<String>, String)> = one_time_tokens::table
            .find(id)
            .select((one_time_tokens::previous_email, one_time_tokens::email))
            .first(conn)
            .await
            .optional()?;
        Ok(row.and_then(|(from, to)| Some((from?, to))))
    }

    /// The token for the link, URL-safe. The first key signs.
    ///
    /// # Errors
    /// If there is no key.
    pub fn sign(&self, keys: &[Key]) -> Result<String> {
        let key = keys.first().ok_or_else(|| Error::Internal(anyhow::anyhow!("no key for links")))?;
        let mut bytes = Vec::with_capacity(BODY + 32);
        bytes.extend(self.id.uuid().as_bytes());
        bytes.push(self.purpose.code());
        bytes.extend(self.expires_at.timestamp().to_be_bytes());
        bytes.extend(key.sign(&bytes));
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }
}

/// A token as a client brings it: signed by us for one of the purposes asked for, and not expired. Whether it was used
/// is known to the database alone.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    id: OneTimeTokenId,
}

/// What a link that was used up opens.
#[derive(Debug, Clone)]
pub struct Redeemed {
    /// Whose it was.
    pub user_id: UserId,
    /// What for.
    pub purpose: TokenPurpose,
    /// Where it was mailed.
    pub email: String,
}

/// One answer for everything that may be wrong with a link, so that nobody learns from it which tokens exist.
fn invalid() -> Error {
    Error::conflict(Code::InvalidLink, Code::InvalidLink.help())
}

impl Link {
    /// Reads a token: damaged, forged, expired, and what was made for another purpose are refused alike.
    ///
    /// # Errors
    /// [`Code::InvalidLink`].
    pub fn read(token: &str, purposes: &[TokenPurpose], keys: &[Key], now: DateTime<Utc>) -> Result<Self> {
        let bytes = token.trim().strip_prefix(PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let bytes = bytes.filter(|bytes| bytes.len() == BODY + 32).ok_or_else(invalid)?;
        let (body, signature) = bytes.split_at(BODY);
        let signed = keys.iter().any(|key| key.verify(body, signature));
        let purpose = body.get(16).filter(|code| purposes.iter().any(|purpose| purpose.code() == **code));
        let id = body.first_chunk().map(|id| uuid::Uuid::from_bytes(*id));
        let expires = body.last_chunk().map(|seconds| i64::from_be_bytes(*seconds));
        match (id, purpose, expires) {
            (Some(id), Some(_), Some(expires)) if signed && expires > now.timestamp() => {
                Ok(Self { id: id.into() })
            }
            _ => Err(invalid()),
        }
    }

    /// Uses the link up. Good once, though two come at the same time.
    ///
    /// # Errors
    /// [`Code::InvalidLink`] if it was used or has expired, or if the account is gone, switched off, or has another
    /// address by now.
    pub async fn redeem(self, tx: &mut Tx) -> Result<Redeemed> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Uuid)]
            user_id: UserId,
            #[diesel(sql_type = crate::schema::sql_types::TokenPurpose)]
            purpose: TokenPurpose,
            #[diesel(sql_type = Text)]
            email: String,
        }

        let owner: Option<UserId> = one_time_tokens::table
            .find(self.id)
            .select(one_time_tokens::user_id)
            .first(tx.conn())
            .await
            .optional()?;
        // The person before the token: two links of theirs at once would wait for each other otherwise.
        credentials::lock(tx, owner.ok_or_else(invalid)?).await?;
        let rows: Vec<Row> = sql!(
            "UPDATE one_time_tokens t SET used_at = {now} FROM users u
             WHERE t.id = {id} AND t.used_at IS NULL AND t.expires_at > {now}
             AND u.id = t.user_id AND u.is_active AND u.email = coalesce(t.previous_email, t.email)
             RETURNING t.user_id, t.purpose, t.email::text AS email",
            id: Uuid = self.id,
            now = tx.clock().now(),
        )
        .load(tx.conn())
        .await?;
        let row = rows.into_iter().next().ok_or_else(invalid)?;
        Ok(Redeemed { user_id: row.user_id, purpose: row.purpose, email: row.email })
    }
}

/// Ends all links of a person for these purposes: what they were for has happened.
///
/// # Errors
/// If the database is away.
pub async fn end(tx: &mut Tx, user: UserId, purposes: &[TokenPurpose]) -> Result<()> {
    let used = one_time_tokens::used_at.eq(diesel::NullableExpressionMethods::nullable(tx.clock().now()));
    diesel::update(one_time_tokens::table)
        .filter(one_time_tokens::user_id.eq(user))
        .filter(one_time_tokens::used_at.is_null())
        .filter(one_time_tokens::purpose.eq_any(purposes))
        .set(used)
        .execute(tx.conn())
        .await?;
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
mod tests;
