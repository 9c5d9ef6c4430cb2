use chaos::cluster::{Cluster, Shape, secs, until};
use common::{db::RunQueryDsl as _, jobs::Act};
use reqwest::{Method, StatusCode};

/// PostgreSQL throws everybody out and refuses connections for a while. No process ends, the API says 503, and everything
/// goes on by itself.
#[tokio::test]
async fn processes_outlive_an_outage_of_postgresql() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let effects = cluster.effects("effects");
    let ann = cluster.person("ann").await;
    let running = cluster.enqueue_many(&effects, 10, Act::Sleep(3_000)).await;
    until("they run", secs(10), async || effects.started(running.len())).await;

    let mut server = cluster.superuser().await;
    let name = cluster.database_name().to_owned();
    let mut run = async |statement: String| {
        diesel::sql_query(&statement)
            .execute(&mut server)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    };
    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    run(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
    for process in cluster.processes_mut() {
        until(format!("{} is not ready", process.name()), secs(15), async || match process.ready().await {
            Err(_) => Ok(()),
            Ok(()) => Err("it is".to_owned()),
        })
        .await;
    }
    let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
    cluster.assert_all_live();

    run(format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    for process in cluster.processes_mut() {
        process.wait_ready().await;
    }
    let answer = ann.request(Method::GET, "/tasks", None).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let job = cluster.enqueue(&effects, Act::Nothing).await;
    until("jobs run again", secs(10), async || effects.of(job).pop().ok_or("none".into())).await;
    until("everything is drained", secs(30), async || cluster.drained().await).await;
    assert_eq!(effects.all().len(), running.len() + 1, "each starts once");
    cluster.assert_all_live();
}
