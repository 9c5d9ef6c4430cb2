use chrono::{DateTime, Duration, Utc};
use diesel::{
    ExpressionMethods as _, HasQuery, OptionalExtension as _, QueryDsl as _,
    sql_types::{Nullable, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access::{Expected, Versioned, Viewer, project_role},
    db::{Condition, RunQueryDsl as _, Tx, pg_enum, sql, sql_condition},
    error::{Code, Coded, Error, Result, one_line},
    events::EventType,
    ids::{EndpointId, ProjectId},
    schema::webhook_endpoints as endpoints,
    secrets::SecretKeys,
    tasks::nullable,
    users::User,
    webhooks::{
        signature::Secret,
        target::{Owner, Reach},
    },
};

/// Endpoints that one person may have.
pub const MAX_PER_OWNER: i64 = 20;
/// For how long an old secret signs beside its successor.
pub const SECRET_OVERLAP: Duration = Duration::hours(24);

pg_enum! {
    /// Whether deliveries are sent.
    EndpointState: EndpointState {
        /// Yes.
        Active = "active",
        /// No: its owner said so. What happens meanwhile is in the log, cancelled, and can be delivered again.
        Paused = "paused",
        /// No: nothing arrived for five days.
        AutoDisabled = "auto_disabled",
        /// No: it answered 410.
        Gone = "gone",
    }
}

/// Where somebody wants to be told what happens. Its secret is shown when it is made and when it is replaced, never
/// again; it is not listed here, so it cannot be fetched by accident.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = endpoints, check_for_backend(diesel::pg::Pg))]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Where deliveries go.
    #[schema(example = "https://example.com/hook")]
    pub url: String,
    /// What it is for, in the owner's words.
    pub description: Option<String>,
    /// What it is told of.
    #[schema(value_type = Vec<EventType>, example = json!(["task.created", "task.completed"]))]
    pub events: Vec<String>,
    /// Only what happens in this project; null for everything that the owner may see.
    pub project_id: Option<ProjectId>,
    /// Whether deliveries are sent.
    pub state: EndpointState,
    /// Until then deliveries are signed by the replaced secret as well; null if none was replaced.
    #[diesel(column_name = previous_secret_until)]
    pub previous_signs_until: Option<DateTime<Utc>>,
    /// Rises with every change of these fields; the `ETag` is made of it.
    pub version: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// How an endpoint is doing. It changes with each delivery, so it is no part of what the `ETag` covers.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = endpoints, check_for_backend(diesel::pg::Pg))]
pub struct Health {
    /// Attempts that failed since the last that did not.
    pub failure_streak: i32,
    /// The first of them; after five days of nothing else the endpoint is disabled.
    pub first_failure_at: Option<DateTime<Utc>>,
    /// When something last arrived.
    pub last_success_at: Option<DateTime<Utc>>,
    /// It fails so much that nothing is tried before this instant.
    pub retry_at: Option<DateTime<Utc>>,
}

/// An endpoint in the list.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = endpoints, check_for_backend(diesel::pg::Pg))]
pub struct Listed {
    /// The endpoint.
    #[diesel(embed)]
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// How it is doing.
    #[diesel(embed)]
    pub health: Health,
}

/// What a client may set when it makes an endpoint.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://example.com/hook", "events": ["task.created", "task.completed"]}))]
pub struct NewEndpoint {
    /// Where deliveries go: http or https, on the public internet, at most 2,048 bytes.
    #[garde(skip)]
    #[schema(max_length = 2048, example = "https://example.com/hook")]
    pub url: String,
    /// What it is for.
    #[serde(default)]
    #[garde(inner(custom(one_line(0, 500))))]
    #[schema(max_length = 500)]
    pub description: Option<String>,
    /// What it is told of: one or more of `GET /webhooks/event-types`.
    #[garde(custom(some_events))]
    #[schema(min_items = 1)]
    pub events: Vec<EventType>,
    /// Only what happens in this project.
    #[serde(default)]
    #[garde(skip)]
    pub project_id: Option<ProjectId>,
}

/// What a client may change (RFC 7396): a field that is absent stays, one that is null is cleared.
#[derive(Debug, Default, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"state": "paused"}))]
pub struct EndpointPatch {
    /// Where deliveries go, those that wait included.
    #[serde(default)]
    #[garde(skip)]
    #[schema(max_length = 2048)]
    pub url: Option<String>,
    /// What it is for.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(inner(inner(custom(one_line(0, 500)))))]
    #[schema(value_type = Option<String>, max_length = 500)]
    pub description: Option<Option<String>>,
    /// All that it is told of.
    #[serde(default)]
    #[garde(inner(custom(some_events)))]
    #[schema(min_items = 1)]
    pub events: Option<Vec<EventType>>,
    /// Only what happens in this project.
    #[serde(default, deserialize_with = "nullable")]
    #[garde(skip)]
    #[schema(value_type = Option<ProjectId>)]
    pub project_id: Option<Option<ProjectId>>,
    /// `paused` sends nothing: what happens meanwhile is in the log as `cancelled`, and can be delivered again.
    /// `active` sends, also if the endpoint had been disabled.
    #[serde(default)]
    #[garde(skip)]
    pub state: Option<WantedState>,
}

/// What an owner may make of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WantedState {
    /// Send.
    Active,
    /// Do not send.
    Paused,
}

fn some_events(events: &[EventType], (): &()) -> garde::Result {
    let mut sorted = events.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let refuse = |code, detail| Err(garde::Error::new(Coded(code, detail)));
    if events.is_empty() {
        refuse(Code::InvalidLength, "Name at least one event type.")
    } else if sorted.len() < events.len() {
        refuse(Code::Duplicate, "Name each event type once.")
    } else {
        Ok(())
    }
}

/// The URL as it is kept, if something may be sent there now.
async fn target(tx: &mut Tx, viewer: Viewer, reach: &Reach, url: &str) -> Result<String> {
    let is_admin = User::admin_address(tx.conn(), viewer).await?.is_some();
    let owner = if is_admin { Owner::Admin } else { Owner::User };
    let target = reach.target(url, owner);
    target
        .map(|target| target.as_str().to_owned())
        .map_err(|error| Error::invalid("/url", Code::ForbiddenTarget, error.to_string()))
}

/// What belongs to the viewer, in the project that their token is for. One predicate for every statement of the query
/// builder on endpoints.
fn owned_by(viewer: Viewer) -> Condition<'static, impl Sized + 'static> {
    sql_condition!(
        "(webhook_endpoints.owner_id = {viewer}
          AND ({project}::uuid IS NULL OR webhook_endpoints.project_id = {project}))",
        viewer: Uuid = viewer.user_id,
        project: Nullable<Uuid> = viewer.project,
    )
}

fn missing() -> Error {
    Error::NotFound("webhook")
}

impl Versioned for Endpoint {
    const TAG: &str = "w";

    fn version(&self) -> i32 {
        self.version
    }
}

impl Endpoint {
    /// Makes an endpoint of the viewer's own, and answers it with its secret, which nobody can read again.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the URL is forbidden, the project is not visible, or the viewer has [`MAX_PER_OWNER`].
    pub async fn create(
        tx: &mut Tx,
        viewer: Viewer,
        keys: &SecretKeys,
        reach: &Reach,
        new: &NewEndpoint,
    ) -> Result<(Self, SecretString)> {
        let url = target(tx, viewer, reach, &new.url).await?;
        check_project(tx, viewer, new.project_id).await?;
        // Of two that come at once the second waits, and then counts the first.
        sql!("SELECT FROM users WHERE id = {id} FOR NO KEY UPDATE", id: Uuid = viewer.user_id)
            .execute(tx.conn())
            .await?;
        let count: i64 = endpoints::table
            .filter(endpoints::owner_id.eq(viewer.user_id))
            .count()
            .get_result(tx.conn())
            .await?;
        if count >= MAX_PER_OWNER {
            let detail = format!("You have {MAX_PER_OWNER} webhooks, which is as many as one may have.");
            return Err(Error::invalid("", Code::TooMany, detail));
        }
        let (id, secret) = (EndpointId::new(), SecretString::from(Secret::random().reveal()));
        let now = tx.clock().now();
        diesel::insert_into(endpoints::table)
            .values((
                (endpoints::id.eq(id), endpoints::owner_id.eq(viewer.user_id)),
                (endpoints::project_id.eq(new.project_id), endpoints::url.eq(url)),
                (
                    endpoints::description.eq(new.description.as_deref().map(str::trim)),
                    endpoints::events.eq(names(&new.events)),
                ),
                endpoints::secret_enc.eq(seal(keys, id, &secret)),
                (endpoints::created_at.eq(now), endpoints::updated_at.eq(now)),
            ))
            .execute(tx.conn())
            .await?;
        Ok((Self::find(tx.conn(), viewer, id).await?, secret))
    }

    /// All endpoints of the viewer, the oldest first.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn list(conn: &mut AsyncPgConnection, viewer: Viewer) -> Result<Vec<Listed>> {
        Ok(Listed::query().filter(owned_by(viewer)).order(endpoints::id).load(conn).await?)
    }

    /// One endpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the viewer has none with this id.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: EndpointId) -> Result<Self> {
        let found = Self::query().filter(endpoints::id.eq(id)).filter(owned_by(viewer));
        found.first(conn).await.optional()?.ok_or_else(missing)
    }

    /// The endpoint as it stands, locked until the end of the transaction.
    pub(super) async fn lock(
        tx: &mut Tx,
        viewer: Viewer,
        id: EndpointId,
        expected: &Expected,
    ) -> Result<Self> {
        let found = Self::query().filter(endpoints::id.eq(id)).filter(owned_by(viewer));
        let endpoint: Self =
            found.for_no_key_update().first(tx.conn()).await.optional()?.ok_or_else(missing)?;
        expected.check(&endpoint)?;
        Ok(endpoint)
    }

    /// Refuses unless deliveries are sent.
    pub(super) fn refuse_inactive(&self) -> Result<()> {
        match self.state {
            EndpointState::Active => Ok(()),
            EndpointState::Paused | EndpointState::AutoDisabled | EndpointState::Gone => {
                Err(Error::conflict(Code::EndpointInactive, Code::EndpointInactive.help()))
            }
        }
    }

    /// Changes what the patch names. With another URL, and when it becomes active again, it starts anew: what failed
    /// before does not count.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`], or [`Error::Invalid`] as [`Endpoint::create`].
    pub async fn patch(
        tx: &mut Tx,
        viewer: Viewer,
        id: EndpointId,
        expected: &Expected,
        reach: &Reach,
        patch: &EndpointPatch,
    ) -> Result<Self> {
        let before = Self::lock(tx, viewer, id, expected).await?;
        let url = match &patch.url {
            Some(url) => Some(target(tx, viewer, reach, url).await?),
            None => None,
        };
        if let Some(project) = patch.project_id {
            check_project(tx, viewer, project).await?;
        }
        let state = patch.state.map(|state| match state {
            WantedState::Active => EndpointState::Active,
            WantedState::Paused => EndpointState::Paused,
        });
        let moved = url.as_ref().is_some_and(|url| *url != before.url);
        let woken = state == Some(EndpointState::Active) && before.state != EndpointState::Active;
        let none: Option<DateTime<Utc>> = None;
        let anew = (moved || woken).then_some((
            endpoints::failure_streak.eq(0),
            endpoints::first_failure_at.eq(none),
            endpoints::retry_at.eq(none),
        ));
        let now = tx.clock().now();
        diesel::update(endpoints::table.find(id))
            .set((
                url.map(|url| endpoints::url.eq(url)),
                patch
                    .description
                    .as_ref()
                    .map(|text| endpoints::description.eq(text.as_deref().map(str::trim))),
                patch.events.as_ref().map(|events| endpoints::events.eq(names(events))),
                patch.project_id.map(|project| endpoints::project_id.eq(project)),
                state.map(|state| endpoints::state.eq(state)),
                anew,
                (endpoints::version.eq(before.version + 1), endpoints::updated_at.eq(now)),
            ))
            .execute(tx.conn())
            .await?;
        Self::find(tx.conn(), viewer, id).await
    }

    /// Deletes it with its log. What is on its way may still arrive.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`].
    pub async fn delete(tx: &mut Tx, viewer: Viewer, id: EndpointId, expected: &Expected) -> Result<()> {
        Self::lock(tx, viewer, id, expected).await?;
        diesel::delete(endpoints::table.find(id)).execute(tx.conn()).await?;
        Ok(())
    }

    /// Replaces the secret, and answers the new one. The old one signs as well for [`SECRET_OVERLAP`], so that the
    /// receiver can change over without losing a delivery.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Stale`].
    pub async fn rotate_secret(
        tx: &mut Tx,
        viewer: Viewer,
        id: EndpointId,
        expected: &Expected,
        keys: &SecretKeys,
    ) -> Result<(Self, SecretString)> {
        Self::lock(tx, viewer, id, expected).await?;
        let secret = SecretString::from(Secret::random().reveal());
        sql!(
            "UPDATE webhook_endpoints SET previous_secret_enc = secret_enc, secret_enc = {secret},
                 previous_secret_until = {now} + make_interval(secs => {overlap}),
                 version = version + 1, updated_at = {now}
             WHERE id = {id}",
            secret: diesel::sql_types::Binary = seal(keys, id, &secret),
            now = tx.clock().now(),
            overlap: diesel::sql_types::Double = SECRET_OVERLAP.as_seconds_f64(),
            id: Uuid = id,
        )
        .execute(tx.conn())
        .await?;
        Ok((Self::find(tx.conn(), viewer, id).await?, secret))
    }
}

fn names(events: &[EventType]) -> Vec<&'static str> {
    events.iter().map(|event| event.as_str()).collect()
}

/// Refuses a project that the viewer does not see, and all of them if their token is for one.
pub(crate) async fn check_project(tx: &mut Tx, viewer: Viewer, project: Option<ProjectId>) -> Result<()> {
    let refuse = |code, detail: &str| Err(Error::invalid("/project_id", code, detail));
    match project {
        None if viewer.project.is_some() => refuse(Code::Required, "Your token is for one project: name it."),
        None => Ok(()),
        Some(project) => match project_role(tx.conn(), viewer, project).await? {
            Some(_) => Ok(()),
            None => refuse(Code::InvalidValue, "You see no such project."),
        },
    }
}

/// A secret as it is stored: good for this endpoint alone.
fn seal(keys: &SecretKeys, endpoint: EndpointId, secret: &SecretString) -> Vec<u8> {
    keys.seal(secret.expose_secret().as_bytes(), endpoint.uuid().as_bytes())
}
