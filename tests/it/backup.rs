//! Backups: a dump can be restored into another cluster, the drill shows it before it is needed, and the pool goes on where the dump ends.

use std::path::Path;

use tokio::process::Command;

use crate::support::{Event, OwnServer, World, eventually};

async fn drill(world: &World, server: &str, dump: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/restore-drill"));
    command.arg(server).args(dump).env("PAYONCE", env!("CARGO_BIN_EXE_payonce"));
    command.env("PAYONCE_DATABASE_URL", &world.database_url).env_remove("PAYONCE_DATABASE_URL_FILE");
    let output = command.output().await.expect("the drill runs");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

async fn dumped(world: &World, file: &Path) {
    let status = Command::new("pg_dump")
        .args(["--format=custom", "--file"])
        .arg(file)
        .arg(&world.database_url)
        .status()
        .await
        .expect("pg_dump runs");
    assert!(status.success());
}

#[tokio::test]
async fn a_drill_restores_a_dump_into_another_cluster_and_tells_right_money_from_wrong() {
    let world = World::new().await;
    let worker = world.worker().await;
    let yen = Event { currency: "JPY", ..Event::deposit("d2", "y", 500) };
    world
        .publish(&[Event::deposit("d1", "a", 12_345), yen, Event::new("fee.charged", "f1", "a", None, 45)])
        .await;
    world.settled(3).await;
    worker.stop().await;
    let elsewhere = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let (code, said) = drill(&world, elsewhere.url(), None).await;
    assert_eq!(code, Some(0), "{said}");
    for words in ["3 rows", "EUR,0.00,123.00,123.00", "JPY,0,500,500", "balance_is_ledger_sum", "passed"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    // A dump from the archive whose money is wrong does not pass, whatever the database is like now.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrong.dump");
    let harmed = world.copy("harmed").await;
    sqlx::raw_sql("update accounts set balance = balance + 1 where account_id = 'a'")
        .execute(&mut harmed.connect().await)
        .await
        .unwrap();
    dumped(&harmed, &file).await;
    let (code, said) = drill(&world, elsewhere.url(), Some(&file)).await;
    assert!(code == Some(1) && said.contains("balance_is_ledger_sum") && !said.contains("passed"), "{said}");
    // A file that is none, and no file at all.
    std::fs::write(&file, "not a dump").unwrap();
    assert_ne!(drill(&world, elsewhere.url(), Some(&file)).await.0, Some(0));
    let left = "select count(*) from pg_database where datname like 'payonce_drill_%'";
    let own = world.by(elsewhere.url().to_owned());
    assert_eq!(own.number(left).await, 0, "each drill removes its database");
    harmed.drop_database().await;
    world.close().await;
}

#[tokio::test]
async fn a_pool_goes_on_from_a_dump_and_what_it_lacks_is_applied_when_it_comes_again() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("kept", "a", 10_000)]).await;
    world.settled(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("payonce.dump");
    dumped(&world, &file).await;
    world.publish(&[Event::deposit("lost", "a", 5_000)]).await;
    world.settled(2).await;
    worker.stop().await;

    let elsewhere = OwnServer::start("postgres", "PAYONCE_DATABASE_URL").await;
    let restored = world.by(elsewhere.url().to_owned());
    let status = Command::new("pg_restore")
        .args(["--exit-on-error", "--no-owner", "--no-privileges", "--dbname", elsewhere.url()])
        .arg(&file)
        .status()
        .await
        .expect("pg_restore runs");
    assert!(status.success());
    let migrated = restored.program(&["migrate"]).output().await.unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    let worker = restored.worker().await;
    restored.publish(&[Event::deposit("lost", "a", 5_000), Event::deposit("kept", "a", 10_000)]).await;
    eventually("what the dump lacks is applied, what it has is not", Some((15_000, 0, 2)), || {
        restored.account("a")
    })
    .await;
    eventually("the copy is counted", 1, || {
        restored.number("select coalesce(sum(n), 0)::bigint from tallies where kind = 'duplicate'")
    })
    .await;
    worker.stop().await;
    restored.audit().await;
    world.close().await;
}
