use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use chaos::cluster::{Cluster, Shape, Signal, secs, until};
use common::db::RunQueryDsl as _;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

use crate::{
    figures::{Figures, say},
    traffic::People,
};

/// `SHUTDOWN_DELAY`, as docker-compose.yml has it.
const DELAY: Duration = secs(3);

/// R5 for the API: two processes behind nginx, as deploy/nginx has it, are replaced one after the other at 200 requests a second.
/// Each is not ready at once and takes no more connections 3 s later. No request fails, and no `POST` is repeated.
#[tokio::test]
async fn r5_apis_that_are_replaced_behind_nginx_fail_no_request() {
    let Some(program) = nginx() else { return };
    let settings = vec![("SHUTDOWN_DELAY", DELAY.as_secs().to_string())];
    let mut cluster =
        Cluster::start(Shape { apis: 2, workers: 0, schedulers: 0, settings, ..Shape::default() }).await;
    let apis: Vec<SocketAddr> = cluster.apis.iter().map(|api| api.public()).collect();
    let people = People::new(&cluster, 20).await;
    let mut proxy = Nginx::start(&program, cluster.path(), &apis).await;
    let people = people.through(proxy.address);

    let over = CancellationToken::new();
    let load = people.until(&over, 200.0, 64);
    let replace = async {
        let mut open = Vec::new();
        for api in &mut cluster.apis {
            let told = Instant::now();
            api.signal(Signal::TERM);
            until("it is not ready", secs(1), async || match api.ready().await {
                Err(_) => Ok(()),
                Ok(()) => Err("it is".to_owned()),
            })
            .await;
            let address = api.public();
            until("it takes no more connections", secs(10), async || {
                match TcpStream::connect(address).await {
                    Err(_) => Ok(()),
                    Ok(_) => Err("it does".to_owned()),
                }
            })
            .await;
            open.push(told.elapsed());
            let status = api.wait_exit(secs(30)).await;
            assert!(status.success(), "{status}");
            api.restart();
            api.wait_ready().await;
            // So that nginx sends it requests again before the next one goes.
            tokio::time::sleep(secs(4)).await;
        }
        over.cancel();
        open
    };
    let (outcome, open) = tokio::join!(load, replace);
    proxy.assert_alive();
    say!(
        "R5: two APIs replaced behind nginx, open for {open:.2?} after SIGTERM; {:.0} requests a second, {} failed: {}",
        outcome.rate(),
        outcome.refused.len() + outcome.others.len(),
        Figures::new(outcome.done.clone())
    );
    assert_eq!((outcome.refused.len(), &outcome.others), (0, &Vec::new()), "no request fails");
    for open in open {
        assert!(open >= DELAY && open < DELAY + secs(2), "{open:?}");
    }
    let (rows, titles) = made(&cluster).await;
    assert_eq!(
        (rows, titles),
        (outcome.made.len() as i64, outcome.made.len() as i64),
        "each POST arrives once"
    );
    cluster.assert_all_live();
}

/// How many tasks the load has made, and of how many titles.
async fn made(cluster: &Cluster) -> (i64, i64) {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        rows: i64,
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        titles: i64,
    }
    // What was made and changed since has another title.
    let statement =
        "SELECT count(*) AS rows, count(DISTINCT title) AS titles FROM tasks WHERE title LIKE 'Made by %'";
    let row: Row = diesel::sql_query(statement).get_result(&mut cluster.owner().await).await.unwrap();
    (row.rows, row.titles)
}

/// `TEST_NGINX`, as `cargo dev test` sets it.
fn nginx() -> Option<PathBuf> {
    let found = std::env::var_os("TEST_NGINX").map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "there is no nginx, and in CI no test is skipped");
        say!("SKIPPED: there is no nginx on this machine");
    }
    found
}

/// nginx with the configuration of deploy/nginx, but for its addresses, TLS, and the limit of one address, from which all people
/// come here. It is killed on drop.
struct Nginx {
    address: SocketAddr,
    child: Child,
}

impl Nginx {
    async fn start(program: &Path, folder: &Path, apis: &[SocketAddr]) -> Self {
        let (address, other) = (free(), free());
        let mut places = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            places += &format!("{kind}_temp_path {}/{kind};\n", folder.display());
        }
        let servers: Vec<String> =
            apis.iter().map(|api| format!("server {api} max_fails=1 fail_timeout=3s;")).collect();
        let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nginx/nginx.conf"));
        let mut text = std::fs::read_to_string(shipped).unwrap();
        // One process, which ends when it is killed.
        let here = format!("daemon off; master_process off; pid {}/nginx.pid;", folder.display());
        for (from, to) in [
            ("pid /tmp/nginx.pid;", here.as_str()),
            ("http {", &format!("http {{\n{places}")),
            ("rate=20r/s", "rate=10000r/s"),
            ("server api:8000 max_fails=1 fail_timeout=3s;", &servers.join("\n")),
            ("listen 80;", &format!("listen {other};")),
            ("listen 443 ssl;", &format!("listen {address};")),
            ("http2 on;", ""),
            ("ssl_certificate /etc/nginx/certificates/fullchain.pem;", ""),
            ("ssl_certificate_key /etc/nginx/certificates/privkey.pem;", ""),
        ] {
            assert_eq!(text.matches(from).count(), 1, "{from:?} is not in {} once", shipped.display());
            text = text.replace(from, to);
        }
        let file = folder.join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(folder.join("nginx.log")).unwrap();
        let child = Command::new(program)
            .args(["-e", "stderr", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut nginx = Self { address, child };
        until("nginx listens", secs(10), async || {
            nginx.assert_alive();
            TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        nginx
    }

    fn assert_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "nginx has ended: {ended:?}; nginx.log says why");
    }
}

/// An address that nothing listens on.
fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).unwrap()
}
