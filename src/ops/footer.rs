//! What stands at the foot of every page: version, times, and the keys. What must not live here: anything that is read from a server.

use maud::{Markup, html};

pub(super) fn footer() -> Markup {
    html! {
        footer {
            "payonce " (env!("CARGO_PKG_VERSION")) " · all times UTC · "
            a href="/api/overview" { "API" } " · " a href="/metrics" { "metrics" }
            span #local-part hidden { " · " button.quiet type="button" id="local" aria-pressed="false" { "Local times" } }
        }
        (keys())
    }
}

/// The keys that every page knows, shown by one of them.
fn keys() -> Markup {
    html! {
        dialog #keys aria-labelledby="keys-title" {
            h2 #keys-title { "Keys" }
            dl.facts {
                @for (key, does) in [
                    ("/", "Find an id"),
                    ("j, k", "Next row, row before"),
                    ("Enter", "Open the row's page"),
                    ("x", "Select the row, or not"),
                    ("?", "These keys"),
                    ("Esc", "Close this; leave a field"),
                ] {
                    dt { kbd { (key) } } dd { (does) }
                }
            }
            form method="dialog" { button.quiet type="submit" { "Close" } }
        }
    }
}
