//! Sessions: families of refresh tokens, of which only the newest is good (design §5). A token is stored hashed. How
//! it looks to a client, and access tokens, which are not stored at all, are in `api`.

mod open;

use chrono::{DateTime, Duration, Utc};
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, PgExpressionMethods as _, QueryDsl as _, QueryableByName,
    sql_types::{Nullable, Uuid},
};
use diesel_async::AsyncPgConnection;

use crate::{
    clock::Now,
    db::{RunQueryDsl as _, Tx, sql, sql_condition},
    error::{Code, Result},
    ids::{SessionId, UserId},
    schema::{refresh_tokens, users},
    secrets::{random_token, token_hash},
    users::User,
};
pub use open::OpenSession;

/// How long an access token is good. A session that has ended is remembered as long.
pub const ACCESS_TOKEN_LIFE: Duration = Duration::minutes(15);
/// How long a refresh token is good; using it gives another as long.
pub const REFRESH_TOKEN_LIFE: Duration = Duration::days(7);
/// After so long a session ends although it is used.
pub const SESSION_LIFE: Duration = Duration::days(90);
/// Within so long after a rotation the old token is accepted once more: two tabs, an answer that was lost.
pub const REUSE_GRACE: Duration = Duration::seconds(10);

/// What a client that proved who they are gets.
pub struct Session {
    /// Which session.
    pub id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// The token that renews it; told once, stored hashed.
    pub refresh_token: String,
}

/// Where a client called from, for the list of a person's sessions.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// Its `User-Agent`, cut to 200 characters.
    pub user_agent: Option<String>,
    /// A keyed hash of its address.
    pub ip_hash: Option<Vec<u8>>,
}

/// Which of a person's sessions are meant.
#[derive(Debug, Clone, Copy)]
pub enum Sessions {
    /// This one.
    One(SessionId),
    /// Those that are not this one.
    Others(SessionId),
    /// All.
    All,
}

/// What an address can log in with.
pub struct Login {
    /// Whose it is.
    pub user_id: UserId,
    /// A PHC string, if a password is set.
    pub password_hash: Option<String>,
    /// Whether the account may be used.
    pub is_active: bool,
}

impl Login {
    /// What `email` can log in with, if it has an account.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn find(conn: &mut AsyncPgConnection, email: &str) -> Result<Option<Self>> {
        let row = users::table.filter(users::email.eq(email));
        let row = row.select((users::id, users::password_hash, users::is_active)).first(conn).await;
        Ok(row.optional()?.map(Self::of))
    }

    /// What this person can log in with.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn of_user(conn: &mut AsyncPgConnection, id: UserId) -> Result<Option<Self>> {
        let row = users::table.find(id);
        let row = row.select((users::id, users::password_hash, users::is_active)).first(conn).await;
        Ok(row.optional()?.map(Self::of))
    }

    fn of((user_id, password_hash, is_active): (UserId, Option<String>, bool)) -> Self {
        Self { user_id, password_hash, is_active }
    }

    /// Whether it is still so, and stays so until the end of the transaction. Checking a password takes a while: one
    /// that was replaced meanwhile, or an account that was switched off, must not be opened by what was true before.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn still_holds(&self, tx: &mut Tx) -> Result<bool> {
        let same = users::table
            .find(self.user_id)
            .filter(users::is_active)
            .filter(users::password_hash.is_not_distinct_from(&self.password_hash))
            .select(users::id)
            .for_no_key_update()
            .first::<UserId>(tx.conn())
            .await
            .optional()?;
        Ok(same.is_some())
    }
}

/// What came of a refresh.
pub enum Refresh {
    /// The session goes on with another token.
    Rotated(Session),
    /// It does not. The transaction is to be committed all the same: a reuse has ended the session.
    Refused {
        /// Why.
        code: Code,
        /// The session, if that was ended by this.
        ended: Option<SessionId>,
    },
}

impl Session {
    /// Begins a session for who has shown the password of `login`. A deletion that they had asked for is taken back.
    /// `None` if [`Login::still_holds`] says no.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn begin(tx: &mut Tx, login: &Login, client: &Client) -> Result<Option<Self>> {
        if !login.still_holds(tx).await? {
            return Ok(None);
        }
        User::keep(tx, login.user_id).await?;
        let now: DateTime<Utc> = diesel::select(tx.clock().now()).get_result(tx.conn()).await?;
        Self::issue(tx, SessionId::new(), login.user_id, now, now + SESSION_LIFE, client).await.map(Some)
    }

    async fn issue(
        tx: &mut Tx,
        id: SessionId,
        user_id: UserId,
        now: DateTime<Utc>,
        ends: DateTime<Utc>,
        client: &Client,
    ) -> Result<Self> {
        let refresh_token = random_token("ttr_");
        diesel::insert_into(refresh_tokens::table)
            .values((
                refresh_tokens::id.eq(uuid::Uuid::now_v7()),
                refresh_tokens::family_id.eq(id),
                refresh_tokens::user_id.eq(user_id),
                refresh_tokens::token_hash.eq(token_hash(&refresh_token)),
                refresh_tokens::issued_at.eq(now),
                refresh_tokens::expires_at.eq(ends.min(now + REFRESH_TOKEN_LIFE)),
                refresh_tokens::absolute_expires_at.eq(ends),
                refresh_tokens::user_agent.eq(&client.user_agent),
                refresh_tokens::ip_hash.eq(&client.ip_hash),
            ))
            .execute(tx.conn())
            .await?;
        Ok(Self { id, user_id, refresh_token })
    }

    /// Exchanges a refresh token for another. The one that was exchanged last is accepted once more within
    /// [`REUSE_GRACE`]; any other use of an old one means that somebody has a copy, and ends the session.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn refresh(tx: &mut Tx, token: &str, client: &Client) -> Result<Refresh> {
        #[derive(diesel::Queryable)]
        struct Row {
            id: uuid::Uuid,
            family: SessionId,
            user_id: UserId,
            expires_at: DateTime<Utc>,
            ends: DateTime<Utc>,
            rotated_at: Option<DateTime<Utc>>,
            reused_at: Option<DateTime<Utc>>,
            revoked_at: Option<DateTime<Utc>>,
            is_active: bool,
            now: DateTime<Utc>,
        }

        let now = tx.clock().now();
        let hash = token_hash(token);
        let refused = Refresh::Refused { code: Code::InvalidRefreshToken, ended: None };
        let owner: Option<UserId> = refresh_tokens::table
            .filter(refresh_tokens::token_hash.eq(&hash))
            .select(refresh_tokens::user_id)
            .first(tx.conn())
            .await
            .optional()?;
        let Some(owner) = owner else { return Ok(refused) };
        lock(tx, owner).await?;
        let row: Option<Row> = refresh_tokens::table
            .inner_join(users::table)
            .filter(refresh_tokens::token_hash.eq(&hash))
            .select((
                refresh_tokens::id,
                refresh_tokens::family_id,
                refresh_tokens::user_id,
                refresh_tokens::expires_at,
                refresh_tokens::absolute_expires_at,
                refresh_tokens::rotated_at,
                refresh_tokens::reused_at,
                refresh_tokens::revoked_at,
                users::is_active,
                now,
            ))
            .first(tx.conn())
            .await
            .optional()?;
        let Some(row) = row else { return Ok(refused) };
        if row.revoked_at.is_some() || row.expires_at <= row.now || row.ends <= row.now || !row.is_active {
            return Ok(refused);
        }
        let this = refresh_tokens::table.find(row.id);
        match row.rotated_at {
            None => {
                diesel::update(this).set(refresh_tokens::rotated_at.eq(row.now)).execute(tx.conn()).await?
            }
            Some(rotated_at) if row.reused_at.is_none() && row.now - rotated_at <= REUSE_GRACE => {
                diesel::update(this).set(refresh_tokens::reused_at.eq(row.now)).execute(tx.conn()).await?
            }
            Some(_) => {
                Self::end(tx, row.user_id, Sessions::One(row.family)).await?;
                return Ok(Refresh::Refused { code: Code::RefreshTokenReused, ended: Some(row.family) });
            }
        };
        Ok(Refresh::Rotated(Self::issue(tx, row.family, row.user_id, row.now, row.ends, client).await?))
    }

    /// Ends sessions of a person. Answers which ended now.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn end(tx: &mut Tx, user_id: UserId, which: Sessions) -> Result<Vec<SessionId>> {
        #[derive(QueryableByName)]
        struct Ended {
            #[diesel(sql_type = Uuid)]
            family_id: SessionId,
        }

        lock(tx, user_id).await?;
        let (one, but) = match which {
            Sessions::One(id) => (Some(id), None),
            Sessions::Others(id) => (None, Some(id)),
            Sessions::All => (None, None),
        };
        let ended: Vec<Ended> = sql!(
            "UPDATE refresh_tokens SET revoked_at = {now} WHERE user_id = {user} AND revoked_at IS NULL
             AND family_id = coalesce({one}, family_id) AND family_id IS DISTINCT FROM {but} RETURNING family_id",
            now = tx.clock().now(),
            user: Uuid = user_id,
            one: Nullable<Uuid> = one,
            but: Nullable<Uuid> = but,
        )
        .load(tx.conn())
        .await?;
        Ok(ended.into_iter().map(|row| row.family_id).collect())
    }

    /// The sessions that ended so recently that an access token of theirs may still be good.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn ended_lately(conn: &mut AsyncPgConnection, now: Now) -> Result<Vec<SessionId>> {
        Ok(refresh_tokens::table
            .filter(sql_condition!("refresh_tokens.revoked_at > {now} - interval '16 minutes'", now = now))
            .select(refresh_tokens::family_id)
            .distinct()
            .load(conn)
            .await?)
    }
}

/// Takes turns with everything else that changes this person's sessions or links. Locking their tokens would not do: the token
/// that a refresh is just handing out is not there yet for a logout beside it, and would outlive it.
pub(crate) async fn lock(tx: &mut Tx, user_id: UserId) -> Result<()> {
    users::table
        .find(user_id)
        .select(users::id)
        .for_no_key_update()
        .first::<UserId>(tx.conn())
        .await
        .optional()?;
    Ok(())
}
