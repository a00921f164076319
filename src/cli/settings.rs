//! The flags of the settings: every command takes all of them, as before or after its name, and `--help` shows those that it uses. What
//! must not live here: what a setting may hold.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Command};

use crate::config::{Domain, Part, SETTINGS, Setting};

/// The parts of payonce that a command uses, by the first word of its name.
fn parts(command: &str) -> &'static [Part] {
    use Part::{
        Api, Approvals, Broker, Database, Feed, Labels, Log, Names, Ops, Publish, Reading, Redis, Retry,
        Rules, Signatures, Tls, Worker,
    };
    match command {
        "migrate" => &[Log, Database, Broker, Names, Tls],
        "worker" => &[Log, Database, Redis, Broker, Names, Tls, Signatures, Worker, Retry, Rules, Labels],
        "ops" => {
            &[Log, Database, Redis, Broker, Names, Tls, Signatures, Rules, Reading, Labels, Ops, Approvals]
        }
        "api" => &[Log, Database, Tls, Reading, Api],
        "feed" => &[Log, Database, Redis, Broker, Names, Tls, Retry, Feed],
        "publish" => &[Log, Database, Broker, Names, Tls, Signatures, Rules, Publish],
        "ingress" => &[Log, Broker, Names, Tls, Signatures, Retry],
        "keys" => &[Log, Signatures],
        "find" | "event" | "account" | "payment" | "report" => &[Log, Database, Tls],
        "adjust" => &[Log, Database, Tls, Rules, Approvals],
        "quarantine" | "approvals" => &[Log, Database, Tls, Signatures, Rules, Approvals],
        "audit" => &[Log, Database, Redis, Names, Tls, Rules],
        "completions" | "man" => &[],
        _ => &[Log],
    }
}

/// The command with a flag for each setting that is not a secret.
pub(super) fn with_flags(root: Command) -> Command {
    let root = with_flags_of(root, &[]);
    root.mut_subcommands(|command| {
        let parts = parts(command.get_name());
        with_flags_below(command, parts)
    })
}

fn with_flags_below(command: Command, parts: &'static [Part]) -> Command {
    with_flags_of(command, parts).mut_subcommands(|inner| with_flags_below(inner, parts))
}

/// Flags of settings that are used stand in the help, the others are taken nevertheless: a script may give one set to all commands.
fn with_flags_of(command: Command, parts: &[Part]) -> Command {
    // One of the command's own of this name is another thing: `keys generate --signatures`.
    let own: Vec<String> =
        command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    let free = settings().filter(|setting| !own.contains(&long(setting)));
    command.args(free.map(|setting| {
        let default = match setting.default {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        Arg::new(id(setting))
            .long(long(setting))
            .value_name("VALUE")
            .help(format!("{}{default}", setting.help))
            .help_heading("Settings")
            .hide_short_help(true)
            .hide(!parts.contains(&setting.part))
    }))
}

/// What flags say, before the command or after it; after it counts where both do.
pub(super) fn given(mut matches: &ArgMatches) -> BTreeMap<String, String> {
    let mut given = BTreeMap::new();
    loop {
        given.extend(settings().filter_map(|setting| {
            let value = matches.try_get_one::<String>(&id(setting)).ok()??;
            Some((setting.name.to_owned(), value.clone()))
        }));
        let Some((_, inner)) = matches.subcommand() else { return given };
        matches = inner;
    }
}

/// What its value is found under: no name of an argument of a command's own.
fn id(setting: &Setting) -> String {
    format!("setting:{}", setting.name)
}

fn long(setting: &Setting) -> String {
    setting.name.replace('_', "-")
}

fn settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| !matches!(setting.domain, Domain::Secret))
}
