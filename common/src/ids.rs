//! Identifiers: one type per noun, so that a task's id cannot be given where a user's is wanted. UUID version 7
//! (RFC 9562 §5.7): in the order of their creation, which the indexes like and pruning relies on.
//!
//! Only identifiers live here, and nothing about what they identify.

/// Declares an identifier type over [`uuid::Uuid`] with all that the database, JSON and OpenAPI need.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord,
            serde::Serialize, serde::Deserialize, utoipa::ToSchema,
            diesel::expression::AsExpression, diesel::deserialize::FromSqlRow,
        )]
        #[diesel(sql_type = diesel::sql_types::Uuid)]
        #[serde(transparent)]
        #[schema(value_type = uuid::Uuid)]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// A new identifier, later in order than all before it.
            #[expect(clippy::new_without_default, reason = "each call makes another: not a default")]
            pub fn new() -> Self {
                Self(uuid::Uuid::now_v7())
            }

            /// The plain value, for where a type cannot follow (Redis, a signature).
            pub fn uuid(self) -> uuid::Uuid {
                self.0
            }
        }

        impl From<uuid::Uuid> for $name {
            fn from(value: uuid::Uuid) -> Self {
                Self(value)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl<DB: diesel::backend::Backend> diesel::serialize::ToSql<diesel::sql_types::Uuid, DB> for $name
        where
            uuid::Uuid: diesel::serialize::ToSql<diesel::sql_types::Uuid, DB>,
        {
            fn to_sql<'b>(&'b self, out: &mut diesel::serialize::Output<'b, '_, DB>) -> diesel::serialize::Result {
                self.0.to_sql(out)
            }
        }

        impl<DB: diesel::backend::Backend> diesel::deserialize::FromSql<diesel::sql_types::Uuid, DB> for $name
        where
            uuid::Uuid: diesel::deserialize::FromSql<diesel::sql_types::Uuid, DB>,
        {
            fn from_sql(bytes: DB::RawValue<'_>) -> diesel::deserialize::Result<Self> {
                uuid::Uuid::from_sql(bytes).map(Self)
            }
        }
    };
}

id!(
    /// A person's account.
    UserId
);
id!(
    /// A session: the family of its refresh tokens, and `sid` in its access tokens.
    SessionId
);
id!(
    /// An API token.
    ApiTokenId
);
id!(
    /// A project.
    ProjectId
);
id!(
    /// A team.
    TeamId
);
id!(
    /// A task.
    TaskId
);
id!(
    /// A comment on a task.
    CommentId
);
id!(
    /// A tag.
    TagId
);
id!(
    /// A reminder: what a person asked for.
    ReminderId
);
id!(
    /// A fire: one planned delivery of a reminder.
    FireId
);
id!(
    /// A job in the ledger.
    JobId
);
id!(
    /// A daily summary of one person and day.
    DigestRunId
);
id!(
    /// Something that was done, in the audit trail.
    AuditEventId
);
id!(
    /// A report that a job computes.
    ReportId
);
id!(
    /// A reason why an address gets no mail.
    SuppressionId
);
id!(
    /// A link that is mailed to a person and good once.
    OneTimeTokenId
);
id!(
    /// A webhook endpoint.
    EndpointId
);
id!(
    /// An event: what happened, and the `webhook-id` that receivers see.
    EventId
);
id!(
    /// A webhook delivery: one event for one endpoint.
    DeliveryId
);

/// The lowest version-7 UUID of an instant: rows that were made earlier have lower ids, so that old ones are found
/// by the primary key.
pub fn floor(instant: chrono::DateTime<chrono::Utc>) -> uuid::Uuid {
    let millis = u64::try_from(instant.timestamp_millis()).unwrap_or(0);
    uuid::Uuid::from_u128(u128::from(millis) << 80)
}
