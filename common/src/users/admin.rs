//! Accounts as an administrator sees and changes them, and how the first administrator comes to be. What a person
//! keeps in an account is not shown here.

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, pg::Pg, sql_types::Bool,
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{User, UserRole, is_address};
use crate::{
    access::{Expected, Versioned},
    credentials::{Session, Sessions},
    db::{RunQueryDsl as _, Tx, sql, sql_expression},
    error::{Code, Error, Result},
    ids::{SessionId, UserId},
    page::{Cursors, Page},
    schema::users,
    secrets::Key,
};

/// Rows per page if the caller does not say.
const DEFAULT_LIMIT: u16 = 50;
/// Rows per page at most.
const MAX_LIMIT: u16 = 200;

sql_expression! {
    /// Whether the person can log in with a password.
    pub HasPassword on users: Bool = "(users.password_hash IS NOT NULL)"
}

/// An account, as an administrator sees it.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = users, check_for_backend(Pg))]
pub struct Account {
    /// Whose.
    pub id: UserId,
    /// Where their mail goes.
    #[schema(example = "ann@example.com")]
    pub email: String,
    /// When they showed that the address is theirs.
    pub email_verified_at: Option<DateTime<Utc>>,
    /// What they are called.
    #[schema(example = "Ann")]
    pub full_name: String,
    /// What they may do beside their own work.
    pub role: UserRole,
    /// Whether they may log in, and get mail.
    pub is_active: bool,
    /// Whether they have set a password.
    #[diesel(select_expression = HasPassword, select_expression_type = HasPassword)]
    pub has_password: bool,
    /// When they asked for its deletion, which happens seven days later unless they log in.
    pub deletion_requested_at: Option<DateTime<Utc>>,
    /// Rises with every change; the `ETag` is made of it.
    pub version: i32,
    /// When the account was made.
    pub created_at: DateTime<Utc>,
}

/// Which accounts are listed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[garde(allow_unvalidated)]
pub struct AccountFilter {
    /// With this address.
    #[param(example = "ann@example.com")]
    pub email: Option<String>,
    /// With this role.
    pub role: Option<UserRole>,
    /// `false`: only those that are disabled.
    pub is_active: Option<bool>,
    /// Where the page begins: `next_cursor` of the page before.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    pub cursor: Option<String>,
    /// Rows per page, 1 to 200.
    #[serde(skip_serializing_if = "crate::page::is_no_filter")]
    #[garde(inner(range(min = 1, max = MAX_LIMIT)))]
    #[param(minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<u16>,
}

/// What an administrator may change about somebody (RFC 7396).
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
#[schema(example = json!({"is_active": true, "role": "user"}))]
pub struct AccountPatch {
    /// `false`: they are logged out everywhere, cannot log in any more and get no mail.
    #[serde(default)]
    #[schema(example = false)]
    pub is_active: Option<bool>,
    /// What they may do beside their own work.
    #[serde(default)]
    pub role: Option<UserRole>,
}

impl Account {
    /// A page, oldest accounts first.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the cursor is not of this list.
    pub async fn list(
        conn: &mut AsyncPgConnection,
        filter: &AccountFilter,
        cursor_keys: &[Key],
    ) -> Result<Page<Self>> {
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let cursors = Cursors::new(cursor_keys, "users", filter)?;
        let after = filter.cursor.as_deref().map(|cursor| cursors.read::<UserId>(cursor)).transpose()?;
        let mut query = Self::query().into_boxed::<Pg>();
        if let Some(email) = &filter.email {
            query = query.filter(users::email.eq(email));
        }
        if let Some(role) = filter.role {
            query = query.filter(users::role.eq(role));
        }
        if let Some(is_active) = filter.is_active {
            query = query.filter(users::is_active.eq(is_active));
        }
        if let Some(after) = after {
            query = query.filter(users::id.gt(after));
        }
        let rows = query.order(users::id).limit(i64::from(limit) + 1).load(conn).await?;
        Page::of(rows, limit, &cursors, |account: &Self| account.id)
    }

    /// An account.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub async fn find(conn: &mut AsyncPgConnection, id: UserId) -> Result<Self> {
        Self::query().filter(users::id.eq(id)).first(conn).await.optional()?.ok_or(Error::NotFound("account"))
    }

    /// Changes what the patch names. Answers also which sessions that ended: those of who was disabled. `by` says who
    /// wants it, for the log.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is not a version that the caller saw; [`Error::Conflict`] if nobody would be an
    /// administrator any more.
    pub async fn change(
        tx: &mut Tx,
        id: UserId,
        expected: &Expected,
        patch: &AccountPatch,
        by: &str,
    ) -> Result<(Self, Vec<SessionId>)> {
        let admins = lock_admins(tx).await?;
        let before: Self = Self::query()
            .filter(users::id.eq(id))
            .for_no_key_update()
            .first(tx.conn())
            .await
            .optional()?
            .ok_or(Error::NotFound("account"))?;
        expected.check(&before)?;
        let role = patch.role.unwrap_or(before.role);
        let is_active = patch.is_active.unwrap_or(before.is_active);
        if admins == [id] && !(role == UserRole::Admin && is_active) {
            return Err(last_admin());
        }
        if (role, is_active) == (before.role, before.is_active) {
            return Ok((before, Vec::new()));
        }
        diesel::update(users::table.find(id))
            .set((
                users::role.eq(role),
                users::is_active.eq(is_active),
                // Who is switched on again stays, also if their deletion had begun.
                (is_active && !before.is_active)
                    .then(|| users::deletion_requested_at.eq(None::<DateTime<Utc>>)),
                users::version.eq(before.version + 1),
                users::updated_at.eq(tx.clock().now()),
            ))
            .execute(tx.conn())
            .await?;
        let ended = if is_active { Vec::new() } else { Session::end(tx, id, Sessions::All).await? };
        tracing::info!(user.id = %id, by, %role, is_active, "account changed by an administrator");
        Ok((Self::find(tx.conn(), id).await?, ended))
    }
}

impl Versioned for Account {
    const TAG: &str = "u";

    fn version(&self) -> i32 {
        self.version
    }
}

/// The administrators who stay: active, and not about to be deleted. All of them and in one order, before any other
/// row: of two changes that would each leave the other as the last administrator, the second waits here and then sees
/// what the first has done.
pub(super) async fn lock_admins(tx: &mut Tx) -> Result<Vec<UserId>> {
    Ok(users::table
        .filter(users::role.eq(UserRole::Admin))
        .filter(users::is_active)
        .filter(users::deletion_requested_at.is_null())
        .order(users::id)
        .select(users::id)
        .for_no_key_update()
        .load(tx.conn())
        .await?)
}

pub(super) fn last_admin() -> Error {
    let detail = "This is the last active administrator. Make somebody else an administrator first.";
    Error::conflict(Code::LastAdmin, detail)
}

/// Why an address cannot be that of an account; `None` if it can.
pub fn address_problem(email: &str) -> Option<String> {
    let error = is_address(&email.to_owned(), &()).err()?;
    Some(
        crate::error::Coded::read(error.message())
            .map_or_else(|| error.message().to_owned(), |c| c.1.to_owned()),
    )
}

impl User {
    /// Makes `email` an active administrator, with an account of its own if it has none. A new account has no
    /// password: its owner sets one by a link. For the operator's shell, whoever has the database's password.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn make_admin(tx: &mut Tx, email: &str, full_name: &str) -> Result<(UserId, bool)> {
        let found: Option<UserId> = users::table
            .filter(users::email.eq(email))
            .select(users::id)
            .for_no_key_update()
            .first(tx.conn())
            .await
            .optional()?;
        let (id, is_new) = match found {
            Some(id) => (id, false),
            None => (Self::insert(tx, email, None, full_name, None).await?, true),
        };
        let now = tx.clock().now();
        diesel::update(users::table.find(id))
            .set((
                users::role.eq(UserRole::Admin),
                users::is_active.eq(true),
                users::version.eq(users::version + 1),
                users::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        tracing::info!(user.id = %id, is_new, "made an administrator");
        Ok((id, is_new))
    }

    /// The account of `INITIAL_ADMIN_EMAIL`: made, unverified and without a password, only while nobody is an
    /// administrator, however many processes start at once. An account that somebody registered is never promoted by
    /// this: whoever registers an address first need not be its owner.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn make_initial_admin(tx: &mut Tx, email: &str) -> Result<InitialAdmin> {
        sql!("SELECT pg_advisory_xact_lock({key})", key: diesel::sql_types::BigInt = INITIAL_ADMIN_LOCK)
            .execute(tx.conn())
            .await?;
        let is_there: bool =
            diesel::select(diesel::dsl::exists(users::table.filter(users::role.eq(UserRole::Admin))))
                .get_result(tx.conn())
                .await?;
        if is_there {
            return Ok(InitialAdmin::NotNeeded);
        }
        let is_taken: bool = diesel::select(diesel::dsl::exists(users::table.filter(users::email.eq(email))))
            .get_result(tx.conn())
            .await?;
        if is_taken {
            return Ok(InitialAdmin::AddressTaken);
        }
        let (id, _) = Self::make_admin(tx, email, "Administrator").await?;
        Ok(InitialAdmin::Made(id))
    }
}

/// One process at a time makes the initial administrator.
const INITIAL_ADMIN_LOCK: i64 = 0x7461_736b_0001;

/// What came of `INITIAL_ADMIN_EMAIL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialAdmin {
    /// The account was made.
    Made(UserId),
    /// There is an administrator.
    NotNeeded,
    /// Somebody registered the address before: nobody is promoted by registering.
    AddressTaken,
}
