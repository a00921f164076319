//! The api from a standby: every answer says how far it is behind, and never that it is up to date when it cannot know.

use sqlx::Connection as _;

use crate::{
    api::{ALL, ask, tokens},
    support::{Dashboard, Event, OwnServer, World, eventually},
};

fn shared(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

#[tokio::test]
async fn the_api_answers_from_a_standby_and_says_how_far_that_is_behind() {
    let postgres = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let world = World::on(postgres.url(), &shared("PAYONCE_REDIS_URL"), &shared("PAYONCE_AMQP_URL")).await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d1", "shop-1", 100)]).await;
    world.settled(1).await;
    let standby = postgres.standby().await;
    let database = url::Url::parse(&world.database_url).unwrap().path().to_owned();
    let mut at_standby = url::Url::parse(standby.url()).unwrap();
    at_standby.set_path(&database);

    let tokens = tokens();
    let serve = async |standby: Option<&str>| {
        let mut command = world.program(&["api", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.env("PAYONCE_API_TOKENS_FILE", tokens.path());
        if let Some(url) = standby {
            command.env("PAYONCE_API_DATABASE_URL", url);
        }
        Dashboard::of(command).await
    };
    let primary_api = serve(None).await;
    let api = serve(Some(at_standby.as_str())).await;
    let account = async || ask(&api, ALL, "/v1/accounts/shop-1").await;
    let balance = async || account().await.json()["balance"].as_i64();
    let lag = async || account().await.header("payonce-lag-ms").parse::<i64>().ok();

    eventually("the standby has it", Some(100), balance).await;
    eventually("and is not behind", Some(0), lag).await;
    assert_eq!(
        ask(&primary_api, ALL, "/v1/accounts/shop-1").await.header("payonce-lag-ms"),
        "",
        "the primary is never behind"
    );

    // It receives and does not replay: answers are old, and say so.
    let mut pausing = sqlx::PgConnection::connect(at_standby.as_str()).await.unwrap();
    sqlx::raw_sql("select pg_wal_replay_pause()").execute(&mut pausing).await.unwrap();
    world.publish(&[Event::deposit("d2", "shop-1", 11)]).await;
    world.settled(2).await;
    eventually("it is behind, and says so", true, || async { lag().await.is_some_and(|lag| lag > 0) }).await;
    assert_eq!(balance().await, Some(100));
    sqlx::raw_sql("select pg_wal_replay_resume()").execute(&mut pausing).await.unwrap();
    eventually("it has caught up", Some(111), balance).await;
    eventually("and says so", Some(0), lag).await;

    // Cut off, it cannot know what it misses: it does not say 0.
    worker.stop().await;
    postgres.kill().await;
    eventually("it does not claim to be up to date", true, || async {
        lag().await.is_some_and(|lag| lag > 0)
    })
    .await;
    assert_eq!(balance().await, Some(111));
    postgres.start_again().await;
    eventually("it follows again", Some(0), lag).await;
    world.close().await;
}
