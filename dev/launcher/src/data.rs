//! The directories that `cargo dev` owns: the data directory, the place of the sockets, the lock, the secret.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::account::Account;
use crate::encoding::{base64, fnv1a};
use crate::error::{Context, Error, Result};
use crate::os;
use crate::terminal::step;

/// A data directory, held by this process until it is dropped.
pub(crate) struct DataDir {
    root: PathBuf,
    servers: PathBuf,
    sockets: PathBuf,
    account: Option<Account>,
    lock: File,
}

impl DataDir {
    /// Makes the directory if need be, and takes its lock.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let account = Account::for_postgres()?;
        make_shared(root)?;
        let root = root.canonicalize().context(|| format!("find {}", root.display()))?;
        for part in ["run", "logs"] {
            make_shared(&root.join(part))?;
        }
        let lock = lock(&root)?;
        let servers = reachable(&root, account.as_ref())?;
        let sockets = sockets_of(&root);
        make_private(&sockets, account.as_ref(), 0o700)?;
        Ok(DataDir { root, servers, sockets, account, lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whom PostgreSQL runs as, if not as ourselves.
    pub(crate) fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// Where the cluster of PostgreSQL lies.
    pub(crate) fn postgres(&self) -> PathBuf {
        self.servers.join("postgres")
    }

    /// Where Redis keeps its append-only file.
    pub(crate) fn redis(&self) -> PathBuf {
        self.root.join("redis")
    }

    /// The private directory of the Unix sockets.
    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Where a program of the monitor keeps its data.
    pub(crate) fn monitor(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// The file that tells scripts where everything is.
    pub(crate) fn state_file(&self) -> PathBuf {
        state_file(&self.root)
    }

    /// The file for `SECRET_KEYS_FILE`; the key is made once.
    pub(crate) fn secret_keys(&self) -> Result<PathBuf> {
        let path = self.root.join("secrets/secret_keys");
        if !path.exists() {
            make_private(&self.root.join("secrets"), None, 0o700)?;
            let mut key = [0; 32];
            File::open("/dev/urandom")
                .and_then(|mut random| random.read_exact(&mut key))
                .context(|| "read /dev/urandom")?;
            write_private(&path, format!("dev:{}\n", base64(&key)).as_bytes())?;
        }
        Ok(path)
    }

    /// Deletes what `cargo dev` made here, except the tools that it installed.
    pub(crate) fn reset(self) -> Result<()> {
        let parts =
            ["postgres", "postgres.new", "redis", "prometheus", "alertmanager", "logs", "secrets", "run"];
        for dir in parts.iter().map(|part| self.root.join(part)).chain([self.postgres()]) {
            if dir.exists() {
                remove(&dir)?;
                step("Removed", dir.display());
            }
        }
        remove(&self.sockets)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Left alone if a socket is still in it.
        let _not_empty = fs::remove_dir(&self.sockets);
        // To close it is not enough: a process that another thread is just starting has a copy until it runs its program.
        let _closing_does_it = self.lock.unlock();
    }
}

/// A data directory that lives as long as one test run: deleted when it is dropped.
pub(crate) struct TemporaryDir {
    data: DataDir,
    kept: bool,
}

impl TemporaryDir {
    /// `purpose` becomes part of the name. Removes what earlier runs left that were killed.
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        remove_leftovers();
        let root = temporary_home().join(format!("tasktracker-{purpose}-{}", std::process::id()));
        fs::create_dir(&root).and_then(|()| share(&root)).context(|| format!("create {}", root.display()))?;
        match DataDir::open(&root) {
            Ok(data) => Ok(TemporaryDir { data, kept: false }),
            Err(error) => remove(&root).and(Err(error)),
        }
    }

    pub(crate) fn data(&self) -> &DataDir {
        &self.data
    }

    /// Leaves the logs for a look at what failed. The next run removes them.
    pub(crate) fn keep_logs(mut self) {
        self.kept = true;
        step(
            "Keeping",
            format_args!("the logs in {} until the next run", self.data.root.join("logs").display()),
        );
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let root = self.data.root();
        let unwanted = if self.kept {
            ["postgres", "postgres.new", "redis", "prometheus", "alertmanager", "secrets"]
                .map(|part| root.join(part))
                .to_vec()
        } else {
            vec![root.to_path_buf()]
        };
        for directory in unwanted {
            if let Err(error) = remove(&directory) {
                crate::terminal::error(error);
            }
        }
    }
}

/// `/var/tmp` rather than `/tmp`, which may be small and in memory.
fn temporary_home() -> &'static Path {
    Path::new("/var/tmp")
}

fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(temporary_home()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = ["test", "bench", "smoke", "dashboards", "scenario", "chaos"]
            .map(|purpose| format!("tasktracker-{purpose}-"))
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix.as_str()))
            && entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == os::effective_uid());
        // Only a directory whose owner is gone can be locked; or one whose owner is just about to.
        let is_free = |lock: &File| {
            let age = lock.metadata().and_then(|meta| meta.modified()).map(|made| made.elapsed());
            matches!(age, Ok(Ok(age)) if age > Duration::from_secs(60)) && lock.try_lock().is_ok()
        };
        // Held until all is gone: two who remove the same get into each other's way.
        if is_ours && let Some(_lock) = File::open(lock_file(&entry.path())).ok().filter(is_free) {
            let _next_run_tries_again =
                remove(&sockets_of(&entry.path())).and_then(|()| remove(&entry.path()));
        }
    }
}

/// Where the `dev.json` of this data directory is.
pub(crate) fn state_file(root: &Path) -> PathBuf {
    root.join("run/dev.json")
}

fn lock_file(root: &Path) -> PathBuf {
    root.join("run/lock")
}

/// Whether a `cargo dev` runs on this data directory.
pub(crate) fn is_in_use(root: &Path) -> bool {
    File::open(lock_file(root)).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

fn lock(root: &Path) -> Result<File> {
    let path = lock_file(root);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _the_message_can_do_without = file.read_to_string(&mut pid);
            return Err(Error::new(format!(
                "another `cargo dev` (process {}) is using {}",
                pid.trim(),
                root.display()
            ))
            .fix("stop it with Ctrl-C, or give this one its own place: `cargo dev --data .data2 --port-offset 100`"));
        }
        Err(TryLockError::Error(error)) => return Err(error).context(|| format!("lock {}", path.display())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .context(|| format!("write {}", path.display()))?;
    Ok(file)
}

/// The directory for what PostgreSQL's own user must reach: `root`, or a place of ours in `/var/tmp` when that user
/// cannot get there (a clone below `/root`, say).
pub(crate) fn reachable(root: &Path, account: Option<&Account>) -> Result<PathBuf> {
    let Some(account) = account else {
        return Ok(root.to_path_buf());
    };
    let Some(stop) = account.stopped_at(root) else {
        return Ok(root.to_path_buf());
    };
    let home = Path::new("/var/tmp").join(name_for(root));
    if !home.exists() {
        step(
            "Placing",
            format_args!(
                "PostgreSQL in {}: its user `{}` cannot enter {}",
                home.display(),
                account.name,
                stop.display()
            ),
        );
    }
    make_private(&home, None, 0o711)?;
    Ok(home)
}

/// The directory of the sockets; short, since the system allows 107 bytes for the path of one.
fn sockets_of(root: &Path) -> PathBuf {
    Path::new("/tmp").join(name_for(root))
}

/// A name that differs between data directories and between users.
fn name_for(root: &Path) -> String {
    format!("tasktracker-{:08x}", fnv1a(format!("{} {}", os::effective_uid(), root.display()).as_bytes()))
}

/// A directory that PostgreSQL's own user may pass through, if it has one.
pub(crate) fn make_shared(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).and_then(|()| share(path)).context(|| format!("create {}", path.display()))
}

/// Whatever the umask of root is; other users have no second user to share with.
fn share(path: &Path) -> io::Result<()> {
    if os::effective_uid() == 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    } else {
        Ok(())
    }
}

/// A directory that only its owner may write, with this mode. One that stands in a public place under a name that
/// others can guess is not trusted before its owner is checked.
pub(crate) fn make_private(path: &Path, owner: Option<&Account>, mode: u32) -> Result<()> {
    let show = path.display();
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(owner) = owner {
                chown(path, Some(owner.uid), Some(owner.gid))
                    .context(|| format!("give {show} to {}", owner.name))?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).context(|| format!("create {show}")),
    }
    let uid = owner.map_or_else(os::effective_uid, |owner| owner.uid);
    let meta = fs::symlink_metadata(path).context(|| format!("look at {show}"))?;
    if !meta.is_dir() || meta.uid() != uid {
        return Err(Error::new(format!("{show} exists, but is not a directory of user {uid}"))
            .fix(format!("look what it is, then remove it: rm -r {show}")));
    }
    if meta.mode() & 0o777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .context(|| format!("change the mode of {show}"))?;
    }
    Ok(())
}

/// Writes a file that only we can read, whole or not at all.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| fs::rename(&new, path))
        .context(|| format!("write {}", path.display()))
}

/// Removes a directory with everything in it; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn one_process_has_a_data_directory_at_a_time() {
        let directory = TemporaryDir::new("test-lock").unwrap();
        let root = directory.data().root().to_path_buf();
        assert!(is_in_use(&root));
        let error = DataDir::open(&root).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        let sockets = directory.data().sockets().to_path_buf();
        assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o777, 0o700);
        drop(directory);
        assert!(!root.exists() && !sockets.exists() && !is_in_use(&root));
    }

    #[test]
    fn the_secret_is_made_once_and_private() {
        let directory = TemporaryDir::new("test-secret").unwrap();
        let path = directory.data().secret_keys().unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(first.len(), "dev:".len() + 44 + 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        directory.data().secret_keys().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
    }

    #[test]
    fn a_link_in_a_public_place_is_not_trusted() {
        let directory = TemporaryDir::new("test-link").unwrap();
        let link = directory.data().root().join("link");
        std::os::unix::fs::symlink(directory.data().root(), &link).unwrap();
        let error = make_private(&link, None, 0o700).unwrap_err().to_string();
        assert!(error.contains("is not a directory of user"), "{error}");
    }

    #[test]
    fn only_directories_without_an_owner_are_left_over() {
        let held = TemporaryDir::new("test-held").unwrap();
        let root = held.data().root().to_path_buf();
        let lock = File::options().write(true).open(lock_file(&root)).unwrap();
        let minutes_ago = fs::metadata(&root).unwrap().modified().unwrap() - Duration::from_secs(120);
        lock.set_modified(minutes_ago).unwrap();
        drop(lock);
        remove_leftovers();
        assert!(root.exists(), "its owner lives");
        // As a process has it that is just being started.
        let _copy = held.data().lock.try_clone().unwrap();
        held.keep_logs();
        remove_leftovers();
        // Another test may just be removing it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while root.exists() {
            assert!(Instant::now() < deadline, "its owner is gone");
            std::thread::yield_now();
        }
    }
}
