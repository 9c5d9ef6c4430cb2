use std::fs;

use chaos::cluster::{Cluster, Process, Shape, secs, until};
use common::{jobs::Act, testing::setting};
use reqwest::Method;

use super::{logs, missing, restart_with};
use crate::{
    redis_user,
    tls::{authority, identity, terminator},
};

/// Waits until every process is ready all the same, and says these on the readiness page and in the log.
async fn each_remarks(cluster: &mut Cluster, parts: &[&str]) {
    for process in cluster.processes_mut() {
        process.wait_ready().await;
        let process: &Process = process;
        until(format!("{} says what is wrong: {parts:?}", process.name()), secs(15), async || {
            missing(parts, &process.readiness().await?)
        })
        .await;
        logs(process, parts).await;
    }
    cluster.assert_all_live();
}

/// A wrong password, a certificate for another host and a server that is not there, each from the start: requests are answered, jobs
/// wait, and every process says what is wrong. Once it is mended the jobs run.
#[tokio::test]
async fn who_cannot_use_redis_says_why_and_goes_on_without_it() {
    let mut cluster = Cluster::start(Shape { workers: 1, schedulers: 1, ..Shape::default() }).await;
    let ann = cluster.person("ann").await;
    let effects = cluster.effects("effects");
    let known = authority();
    let file = cluster.path().join("ca.pem");
    fs::write(&file, known.pem()).unwrap();
    let good = setting("TEST_REDIS_URL");
    let user = format!("u{}", uuid::Uuid::now_v7().simple());
    redis_user(&user, "right-5a90").await;
    let by_password = format!("{good}?user={user}&pass=wrong-e4d1");
    let shown = async |name: &str| format!("rediss://{}", terminator(&identity(&known, name, 2100)).await);
    let (stranger, known_host) = (shown("cache.example.com").await, shown("127.0.0.1").await);

    for (jobs, (url, parts, mended)) in [
        (by_password.as_str(), ["authentication failed", "correct user and password in REDIS_URL"], &good),
        ("redis://127.0.0.1:1", ["at 127.0.0.1:1: Connection refused", "see that it runs there"], &good),
        (
            stranger.as_str(),
            ["not valid for name", "vouched for by a public authority or one of REDIS_CA_FILE"],
            &known_host,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        if url == stranger {
            for process in cluster.processes_mut() {
                process.set("REDIS_CA_FILE", file.display().to_string());
            }
        }
        restart_with(&mut cluster, "REDIS_URL", url).await;
        each_remarks(&mut cluster, &["no use of Redis at", parts[0], parts[1]]).await;
        let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
        cluster.enqueue(&effects, Act::Nothing).await;
        assert_eq!(effects.all().len(), jobs, "it waits");
        if url == by_password {
            // The server is mended, and nobody is restarted.
            redis_user(&user, "wrong-e4d1").await;
        } else {
            restart_with(&mut cluster, "REDIS_URL", mended).await;
        }
        until("the job runs", secs(30), async || effects.started(jobs + 1)).await;
    }
    for process in cluster.processes_mut() {
        let log = process.log();
        assert!(!log.contains("wrong-e4d1"), "{log}");
    }
}
