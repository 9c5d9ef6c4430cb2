use chaos::cluster::{Cluster, Shape};
use common::{db::RunQueryDsl as _, schema::tasks};
use diesel::QueryDsl as _;
use tools::seed::{Args, run};

/// `cargo dev seed` fills a running system, and changes nothing when it is run again.
#[tokio::test]
async fn the_demo_data_is_made_once() {
    let cluster = Cluster::start(Shape { workers: 0, schedulers: 0, ..Shape::default() }).await;
    let count = async || -> i64 {
        tasks::table.count().get_result(&mut cluster.db().conn().await.unwrap()).await.unwrap()
    };
    let args = Args { api_url: format!("http://{}", cluster.api()).parse().unwrap() };
    run(&args).await.unwrap();
    let made = count().await;
    assert!(made > 10, "{made}");
    run(&args).await.unwrap();
    assert_eq!(count().await, made);
}
