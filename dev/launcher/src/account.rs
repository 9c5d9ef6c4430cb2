//! The unprivileged user that PostgreSQL runs as when the launcher is root: it refuses to run as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::os;

/// An entry of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Whom PostgreSQL runs as: `None` means ourselves, `postgres` or else `nobody` when we are root.
    pub(crate) fn for_postgres() -> Result<Option<Account>> {
        if os::effective_uid() != 0 {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").context(|| "read /etc/passwd")?;
        match find(&passwd, "postgres").or_else(|| find(&passwd, "nobody")) {
            Some(account) => Ok(Some(account)),
            None => Err(Error::new(
                "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`",
            )
            .fix("run `cargo dev` as an ordinary user, or make one: useradd --system postgres")),
        }
    }

    /// The first directory on the way to `path` (which may not exist yet) that this account cannot enter.
    pub(crate) fn stopped_at(&self, path: &Path) -> Option<PathBuf> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        ancestors
            .into_iter()
            .find(|dir| match fs::metadata(dir) {
                Ok(meta) => meta.is_dir() && !self.may_enter(meta.uid(), meta.gid(), meta.mode()),
                Err(_) => false,
            })
            .map(Path::to_path_buf)
    }

    fn may_enter(&self, uid: u32, gid: u32, mode: u32) -> bool {
        let shift = if uid == self.uid {
            6
        } else if gid == self.gid {
            3
        } else {
            0
        };
        mode >> shift & 1 == 1
    }
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\nbroken:x\n";

    #[test]
    fn reads_passwd() {
        let postgres = Account { name: "postgres".into(), uid: 101, gid: 104 };
        assert_eq!(find(PASSWD, "postgres"), Some(postgres));
        assert_eq!(find(PASSWD, "nobody"), None);
        assert_eq!(find(PASSWD, "broken"), None);
    }

    #[test]
    fn the_most_specific_class_decides_who_may_enter() {
        let account = Account { name: "postgres".into(), uid: 101, gid: 104 };
        assert!(account.may_enter(0, 0, 0o755));
        assert!(!account.may_enter(0, 0, 0o700));
        assert!(account.may_enter(101, 0, 0o700));
        assert!(account.may_enter(0, 104, 0o710));
        assert!(!account.may_enter(101, 0, 0o077), "the owner's bits hold, although others may enter");
    }
}
