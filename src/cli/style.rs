//! Colour, where somebody can see it: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the terminal is a dumb one. What
//! is coloured says the same without colour.

use std::io::IsTerminal;

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it should be.
    Good,
    /// Somebody should look.
    Attention,
    /// It is wrong.
    Bad,
}

impl Style {
    /// Of the sixteen colours that every terminal has, so that they follow its theme.
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Attention => "33",
            Self::Bad => "1;31",
        }
    }
}

/// For standard output.
pub(super) fn out(style: Style, text: &str) -> String {
    styled(std::io::stdout().is_terminal(), style, text)
}

/// For standard error.
pub(super) fn err(style: Style, text: &str) -> String {
    styled(std::io::stderr().is_terminal(), style, text)
}

fn styled(is_terminal: bool, style: Style, text: &str) -> String {
    let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    if is_terminal && is_wanted {
        format!("\u{1b}[{}m{text}\u{1b}[0m", style.code())
    } else {
        text.to_owned()
    }
}
