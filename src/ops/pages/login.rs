//! The way in, where there is a token.

use std::sync::Arc;

use axum::{
    extract::{Form, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use crate::ops::{
    Pool,
    access::{Access, Caller},
    layout::Frame,
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
    html! {
        section.login.card {
            h1 { "payonce" }
            @if !access.has_tokens() { p { "You are logged in by the proxy before this address: come through it." } }
            @else { form method="post" action="/login" {
                @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
                input type="hidden" name="next" value=(next);
                label { "Your name" input name="name" value=(name) required maxlength="100" autocomplete="username" autofocus; }
                label { "Token" input name="token" type="password" required autocomplete="current-password"; }
                button type="submit" { "Log in" }
            }
            p.note { "The name is kept with what you do. The tokens are the settings ops_token and ops_readonly_token of this payonce." } }
        }
    }
}
