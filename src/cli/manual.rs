//! `payonce completions SHELL` and `payonce man`: written from the same definitions that read the arguments, so they cannot differ.
//! Neither needs a configuration or a server.

use std::{io::Write, path::PathBuf};

use clap_complete::Shell;

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// For which shell.
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Whose page, such as `worker`, or `quarantine replay`; none: that of payonce.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write all pages into this folder in place of one to standard output.
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    out: Option<PathBuf>,
}

/// Prints a script that the shell reads.
pub(super) fn completions(mut command: clap::Command, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "payonce", &mut script);
    print(&script)
}

/// Prints a page in roff, or writes all of them.
pub(super) fn man(mut command: clap::Command, args: &ManArgs) -> Result<(), Failure> {
    command.build();
    if let Some(folder) = &args.out {
        let failed = |error| Failure::Usage(format!("--out {}: {error}", folder.display()));
        std::fs::create_dir_all(folder).map_err(failed)?;
        return clap_mangen::generate_to(command, folder).map_err(failed);
    }
    let mut found = &command;
    for name in &args.command {
        let Some(inner) = found.find_subcommand(name) else {
            let known: Vec<&str> = found.get_subcommands().map(clap::Command::get_name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::Usage(format!(
                "there is no command {name:?} of {}; there are: {known}",
                found.get_name()
            )));
        };
        found = inner;
    }
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(found.clone()).render(&mut page);
    rendered.map_err(|error| Failure::No(format!("the page cannot be written: {error}")))?;
    print(&page)
}

fn print(text: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::No(format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
