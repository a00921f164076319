//! Progress of long work: a bar on standard error, where that is a terminal; else nothing.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Often enough that a bar without news is seen to live.
const TICK: Duration = Duration::from_millis(200);

/// A bar to `total`, or a spinner where nobody knows that. The template is one of indicatif's.
pub(super) fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        return bar;
    }
    // Templates are constants; with a mistake in one the bar falls back to indicatif's own.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}
