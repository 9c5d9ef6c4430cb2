//! What is wrong with PostgreSQL, where, and what an operator can do about it, as logs and readiness pages say it. Texts alone:
//! what the program does about an error hangs on its kind. Nothing here may hold a password.

use std::{error::Error, io};

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use tokio_postgres::{Config, config::Host, error::SqlState};

/// Of a database that only answers questions.
pub(super) const READ_ONLY: &str = "PostgreSQL takes no writes: it is a standby, or default_transaction_read_only is on. \
    DATABASE_URL has to lead to a primary, and this role has to be allowed to write there";
/// Of a database that cannot keep anything more.
const DISK_FULL: &str =
    "PostgreSQL's disk is full: make room on it, or make it larger; no process has to be restarted";

/// What can be done about a statement that failed for a reason outside of it, if something can.
pub(crate) fn of_statement(error: &DieselError) -> Option<&'static str> {
    let DieselError::DatabaseError(kind, info) = error else { return None };
    match kind {
        DatabaseErrorKind::ReadOnlyTransaction => Some(READ_ONLY),
        _ => is_disk_full(info.message()).then_some(DISK_FULL),
    }
}

/// Whether PostgreSQL repeats the system's words for a full disk, or for a quota (53100, `disk_full`; diesel keeps no SQLSTATE).
/// Files are named before them.
pub(crate) fn is_disk_full(message: &str) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|words| message.ends_with(words))
}

/// Why there is no connection: where to, the cause, and what to do about it. `setting` is the variable with the URL.
pub(super) fn of_connection(config: &Config, setting: &str, error: &tokio_postgres::Error) -> String {
    let code = error.code();
    let cause = match error.as_db_error() {
        Some(refusal) => refusal.message().to_owned(),
        None => with_causes(error),
    };
    let to_do = match code {
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            format!("correct user and password in {setting}, or let them in (pg_hba.conf)")
        }
        Some(&SqlState::INVALID_CATALOG_NAME) => {
            format!("make the database, or correct its name in {setting}")
        }
        Some(&SqlState::TOO_MANY_CONNECTIONS) => {
            "lower DATABASE_POOL_SIZE, or raise max_connections".to_owned()
        }
        Some(&SqlState::CANNOT_CONNECT_NOW) => {
            "it starts, stops or recovers: wait, and look at its log".to_owned()
        }
        Some(_) => "look at its log".to_owned(),
        None if is_certificate(error) => format!(
            "its certificate has to be good for the host that {setting} names, and vouched for by a public authority or one of \
             sslrootcert"
        ),
        None if cause.contains("password") => format!("put user and password into {setting}"),
        None if cause.contains("TLS") => {
            format!(
                "switch TLS on there (ssl=on), or say sslmode=disable in {setting} if nobody else hears what is sent"
            )
        }
        None => format!("see that it runs there, and that host and port in {setting} are right"),
    };
    format!("{}: {cause}; {to_do}", nowhere(config))
}

/// The same for a server that says nothing for so long.
pub(super) fn of_silence(config: &Config, setting: &str, seconds: f32) -> String {
    format!(
        "{}: no answer within {seconds} s; see that it runs there, and that host and port in {setting} are right",
        nowhere(config)
    )
}

/// Where there is no connection to, and as whom.
fn nowhere(config: &Config) -> String {
    let ports = config.get_ports();
    let host = |(index, host): (usize, &Host)| match host {
        Host::Tcp(name) => format!("{name}:{}", ports.get(index).or(ports.first()).unwrap_or(&5432)),
        Host::Unix(folder) => folder.display().to_string(),
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let user = config.get_user().unwrap_or("nobody");
    let database = config.get_dbname().unwrap_or(user);
    format!("no connection to PostgreSQL at {} (database {database}, role {user})", hosts.join(", "))
}

/// An error with its causes: tokio-postgres keeps what matters in the source.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether it is about the server's certificate. An `io::Error` hides what it holds from those who follow its sources.
fn is_certificate(error: &(dyn Error + 'static)) -> bool {
    let held = error.downcast_ref().and_then(io::Error::get_ref).and_then(|held| held.downcast_ref());
    matches!(held, Some(rustls::Error::InvalidCertificate(_))) || error.source().is_some_and(is_certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_the_systems_words() {
        for (message, full) in [
            (r#"could not extend file "pg_tblspc/16384/PG_18_1/5/1259": No space left on device"#, true),
            (r#"could not write to file "base/pgsql_tmp/pgsql_tmp7.0": No space left on device"#, true),
            (r#"could not extend file "base/5/1259": Disk quota exceeded"#, true),
            (r#"invalid input syntax for type uuid: "No space left on device""#, false),
        ] {
            assert_eq!(is_disk_full(message), full, "{message}");
        }
    }

    #[test]
    fn where_it_is_looked_for_is_said_without_the_password() {
        let where_is = |url: &str| nowhere(&url.parse().unwrap());
        assert_eq!(
            where_is("postgres://ann:secret@db.example.com/tasks"),
            "no connection to PostgreSQL at db.example.com:5432 (database tasks, role ann)"
        );
        assert_eq!(
            where_is("postgres://ann:secret@a:5433,b:5434/tasks"),
            "no connection to PostgreSQL at a:5433, b:5434 (database tasks, role ann)"
        );
        assert_eq!(
            where_is("postgres://ann@%2Frun%2Fpostgresql"),
            "no connection to PostgreSQL at /run/postgresql (database ann, role ann)"
        );
    }
}
