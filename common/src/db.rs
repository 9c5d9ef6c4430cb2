//! PostgreSQL: the pool, transactions that can be seen, migrations, and small tools for SQL ([`sql!`] for statements written by
//! hand, [`Prepared`] for those of the query builder that are not prepared by themselves, [`pg_enum!`] for enum types). No noun's
//! query belongs here.

pub(crate) mod advice;
mod migrations;
mod pool;
mod statement;
mod timer;
mod tx;

pub use diesel_async::{AsyncPgConnection, RunQueryDsl};
pub use migrations::{Migrations, problem, run_migrations};
pub use pool::{Conn, Db, PoolOptions};
pub use statement::{Among, Condition, Prepared, Statement};
pub(crate) use statement::{sql_condition, sql_expression};
pub use tx::{Step, Tx};

/// Declares a Rust enum for a PostgreSQL enum type: one name for a value in SQL, JSON and OpenAPI.
macro_rules! pg_enum {
    (
        $(#[$meta:meta])*
        $name:ident: $sql:ident { $( $(#[$variant_meta:meta])* $variant:ident = $text:tt, )* }
    ) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord,
            serde::Serialize, serde::Deserialize, utoipa::ToSchema,
            diesel::expression::AsExpression, diesel::deserialize::FromSqlRow,
        )]
        #[diesel(sql_type = $crate::schema::sql_types::$sql)]
        pub enum $name {
            $( $(#[$variant_meta])* #[serde(rename = $text)] $variant, )*
        }

        impl $name {
            /// Every value, in the order of the type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value's name in SQL and JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("`{text}` is not one of {}", [$($text),*].join(", "))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl diesel::serialize::ToSql<$crate::schema::sql_types::$sql, diesel::pg::Pg> for $name {
            fn to_sql<'b>(
                &'b self,
                out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>,
            ) -> diesel::serialize::Result {
                std::io::Write::write_all(out, self.as_str().as_bytes())?;
                Ok(diesel::serialize::IsNull::No)
            }
        }

        impl diesel::deserialize::FromSql<$crate::schema::sql_types::$sql, diesel::pg::Pg> for $name {
            fn from_sql(bytes: diesel::pg::PgValue<'_>) -> diesel::deserialize::Result<Self> {
                match bytes.as_bytes() {
                    $(value if value == $text.as_bytes() => Ok(Self::$variant),)*
                    other => Err(format!(
                        concat!(stringify!($name), ": unknown value {}"), String::from_utf8_lossy(other)
                    ).into()),
                }
            }
        }
    };
}
pub(crate) use pg_enum;

pub use crate::__sql as sql;
