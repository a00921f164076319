//! Accounts that owe money: listed as soon as they do, with what they owe, and no longer than that.

use crate::{
    monitoring::value,
    support::{Dashboard, Event, World},
};

/// (account, currency, debt) of the list, by account.
async fn listed(world: &World) -> Vec<(String, String, i64)> {
    sqlx::query_as("select account_id, currency, debt from debts order by account_id")
        .fetch_all(&mut world.connect().await)
        .await
        .expect("the list can be read")
}

fn debt(account: &str, amount: i64) -> (String, String, i64) {
    (account.to_owned(), "EUR".to_owned(), amount)
}

fn fee(id: &str, account: &str, amount: i64) -> Event {
    Event::new("fee.charged", id, account, None, amount)
}

#[tokio::test]
async fn a_debt_is_listed_counted_and_paid_off_by_the_next_money() {
    let world = World::new().await;
    let worker = world.worker().await;
    let dashboard = Dashboard::start(&world).await;
    let series = |name: &str| format!("{name}{{currency=\"EUR\"}}");
    let (accounts, sum) = (series("payonce_accounts_in_debt"), series("payonce_debt_minor_units"));

    world.publish(&[Event::deposit("d1", "a", 100), Event::deposit("d2", "b", 100)]).await;
    world.settled(2).await;
    assert!(listed(&world).await.is_empty());
    assert!(dashboard.get("/debts").await.body.contains("No account owes anything"));

    // One owes its balance; of the other more is held than there is left.
    world.publish(&[fee("f1", "a", 63_583), Event::payment("payment.authorized", "h", "b", "p", 80)]).await;
    world.settled(4).await;
    world.publish(&[fee("f2", "b", 30)]).await;
    world.settled(5).await;
    assert_eq!(listed(&world).await, [debt("a", 63_483), debt("b", 10)]);
    let page = dashboard.get("/debts").await.body;
    for words in ["634.93 EUR", "634.83 EUR", "0.10 EUR"] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    assert!(page.find("634.83 EUR") < page.find("0.10 EUR"), "the largest comes first");
    assert!(dashboard.get("/account?id=a").await.body.contains("634.83 EUR"));
    let answer = dashboard.get("/api/debts?currency=EUR&limit=1").await.json();
    assert_eq!(answer["sums"][0]["sum_minor_units"], "63493");
    assert_eq!(answer["debts"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["debts"][0]["debt_decimal"], "634.83");
    let next = "/api/debts?currency=EUR&after_debt=63483&after_account=a";
    assert_eq!(dashboard.get(next).await.json()["debts"][0]["account_id"], "b");
    let scraped = dashboard.get("/metrics").await.body;
    assert_eq!((value(&scraped, &accounts), value(&scraped, &sum)), (Some(2.0), Some(63_493.0)));

    // Part of it, then all.
    world.publish(&[Event::deposit("d3", "a", 63_000), Event::deposit("d4", "b", 10)]).await;
    world.settled(7).await;
    assert_eq!(listed(&world).await, [debt("a", 483)]);
    world.audit().await;
    world.publish(&[Event::deposit("d5", "a", 483)]).await;
    world.settled(8).await;
    assert!(listed(&world).await.is_empty());
    let scraped = dashboard.get("/metrics").await.body;
    assert_eq!((value(&scraped, &accounts), value(&scraped, &sum)), (Some(0.0), Some(0.0)));
    worker.stop().await;
    world.audit().await;
    dashboard.stop().await;
    world.close().await;
}

/// `accounts` is fast because no index covers what changes in it: whoever adds one for debts takes that away.
#[tokio::test]
async fn no_index_covers_what_changes_in_accounts() {
    let world = World::new().await;
    let indexes = world.number("select count(*) from pg_index where indrelid = 'accounts'::regclass").await;
    assert_eq!(indexes, 1, "only the primary key");
    world.close().await;
}
