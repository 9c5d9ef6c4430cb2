//! Personal access tokens: what a person gives to a program that acts for them. A token is shown once and stored hashed,
//! says by its scopes what it may do, and may be restricted to one project. It may never touch what guards the account.

mod scope;

use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, HasQuery, NullableExpressionMethods as _,
    OptionalExtension as _, QueryDsl as _, QueryableByName,
    dsl::auto_type,
    sql_types::{Array, Binary, Bool, Nullable, Text, Uuid},
};
use diesel_async::AsyncPgConnection;
use garde::Validate;
pub use scope::{Access, Area, Scope};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    access::Viewer,
    clock::Clock,
    credentials,
    db::{RunQueryDsl as _, Tx, sql},
    error::{Code, Coded, Error, Result, one_line},
    ids::{ApiTokenId, ProjectId, UserId},
    schema::api_tokens,
    secrets::{random_token, token_hash},
    webhooks,
};

/// Tokens that one person may have.
pub const MAX_PER_USER: i64 = 50;
/// What a token begins with, so that people and scanners know what they see.
pub const PREFIX: &str = "ttp_";
/// So many characters of a token are kept, and shown: what it begins with, and 8 of its own.
const SHOWN: usize = PREFIX.len() + 8;

/// A token as its owner sees it. The token itself is not listed, so it cannot be fetched.
#[derive(Debug, Clone, HasQuery, Serialize, ToSchema)]
#[diesel(table_name = api_tokens, check_for_backend(diesel::pg::Pg))]
pub struct ApiToken {
    /// Its id.
    pub id: ApiTokenId,
    /// What it is for, in its owner's words.
    #[schema(example = "backup script")]
    pub name: String,
    /// How it begins.
    #[schema(example = "ttp_b3Kx91Qa")]
    pub prefix: String,
    /// What it may do.
    #[schema(value_type = Vec<Scope>, example = json!(["tasks:read", "tasks:write"]))]
    pub scopes: Vec<String>,
    /// The only project that it opens; null for everything that its owner may see.
    pub project_id: Option<ProjectId>,
    /// Until when it is good; null for as long as it is not revoked.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to the hour.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What a client says of a token that it wants.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "backup script", "scopes": ["tasks:read"], "expires_at": "2031-01-01T00:00:00Z"}))]
pub struct NewApiToken {
    /// What it is for.
    #[garde(custom(one_line(1, 100)))]
    #[schema(min_length = 1, max_length = 100, example = "backup script")]
    pub name: String,
    /// What it may do: `read` is for GET, `write` for everything else, and holds no `read`.
    #[garde(custom(some_scopes))]
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
    /// The only project that it opens. Such a token can have the scopes of tasks, projects, reminders, comments and
    /// attachments.
    #[serde(default)]
    #[garde(skip)]
    pub project_id: Option<ProjectId>,
    /// Until when it is good, in the future. For as long as it is not revoked if absent.
    #[serde(default)]
    #[garde(skip)]
    pub expires_at: Option<DateTime<Utc>>,
}

fn some_scopes(scopes: &[Scope], (): &()) -> garde::Result {
    let refuse = |code, detail| Err(garde::Error::new(Coded(code, detail)));
    if scopes.is_empty() {
        return refuse(Code::Required, "A token without a scope opens nothing: name one or more.");
    }
    if scopes.iter().enumerate().any(|(index, scope)| scopes[..index].contains(scope)) {
        return refuse(Code::Duplicate, "A scope is there twice.");
    }
    Ok(())
}

/// Who calls with a token, and what it lets them do.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// The token.
    pub id: ApiTokenId,
    /// On whose behalf, and in which project only.
    pub viewer: Viewer,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

#[auto_type]
fn live(owner: UserId) -> _ {
    api_tokens::user_id.eq(owner).and(api_tokens::revoked_at.is_null())
}

impl ApiToken {
    /// Makes a token for the viewer. The secret is shown this once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the viewer does not see the project, or it goes with none of the scopes; if the end has
    /// passed; if they have [`MAX_PER_USER`].
    pub async fn create(tx: &mut Tx, viewer: Viewer, new: &NewApiToken) -> Result<(Self, SecretString)> {
        credentials::lock(tx, viewer.user_id).await?;
        let now: DateTime<Utc> = diesel::select(tx.clock().now()).get_result(tx.conn()).await?;
        if new.expires_at.is_some_and(|at| at <= now) {
            let detail = "It has expired before it begins: name an instant in the future.";
            return Err(Error::invalid("/expires_at", Code::InvalidValue, detail));
        }
        if let Some(project) = new.project_id {
            webhooks::check_project(tx, viewer, Some(project)).await?;
            if let Some(index) = new.scopes.iter().position(|scope| !scope.area.is_of_projects()) {
                let detail = format!("`{}` cannot be restricted to a project.", new.scopes[index]);
                return Err(Error::invalid(format!("/scopes/{index}"), Code::InvalidValue, detail));
            }
        }
        let count: i64 = api_tokens::table.filter(live(viewer.user_id)).count().get_result(tx.conn()).await?;
        if count >= MAX_PER_USER {
            let detail =
                format!("You have {MAX_PER_USER} API tokens, which is as many as there may be. Revoke one.");
            return Err(Error::invalid("", Code::TooMany, detail));
        }
        let secret = random_token(PREFIX);
        let id = ApiTokenId::new();
        diesel::insert_into(api_tokens::table)
            .values((
                (api_tokens::id.eq(id), api_tokens::user_id.eq(viewer.user_id)),
                api_tokens::name.eq(new.name.trim()),
                api_tokens::prefix.eq(&secret[..SHOWN]),
                api_tokens::token_hash.eq(token_hash(&secret)),
                api_tokens::scopes.eq(new.scopes.iter().map(ToString::to_string).collect::<Vec<_>>()),
                api_tokens::project_id.eq(new.project_id),
                api_tokens::expires_at.eq(new.expires_at),
                api_tokens::created_at.eq(now),
            ))
            .execute(tx.conn())
            .await?;
        Ok((Self::find(tx.conn(), viewer, id).await?, SecretString::from(secret)))
    }

    /// The viewer's tokens that are not revoked, the newest first.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn list(conn: &mut AsyncPgConnection, viewer: Viewer) -> Result<Vec<Self>> {
        Ok(Self::query().filter(live(viewer.user_id)).order(api_tokens::id.desc()).load(conn).await?)
    }

    /// A token of the viewer's.
    ///
    /// # Errors
    /// [`Error::NotFound`] if they have no such token, or it is revoked.
    pub async fn find(conn: &mut AsyncPgConnection, viewer: Viewer, id: ApiTokenId) -> Result<Self> {
        let found = Self::query().filter(api_tokens::id.eq(id)).filter(live(viewer.user_id));
        found.first(conn).await.optional()?.ok_or(Error::NotFound("API token"))
    }

    /// Revokes a token of the viewer's: the next request with it is refused. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] if they never had such a token.
    pub async fn revoke(tx: &mut Tx, viewer: Viewer, id: ApiTokenId) -> Result<()> {
        let now = tx.clock().now();
        let theirs =
            api_tokens::table.filter(api_tokens::id.eq(id)).filter(api_tokens::user_id.eq(viewer.user_id));
        let known: i64 = theirs.count().get_result(tx.conn()).await?;
        if known == 0 {
            return Err(Error::NotFound("API token"));
        }
        diesel::update(api_tokens::table.filter(api_tokens::id.eq(id)).filter(live(viewer.user_id)))
            .set(api_tokens::revoked_at.eq(now.nullable()))
            .execute(tx.conn())
            .await?;
        Ok(())
    }
}

impl Bearer {
    /// Who calls with `token`; `None` if it is unknown, revoked or expired, or its owner's account is switched off. Its
    /// use is written down once an hour at most, so that a busy program costs no write.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn read(conn: &mut AsyncPgConnection, clock: &Clock, token: &str) -> Result<Option<Self>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Uuid)]
            id: ApiTokenId,
            #[diesel(sql_type = Uuid)]
            user_id: UserId,
            #[diesel(sql_type = Nullable<Uuid>)]
            project_id: Option<ProjectId>,
            #[diesel(sql_type = Array<Text>)]
            scopes: Vec<String>,
            #[diesel(sql_type = Bool)]
            unnoticed: bool,
        }

        let rows: Vec<Row> = sql!(
            "SELECT t.id, t.user_id, t.project_id, t.scopes,
                 coalesce(t.last_used_at <= {now} - interval '1 hour', true) AS unnoticed
             FROM api_tokens t JOIN users u ON u.id = t.user_id
             WHERE t.token_hash = {hash} AND t.revoked_at IS NULL AND coalesce(t.expires_at > {now}, true) AND u.is_active",
            hash: Binary = token_hash(token),
            now = clock.now(),
        )
        .load(conn)
        .await?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        if row.unnoticed {
            sql!(
                "UPDATE api_tokens SET last_used_at = {now}
                 WHERE id = {id} AND coalesce(last_used_at <= {now} - interval '1 hour', true)",
                id: Uuid = row.id,
                now = clock.now(),
            )
            .execute(conn)
            .await?;
        }
        Ok(Some(Self {
            id: row.id,
            viewer: Viewer { user_id: row.user_id, project: row.project_id },
            // A scope that this build does not know opens nothing.
            scopes: row.scopes.iter().filter_map(|scope| scope.parse().ok()).collect(),
        }))
    }
}
