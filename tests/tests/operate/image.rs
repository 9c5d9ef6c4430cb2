use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use chaos::cluster::{Program, secs, until};
use common::testing::{TestDatabase, setting};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::tool;

/// Mounts the folder as it is in the image, read-only, and becomes its user. Nothing is mounted outside of this process.
const ENTER: &str = r#"
root=$1 programs=$2; shift 2
mount --bind "$root" "$root" && mount --bind "$programs" "$root/usr/local/bin" && mount --rbind /proc "$root/proc" &&
    mount --options remount,bind,ro "$root/usr/local/bin" && mount --options remount,bind,ro "$root" &&
    exec setpriv --no-new-privs chroot --userspec=65532:65532 "$root" "$@"
"#;

/// What the image holds: the programs, what they are linked with, and the secrets that Compose puts there.
struct Image {
    root: tempfile::TempDir,
    programs: PathBuf,
    settings: BTreeMap<&'static str, String>,
}

impl Image {
    /// The programs of `TEST_IMAGE_PROGRAMS`, as `.ci/run image` has built them, or those of this run.
    fn new() -> Self {
        let programs = std::env::var_os("TEST_IMAGE_PROGRAMS")
            .map_or_else(|| Program::Api.binary().parent().unwrap().to_owned(), PathBuf::from);
        let root = tempfile::Builder::new()
            .prefix("tt-image-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        for folder in ["usr/local/bin", "proc", "run/secrets"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        Self { root, programs, settings: BTreeMap::new() }
    }

    /// Copies what a program is linked with, which may be nothing but glibc and libgcc.
    fn link(&self, program: &str) {
        let listed = std::process::Command::new("ldd").arg(self.programs.join(program)).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        for file in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let name = Path::new(file).file_name().unwrap().to_str().unwrap();
            let known =
                ["ld-linux", "libc.so", "libm.so", "libgcc_s.so", "libdl.so", "libpthread.so", "librt.so"];
            assert!(known.iter().any(|start| name.starts_with(start)), "{program} needs {name}: {listed}");
            let copy = self.root.path().join(file.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(file, copy).unwrap();
        }
    }

    fn secret(&mut self, name: &'static str, value: &str) {
        let file = Path::new("run/secrets").join(name);
        fs::write(self.root.path().join(&file), value).unwrap();
        fs::set_permissions(self.root.path().join(&file), fs::Permissions::from_mode(0o444)).unwrap();
        self.settings.insert(name, format!("/{}", file.display()));
    }

    fn command(&self, words: &[&str], further: &[(&str, String)]) -> Command {
        let mut command = Command::new("unshare");
        let arguments = [OsString::from("--mount"), "sh".into(), "-c".into(), ENTER.into(), "enter".into()];
        command
            .args(arguments)
            .arg(self.root.path())
            .arg(&self.programs)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .envs(std::env::var_os("LLVM_PROFILE_FILE").map(|_| ("LLVM_PROFILE_FILE", "/dev/null")))
            .env("LOG_FORMAT", "json")
            .envs(&self.settings)
            .envs(further.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, words: &[&str], further: &[(&str, String)]) -> Output {
        self.command(words, further).stderr(Stdio::piped()).output().await.unwrap()
    }
}

/// A port that leads to a socket.
async fn forwarded(socket: PathBuf) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut outer, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut inner = tokio::net::UnixStream::connect(socket).await?;
                tokio::io::copy_bidirectional(&mut outer, &mut inner).await
            });
        }
    });
    address
}

fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// Migration, the three programs and their health checks, each with the command of `docker-compose.yml`, as user 65532, without any
/// capability, in a read-only root that holds nothing but them and glibc. SIGTERM ends them well.
#[tokio::test]
async fn the_programs_run_in_what_the_image_holds() {
    let allowed = std::process::Command::new("unshare").args(["--mount", "true"]).status();
    let allowed = rustix::process::geteuid().is_root() && allowed.is_ok_and(|status| status.success());
    if tool("right to mount", allowed.then(|| "/".into())).is_none() {
        return;
    }
    let mut image = Image::new();
    for program in ["tasktracker-api", "tasktracker-worker", "tasktracker-scheduler"] {
        image.link(program);
    }
    let database = TestDatabase::create().await;
    let (head, name) = database.app_url.rsplit_once('/').unwrap();
    let folder = head.rsplit_once('@').unwrap().1.replace("%2F", "/");
    let postgres = forwarded(Path::new(&folder).join(".s.PGSQL.5432")).await;
    let redis = forwarded(setting("TEST_REDIS_URL").replace("redis+unix://", "").into()).await;
    image.secret(
        "DATABASE_URL_FILE",
        &format!("postgres://tasktracker_app@{postgres}/{name}?sslmode=disable"),
    );
    image.secret(
        "MIGRATE_DATABASE_URL_FILE",
        &format!("postgres://tasktracker_owner@{postgres}/{name}?sslmode=disable"),
    );
    image.secret("REDIS_URL_FILE", &format!("redis://{redis}"));
    image.secret("SECRET_KEYS_FILE", "image:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    image.settings.insert("REDIS_PREFIX", name.chars().take(20).collect());
    image.settings.insert("PUBLIC_URL", "http://localhost:8000".to_owned());

    for command in ["migrate", "check-config"] {
        let ran = image.run(&["tasktracker-api", command], &[]).await;
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let public = free();
    let mut running: Vec<(&str, Child)> = Vec::new();
    for program in ["tasktracker-api", "tasktracker-worker", "tasktracker-scheduler"] {
        let settings = [("INTERNAL_BIND", free().to_string()), ("BIND", public.to_string())];
        let healthy = async || {
            let ran = image.run(&[program, "healthcheck"], &settings).await;
            if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).into_owned()) }
        };
        let said = healthy().await.unwrap_err();
        assert!(said.contains("does not answer"), "nobody is there yet: {said}");
        let log = fs::File::create(image.root.path().join(format!("{program}.log"))).unwrap();
        let child = image.command(&[program], &settings).stderr(log).spawn().unwrap();
        let pid = child.id().unwrap();
        running.push((program, child));
        until(format!("{program} is healthy"), secs(20), healthy).await;
        assert_eq!(status(pid, "Uid:"), "65532\t65532\t65532\t65532", "{program}");
        assert_eq!(status(pid, "CapEff:"), "0000000000000000", "{program}");
        assert_eq!(status(pid, "NoNewPrivs:"), "1", "{program}");
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.split(' ').nth(5).unwrap().starts_with("ro"), "{program}: {root}");
    }
    let answer =
        tools::client().build().unwrap().get(format!("http://{public}/api/v1/health")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    for (program, mut child) in running {
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let ended = tokio::time::timeout(secs(40), child.wait()).await;
        let log = fs::read_to_string(image.root.path().join(format!("{program}.log"))).unwrap();
        assert!(ended.is_ok_and(|status| status.unwrap().success()), "{program}: {log}");
    }
}
