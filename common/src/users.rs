//! People and their accounts.

mod admin;
mod deletion;
mod password;

pub use admin::{Account, AccountFilter, AccountPatch, HasPassword, InitialAdmin, address_problem};
use chrono::{DateTime, NaiveTime, Utc};
use chrono_tz::Tz;
pub use deletion::{DELETION_GRACE, due_for_deletion};
use diesel::{
    ExpressionMethods as _, HasQuery, NullableExpressionMethods as _, OptionalExtension as _, QueryDsl as _,
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
pub use password::is_password;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    access::{Expected, Versioned, Viewer},
    clock::Now,
    db::{RunQueryDsl as _, Tx, pg_enum},
    error::{Code, Coded, Error, OnConstraint as _, Result, one_line},
    ids::UserId,
    notifications, reminders,
    schema::users,
    tasks::{Task, due},
    zone::Zone,
};

pg_enum! {
    /// What a person may do beside their own work.
    UserRole: UserRole {
        /// Their own work.
        User = "user",
        /// Also the operator's routes.
        Admin = "admin",
    }
}

/// A person as they see themselves. The hash of the password is not listed, so it cannot be fetched.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = users, check_for_backend(diesel::pg::Pg))]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// Where their mail goes.
    #[schema(example = "ann@example.com")]
    pub email: String,
    /// Whether they have shown that the address is theirs. Where the installation asks for that, nothing but account
    /// mail goes to it before.
    #[diesel(select_expression = users::email_verified_at.is_not_null())]
    pub email_verified: bool,
    /// What they are called.
    #[schema(example = "Ann")]
    pub full_name: String,
    /// Where their clock hangs.
    pub time_zone: Zone,
    /// When a day begins that names no time: all-day reminders fire then.
    #[serde(serialize_with = "hours_and_minutes")]
    #[schema(value_type = String, example = "09:00")]
    pub day_start: NaiveTime,
    /// What they may do beside their own work.
    pub role: UserRole,
    /// When they asked for the deletion of the account, which happens seven days later unless they log in.
    pub deletion_requested_at: Option<DateTime<Utc>>,
    /// Rises with every change; the `ETag` is made of it.
    pub version: i32,
    /// When the account was made.
    pub created_at: DateTime<Utc>,
}

pub(crate) fn hours_and_minutes<S: Serializer>(time: &NaiveTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%H:%M"))
}

/// What a person says when they register.
#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "email": "ann@example.com", "password": "correct horse battery", "full_name": "Ann", "time_zone": "Europe/Berlin",
}))]
pub struct NewUser {
    /// Where their mail goes.
    #[garde(custom(is_address))]
    #[schema(max_length = 254, example = "ann@example.com")]
    pub email: String,
    /// 12 characters or more, at most 1,024 bytes, and none of those that are tried first.
    #[garde(custom(is_password))]
    #[schema(min_length = 12, max_length = 1024, example = "correct horse battery", format = Password)]
    pub password: String,
    /// What they are called.
    #[garde(custom(one_line(1, 200)))]
    #[schema(min_length = 1, max_length = 200, example = "Ann")]
    pub full_name: String,
    /// Where their clock hangs: an IANA name. The zone of the installation if absent.
    #[serde(default)]
    #[garde(skip)]
    #[schema(example = "Europe/Berlin")]
    pub time_zone: Option<Zone>,
}

/// Whether this is a mail address, for garde.
///
/// # Errors
/// If it is not.
#[expect(clippy::ptr_arg, reason = "garde hands on what the field holds")]
pub fn is_address(text: &String, (): &()) -> garde::Result {
    let refuse =
        || Err(garde::Error::new(Coded(Code::InvalidEmail, "An address has the form name@example.com.")));
    let Some((name, host)) = text.rsplit_once('@') else { return refuse() };
    let good = (1..=64).contains(&name.len())
        && text.len() <= 254
        && text.is_ascii()
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "<>()[]\\,;:\"".contains(c))
        && !name.contains('@')
        && host
            .split('.')
            .all(|label| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    if good { Ok(()) } else { refuse() }
}

/// What a person may change about themselves (RFC 7396).
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"time_zone": "Europe/Berlin", "day_start": "08:30"}))]
pub struct UserPatch {
    /// What they are called.
    #[serde(default)]
    #[garde(inner(custom(one_line(1, 200))))]
    #[schema(min_length = 1, max_length = 200, example = "Ann")]
    pub full_name: Option<String>,
    /// Where their clock hangs: an IANA name.
    #[serde(default)]
    #[garde(skip)]
    pub time_zone: Option<Zone>,
    /// When a day begins that names no time.
    #[serde(default, deserialize_with = "due::time_field")]
    #[garde(skip)]
    #[schema(value_type = Option<String>, pattern = r"^\d{2}:\d{2}(:\d{2})?$", example = "09:00")]
    pub day_start: Option<NaiveTime>,
}

impl User {
    /// Makes an account.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the address has one already.
    pub async fn register(tx: &mut Tx, new: &NewUser, password_hash: &str) -> Result<Self> {
        let id =
            Self::insert(tx, &new.email, Some(password_hash), &new.full_name, new.time_zone.clone()).await?;
        Self::find(tx.conn(), Viewer { user_id: id, project: None }).await
    }

    /// An account and all that belongs to a new one.
    async fn insert(
        tx: &mut Tx,
        email: &str,
        password_hash: Option<&str>,
        full_name: &str,
        time_zone: Option<Zone>,
    ) -> Result<UserId> {
        let id = UserId::new();
        let now = tx.clock().now();
        let time_zone = time_zone.unwrap_or_else(|| crate::zone::instance().into());
        let created_at = diesel::insert_into(users::table)
            .values((
                users::id.eq(id),
                users::email.eq(email),
                users::password_hash.eq(password_hash),
                users::full_name.eq(full_name.trim()),
                users::time_zone.eq(&time_zone),
                users::created_at.eq(now),
                users::updated_at.eq(now),
            ))
            .returning(users::created_at)
            .get_result(tx.conn())
            .await
            .on_constraint("users_email_key", || {
                Error::conflict(Code::EmailTaken, "This address has an account already. Log in with it.")
            })?;
        notifications::begin(tx, id, &time_zone, created_at).await?;
        Ok(id)
    }

    /// The account's address is its owner's: a link that was mailed there came back.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn verify_email(tx: &mut Tx, id: UserId) -> Result<()> {
        let now = tx.clock().now();
        diesel::update(users::table.find(id).filter(users::email_verified_at.is_null()))
            .set((
                users::email_verified_at.eq(now.nullable()),
                users::version.eq(users::version + 1),
                users::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        Ok(())
    }

    /// Gives the account another address, which its owner has shown to be theirs.
    ///
    /// # Errors
    /// [`Error::Conflict`] if somebody else has it by now.
    pub async fn change_email(tx: &mut Tx, id: UserId, email: &str) -> Result<()> {
        let now = tx.clock().now();
        diesel::update(users::table.find(id))
            .set((
                users::email.eq(email),
                users::email_verified_at.eq(now.nullable()),
                users::version.eq(users::version + 1),
                users::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await
            .on_constraint("users_email_key", || {
                Error::conflict(Code::EmailTaken, "Another account has this address.")
            })?;
        Ok(())
    }

    /// Sets a password. Ending the sessions is up to the caller.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn set_password(tx: &mut Tx, id: UserId, password_hash: &str) -> Result<()> {
        let now = tx.clock().now();
        diesel::update(users::table.find(id))
            .set((users::password_hash.eq(password_hash), users::updated_at.eq(now)))
            .execute(tx.conn())
            .await?;
        Ok(())
    }

    /// The viewer's address, if they are an administrator now and may still log in.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn admin_address(conn: &mut AsyncPgConnection, viewer: Viewer) -> Result<Option<String>> {
        Ok(users::table
            .find(viewer.user_id)
            .filter(users::role.eq(UserRole::Admin))
            .filter(users::is_active)
            .select(users::email)
            .first(conn)
            .await
            .optional()?)
    }

    /// The viewer themselves.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account is gone.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer) -> Result<Self> {
        Self::query()
            .filter(users::id.eq(viewer.user_id))
            .first(conn)
            .await
            .optional()?
            .ok_or(Error::NotFound("account"))
    }

    /// Changes what the patch names. Reminders that hang on the person's clock move with it; the answer says how many.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is not a version that the caller saw.
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        expected: &Expected,
        patch: &UserPatch,
    ) -> Result<(Self, usize)> {
        let before: Self = Self::query()
            .filter(users::id.eq(viewer.user_id))
            .for_no_key_update()
            .first(tx.conn())
            .await
            .optional()?
            .ok_or(Error::NotFound("account"))?;
        expected.check(&before)?;
        let now = tx.clock().now();
        diesel::update(users::table.find(before.id))
            .set((
                patch.full_name.as_deref().map(|name| users::full_name.eq(name.trim())),
                patch.time_zone.as_ref().map(|zone| users::time_zone.eq(zone)),
                patch.day_start.map(|time| users::day_start.eq(time)),
                users::version.eq(before.version + 1),
                users::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        let after = Self::find(tx.conn(), viewer).await?;
        let clock_changed = (&before.time_zone, before.day_start) != (&after.time_zone, after.day_start);
        if !clock_changed {
            return Ok((after, 0));
        }
        notifications::follow_zone(tx, viewer.user_id, &before.time_zone).await?;
        let person = Person::load(tx.conn(), viewer.user_id, now).await?;
        Task::follow_clock(tx, &person).await?;
        Ok((after, reminders::replan_person(tx, &person).await?))
    }
}

impl Versioned for User {
    const TAG: &str = "u";

    fn version(&self) -> i32 {
        self.version
    }
}

/// Where a letter goes.
#[derive(Debug, Clone, HasQuery)]
#[diesel(table_name = users, check_for_backend(diesel::pg::Pg))]
pub struct Addressee {
    /// Their address.
    pub email: String,
    /// Whether they have shown that it is theirs.
    #[diesel(select_expression = users::email_verified_at.is_not_null())]
    pub email_verified: bool,
    /// Where their clock hangs.
    pub time_zone: Zone,
    /// When they asked for the deletion of the account.
    pub deletion_requested_at: Option<DateTime<Utc>>,
}

impl Addressee {
    /// When the account will be deleted, if that was asked for.
    pub fn deletes_at(&self) -> Option<DateTime<Utc>> {
        self.deletion_requested_at.map(|at| at + DELETION_GRACE)
    }

    /// Where letters to this person go; `None` if the account is gone or switched off.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn load(conn: &mut AsyncPgConnection, id: UserId) -> Result<Option<Self>> {
        Ok(Self::query().filter(users::id.eq(id)).filter(users::is_active).first(conn).await.optional()?)
    }
}

/// What a person's settings decide about time, and the time by which it is decided.
#[derive(Debug, Clone, Copy)]
pub struct Person {
    /// Who.
    pub id: UserId,
    /// Where their clock hangs.
    pub zone: Tz,
    /// When a day begins that names no time: all-day reminders fire then.
    pub day_start: NaiveTime,
    /// Now, by the database's clock.
    pub now: DateTime<Utc>,
}

impl Person {
    /// Reads the settings, and the time with them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account is gone.
    pub async fn load(conn: &mut AsyncPgConnection, id: UserId, now: Now) -> Result<Self> {
        let found: Option<(Zone, NaiveTime, DateTime<Utc>)> = users::table
            .find(id)
            .select((users::time_zone, users::day_start, now))
            .first(conn)
            .await
            .optional()?;
        let (zone, day_start, now) = found.ok_or(Error::NotFound("account"))?;
        Self::new(id, Some((zone, day_start)), now)
    }

    /// What was read of them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if that is nothing: the account is gone.
    pub(crate) fn new(id: UserId, settings: Option<(Zone, NaiveTime)>, now: DateTime<Utc>) -> Result<Self> {
        let (zone, day_start) = settings.ok_or(Error::NotFound("account"))?;
        Ok(Self { id, zone: zone.tz(), day_start, now })
    }
}
