//! What is shown where there is no page. It stands outside of the guarded pages, so it says nothing that a stranger may not know.

use axum::{
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use maud::html;

use crate::ops::layout::{Frame, id};

/// Characters of an address that are repeated.
const SHOWN_CHARS_MAX: usize = 100;

pub(in crate::ops) async fn page(frame: Frame, uri: Uri) -> Response {
    let path = uri.path();
    // A program is told so in JSON.
    if path == "/api" || path.starts_with("/api/") {
        return StatusCode::NOT_FOUND.into_response();
    }
    let shown: String = path.chars().take(SHOWN_CHARS_MAX).collect();
    let body = html! {
        section.empty {
            h1 { "There is no such page" }
            p { "Nothing stands at " (id(&shown)) ". The address may be mistyped, or belong to another version." }
            p { a href="/" { "Overview" } " · " a href="/quarantine" { "Quarantine" } " · " a href="/find" { "Find an id" } }
        }
    };
    frame.bare(StatusCode::NOT_FOUND, "Not found", body)
}
