//! What people see: the dashboard of a real `payonce ops` in a real Chromium, driven by WebDriver.

mod chrome;
mod login;
mod phone;
mod pictures;

use chrome::Chrome;

use crate::support::{Dashboard, Event, OwnServer, World, eventually};

/// Ids as an attacker would choose them; each must stay text, and look like what it is.
const HOSTILE: [&str; 5] = [
    "<script>window.hacked = 1</script>",
    "\"><img src=x onerror='window.hacked = 2'>",
    "evt_\u{202E}gnp.evil\u{202C}",
    "'); drop table ledger; --",
    "https://evil.example/?a=1&b=<b>",
];

/// Every page, for a world of [`hostile_world`].
async fn pages(world: &World) -> Vec<String> {
    let case = world.number("select max(id) from quarantine where state = 'open'").await;
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut pages: Vec<String> = [
        "/",
        "/?range=1h",
        "/duplicates",
        "/quarantine",
        "/quarantine?state=all",
        "/quarantine?state=all&assignee=nobody",
        "/find",
        "/find?amount=1+EUR&from=2020-01-01",
        "/debts",
        "/reports",
        "/reports?from=2026-01-01&to=2099-12-31",
        "/providers",
        "/providers/test",
        "/approvals",
        "/approvals?all=yes",
        "/adjust?account=a&currency=EUR",
        "/workers",
        "/audit-log",
        "/audit-log?who=nobody&action=discard&from=2026-01-01&to=2099-12-31",
    ]
    .map(str::to_owned)
    .to_vec();
    pages.push(format!("/quarantine/{case}"));
    pages.push(format!("/find?id={}", encode("nothing")));
    for id in HOSTILE {
        let id = encode(id);
        pages.push(format!("/event?source=%2Fproviders%2Ftest&id={id}"));
        pages.push(format!("/account?id={id}"));
        pages.push(format!("/account/statement?id={id}&from=2026-01-01&to=2099-12-31"));
        pages.push(format!("/quarantine?account={id}&source={id}"));
    }
    pages.push(format!("/payment?source=%2Fproviders%2Ftest&id={}", encode(HOSTILE[0])));
    pages.push("/nowhere/at/all".to_owned());
    pages
}

/// Accounts, payments and events with hostile names, applied, repeated and quarantined.
async fn hostile_world() -> World {
    let world = World::new().await;
    let worker = world.worker().await;
    let mut settled = 0;
    for id in HOSTILE {
        let steps = [
            vec![Event::deposit(id, id, 100)],
            vec![
                Event::deposit(id, id, 100),
                Event::payment("payment.succeeded", &format!("2{id}"), id, id, 10),
            ],
            vec![
                Event::deposit(id, id, 101),
                Event::payment("payment.captured", &format!("3{id}"), id, &format!("4{id}"), 1),
            ],
        ];
        for events in steps {
            world.publish(&events).await;
            settled += events.len() as i64;
            world.settled(settled).await;
        }
    }
    let body = format!("{{\"id\": \"{}\", \"cvv\": 123}}", HOSTILE[0]);
    world.publish_raw(&[("x".to_owned(), body.into_bytes())]).await;
    world.settled(settled + 1).await;
    worker.stop().await;
    world
}

/// Nothing complained, nothing was asked of another host, and no id became a script.
async fn is_calm(chrome: &Chrome, dashboard: &Dashboard, at: &str) {
    let complaints = chrome.complaints().await;
    let complaints: Vec<_> = complaints.iter().filter(|words| !words.contains("favicon")).collect();
    // The browser itself notes an answer of 404 to a page that is not there.
    let is_expected = at.contains("nowhere");
    assert!(complaints.is_empty() || is_expected, "{at}: {complaints:?}");
    let strangers: Vec<String> = chrome.requests().await;
    let own = format!("http://{}/", dashboard.address);
    let strangers: Vec<_> = strangers
        .iter()
        .filter(|url| url.contains("://") && !url.starts_with(&own) && !url.starts_with("chrome:"))
        .collect();
    assert!(strangers.is_empty(), "{at} asks others: {strangers:?}");
    assert!(chrome.script("return window.hacked ?? null").await.is_null(), "{at} ran an id");
}

#[tokio::test]
async fn every_page_is_calm_and_accessible_in_light_and_dark_whatever_ids_hold() {
    let world = hostile_world().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    let mut faults = Vec::new();
    for scheme in ["light", "dark"] {
        chrome.prefer(scheme).await;
        for page in pages(&world).await {
            let at = format!("{page} in {scheme}");
            chrome.open(&dashboard.url(&page)).await;
            if page != "/nowhere/at/all" {
                chrome.until(&at, "return document.getElementById('link').dataset.state === 'up'").await;
                faults.extend(
                    chrome.accessibility_faults().await.into_iter().map(|fault| format!("{at}: {fault}")),
                );
            }
            is_calm(&chrome, &dashboard, &at).await;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // The turned-around text stands in its place, with its sign visible.
    chrome.open(&dashboard.url("/quarantine?state=all")).await;
    let text = chrome.text("main").await;
    assert!(text.contains("‹U+202E›") && !text.contains('\u{202E}'), "{text}");
    assert!(text.contains(HOSTILE[0]), "markup is shown as it came");
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_planted_fault_is_found_by_each_of_these_checks() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.open(&dashboard.url("/")).await;
    chrome
        .script(
            "const image = document.createElement('img'); image.src = '/assets/x/none.svg';\
             const link = document.createElement('a'); link.href = 'http://127.0.0.2:9/'; link.append(image);\
             document.querySelector('main').append(link);\
             const style = document.createElement('p'); style.setAttribute('style', 'color: red'); document.body.append(style);\
             fetch('http://127.0.0.2:9/').catch(() => { window.refused = true })",
        )
        .await;
    chrome.until("the policy refuses", "return window.refused === true").await;
    let faults = chrome.accessibility_faults().await;
    assert!(faults.iter().any(|fault| fault.contains("link-name")), "{faults:#?}");
    let complaints = chrome.complaints().await;
    for word in ["none.svg", "inline style", "127.0.0.2"] {
        assert!(complaints.iter().any(|words| words.contains(word)), "{word}: {complaints:#?}");
    }
    // The same machine by another name.
    drop(chrome.requests().await);
    chrome.open(&dashboard.url("/").replace("127.0.0.1", "localhost")).await;
    assert!(chrome.requests().await.iter().any(|url| url.starts_with("http://localhost:")));
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn every_page_fits_a_phone_and_follows_the_theme_one_chooses() {
    let world = hostile_world().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.resize(375, 700).await;
    for page in pages(&world).await.into_iter().filter(|page| page != "/nowhere/at/all") {
        chrome.open(&dashboard.url(&page)).await;
        let wide = chrome.script("return document.documentElement.scrollWidth - innerWidth").await;
        assert_eq!(wide.as_i64(), Some(0), "{page} is wider than a phone");
    }
    chrome.resize(1280, 900).await;
    let background = "return getComputedStyle(document.body).backgroundColor";
    chrome.prefer("light").await;
    chrome.open(&dashboard.url("/")).await;
    let light = chrome.script(background).await;
    chrome.prefer("dark").await;
    let dark = chrome.script(background).await;
    assert_ne!(light, dark, "the page follows the system");
    chrome.find("#theme").await.click().await.unwrap();
    assert_eq!(chrome.script(background).await, light, "the button wins over the system");
    chrome.open(&dashboard.url("/workers")).await;
    assert_eq!(chrome.script(background).await, light, "and is remembered");
    // A key leads to the search, from anywhere.
    chrome
        .script("document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '/', bubbles: true }))")
        .await;
    assert_eq!(chrome.script("return document.activeElement.id").await, "find");
    is_calm(&chrome, &dashboard, "the theme").await;
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn numbers_workers_and_chart_move_by_themselves() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.open(&dashboard.url("/")).await;
    assert_eq!(chrome.text("[data-text=received]").await, "0");
    assert!(chrome.text("[data-html=worker-list]").await.contains("No worker has reported"));
    let worker = world.worker_with(&[("worker_report_ms", "100")]).await;
    let deposits: Vec<Event> =
        (0..1_234).map(|n| Event::deposit(&format!("d{n}"), &format!("a{n}"), 1)).collect();
    world.publish(&deposits).await;
    world.publish(&deposits[..100]).await;
    world.settled(1_334).await;
    chrome
        .until(
            "all were received",
            "return document.querySelector('[data-text=received]').textContent === '1,334'",
        )
        .await;
    assert_eq!(chrome.text("[data-text=applied]").await, "1,234");
    assert_eq!(chrome.text("[data-text=duplicates]").await, "100");
    chrome
        .until(
            "the worker is there",
            "return document.querySelector('[data-html=worker-list] td .state')?.textContent === 'up'",
        )
        .await;
    chrome
        .until(
            "the chart has its areas",
            "return document.querySelectorAll('[data-chart] polygon').length === 7",
        )
        .await;
    assert_eq!(chrome.text("[data-text=workers]").await, "1 of 1");
    worker.stop().await;
    chrome
        .until(
            "the worker has stopped",
            "return document.querySelector('[data-state-of=workers-state]').dataset.state === 'down'",
        )
        .await;
    is_calm(&chrome, &dashboard, "the overview").await;
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn cases_are_replayed_and_discarded_by_clicking() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("open", "a", 1)]).await;
    world.settled(1).await;
    let debits: Vec<Event> = (0..4)
        .map(|n| Event::payment("payment.succeeded", &format!("s{n}"), "a", &format!("p{n}"), 50))
        .collect();
    world.publish(&debits).await;
    world.settled(5).await;
    world.publish(&[Event::deposit("top-up", "a", 60)]).await;
    world.settled(6).await;
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    // One, from its own page: money for one debit is there.
    chrome.open(&dashboard.url("/quarantine")).await;
    chrome.click_through("table.cases tbody tr:last-child a").await;
    chrome.find("input[name=why]").await.send_keys("topped up").await.unwrap();
    chrome.click_through("button[value=replay]").await;
    assert!(chrome.text("main").await.contains("1 applied"), "{}", chrome.text("main").await);
    assert_eq!(world.account("a").await, Some((11, 0, 3)));
    // Two, from the list.
    chrome.open(&dashboard.url("/quarantine")).await;
    for row in ["1", "2"] {
        chrome
            .find(&format!("table.cases tbody tr:nth-child({row}) input[name=id]"))
            .await
            .click()
            .await
            .unwrap();
    }
    chrome.find("input[name=why]").await.send_keys("refunded by hand").await.unwrap();
    chrome.click_through("button[value=discard]").await;
    assert_eq!(chrome.text("h1").await, "Discard 2 cases?");
    assert!(chrome.text("main").await.contains("1.00 EUR"), "{}", chrome.text("main").await);
    chrome.click_through("main button[type=submit]").await;
    assert!(chrome.text("main").await.contains("2 discarded"));
    // The rest, after a question.
    chrome.open(&dashboard.url("/quarantine")).await;
    chrome.find("input[value=all]").await.click().await.unwrap();
    chrome.find("input[name=why]").await.send_keys("none is wanted").await.unwrap();
    chrome.click_through("button[value=discard]").await;
    assert_eq!(chrome.text("h1").await, "Discard 1 case?");
    assert_eq!(world.number("select count(*) from quarantine where state = 'open'").await, 1);
    chrome.click_through("main button[type=submit]").await;
    assert!(chrome.text("main").await.contains("1 discarded"));
    // One is taken back.
    chrome.open(&dashboard.url("/quarantine?state=discarded")).await;
    chrome.find("tbody tr:nth-child(1) input[name=id]").await.click().await.unwrap();
    chrome.find("input[name=why]").await.send_keys("a slip").await.unwrap();
    chrome.click_through("button[value=reopen]").await;
    assert!(chrome.text("main").await.contains("1 reopened"), "{}", chrome.text("main").await);
    assert_eq!(world.number("select count(*) from quarantine where state = 'open'").await, 1);
    chrome.open(&dashboard.url("/quarantine")).await;
    chrome.find("input[value=all]").await.click().await.unwrap();
    chrome.find("input[name=why]").await.send_keys("no slip").await.unwrap();
    chrome.click_through("button[value=discard]").await;
    chrome.click_through("main button[type=submit]").await;
    chrome.open(&dashboard.url("/quarantine")).await;
    assert!(chrome.text("main").await.contains("No open cases"));
    // All boxes with one.
    chrome.open(&dashboard.url("/audit-log")).await;
    let log = chrome.text("main").await;
    for part in ["local operator", "topped up", "refunded by hand", "none is wanted", "web"] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    is_calm(&chrome, &dashboard, "clicking").await;
    world.audit().await;
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn an_empty_system_says_what_to_do_first() {
    let world = World::new().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    for (page, words) in [
        ("/", "Start one with payonce worker"),
        ("/duplicates", "No duplicate was rejected"),
        ("/quarantine", "No open cases"),
        ("/find", "Search by id"),
        ("/debts", "No account owes anything"),
        ("/reports", "Choose the days of the report"),
        ("/reports?month=2026-10", "The trial balance of every currency is 0"),
        ("/approvals", "Nothing waits for a second person"),
        ("/workers", "No worker has reported"),
        ("/audit-log", "Nobody has worked a case yet"),
    ] {
        chrome.open(&dashboard.url(page)).await;
        assert!(chrome.text("main").await.contains(words), "{page}: {}", chrome.text("main").await);
        let faults = chrome.accessibility_faults().await;
        assert!(faults.is_empty(), "{page}: {faults:#?}");
        is_calm(&chrome, &dashboard, page).await;
    }
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_hundred_thousand_cases_are_paged_filtered_and_discarded() {
    let world = World::new().await;
    sqlx::query(
        "insert into quarantine (source, event_id, reason, detail, body, state, attempts, fingerprint)
         select '/providers/' || n % 3, 'evt_' || n, case when n % 100 = 0 then 'malformed' else 'unknown_account' end,
                'made by a test', convert_to('{\"id\":' || n || '}', 'UTF8'), 'open', 1, sha256(convert_to(n::text, 'UTF8'))
         from generate_series(1, 100000) n",
    )
    .execute(&mut world.connect().await)
    .await
    .unwrap();
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.open(&dashboard.url("/quarantine")).await;
    assert!(chrome.text("main").await.contains("100,000 in all; 50 on this page"));
    for _ in 0..3 {
        chrome.click_through("a[rel=next]").await;
    }
    let first = chrome.text("table.cases tbody tr:first-child td:nth-child(2)").await;
    assert_eq!(first, "99850", "the fourth page");
    chrome.find("input[data-all]").await.click().await.unwrap();
    assert_eq!(chrome.script("return document.querySelectorAll('input[name=id]:checked').length").await, 50);
    chrome.open(&dashboard.url("/quarantine?reason=malformed&source=%2Fproviders%2F1")).await;
    let fitting = world
        .number("select count(*) from quarantine where reason = 'malformed' and source = '/providers/1'")
        .await;
    assert!(chrome.text("main").await.contains(&format!("{fitting} in all")));
    // Ten thousand and more go on while the page tells how far they are.
    chrome.open(&dashboard.url("/quarantine?source=%2Fproviders%2F2")).await;
    chrome.find("input[value=all]").await.click().await.unwrap();
    chrome.find("input[name=why]").await.send_keys("a provider's mistake").await.unwrap();
    chrome.click_through("button[value=discard]").await;
    assert_eq!(chrome.text("h1").await, "Discard 33,333 cases?");
    chrome.click_through("main button[type=submit]").await;
    chrome
        .until(
            "all are discarded",
            "return document.querySelector('main').textContent.includes('33333 discarded')",
        )
        .await;
    assert_eq!(world.number("select count(*) from quarantine where state = 'discarded'").await, 33_333);
    assert_eq!(world.number("select count(*) from operator_action_cases").await, 33_333);
    is_calm(&chrome, &dashboard, "many cases").await;
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn servers_that_go_and_come_back_are_shown() {
    let redis = OwnServer::start("redis", "PAYONCE_REDIS_URL").await;
    let mut world = World::new().await;
    world.redis_url = redis.url().to_owned();
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.open(&dashboard.url("/")).await;
    let shows = |state: &str| {
        format!(
            "const e = document.querySelector('[data-state-of=redis]'); return e.dataset.state === '{state}' && e.textContent.includes('{state}')"
        )
    };
    chrome.until("Redis is up", &shows("up")).await;
    redis.kill().await;
    chrome.until("Redis is down", &shows("down")).await;
    redis.start_again().await;
    chrome.until("Redis is back", &shows("up")).await;
    let servers = dashboard.get("/api/overview").await.json()["servers"].clone();
    assert_eq!(servers, serde_json::json!({ "postgresql": true, "redis": true, "rabbitmq": true }));
    // A live page whose server goes says so, and goes on when it is back is the browser's own work.
    eventually("the page is live", true, async || {
        chrome.script("return document.getElementById('link').dataset.state === 'up'").await == true
    })
    .await;
    dashboard.stop().await;
    chrome
        .until(
            "the page says that it stands still",
            "return document.getElementById('link').dataset.state === 'down'",
        )
        .await;
    chrome.close().await;
    world.close().await;
}

#[tokio::test]
async fn an_account_is_adjusted_by_clicking_on_a_phone() {
    let world = World::new().await;
    let worker = world.worker().await;
    world.publish(&[Event::deposit("d", "acct-1001", 10_000)]).await;
    world.settled(1).await;
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.resize(390, 844).await;
    let fits = async |page: &str| {
        let wide = chrome.script("return document.documentElement.scrollWidth - innerWidth").await;
        assert_eq!(wide.as_i64(), Some(0), "{page} is wider than a phone");
        let faults = chrome.accessibility_faults().await;
        assert!(faults.is_empty(), "{page}: {faults:#?}");
    };
    chrome.open(&dashboard.url("/account?id=acct-1001")).await;
    chrome.click_through("a[href^='/adjust']").await;
    fits("the form").await;
    chrome.find("input[name=amount]").await.send_keys("-120.50").await.unwrap();
    chrome.find("input[name=why]").await.send_keys("booked twice").await.unwrap();
    chrome.click_through("main form button[type=submit]").await;
    assert_eq!(chrome.text("h1").await, "Post -120.50 EUR?");
    let seen = chrome.text("main").await;
    for words in ["100.00 EUR", "-20.50 EUR", "booked twice"] {
        assert!(seen.contains(words), "{words} is not in {seen}");
    }
    fits("the confirmation").await;
    chrome.click_through("main form button[type=submit]").await;
    assert!(chrome.text("main").await.contains("adjustment.posted"), "{}", chrome.text("main").await);
    assert_eq!(world.account("acct-1001").await, Some((-2_050, 0, 2)));
    chrome.open(&dashboard.url("/debts")).await;
    assert!(chrome.text("main").await.contains("20.50 EUR"));
    fits("the debts").await;
    is_calm(&chrome, &dashboard, "adjusting").await;
    world.audit().await;
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn finance_closes_a_month_and_takes_a_statement_away_by_clicking() {
    let world = World::new().await;
    let worker = world.worker().await;
    world
        .publish(&[
            Event::deposit("d", "acct-1001", 10_000),
            Event::payment("payment.authorized", "h", "acct-1001", "p", 3_000),
            Event::new("fee.charged", "f", "acct-1001", None, 1_050),
        ])
        .await;
    world.settled(3).await;
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.open(&dashboard.url("/")).await;
    chrome.click_through("nav a[href='/reports']").await;
    // The month before this one is filled in; these rows are of the days of the provider's clock.
    chrome.script("document.querySelector('input[name=month]').value = '2026-11'").await;
    chrome.script("document.querySelector('select[name=by]').value = 'occurred'").await;
    chrome.click_through("main form button[type=submit]").await;
    let seen = chrome.text("main").await;
    for words in [
        "booked by occurred_at",
        "The trial balance of every currency is 0",
        "89.50",
        "\u{2212}89.50",
        "30.00",
    ] {
        assert!(seen.contains(words), "{words} is not in {seen}");
    }
    let taken = "const link = document.querySelector('main a[download]');\
                 const request = new XMLHttpRequest(); request.open('GET', link.href, false); request.send(); return request.responseText";
    let csv = chrome.script(taken).await;
    assert!(csv.as_str().is_some_and(|csv| csv.contains("fee.charged,EUR,1,10.50,-10.50,0.00")), "{csv}");
    is_calm(&chrome, &dashboard, "the report").await;

    chrome.open(&dashboard.url("/account?id=acct-1001")).await;
    chrome.script("document.querySelector('main input[name=from]').value = '2026-01-01'").await;
    chrome.script("document.querySelector('main input[name=to]').value = '2099-12-31'").await;
    chrome.click_through("main form[action='/account/statement'] button[type=submit]").await;
    let seen = chrome.text("main").await;
    for words in
        ["0.00 EUR", "89.50 EUR", "held 30.00 EUR, available 59.50 EUR", "Preliminary", "opening", "closing"]
    {
        assert!(seen.contains(words), "{words} is not in {seen}");
    }
    let csv = chrome.script(taken).await;
    assert!(csv.as_str().is_some_and(|csv| csv.contains("closing,EUR,,89.50,,30.00,59.50")), "{csv}");
    chrome.resize(390, 844).await;
    let wide = chrome.script("return document.documentElement.scrollWidth - innerWidth").await;
    assert_eq!(wide.as_i64(), Some(0), "the statement is wider than a phone");
    is_calm(&chrome, &dashboard, "the statement").await;
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn rows_are_walked_and_chosen_by_keys_and_are_cards_on_a_phone() {
    let world = World::new().await;
    let worker = world.worker().await;
    for (at, id) in (1..).zip(["p1", "p2", "p3"]) {
        world.publish(&[Event::payment("payment.succeeded", id, "a", id, 50)]).await;
        world.settled(at).await;
    }
    worker.stop().await;
    let dashboard = Dashboard::start(&world).await;
    let chrome = Chrome::start().await;
    chrome.open(&dashboard.url("/quarantine")).await;
    let press = async |key: &str| {
        let script = format!(
            "(document.activeElement ?? document.body).dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true }}))"
        );
        chrome.script(&script).await
    };
    let row = "return [...document.querySelectorAll('table.cases tbody tr')].findIndex((row) => row.contains(document.activeElement))";
    let chosen = "return [...document.querySelectorAll('table.cases tbody input')].map((box) => box.checked ? 'x' : '-').join('')";
    // The table of groups has one row, above the cases.
    for (key, at) in [("j", -1), ("j", 0), ("j", 1), ("x", 1), ("j", 2), ("j", 2), ("k", 1)] {
        press(key).await;
        assert_eq!(chrome.script(row).await.as_i64(), Some(at), "{key}");
    }
    assert_eq!(chrome.script(chosen).await, "-x-");
    press("?").await;
    assert_eq!(chrome.script("return document.getElementById('keys').open").await, true);
    press("j").await;
    assert_eq!(chrome.script(chosen).await, "-x-");
    chrome.script("document.getElementById('keys').close()").await;
    press("/").await;
    // In a field a letter is a letter.
    press("x").await;
    assert_eq!(chrome.script(chosen).await, "-x-");
    assert_eq!(chrome.script("return document.activeElement.id").await, "find");
    press("Escape").await;
    assert_ne!(chrome.script("return document.activeElement.id").await, "find");

    // Times are UTC until somebody asks for those of this browser.
    let time = "return document.querySelector('table.cases time').textContent";
    let utc = chrome.script(time).await;
    chrome.find("#local").await.click().await.unwrap();
    assert!(chrome.script(time).await.as_str().is_some_and(|text| text.ends_with("(local)")));
    chrome.find("#local").await.click().await.unwrap();
    assert_eq!(chrome.script(time).await, utc);

    chrome.resize(390, 844).await;
    chrome.open(&dashboard.url("/quarantine")).await;
    let name = "return getComputedStyle(document.querySelectorAll('table.cases td')[4], '::before').content";
    assert_eq!(chrome.script(name).await, "\"Amount\"");
    let wide = "const box = document.querySelector('table.cases').closest('.scroll'); return box.scrollWidth - box.clientWidth";
    // A pixel is what rounding may make of a width.
    let wide = chrome.script(wide).await.as_i64();
    assert!(wide.is_some_and(|wide| wide <= 1), "a row is read without moving sideways: {wide:?}");
    is_calm(&chrome, &dashboard, "cases on a phone").await;

    chrome.open(&dashboard.url("/nowhere/at/all")).await;
    assert!(chrome.text("main").await.contains("There is no such page"));
    assert_eq!(dashboard.get("/nowhere").await.status, 404);
    assert_eq!(dashboard.get("/api/nowhere").await.json()["error"]["code"], "not_found");
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}
