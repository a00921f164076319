//! The way in, where there is a token.

use std::sync::Arc;

use axum::{
    extract::{Form, Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use crate::ops::{
    Pool,
    access::{Access, Caller, Refusal, Returned},
    layout::{Frame, link, visible},
};

#[derive(Deserialize)]
pub(in crate::ops) struct Asked {
    next: Option<String>,
}

#[derive(Deserialize)]
pub(in crate::ops) struct Given {
    #[serde(default)]
    name: String,
    #[serde(default)]
    token: String,
    next: Option<String>,
}

pub(in crate::ops) async fn page(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    Query(asked): Query<Asked>,
) -> Response {
    frame.bare(StatusCode::OK, "Log in", form(&pool.access, "", own(asked.next.as_deref()), None))
}

pub(in crate::ops) async fn log_in(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    caller: Caller,
    Form(given): Form<Given>,
) -> Response {
    let next = own(given.next.as_deref());
    match pool.access.log_in(&given.name, &given.token, &caller) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response(),
        Err(refusal) => {
            let mut response = frame.bare(
                refusal.status,
                "Log in",
                form(&pool.access, &given.name, next, Some(&refusal.words)),
            );
            if let Some(wait_s) = refusal.retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, wait_s.into());
            }
            response
        }
    }
}

/// To the provider, where one logs in.
pub(in crate::ops) async fn to_provider(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    caller: Caller,
    Query(asked): Query<Asked>,
) -> Response {
    match pool.access.begin_at_provider(own(asked.next.as_deref()), &caller).await {
        Ok((address, cookie)) => ([(header::SET_COOKIE, cookie)], Redirect::to(&address)).into_response(),
        Err(refusal) => not_logged_in(&frame, &refusal),
    }
}

/// Back from it. A page of ours leads on: what follows a redirect from another site would come without the session's cookie.
pub(in crate::ops) async fn from_provider(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    caller: Caller,
    Query(returned): Query<Returned>,
) -> Response {
    let (mut response, session) = match pool.access.end_at_provider(&returned, &caller).await {
        Ok((session, next)) => {
            let next = own(Some(&next)).to_owned();
            let body = html! { section.login.card { h1 { "payonce" } p { "You are logged in. " a href=(next) { "Go on" } } } };
            let mut response = frame.bare(StatusCode::OK, "Logged in", body);
            if let Ok(refresh) = HeaderValue::from_str(&format!("0; url={next}")) {
                response.headers_mut().insert(header::REFRESH, refresh);
            }
            (response, Some(session))
        }
        Err(refusal) => (not_logged_in(&frame, &refusal), None),
    };
    for cookie in session.into_iter().chain([pool.access.no_login(&caller)]) {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}

fn not_logged_in(frame: &Frame, refusal: &Refusal) -> Response {
    let body = html! {
        section.login.card {
            h1 { "Not logged in" }
            p.problem role="alert" { (visible(&refusal.words)) }
            p { a href="/login" { "Log in" } }
        }
    };
    frame.bare(refusal.status, "Not logged in", body)
}

pub(in crate::ops) async fn log_out(State(pool): State<Arc<Pool>>, caller: Caller) -> Response {
    let cookie = pool.access.log_out(&caller, &pool.database).await;
    ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}

/// Where to go on: a page of this host, never another's.
fn own(next: Option<&str>) -> &str {
    let is_own = |next: &&str| {
        next.starts_with('/')
            && !next.starts_with("//")
            && !next.contains(|c: char| c == '\\' || c.is_control() || !c.is_ascii())
    };
    next.filter(is_own).unwrap_or("/")
}

fn form(access: &Access, name: &str, next: &str, problem: Option<&str>) -> Markup {
    let (has_tokens, has_provider) = (access.has_tokens(), access.has_provider());
    html! {
        section.login.card {
            h1 { "payonce" }
            @if has_provider {
                p { a.button href=(link("/login/oidc", &[("next", next)])) { "Log in with single sign-on" } }
            }
            @if has_tokens {
                form method="post" action="/login" {
                    @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
                    input type="hidden" name="next" value=(next);
                    label { "Your name" input name="name" value=(name) required maxlength="100" autocomplete="username" autofocus; }
                    label { "Token" input name="token" type="password" required autocomplete="current-password"; }
                    button type="submit" { "Log in" }
                }
                p.note { "The name is kept with what you do. The tokens are the settings ops_token and ops_readonly_token of this payonce." }
            }
            @if !has_tokens && !has_provider {
                p { "You are logged in by the proxy before this address: come through it." }
            }
        }
    }
}
