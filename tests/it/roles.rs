//! What each role may do, and people whom a proxy names: each route for each role, and headers that nobody but the proxy may send.

use crate::{
    access::{FORM, JSON, with_a_case},
    support::{Answer, Dashboard, World, csrf_of},
};

/// Every route of the router, as it is written there: its path with something for each parameter, and whether it takes GET and POST.
pub(crate) fn routes() -> Vec<(String, bool, bool)> {
    let text: Vec<&str> = include_str!("../../src/ops/pool.rs").split_whitespace().collect();
    let text = text.join(" ");
    let routes: Vec<_> = text
        .split(".route(")
        .skip(1)
        .map(|route| {
            let (path, methods) = route.trim_start().trim_start_matches('"').split_once("\", ").expect(route);
            let words: Vec<&str> =
                path.split('/').map(|word| if word.starts_with('{') { "1" } else { word }).collect();
            let takes = |methods_of: [&str; 2]| methods_of.iter().any(|method| methods.contains(method));
            let (gets, posts) = (takes(["get(", "see("]), takes(["post(", "act("]));
            assert!(gets || posts, "{route}");
            (words.join("/"), gets, posts)
        })
        .collect();
    assert!(routes.len() > 40, "the router is written in another way: {routes:?}");
    routes
}

/// What each route is open to, in the order of the router; written down here a second time, so that a slip there is one.
const VIEW: &[&str] = &["viewer", "operator", "approver", "finance", "admin"];
const WORK: &[&str] = &["operator", "admin"];
const DECIDE: &[&str] = &["approver", "admin"];
const REPORT: &[&str] = &["finance", "admin"];
const EXPORT: &[&str] = &["operator", "finance", "admin"];

/// The roles that may; `None`: open to everybody, without a login.
fn expected(method: &str, path: &str) -> Option<&'static [&'static str]> {
    Some(match (method, path) {
        (_, "/healthz" | "/readyz" | "/assets/1/1" | "/login" | "/login/oidc" | "/login/oidc/back") => {
            return None;
        }
        ("GET", "/reports" | "/api/report") => REPORT,
        (
            "GET",
            "/"
            | "/duplicates"
            | "/quarantine"
            | "/quarantine/1"
            | "/find"
            | "/event"
            | "/payment"
            | "/account"
            | "/account/statement"
            | "/adjust"
            | "/approvals"
            | "/approvals/1"
            | "/debts"
            | "/providers"
            | "/providers/1"
            | "/workers"
            | "/audit-log"
            | "/audit-log/1"
            | "/live"
            | "/figure"
            | "/metrics"
            | "/api/overview"
            | "/api/workers"
            | "/api/providers"
            | "/api/history"
            | "/api/duplicates"
            | "/api/quarantine"
            | "/api/quarantine/groups"
            | "/api/quarantine/1"
            | "/api/approvals"
            | "/api/approvals/1"
            | "/api/debts"
            | "/api/audit-log"
            | "/api/audit-log/1"
            | "/api/find"
            | "/api/event"
            | "/api/payment"
            | "/api/openapi.json"
            | "/api/account"
            | "/api/account/statement",
        )
        | ("POST", "/logout") => VIEW,
        (
            "POST",
            "/quarantine/act"
            | "/adjust"
            | "/api/adjust"
            | "/api/quarantine/replay"
            | "/api/quarantine/discard"
            | "/api/quarantine/reopen"
            | "/api/quarantine/assign"
            | "/api/quarantine/take"
            | "/api/quarantine/hand-back"
            | "/api/quarantine/note",
        ) => WORK,
        (
            "POST",
            "/approvals/1/approve"
            | "/approvals/1/reject"
            | "/api/approvals/1/approve"
            | "/api/approvals/1/reject",
        ) => DECIDE,
        (method, path) => panic!("{method} {path}: which roles may? Say it here"),
    })
}

const USER: &str = "x-forwarded-user";
const GROUPS: &str = "x-forwarded-groups";

/// One whose proxy is `address`, and whose people have the role that their group is called by.
async fn behind_proxy(world: &World, address: &str) -> Dashboard {
    Dashboard::start_with(world, |command| {
        let roles: Vec<String> = VIEW.iter().map(|role| format!("group:{role}={role}")).collect();
        command
            .env("PAYONCE_OPS_SESSION_KEY", "0123456789abcdef0123456789abcdef")
            .env("PAYONCE_OPS_PROXY_ADDRESSES", address)
            .env("PAYONCE_OPS_PROXY_USER_HEADER", "X-Forwarded-User")
            .env("PAYONCE_OPS_PROXY_GROUPS_HEADER", "X-Forwarded-Groups")
            .env("PAYONCE_OPS_ROLES", format!("{},user:ann@example.com=admin", roles.join(",")));
    })
    .await
}

fn is_for_want_of_a_role(answer: &Answer) -> bool {
    answer.status == 403 && answer.body.contains("you need one of: ")
}

#[tokio::test]
async fn each_route_is_open_to_its_roles_and_no_other() {
    let world = with_a_case().await;
    let dashboard = behind_proxy(&world, "127.0.0.0/8").await;
    let mut walked = 0;
    for (path, gets, posts) in routes() {
        for method in ["GET", "POST"].into_iter().filter(|method| if *method == "GET" { gets } else { posts })
        {
            let Some(roles) = expected(method, &path) else { continue };
            for role in VIEW.iter().copied().chain(["other"]) {
                let may = roles.contains(&role);
                // It never ends.
                if may && path == "/live" {
                    continue;
                }
                let body = if method == "POST" { "{}" } else { "" };
                let headers = [(USER, "bob"), (GROUPS, role), JSON];
                let answer = dashboard.send(method, &path, &headers, body).await;
                assert_eq!(is_for_want_of_a_role(&answer), !may, "{method} {path} as {role}: {answer:?}");
                assert!(answer.status != 401 && answer.status < 500, "{method} {path} as {role}: {answer:?}");
                walked += 1;
            }
        }
    }
    assert!(walked > 250, "{walked}");
    // Lists as files are asked for at the addresses of the lists.
    for path in [
        "/api/quarantine?export=csv",
        "/api/audit-log?export=ndjson",
        "/api/account/statement?id=nobody&month=2026-10&csv=yes",
    ] {
        for role in VIEW {
            let answer = dashboard.send("GET", path, &[(USER, "bob"), (GROUPS, role)], "").await;
            assert_eq!(
                is_for_want_of_a_role(&answer),
                !EXPORT.contains(role),
                "{path} as {role}: {answer:?}"
            );
        }
    }
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_page_offers_what_the_roles_of_its_reader_allow() {
    let world = with_a_case().await;
    let dashboard = behind_proxy(&world, "127.0.0.1").await;
    let page = async |path: &str, groups: &str| {
        dashboard.send("GET", path, &[(USER, "bob"), (GROUPS, groups)], "").await.body
    };
    for (groups, offers) in [
        ("viewer", [false; 3]),
        ("operator", [true, false, true]),
        ("finance", [false, true, true]),
        ("approver", [false; 3]),
        ("operator, finance", [true; 3]),
        ("admin", [true; 3]),
    ] {
        let list = page("/quarantine", groups).await;
        let found =
            ["value=\"discard\"", "href=\"/reports\"", "export=csv"].map(|words| list.contains(words));
        assert_eq!(found, offers, "{groups}: {list}");
    }
    let case = page("/quarantine/1", "finance").await;
    let words = "Your access: finance. To work cases you need one of: operator, admin.";
    assert!(case.contains(words) && !case.contains("value=\"discard\""), "{case}");
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn the_audit_log_names_the_person_whom_the_proxy_names() {
    let world = with_a_case().await;
    let dashboard = behind_proxy(&world, "127.0.0.1").await;
    let ann = (USER, "ann@example.com");
    let page = dashboard.send("GET", "/quarantine/1", &[ann], "").await;
    let body = format!("csrf={}&id=1&verb=discard&why=x&confirmed=yes", csrf_of(&page));
    // The form of one person is no other's, and none can call themselves by another name.
    let of_bob =
        dashboard.send("POST", "/quarantine/act", &[FORM, (USER, "bob"), (GROUPS, "admin")], &body).await;
    assert!(of_bob.status == 403 && of_bob.body.contains("form is out of date"), "{of_bob:?}");
    let done = dashboard.send("POST", "/quarantine/act", &[FORM, ann, ("x-operator", "eve")], &body).await;
    assert_eq!((done.status, done.header("location")), (303, "/audit-log/1"), "{done:?}");
    let headers = [JSON, ann, ("x-operator", "eve"), ("authorization", "Bearer anything")];
    let reopened =
        dashboard.send("POST", "/api/quarantine/reopen", &headers, r#"{"ids": [1], "why": "x"}"#).await;
    assert_eq!(reopened.json()["who"], "ann@example.com", "{reopened:?}");
    let names = world.number("select count(*) from operator_actions where who = 'ann@example.com'").await;
    assert_eq!(names, 2);
    dashboard.stop().await;
    world.close().await;
}

#[tokio::test]
async fn a_header_that_others_than_the_proxy_could_have_written_is_refused() {
    let world = World::new().await;
    let behind = behind_proxy(&world, "127.0.0.1").await;
    let (ann, admins) = ((USER, "ann@example.com"), (GROUPS, "admin"));
    let long = "a".repeat(101);
    for (headers, words) in [
        (&[ann, (USER, "bob")][..], "x-forwarded-user is given twice"),
        (&[ann, ann], "x-forwarded-user is given twice"),
        (&[ann, ("X-Forwarded-User", "bob")], "x-forwarded-user is given twice"),
        (&[(USER, "ann@example.com, bob")], "x-forwarded-user names several people"),
        (&[(USER, "bob"), (GROUPS, "viewer"), admins], "x-forwarded-groups is given twice"),
        (&[(USER, &long)], "x-forwarded-user: expected at most 100 bytes"),
    ] {
        for path in ["/", "/api/overview", "/metrics", "/live"] {
            let answer = behind.send("GET", path, headers, "").await;
            assert!(answer.status == 403 && answer.body.contains(words), "{path} {headers:?}: {answer:?}");
        }
    }
    // Names that some take for the same are other headers here, and nobody is whoever is not named.
    for headers in [
        &[("x_forwarded_user", "ann@example.com")][..],
        &[("x-forwarded_user", "ann@example.com"), admins],
        &[admins],
        &[(USER, ""), admins],
        &[("x-operator", "ann@example.com")],
        &[("x-forwarded-for", "127.0.0.1")],
    ] {
        assert_eq!(behind.send("GET", "/api/overview", headers, "").await.status, 401, "{headers:?}");
    }
    assert_eq!(behind.send("GET", "/api/overview", &[ann], "").await.status, 200);
    behind.stop().await;
    // This machine is no proxy here.
    let elsewhere = behind_proxy(&world, "192.0.2.0/24,2001:db8::1").await;
    for headers in [&[ann][..], &[admins], &[ann, ("x-forwarded-for", "192.0.2.1")], &[(USER, "")]] {
        let answer = elsewhere.send("GET", "/api/overview", headers, "").await;
        assert!(
            answer.status == 403 && answer.body.contains("ops_proxy_addresses"),
            "{headers:?}: {answer:?}"
        );
    }
    assert_eq!(elsewhere.get("/api/overview").await.status, 401);
    let login = elsewhere.get("/login").await;
    assert!(login.body.contains("proxy before this address") && !login.body.contains("<form"), "{login:?}");
    assert_eq!(elsewhere.send("POST", "/login", &[FORM], "name=a&token=").await.status, 401);
    elsewhere.stop().await;
    world.close().await;
}
