//! The settings of our processes: what the user has set in the environment wins over what `cargo dev` would choose.

use std::process::Command;

/// Every setting of the product; each secret has a second form that ends in `_FILE`.
const NAMES: &[&str] = &[
    "ADMIN_ALLOW_CIDRS",
    "ARCHIVE_DONE_AFTER_DAYS",
    "BIND",
    "CACHE_SECONDS",
    "CATCH_UP_MAILS_PER_SECOND",
    "CONCURRENCY",
    "CORS_ORIGINS",
    "DATABASE_POOL_SIZE",
    "DATABASE_STATEMENT_TIMEOUT",
    "DATABASE_URL",
    "DEFAULT_TIME_ZONE",
    "INITIAL_ADMIN_EMAIL",
    "INTERNAL_BIND",
    "JOB_RETENTION",
    "LOG",
    "LOG_FORMAT",
    "MAIL_FROM",
    "MAIL_PER_USER_PER_DAY",
    "MAX_WAITING_REQUESTS",
    "MIGRATE_DATABASE_URL",
    "PUBLIC_URL",
    "PURGE_ARCHIVED_AFTER_DAYS",
    "QUEUES",
    "RATE_LIMIT_PER_MINUTE",
    "REDIS_CA_FILE",
    "REDIS_PREFIX",
    "REDIS_URL",
    "REGISTRATION",
    "REQUIRE_EMAIL_VERIFICATION",
    "REQUIRE_IF_MATCH",
    "SECRET_KEYS",
    "SHUTDOWN_DELAY",
    "SHUTDOWN_GRACE",
    "SMTP_CA_FILE",
    "SMTP_URL",
    "TRUSTED_PROXIES",
    "WEBHOOK_ALLOW_CIDRS",
    "WEBHOOK_PORTS",
];

/// Where settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settings {
    /// The environment first.
    Environment,
    /// Ours alone, whatever the environment says: a test means the same everywhere.
    Ours,
}

impl Settings {
    /// What the user has set, also by `{name}_FILE`; empty means not set.
    pub(crate) fn given(self, name: &str) -> Option<String> {
        if self == Settings::Ours {
            return None;
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        variable(name).or_else(|| {
            let secret = std::fs::read_to_string(variable(&format!("{name}_FILE"))?).ok()?;
            Some(secret.trim().to_owned())
        })
    }

    /// Gives a program these settings, except those that the user has set.
    pub(crate) fn apply(self, command: &mut Command, ours: &[(&str, String)]) {
        if self == Settings::Ours {
            for name in NAMES {
                command.env_remove(name).env_remove(format!("{name}_FILE"));
            }
        }
        for (name, value) in ours {
            if self.given(name.strip_suffix("_FILE").unwrap_or(name)).is_none() {
                command.env(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_known() {
        let example = include_str!("../../../.env.example");
        let names = example.lines().filter_map(|line| line.trim_start_matches(['#', ' ']).split_once('='));
        let unknown: Vec<&str> = names
            .map(|(name, _)| name)
            .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && !NAMES.contains(name))
            .collect();
        assert!(unknown.is_empty(), "a hermetic run would not clear {unknown:?}");
    }

    #[test]
    fn a_hermetic_program_sees_only_our_settings() {
        let mut command = Command::new("true");
        Settings::Ours.apply(&mut command, &[("BIND", "127.0.0.1:1".to_owned())]);
        let set: Vec<_> = command.get_envs().filter(|(_, value)| value.is_some()).collect();
        assert_eq!(set, [("BIND".as_ref(), Some("127.0.0.1:1".as_ref()))]);
        assert!(command.get_envs().any(|(name, value)| name == "SECRET_KEYS_FILE" && value.is_none()));
    }
}
