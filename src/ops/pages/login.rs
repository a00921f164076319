//! The way in, where there is a token.

use std::sync::Arc;

use axum::{
    extract::{Form, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde::Deserialize;

use crate::ops::{Pool, layout::Frame};

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

pub(in crate::ops) async fn page(frame: Frame, Query(asked): Query<Asked>) -> Response {
    frame.bare(StatusCode::OK, "Log in", form("", own(asked.next.as_deref()), None))
}

pub(in crate::ops) async fn log_in(
    State(pool): State<Arc<Pool>>,
    frame: Frame,
    headers: HeaderMap,
    Form(given): Form<Given>,
) -> Response {
    let next = own(given.next.as_deref());
    match pool.access.log_in(&given.name, &given.token, &headers) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response(),
        Err(words) => frame.bare(StatusCode::UNAUTHORIZED, "Log in", form(&given.name, next, Some(words))),
    }
}

pub(in crate::ops) async fn log_out(State(pool): State<Arc<Pool>>, headers: HeaderMap) -> Response {
    ([(header::SET_COOKIE, pool.access.log_out(&headers))], Redirect::to("/login")).into_response()
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

fn form(name: &str, next: &str, problem: Option<&str>) -> Markup {
    html! {
        section.login.card {
            h1 { "payonce" }
            form method="post" action="/login" {
                @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
                input type="hidden" name="next" value=(next);
                label { "Your name" input name="name" value=(name) required maxlength="100" autocomplete="username" autofocus; }
                label { "Token" input name="token" type="password" required autocomplete="current-password"; }
                button type="submit" { "Log in" }
            }
            p.note { "The name is kept with what you do. The tokens are the settings ops_token and ops_readonly_token of this payonce." }
        }
    }
}
