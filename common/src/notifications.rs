//! What a person wants to be told by mail, and when.

mod days;

use chrono::{DateTime, NaiveDate, NaiveTime, Timelike as _, Utc};
use diesel::{ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _, dsl::max};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

pub use self::days::Days;
use crate::{
    access::{Expected, Versioned, Viewer},
    clock::Now,
    db::{RunQueryDsl as _, Tx},
    error::{Code, Coded, Error, Result},
    ids::UserId,
    schema::{digest_runs, user_notification_prefs as prefs, users},
    summaries::Wish,
    suppressions::{self, MailKind, Suppression},
    tasks::{due, nullable},
    users::{Person, hours_and_minutes},
    zone::Zone,
};

/// A person's preferences, as they see them.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = prefs, check_for_backend(diesel::pg::Pg))]
pub struct Preferences {
    /// Whether reminders are mailed.
    pub reminders_email: bool,
    /// Whether a daily summary is mailed.
    pub digest_enabled: bool,
    /// At which minute, on their clock.
    #[serde(serialize_with = "hours_and_minutes")]
    #[schema(value_type = String, example = "08:00")]
    pub digest_time: NaiveTime,
    /// On which days of the week.
    pub digest_days: Days,
    /// For how many days after today the summary looks ahead.
    #[schema(minimum = 0, maximum = 14, example = 3)]
    pub digest_lookahead_days: i16,
    /// Whether it lists tasks that are not due.
    pub digest_include_nodate: bool,
    /// Whether no mail comes when there is nothing to say.
    pub digest_skip_empty: bool,
    /// Until when neither reminders nor summaries are mailed; null if they are.
    pub paused_until: Option<DateTime<Utc>>,
    /// When the next summary is due; null if none is wanted.
    pub next_digest_at: Option<DateTime<Utc>>,
    /// Rises with every change; the `ETag` is made of it.
    pub version: i32,
}

impl Default for Preferences {
    /// Those of a person who has said nothing, as the table has them.
    fn default() -> Self {
        Self {
            reminders_email: true,
            digest_enabled: true,
            digest_time: NaiveTime::from_hms_opt(8, 0, 0).unwrap_or_default(),
            digest_days: Days::ALL,
            digest_lookahead_days: 0,
            digest_include_nodate: false,
            digest_skip_empty: true,
            paused_until: None,
            next_digest_at: None,
            version: 1,
        }
    }
}

/// A person's preferences, and what keeps their address from getting mail.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Notifications {
    /// What they want.
    #[serde(flatten)]
    pub preferences: Preferences,
    /// Why their address gets no mail of some kind, or of any; empty if it gets all.
    pub suppressions: Vec<Suppression>,
}

/// What a person may change (RFC 7396): a field that is absent stays.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"digest_time": "07:30", "digest_days": ["mon", "tue", "wed", "thu", "fri"], "digest_lookahead_days": 3}))]
pub struct PreferencesPatch {
    /// Whether reminders are mailed; `true` also takes an earlier unsubscription back.
    #[serde(default)]
    #[garde(skip)]
    pub reminders_email: Option<bool>,
    /// Whether a daily summary is mailed; `true` also takes an earlier unsubscription back.
    #[serde(default)]
    #[garde(skip)]
    pub digest_enabled: Option<bool>,
    /// At which minute, on their clock.
    #[serde(default, deserialize_with = "minute")]
    #[garde(skip)]
    #[schema(value_type = Option<String>, pattern = r"^\d{2}:\d{2}(:00)?$", example = "08:00")]
    pub digest_time: Option<NaiveTime>,
    /// On which days of the week.
    #[serde(default)]
    #[garde(skip)]
    pub digest_days: Option<Days>,
    /// For how many days after today the summary looks ahead, 0 to 14.
    #[serde(default, deserialize_with = "lookahead")]
    #[garde(skip)]
    #[schema(minimum = 0, maximum = 14)]
    pub digest_lookahead_days: Option<i16>,
    /// Whether it lists tasks that are not due.
    #[serde(default)]
    #[garde(skip)]
    pub digest_include_nodate: Option<bool>,
    /// Whether no mail comes when there is nothing to say.
    #[serde(default)]
    #[garde(skip)]
    pub digest_skip_empty: Option<bool>,
    /// Until when neither reminders nor summaries are mailed; null ends the pause.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(skip)]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub paused_until: Option<Option<DateTime<Utc>>>,
}

fn minute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NaiveTime>, D::Error> {
    let time = due::time_field(deserializer)?;
    if time.is_some_and(|time| time.second() > 0 || time.nanosecond() > 0) {
        let refusal =
            Coded(Code::InvalidDate, "The summary comes at a minute, such as 08:00: leave the seconds out.");
        return Err(serde::de::Error::custom(refusal));
    }
    Ok(time)
}

fn lookahead<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i16>, D::Error> {
    let days: Option<i64> = Option::deserialize(deserializer)?;
    let refusal = Coded(Code::InvalidValue, "The summary looks 0 to 14 days ahead.");
    days.map(|days| i16::try_from(days).ok().filter(|days| (0..=14).contains(days)).ok_or(refusal))
        .transpose()
        .map_err(serde::de::Error::custom)
}

/// A person's preferences, locked, with what decides about their next summary.
struct Locked {
    preferences: Preferences,
    email: String,
    zone: Zone,
    done: Option<NaiveDate>,
    now: DateTime<Utc>,
}

impl Preferences {
    /// When a person in the zone wants their summary.
    fn wish(&self, zone: &Zone) -> Wish {
        Wish { enabled: self.digest_enabled, time: self.digest_time, days: self.digest_days, tz: zone.tz() }
    }

    /// The viewer's own. Who has none yet has the defaults.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer) -> Result<Notifications> {
        let preferences = Self::query()
            .filter(prefs::user_id.eq(viewer.user_id))
            .first(conn)
            .await
            .optional()?
            .unwrap_or_default();
        let email: String = users::table
            .find(viewer.user_id)
            .select(users::email)
            .first(conn)
            .await
            .optional()?
            .ok_or(Error::NotFound("account"))?;
        Ok(Notifications { preferences, suppressions: suppressions::of_address(conn, &email).await? })
    }

    /// Changes what the patch names, and plans the next summary by it.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is not a version that the caller saw.
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        expected: &Expected,
        patch: &PreferencesPatch,
    ) -> Result<Notifications> {
        let Locked { preferences: before, email, zone, done, now } = lock(tx, viewer.user_id).await?;
        expected.check(&before)?;
        let mut after = Self {
            reminders_email: patch.reminders_email.unwrap_or(before.reminders_email),
            digest_enabled: patch.digest_enabled.unwrap_or(before.digest_enabled),
            digest_time: patch.digest_time.unwrap_or(before.digest_time),
            digest_days: patch.digest_days.unwrap_or(before.digest_days),
            digest_lookahead_days: patch.digest_lookahead_days.unwrap_or(before.digest_lookahead_days),
            digest_include_nodate: patch.digest_include_nodate.unwrap_or(before.digest_include_nodate),
            digest_skip_empty: patch.digest_skip_empty.unwrap_or(before.digest_skip_empty),
            paused_until: patch.paused_until.unwrap_or(before.paused_until),
            version: before.version + 1,
            ..before
        };
        let (old, new) = (before.wish(&zone), after.wish(&zone));
        if old != new {
            after.next_digest_at = new.follow(&old, done, before.next_digest_at, now);
        }
        diesel::update(prefs::table.find(viewer.user_id))
            .set((
                prefs::reminders_email.eq(after.reminders_email),
                prefs::digest_enabled.eq(after.digest_enabled),
                prefs::digest_time.eq(after.digest_time),
                prefs::digest_days.eq(after.digest_days),
                prefs::digest_lookahead_days.eq(after.digest_lookahead_days),
                prefs::digest_include_nodate.eq(after.digest_include_nodate),
                prefs::digest_skip_empty.eq(after.digest_skip_empty),
                prefs::paused_until.eq(after.paused_until),
                prefs::next_digest_at.eq(after.next_digest_at),
                prefs::version.eq(after.version),
                prefs::updated_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        for (wanted, kind) in
            [(patch.reminders_email, MailKind::Reminder), (patch.digest_enabled, MailKind::DailySummary)]
        {
            if wanted == Some(true) {
                suppressions::lift_unsubscribe(tx, &email, kind).await?;
            }
        }
        Self::find(tx.conn(), viewer).await
    }

    /// Pauses reminders and summaries until an instant ahead.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the instant has passed.
    pub async fn pause(tx: &mut Tx, viewer: Viewer, until: DateTime<Utc>) -> Result<Notifications> {
        let clock = tx.clock().now();
        if until <= Person::load(tx.conn(), viewer.user_id, clock).await?.now {
            let detail = "A pause ends in the future. To end one, set `paused_until` to null.";
            return Err(Error::invalid("/until", Code::InvalidValue, detail));
        }
        let patch = PreferencesPatch { paused_until: Some(Some(until)), ..PreferencesPatch::default() };
        Self::patch(tx, viewer, &Expected::Any, &patch).await
    }
}

impl Versioned for Preferences {
    const TAG: &str = "n";

    fn version(&self) -> i32 {
        self.version
    }
}

/// Writes the defaults of a new person in a zone, and plans their first summary.
///
/// # Errors
/// If the database is away.
pub(crate) async fn begin(tx: &mut Tx, user: UserId, zone: &Zone, now: DateTime<Utc>) -> Result<()> {
    let preferences = Preferences::default();
    diesel::insert_into(prefs::table)
        .values((
            prefs::user_id.eq(user),
            prefs::next_digest_at.eq(preferences.wish(zone).next(None, now)),
            prefs::updated_at.eq(now),
        ))
        .on_conflict_do_nothing()
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Plans a person's next summary anew after their zone changed, in the same transaction (semantics §7).
///
/// # Errors
/// If the database is away.
pub(crate) async fn follow_zone(tx: &mut Tx, user: UserId, before: &Zone) -> Result<()> {
    let Locked { preferences, zone, done, now, .. } = lock(tx, user).await?;
    let (old, new) = (preferences.wish(before), preferences.wish(&zone));
    diesel::update(prefs::table.find(user))
        .set(prefs::next_digest_at.eq(new.follow(&old, done, preferences.next_digest_at, now)))
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Locks a person and then their preferences, which are made if they are missing.
async fn lock(tx: &mut Tx, user: UserId) -> Result<Locked> {
    let clock: Now = tx.clock().now();
    let (email, zone, now): (String, Zone, DateTime<Utc>) = users::table
        .find(user)
        .select((users::email, users::time_zone, clock))
        .for_no_key_update()
        .first(tx.conn())
        .await
        .optional()?
        .ok_or(Error::NotFound("account"))?;
    begin(tx, user, &zone, now).await?;
    let preferences =
        Preferences::query().filter(prefs::user_id.eq(user)).for_update().first(tx.conn()).await?;
    let done = digest_runs::table
        .filter(digest_runs::user_id.eq(user))
        .filter(diesel::dsl::not(digest_runs::requested))
        .select(max(digest_runs::local_date))
        .first(tx.conn())
        .await?;
    Ok(Locked { preferences, email, zone, done, now })
}
