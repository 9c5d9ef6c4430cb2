use std::{
    fs::{self, Permissions},
    net::Ipv4Addr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use chaos::cluster::{Cluster, secs, until};
use common::{
    db::{AsyncPgConnection, RunQueryDsl as _},
    jobs::Act,
};
use diesel_async::AsyncConnection as _;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{all_ready, each_says, is_unavailable, logs, one_of_each, restart_with};
use crate::{
    tls::{authority, identity},
    tool,
};

/// Runs statements as superuser.
async fn administer(cluster: &mut Cluster, statements: &[&str]) {
    let url = cluster.postgres_server().url();
    let mut server = AsyncPgConnection::establish(&url).await.unwrap();
    for statement in statements {
        diesel::sql_query(*statement)
            .execute(&mut server)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// A wrong password, a certificate for another host and a server that is not there, at the start of the processes: each is named,
/// with the place and the setting and without the password, and once somebody mends it the processes go on by themselves.
#[tokio::test]
async fn who_cannot_connect_says_why_and_waits() {
    let mut cluster = Cluster::start(one_of_each()).await;
    let ann = cluster.person("ann").await;
    // An address of this test's own: the port is the same for all.
    let address = Ipv4Addr::new(127, 78, rand::random(), rand::random_range(1..=254));
    let known = authority();
    let authority = cluster.path().join("ca.pem");
    fs::write(&authority, known.pem()).unwrap();
    let server = cluster.postgres_server();
    let put = |server: &chaos::cluster::PostgresServer, name: &str| {
        let (certificate, key) = identity(&known, name, 2100);
        (server.put("server.crt", &certificate), server.put("server.key", &key))
    };
    let (certificate, key) = put(server, "db.example.com");
    let rules = server.put("pg_hba.conf", "local all all trust\nhost all all all scram-sha-256\n");
    let settings = [
        format!("listen_addresses={address}"),
        format!("hba_file={}", rules.display()),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", certificate.display()),
        format!("ssl_key_file={}", key.display()),
    ];
    server.crash().await;
    server.start_with(&settings).await;
    administer(&mut cluster, &["ALTER ROLE tasktracker_app PASSWORD 'right-3f81'"]).await;
    let url = |mode: &str| {
        let name = cluster.database_name();
        format!("postgres://tasktracker_app:wrong-77c2@{address}/{name}?sslmode={mode}")
    };
    let (plain, encrypted) =
        (url("disable"), format!("{}&sslrootcert={}", url("verify-full"), authority.display()));
    let place = format!(
        "no connection to PostgreSQL at {address}:5432 (database {}, role tasktracker_app)",
        cluster.database_name()
    );

    restart_with(&mut cluster, "DATABASE_URL", &plain).await;
    let wanted = [&*place, "password authentication failed", "correct user and password in DATABASE_URL"];
    each_says(&mut cluster, &wanted).await;
    is_unavailable(&ann, Method::GET, "/tasks").await;
    administer(&mut cluster, &["ALTER ROLE tasktracker_app PASSWORD 'wrong-77c2'"]).await;
    all_ready(&mut cluster).await;

    restart_with(&mut cluster, "DATABASE_URL", &encrypted).await;
    each_says(
        &mut cluster,
        &[&place, "not valid for name", "the host that DATABASE_URL names", "sslrootcert"],
    )
    .await;
    is_unavailable(&ann, Method::POST, "/tasks").await;
    put(cluster.postgres_server(), &address.to_string());
    administer(&mut cluster, &["SELECT pg_reload_conf()"]).await;
    all_ready(&mut cluster).await;

    cluster.postgres_server().crash().await;
    restart_with(&mut cluster, "DATABASE_URL", &encrypted).await;
    each_says(&mut cluster, &[&place, "Connection refused", "see that it runs there"]).await;
    is_unavailable(&ann, Method::GET, "/tasks").await;
    cluster.postgres_server().start_with(&settings).await;
    all_ready(&mut cluster).await;
    let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    for process in cluster.processes_mut() {
        let log = process.log();
        assert!(
            !log.contains("wrong-77c2") && !log.contains("right-3f81"),
            "{} logs a password",
            process.name()
        );
    }
}

/// A database that takes no writes, as a standby or after a failover to the wrong one, in operation and at the start. What is read
/// is read; what is to be written is told to come back. Connections that were opened to it are not kept.
#[tokio::test]
async fn a_database_that_takes_no_writes_is_named_and_waited_for() {
    let mut cluster = Cluster::start(one_of_each()).await;
    let ann = cluster.person("ann").await;
    let effects = cluster.effects("effects");
    cluster.enqueue_many(&effects, 5, Act::Sleep(2_000)).await;
    until("they run", secs(10), async || effects.started(5)).await;
    let name = cluster.database_name().to_owned();
    let throw_out =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    let read_only = "ALTER ROLE tasktracker_app SET default_transaction_read_only = on";
    administer(&mut cluster, &[read_only, &throw_out]).await;

    let wanted = ["PostgreSQL takes no writes", "standby", "DATABASE_URL has to lead to a primary"];
    each_says(&mut cluster, &wanted).await;
    let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "what is read is read: {}", answer.body);
    is_unavailable(&ann, Method::POST, "/tasks").await;
    logs(&cluster.apis[0], &["answered 503", "PostgreSQL takes no writes"]).await;
    let url = cluster.database_url().to_owned();
    restart_with(&mut cluster, "DATABASE_URL", &url).await;
    each_says(&mut cluster, &wanted).await;

    // All connections are of that time now; nobody throws them out.
    administer(&mut cluster, &["ALTER ROLE tasktracker_app RESET default_transaction_read_only"]).await;
    all_ready(&mut cluster).await;
    ann.create_task(json!({ "title": "kept" })).await;
    until("everything is drained", secs(60), async || cluster.drained().await).await;
}

/// A disk of a few megabytes, in memory. It is unmounted on drop.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this is not allowed.
    fn mount(folder: &Path, owner: &fs::Metadata) -> Option<Self> {
        fs::create_dir(folder).unwrap();
        let options = format!("size=8m,mode=700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder)
            .status()
            .is_ok_and(|status| status.success());
        tool("right to mount a file system", mounted.then(|| folder.to_owned())).map(Self)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    fn fill(&self) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        while std::io::Write::write_all(&mut ballast, &[0; 4096]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // PostgreSQL may still hold files there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The disk that holds tasks and jobs is full. What is to be written is told to come back, and nobody ends; each says so, and goes on
/// when there is room. Nothing of what was acknowledged is lost, and no job runs twice.
#[tokio::test]
async fn a_full_disk_is_named_and_waited_for() {
    let mut cluster = Cluster::start(one_of_each()).await;
    let ann = cluster.person("ann").await;
    let server = cluster.path().join("postgres");
    let folder = server.join("small");
    let Some(disk) = Disk::mount(&folder, &fs::metadata(&server).unwrap()) else { return };
    let effects = cluster.effects("effects");
    for process in cluster.workers.iter_mut().chain(&mut cluster.schedulers) {
        process.kill9().await;
        process.wait_exit(secs(5)).await;
    }
    let job = cluster.enqueue_many(&effects, 300, Act::Nothing).await;
    // Pages without room: a claim and a push have to write elsewhere.
    fs::set_permissions(&server, Permissions::from_mode(0o711)).unwrap();
    let place = format!("CREATE TABLESPACE small LOCATION '{}'", folder.display());
    administer(&mut cluster, &[&place, "GRANT CREATE ON TABLESPACE small TO tasktracker_owner"]).await;
    let mut owner = cluster.owner().await;
    for statement in [
        "ALTER TABLE tasks SET TABLESPACE small",
        "ALTER TABLE jobs SET (fillfactor = 100)",
        "ALTER TABLE jobs SET TABLESPACE small",
        "UPDATE jobs SET pushed_at = NULL",
        "VACUUM FULL jobs",
    ] {
        diesel::sql_query(statement)
            .execute(&mut owner)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    disk.fill();
    for process in cluster.workers.iter_mut().chain(&mut cluster.schedulers) {
        process.restart();
    }

    let full = "PostgreSQL's disk is full: make room on it";
    // Until the page that is there is full.
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let task = json!({ "title": format!("task {number} {}", "x".repeat(400)) });
        let answer = ann.request(Method::POST, "/tasks", Some(task)).await.unwrap();
        if answer.status != StatusCode::CREATED {
            break;
        }
        acknowledged.push(answer.body["id"].as_str().unwrap().to_owned());
        assert!(number < 100, "the disk is not full");
    }
    is_unavailable(&ann, Method::POST, "/tasks").await;
    for process in [&cluster.apis[0], &cluster.workers[0], &cluster.schedulers[0]] {
        logs(process, &[full, "No space left on device"]).await;
    }
    let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "what is read is read: {}", answer.body);
    cluster.assert_all_live();

    fs::remove_file(disk.ballast()).unwrap();
    until("everything is drained", secs(60), async || cluster.drained().await).await;
    assert_eq!(effects.starts().len(), job.len());
    assert_eq!(effects.all().len(), job.len(), "each starts once");
    ann.create_task(json!({ "title": "kept" })).await;
    for id in acknowledged {
        let answer = ann.request(Method::GET, &format!("/tasks/{id}"), None).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{id} was acknowledged and is gone: {}", answer.body);
    }
    cluster.assert_all_live();
}
