use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use common::{
    db::{AsyncPgConnection, RunQueryDsl as _},
    testing::setting,
};
use diesel::{QueryableByName, sql_types::Text};
use diesel_async::AsyncConnection as _;
use tokio::process::{Child, Command};

use super::{Signal, process, until};

/// What the launcher gives a private cluster, too.
const ROLES: [&str; 2] =
    ["CREATE ROLE tasktracker_owner LOGIN CREATEDB CREATEROLE", "CREATE ROLE tasktracker_app LOGIN"];
/// How long recovery may take.
const START: Duration = Duration::from_secs(30);
const PROGRAMS: &str = "TEST_POSTGRES_BIN";

/// A PostgreSQL of a test's own, on a socket in the cluster's folder, with `synchronous_commit` as in production. It
/// survives the death of its processes, not that of the machine. It is stopped on drop.
pub struct PostgresServer {
    folder: PathBuf,
    /// Who runs the shared server: as root it would not start.
    user: (u32, u32),
    child: Option<Child>,
}

impl PostgresServer {
    /// Starts one, with our roles, in a folder that others may pass through.
    pub async fn start(folder: &Path) -> Self {
        let mut server = Self { folder: folder.join("postgres"), user: user().await, child: None };
        server.initialize().await;
        server.start_again().await;
        let mut conn = server.connect().await.expect("it has just answered");
        for role in ROLES {
            diesel::sql_query(role).execute(&mut conn).await.expect("a role");
        }
        server
    }

    /// For a superuser.
    pub fn url(&self) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}/postgres")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    async fn connect(&self) -> Result<AsyncPgConnection, String> {
        AsyncPgConnection::establish(&self.url()).await.map_err(|error| error.to_string())
    }

    async fn initialize(&self) {
        fs::create_dir(&self.folder).expect("a folder for PostgreSQL");
        chown(&self.folder, Some(self.user.0), Some(self.user.1)).expect("a folder may be given away");
        let status = self
            .command("initdb")
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg("--pgdata")
            .arg(self.data())
            .status()
            .await
            .expect("initdb can be started");
        assert!(status.success(), "initdb: {status}");
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Ends it as a crash would (immediate shutdown), and waits until it has ended.
    pub async fn crash(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        process::signal(child.id(), Signal::QUIT);
        child.wait().await.expect("a child may be waited for")
    }

    /// Puts a file beside its data that it alone may read, and answers where that is.
    pub fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).expect("a file for PostgreSQL");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file may be closed");
        chown(&path, Some(self.user.0), Some(self.user.1)).expect("a file may be given away");
        path
    }

    /// Starts it again, and waits until it accepts connections.
    pub async fn start_again(&mut self) {
        self.start_with(&[]).await;
    }

    /// The same with further settings, as `name=value`.
    pub async fn start_with(&mut self, further: &[String]) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        let ours = ["listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=32MB"];
        for setting in ours.into_iter().chain(further.iter().map(String::as_str)) {
            command.args(["-c", setting]);
        }
        self.child = Some(command.spawn().expect("PostgreSQL can be started"));
        until("PostgreSQL answers", START, async || self.connect().await.map(drop)).await;
    }

    fn command(&self, program: &str) -> Command {
        let program = Path::new(&setting(PROGRAMS)).join(program);
        let mut command = Command::new(&program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").current_dir(&self.folder);
        if rustix::process::geteuid().is_root() {
            command.uid(self.user.0).gid(self.user.1);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command
    }
}

impl Drop for PostgresServer {
    /// Its own processes clear up behind themselves, if they are told to.
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        process::signal(child.id(), Signal::QUIT);
        for _ in 0..150 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The owner of the shared server's socket.
async fn user() -> (u32, u32) {
    #[derive(QueryableByName)]
    struct Folder {
        #[diesel(sql_type = Text)]
        path: String,
    }

    let mut conn = AsyncPgConnection::establish(&setting("TEST_DATABASE_URL"))
        .await
        .expect("TEST_DATABASE_URL can be reached");
    let folder: Folder = diesel::sql_query("SELECT current_setting('data_directory') AS path")
        .get_result(&mut conn)
        .await
        .expect("a superuser may ask");
    let owner = fs::metadata(&folder.path).expect("the shared server is on this machine");
    (owner.uid(), owner.gid())
}
