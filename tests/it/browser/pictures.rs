//! Pictures of every page, for the documentation: `make screenshots` names a dashboard with data and the folder. Otherwise of an
//! empty system, only to see that pictures come out.

use std::path::PathBuf;

use super::chrome::Chrome;
use crate::support::{Dashboard, World};

/// A picture is no longer than one wants to scroll.
const HEIGHT_MAX: u32 = 1_260;
const PNG: &[u8] = b"\x89PNG";

#[tokio::test]
async fn pictures_of_every_page_come_out_in_light_and_dark() {
    let given = std::env::var("PAYONCE_SCREENSHOTS_OF").ok();
    let folder = std::env::var("PAYONCE_SCREENSHOTS_TO").ok().map(PathBuf::from);
    let own = match given {
        Some(_) => None,
        None => {
            let world = World::new().await;
            Some((Dashboard::start(&world).await, world))
        }
    };
    let url = |path: &str| match (&own, &given) {
        (Some((dashboard, _)), _) => dashboard.url(path),
        (None, Some(base)) => format!("{base}{path}"),
        (None, None) => unreachable!("one of them is there"),
    };
    let chrome = Chrome::start().await;
    chrome.resize(1200, HEIGHT_MAX).await;
    let mut sizes = Vec::new();
    for (name, path, scheme) in [
        ("overview", "/", "light"),
        ("overview-dark", "/", "dark"),
        ("duplicates", "/duplicates?range=15m", "light"),
        ("quarantine", "/quarantine", "light"),
        ("case", "first case", "light"),
        ("account", "an account", "light"),
        ("workers", "/workers", "light"),
        ("audit-log", "/audit-log", "light"),
    ] {
        chrome.prefer(scheme).await;
        match path {
            "first case" => follow(&chrome, &url("/quarantine"), "tbody td a").await,
            "an account" => {
                follow(&chrome, chrome.client.current_url().await.unwrap().as_str(), "a[href^='/account']")
                    .await
            }
            path => chrome.open(&url(path)).await,
        }
        chrome.until(name, "return document.getElementById('link').dataset.state === 'up'").await;
        if ["overview", "overview-dark", "duplicates"].contains(&name) {
            chrome.until(name, "return !!document.querySelector('[data-chart] polygon')").await;
        }
        let picture = chrome.screenshot(HEIGHT_MAX).await;
        assert!(picture.starts_with(PNG), "{name} is no picture");
        sizes.push(picture.len());
        if let Some(folder) = &folder {
            std::fs::write(folder.join(format!("{name}.png")), &picture).expect("the folder can be written");
        }
    }
    assert_ne!(sizes[0], sizes[1], "light and dark differ");
    chrome.close().await;
    if let Some((dashboard, world)) = own {
        dashboard.stop().await;
        world.close().await;
    }
}

/// Opens a page and follows its first such link, where there is one.
async fn follow(chrome: &Chrome, url: &str, link: &str) {
    chrome.open(url).await;
    let quoted = serde_json::json!(link);
    if chrome.script(&format!("return !!document.querySelector({quoted})")).await == true {
        chrome.click_through(link).await;
    }
}
