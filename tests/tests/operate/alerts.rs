use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
};

use chaos::cluster::{Cluster, Shape, secs, until};
use common::jobs::Act;
use tokio::process::{Child, Command};

use super::tool;

/// A job dies; Prometheus scrapes the worker, the rule fires, Alertmanager routes it, and the operator has a mail that
/// names the alert, the kind and the page of the runbook. The files are those of `monitoring/`, but for addresses and the
/// interval.
#[tokio::test]
async fn an_alert_travels_from_a_dead_job_to_a_mail() {
    let program = |name| std::env::var_os(name).map(Into::into);
    let Some(prometheus) = tool("Prometheus", program("TEST_PROMETHEUS")) else { return };
    let Some(alertmanager) = tool("Alertmanager", program("TEST_ALERTMANAGER")) else { return };
    let cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let monitoring = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../monitoring"));
    let (prometheus_at, alertmanager_at) = (free(), free());

    let targets = |address: SocketAddr| format!(r#"["{address}"]"#);
    let rules = format!("- {}", monitoring.join("prometheus/rules/*.yml").display());
    let scrape = filled(
        &monitoring.join("prometheus/prometheus.yml"),
        &[
            (r#"["127.0.0.1:9464"]"#, &targets(cluster.apis[0].internal())),
            (r#"["127.0.0.1:9465"]"#, &targets(cluster.workers[0].internal())),
            (r#"["127.0.0.1:9466"]"#, &targets(cluster.schedulers[0].internal())),
            (r#"["127.0.0.1:9093"]"#, &targets(alertmanager_at)),
            ("- rules/*.yml", &rules),
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("scrape_timeout: 10s", "scrape_timeout: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ],
    );
    let smtp = cluster.mail().smtp_addr().to_string();
    let routes = filled(&monitoring.join("alertmanager/alertmanager.yml"), &[("mailpit:1025", &smtp)]);
    let start = |program: &Path, name: &str, config: &str, storage: &str, at: SocketAddr, more: &[&str]| {
        let file = cluster.path().join(format!("{name}.yml"));
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(cluster.path().join(format!("{name}.log"))).unwrap();
        Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--{storage}={}", cluster.path().join(name).display()))
            .arg(format!("--web.listen-address={at}"))
            .args(more)
            .current_dir(cluster.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    };
    let alone = ["--cluster.listen-address="];
    let _alertmanager: Child =
        start(&alertmanager, "alertmanager", &routes, "storage.path", alertmanager_at, &alone);
    let _prometheus: Child =
        start(&prometheus, "prometheus", &scrape, "storage.tsdb.path", prometheus_at, &[]);
    until("both are ready", secs(30), async || {
        answers(prometheus_at, "/-/ready").await?;
        answers(alertmanager_at, "/-/ready").await.map(drop)
    })
    .await;
    // An increase is seen by whoever has seen the 0 before.
    let query = "/api/v1/query?query=tasktracker_jobs_total%7Bkind%3D%22probe%22%2Coutcome%3D%22dead%22%7D";
    until("the counter stands at 0", secs(20), async || {
        let answer = answers(prometheus_at, query).await?;
        if answer.contains(r#","0"]"#) { Ok(()) } else { Err(answer) }
    })
    .await;

    cluster.enqueue(&cluster.effects("effects"), Act::Die).await;
    let told = |mails: &[std::sync::Arc<tools::mail_sink::Message>]| {
        mails.iter().any(|mail| mail.subject.contains("JobsDead"))
    };
    let mails = cluster.mail().wait_for(told, secs(90)).await.unwrap();
    let mail = mails.iter().find(|mail| mail.subject.contains("JobsDead")).unwrap();
    assert_eq!(mail.to[0].address, "operator@localhost");
    let said = format!("{}{}", mail.text, mail.html);
    for part in ["probe", "monitoring/README.md#jobsdead", "ticket"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

/// A port that nobody has now.
fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A file with each of these replaced, which it holds.
fn filled(file: &Path, replacements: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(file).unwrap();
    for (from, to) in replacements {
        assert!(text.contains(from), "{from} is not in {}", file.display());
        text = text.replace(from, to);
    }
    text
}

/// What a path answers with success.
async fn answers(address: SocketAddr, path: &str) -> Result<String, String> {
    let client = tools::client().timeout(secs(2)).build().unwrap();
    let answer = async {
        let answer = client.get(format!("http://{address}{path}")).send().await?.error_for_status()?;
        answer.text().await
    };
    answer.await.map_err(|error| error.to_string())
}
