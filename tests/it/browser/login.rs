//! Whoever comes without a login is asked for one and goes on where they wanted to; a reader is offered nothing that a reader may not do.

use super::{chrome::Chrome, is_calm};
use crate::access::{OPERATOR, READER, with_a_case, with_tokens};

/// Fills the form in, and sends it.
async fn log_in(chrome: &Chrome, name: &str, token: &str) {
    for (field, words) in [("name", name), ("token", token)] {
        let field = chrome.find(&format!("form[action='/login'] input[name={field}]")).await;
        field.clear().await.unwrap();
        field.send_keys(words).await.unwrap();
    }
    chrome.click_through("form[action='/login'] button[type=submit]").await;
}

async fn fits(chrome: &Chrome, page: &str) {
    let wide = chrome.script("return document.documentElement.scrollWidth - innerWidth").await;
    assert_eq!(wide.as_i64(), Some(0), "{page} is wider than the screen");
    let faults = chrome.accessibility_faults().await;
    assert!(faults.is_empty(), "{page}: {faults:#?}");
}

#[tokio::test]
async fn a_person_logs_in_does_what_their_role_may_and_logs_out() {
    let world = with_a_case().await;
    let dashboard = with_tokens(&world).await;
    let chrome = Chrome::start().await;
    for (width, scheme) in [(1_280, "light"), (390, "dark")] {
        chrome.resize(width, 844).await;
        chrome.prefer(scheme).await;
        let path = async || chrome.client.current_url().await.unwrap().path().to_owned();
        let choices = "return document.querySelectorAll('main input[name=id], .act button').length";

        chrome.open(&dashboard.url("/quarantine?state=all")).await;
        assert_eq!(path().await, "/login", "{width}");
        fits(&chrome, "the form").await;
        log_in(&chrome, "rita", "no-token-of-anybody-01234").await;
        assert!(chrome.text("[role=alert]").await.contains("token"), "{}", chrome.text("main").await);
        assert_eq!(chrome.script("return document.querySelector('input[name=name]').value").await, "rita");
        fits(&chrome, "the refusal").await;
        // The browser itself notes the 401.
        drop(chrome.complaints().await);

        log_in(&chrome, "rita", READER).await;
        assert_eq!(path().await, "/quarantine", "where rita wanted to go");
        assert!(chrome.text("main").await.contains("unknown_account"));
        assert_eq!(chrome.script(choices).await, 0, "a reader is offered nothing to do");
        chrome.open(&dashboard.url("/adjust?account=acct-1&currency=EUR")).await;
        assert!(chrome.script("return document.querySelector('main form[method=post]')").await.is_null());
        chrome.open(&dashboard.url("/")).await;
        chrome.click_through("form[action='/logout'] button").await;
        assert_eq!(path().await, "/login", "logged out");

        log_in(&chrome, "olga", OPERATOR).await;
        chrome.open(&dashboard.url("/quarantine?state=all")).await;
        assert_ne!(chrome.script(choices).await, 0, "an operator is offered what operators do");
        is_calm(&chrome, &dashboard, "logged in").await;
        chrome.click_through("form[action='/logout'] button").await;
        chrome.open(&dashboard.url("/workers")).await;
        assert_eq!(path().await, "/login", "logged out");
    }
    chrome.close().await;
    dashboard.stop().await;
    world.close().await;
}
