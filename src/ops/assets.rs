//! Script, style and icon, inside the binary. Their addresses hold a digest, so that browsers may keep them for good.

use std::sync::OnceLock;

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

/// (name, content type, text).
const ASSETS: [(&str, &str, &str); 3] = [
    ("app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("app.css", "text/css; charset=utf-8", include_str!("assets/app.css")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// The address of an asset on this host.
pub(super) fn address(name: &str) -> String {
    format!("/assets/{}/{name}", digest())
}

/// Over all of them: a new release of any has new addresses for each.
fn digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        let mut all = Sha256::new();
        for (_, _, text) in ASSETS {
            all.update(text);
        }
        all.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    })
}

pub(super) async fn serve(Path((_, name)): Path<(String, String)>) -> Response {
    match ASSETS.into_iter().find(|(found, ..)| *found == name) {
        Some((_, kind, text)) => {
            let headers = [
                (header::CONTENT_TYPE, kind),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, text).into_response()
        }
        None => (StatusCode::NOT_FOUND, "no such asset\n").into_response(),
    }
}
