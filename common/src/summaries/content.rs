use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Date, Integer, Nullable, Text, Time, Timestamptz, Uuid},
};
use diesel_async::AsyncPgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::Reader;
use crate::{
    access::Viewer,
    db::{Db, RunQueryDsl as _, sql},
    error::Result,
    ids::{TaskId, UserId},
    notifications::Preferences,
    schema::sql_types,
    tasks::{
        TaskPriority,
        due::{Due, DueObject, Meaning},
        viewers_sql,
    },
    users::Person,
    zone::{self, Zone},
};

/// Tasks that a section lists; the rest is counted.
const LINES: i64 = 50;

/// What a daily summary says, by one snapshot of the database (semantics §7).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Content {
    /// Which day it is, for the person.
    pub date: NaiveDate,
    /// When it was read.
    pub at: DateTime<Utc>,
    /// The person's time zone.
    #[serde(serialize_with = "zone_name")]
    #[schema(value_type = String, example = "Europe/Berlin")]
    pub time_zone: Tz,
    /// Open, and the time has passed; the oldest first.
    pub overdue: Section,
    /// Due today: those with a time first, then those for all day.
    pub today: Section,
    /// For how many days after today it looks ahead.
    pub lookahead_days: i16,
    /// Due on those days.
    pub ahead: Section,
    /// Not due; empty unless the person wants them listed.
    pub no_date: Section,
    /// Tasks finished yesterday.
    pub done_yesterday: i64,
    /// What will be put away tomorrow.
    pub archiving: Archiving,
    /// Reminders that were too late to be sent, since the last summary.
    pub missed: Vec<Missed>,
}

/// Tasks of one kind: at most 50, and how many there are beside.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Section {
    /// The first of them.
    pub tasks: Vec<Item>,
    /// How many more there are.
    pub more: i64,
}

impl Section {
    /// How many there are.
    pub fn total(&self) -> i64 {
        i64::try_from(self.tasks.len()).unwrap_or(i64::MAX).saturating_add(self.more)
    }
}

/// A task as a summary lists it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Item {
    /// Its id.
    pub id: TaskId,
    /// What is to be done.
    #[schema(example = "Ship it")]
    pub title: String,
    /// The project it belongs to.
    pub project: Option<String>,
    /// How much it matters.
    pub priority: TaskPriority,
    /// When it is due.
    #[schema(value_type = Option<DueObject>)]
    pub due: Due,
}

/// What `archive_completed` will take at its next run after today's.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Archiving {
    /// How many tasks.
    pub tasks: i64,
    /// After how many days a finished task is put away.
    pub after_days: i32,
}

/// A reminder that was never sent.
#[derive(Debug, Clone, Serialize, ToSchema, QueryableByName)]
pub struct Missed {
    /// The task that it was to remind of.
    #[diesel(sql_type = Uuid)]
    pub task_id: TaskId,
    /// Its title.
    #[diesel(sql_type = Text)]
    pub title: String,
    /// When it was to fire.
    #[diesel(sql_type = Timestamptz)]
    pub fire_at: DateTime<Utc>,
}

fn zone_name<S: serde::Serializer>(tz: &Tz, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tz.name())
}

/// When `archive_completed` runs on the day after that of `now`: at 03:10 in the zone of the installation, as the cron
/// table has it.
pub fn next_archiving(now: DateTime<Utc>) -> DateTime<Utc> {
    let tz = zone::instance();
    let tomorrow = zone::local_date(now, tz) + Days::new(1);
    zone::resolve(tomorrow.and_time(NaiveTime::from_hms_opt(3, 10, 0).unwrap_or_default()), tz)
}

impl Content {
    /// What the viewer's summary would say now.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn preview(db: &Db, viewer: Viewer, archive_after_days: i32) -> Result<Self> {
        let mut conn = db.conn().await?;
        let person = Person::load(&mut conn, viewer.user_id, db.clock().now()).await?;
        let preferences = Preferences::find(&mut conn, viewer).await?.preferences;
        let reader = Reader { user_id: person.id, tz: person.zone, now: person.now };
        Self::read(&mut conn, reader, &preferences, archive_after_days).await
    }

    /// Reads it, in one statement.
    pub(super) async fn read(
        conn: &mut AsyncPgConnection,
        reader: Reader,
        preferences: &Preferences,
        archive_after_days: i32,
    ) -> Result<Self> {
        let Reader { user_id, tz, now } = reader;
        let today = zone::local_date(now, tz);
        let lookahead_days = preferences.digest_lookahead_days;
        let ahead = u64::try_from(lookahead_days).unwrap_or_default();
        let rows = tasks(
            conn,
            user_id,
            now,
            zone::end_of_day(today, tz),
            zone::end_of_day(today + Days::new(ahead), tz),
            preferences.digest_include_nodate,
        )
        .await?;
        let mut sections: [Section; 4] = Default::default();
        for row in rows {
            let Some(section) = usize::try_from(row.section).ok().and_then(|n| sections.get_mut(n)) else {
                continue;
            };
            section.more = row.total - LINES.min(row.total);
            section.tasks.push(row.item(tz));
        }
        let [overdue, today_, next, no_date] = sections;
        let yesterday = zone::start_of_day(today - Days::new(1), tz);
        let counts = counts(
            conn,
            user_id,
            (yesterday, zone::start_of_day(today, tz)),
            next_archiving(now),
            archive_after_days,
        )
        .await?;
        Ok(Self {
            date: today,
            at: now,
            time_zone: tz,
            overdue,
            today: today_,
            lookahead_days,
            ahead: next,
            no_date,
            done_yesterday: counts.done,
            archiving: Archiving { tasks: counts.archiving, after_days: archive_after_days },
            missed: missed(conn, user_id, now).await?,
        })
    }

    /// How many tasks it lists or counts as open.
    pub fn items(&self) -> i64 {
        [&self.overdue, &self.today, &self.ahead, &self.no_date].into_iter().map(Section::total).sum()
    }

    /// Whether there is nothing that needs to be said: what was done yesterday does not.
    pub fn is_empty(&self) -> bool {
        self.items() == 0 && self.archiving.tasks == 0 && self.missed.is_empty()
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    section: i32,
    #[diesel(sql_type = BigInt)]
    total: i64,
    #[diesel(sql_type = Uuid)]
    id: TaskId,
    #[diesel(sql_type = Text)]
    title: String,
    #[diesel(sql_type = Nullable<Text>)]
    project: Option<String>,
    #[diesel(sql_type = sql_types::TaskPriority)]
    priority: TaskPriority,
    #[diesel(sql_type = Nullable<Date>)]
    due_date: Option<NaiveDate>,
    #[diesel(sql_type = Nullable<Time>)]
    due_time: Option<NaiveTime>,
    #[diesel(sql_type = Nullable<Text>)]
    due_zone: Option<Zone>,
}

impl Row {
    fn item(self, tz: Tz) -> Item {
        let meaning = self.due_date.map(|date| match (self.due_time, self.due_zone) {
            (None, _) => Meaning::Date(date),
            (Some(time), None) => Meaning::Floating(date.and_time(time)),
            (Some(time), Some(zone)) => Meaning::Zoned(date.and_time(time), zone),
        });
        let due = meaning.map(|meaning| Due::new(meaning, tz)).unwrap_or_default();
        Item { id: self.id, title: self.title, project: self.project, priority: self.priority, due }
    }
}

/// What is theirs to do: assigned to them, or their own and nobody's. A task for all day is due at the first instant
/// after its day, so `tomorrow` still belongs to today for those.
async fn tasks(
    conn: &mut AsyncPgConnection,
    user: UserId,
    now: DateTime<Utc>,
    tomorrow: DateTime<Utc>,
    horizon: DateTime<Utc>,
    no_date: bool,
) -> Result<Vec<Row>> {
    let rows = sql!(
        "WITH mine AS (
             SELECT t.*, CASE WHEN due_at IS NULL THEN 3 WHEN due_at <= {now} THEN 0
                 WHEN due_at < {tomorrow} OR due_kind = 'date' AND due_at = {tomorrow} THEN 1
                 WHEN due_at < {horizon} OR due_kind = 'date' AND due_at = {horizon} THEN 2 END AS section
             FROM tasks t
             WHERE (assignee_id = {user} OR owner_id = {user} AND assignee_id IS NULL)
                 AND status IN ('todo', 'in_progress') AND archived_at IS NULL AND deleted_at IS NULL
                 AND NOT EXISTS (SELECT FROM projects a WHERE a.id = t.project_id AND a.archived_at IS NOT NULL)
                 AND (due_at <= {horizon} OR {no_date} AND due_at IS NULL)),
         numbered AS (
             SELECT *, count(*) OVER (PARTITION BY section) AS total,
                 row_number() OVER (PARTITION BY section
                     ORDER BY due_at, due_kind = 'date' DESC, priority DESC, id) AS place
             FROM mine WHERE section IS NOT NULL)
         SELECT n.section, n.total, n.id, n.title, p.name AS project, n.priority, n.due_date, n.due_time, n.due_zone
         FROM numbered n LEFT JOIN projects p ON p.id = n.project_id
         WHERE n.place <= {lines} ORDER BY n.section, n.place",
        now: Timestamptz = now,
        tomorrow: Timestamptz = tomorrow,
        horizon: Timestamptz = horizon,
        user: Uuid = user,
        no_date: Bool = no_date,
        lines: BigInt = LINES,
    )
    .load(conn)
    .await?;
    Ok(rows)
}

#[derive(QueryableByName)]
struct Counts {
    #[diesel(sql_type = BigInt)]
    done: i64,
    #[diesel(sql_type = BigInt)]
    archiving: i64,
}

async fn counts(
    conn: &mut AsyncPgConnection,
    user: UserId,
    (yesterday, today): (DateTime<Utc>, DateTime<Utc>),
    archiving_at: DateTime<Utc>,
    archive_after_days: i32,
) -> Result<Counts> {
    let counts = sql!(
        "SELECT count(*) FILTER (WHERE completed_at >= {yesterday} AND completed_at < {today}) AS done,
             count(*) FILTER (WHERE completed_at < {archiving}
                 - make_interval(days => coalesce(p.archive_done_after_days, {days}))) AS archiving
         FROM tasks t LEFT JOIN projects p ON p.id = t.project_id
         WHERE (assignee_id = {user} OR t.owner_id = {user} AND assignee_id IS NULL)
             AND completed_at IS NOT NULL AND t.archived_at IS NULL AND deleted_at IS NULL",
        user: Uuid = user,
        yesterday: Timestamptz = yesterday,
        today: Timestamptz = today,
        archiving: Timestamptz = archiving_at,
        days: Integer = archive_after_days,
    )
    .get_result(conn)
    .await?;
    Ok(counts)
}

async fn missed(conn: &mut AsyncPgConnection, user: UserId, now: DateTime<Utc>) -> Result<Vec<Missed>> {
    let missed = sql!(
        concat!("SELECT f.task_id, t.title, f.fire_at FROM reminder_fires f JOIN tasks t ON t.id = f.task_id
         WHERE f.user_id = {user} AND f.missed_at <= {now} AND t.deleted_at IS NULL
             AND f.user_id = ANY ", viewers_sql!("t"), "
             AND f.missed_at > coalesce((SELECT max(sent_at) FROM digest_runs r
                 WHERE r.user_id = {user} AND r.state = 'sent' AND NOT r.requested), '-infinity')
         ORDER BY f.fire_at, f.id LIMIT {lines}"),
        user: Uuid = user,
        now: Timestamptz = now,
        lines: BigInt = LINES,
    )
    .load(conn)
    .await?;
    Ok(missed)
}
