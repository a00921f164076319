//! On a phone, 390 pixels wide: the menu is a drawer, every table is cards, and what is done to cases is offered once some are chosen.

use serde_json::json;

use super::{chrome::Chrome, hostile_world, is_calm, pages};
use crate::support::Dashboard;

/// Tables of the page that are read by moving sideways, or whose values stand without the names of their columns.
const FAULTS: &str = "return [...document.querySelectorAll('main .scroll > table')].filter((table) => {
    const box = table.closest('.scroll');
    const cell = [...table.querySelectorAll('tbody tr > [data-name]')].find((cell) => cell.textContent);
    const isNamed = cell && getComputedStyle(cell, '::before').content === JSON.stringify(cell.dataset.name);
    return box.scrollWidth - box.clientWidth > 1 || !isNamed;
}).map((table) => table.textContent.slice(0, 80))";

#[tokio::test]
async fn every_page_is_cards_under_a_drawer_and_no_wider_than_the_screen() {
    let world = hostile_world().await;
    let dashboard = Dashboard::start(&world).await;
    let worker = world.worker_with(&[("worker_report_ms", "100")]).await;
    let chrome = Chrome::start().await;
    chrome.resize(390, 844).await;
    let mut tables = 0;
    for page in pages(&world).await.into_iter().filter(|page| page != "/nowhere/at/all") {
        chrome.open(&dashboard.url(&page)).await;
        chrome.until(&page, "return document.getElementById('link').dataset.state === 'up'").await;
        let wide = chrome.script("return document.documentElement.scrollWidth - innerWidth").await;
        assert_eq!(wide.as_i64(), Some(0), "{page} is wider than the screen");
        assert_eq!(chrome.script(FAULTS).await, json!([]), "{page}");
        let found = chrome.script("return document.querySelectorAll('main .scroll > table').length").await;
        tables += found.as_i64().unwrap_or(0);
        let faults = chrome.accessibility_faults().await;
        assert!(faults.is_empty(), "{page}: {faults:#?}");
        is_calm(&chrome, &dashboard, &page).await;
    }
    assert!(tables > 20, "{tables} tables");

    // Nothing can be done before something is chosen.
    chrome.open(&dashboard.url("/quarantine")).await;
    let bar = chrome.find(".act").await;
    assert!(!bar.is_displayed().await.unwrap(), "no case is chosen");
    for choice in ["table.cases input[name=id]", "input[name=scope][value=all]"] {
        chrome.open(&dashboard.url("/quarantine")).await;
        chrome.find(choice).await.click().await.unwrap();
        assert!(chrome.find(".act button[value=replay]").await.is_displayed().await.unwrap(), "{choice}");
    }

    // The menu works without a script, too.
    chrome.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    chrome.open(&dashboard.url("/")).await;
    assert!(!chrome.find(".top > nav").await.is_displayed().await.unwrap(), "the bar of a screen");
    let link = ".drawer a[href='/audit-log']";
    assert!(!chrome.find(link).await.is_displayed().await.unwrap(), "the drawer is closed");
    chrome.find(".drawer summary").await.click().await.unwrap();
    assert!(chrome.find(link).await.is_displayed().await.unwrap(), "the drawer is open");
    chrome.find(link).await.click().await.unwrap();
    assert_eq!(chrome.client.current_url().await.unwrap().path(), "/audit-log");
    worker.stop().await;
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}
