//! `payonce ingress`, and what makes its first minute short: `init`, `check`, `send`.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, IsTerminal, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::{Failure, print_json};
use crate::{
    app,
    config::{Config, EndpointConfig, to_toml},
    ingress::{
        client, clock,
        endpoint::Endpoint,
        providers::{KINDS, Kind, kind},
        sample::{self, Sample},
        secrets::Secrets,
    },
    keys::{Keyring, KeysError},
    shown::safe,
    signature::{self, Policy, Rule},
};

/// How long `send` waits for an answer: longer than the ingress waits for the broker.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The configuration file that `init` writes where --config names none.
const DEFAULT_FILE: &str = "payonce.toml";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    /// Where to take webhooks. Without tls_certificate_file, put a proxy in front that ends TLS.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9400")]
    listen: SocketAddr,
    /// Serve /healthz, /readyz and /metrics here.
    #[arg(long, value_name = "ADDR:PORT")]
    health_listen: Option<SocketAddr>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Writes an endpoint into the configuration file, its secrets file, and a key for its source. Asks for the secret.
    Init(InitArgs),
    /// Says what is wrong with the endpoints before traffic does; exits 2 where something is.
    Check {
        /// One JSON object an endpoint.
        #[arg(long)]
        json: bool,
    },
    /// Makes a webhook as the provider would, signs it with the endpoint's secret, and sends it.
    Send(SendArgs),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The provider, such as stripe.
    provider: String,
    /// What its money is for: deposit (money in) or payment (money out).
    #[arg(long, value_parser = ["deposit", "payment"])]
    purpose: Option<String>,
    /// Whether an authorisation is money at once; for providers where that differs.
    #[arg(long, value_parser = ["automatic", "manual"])]
    capture: Option<String>,
    /// The path of its address [default: / and the provider's name].
    #[arg(long)]
    path: Option<String>,
    /// The CloudEvents source of what it publishes [default: /providers/ and the provider's name].
    #[arg(long)]
    source: Option<String>,
    /// Where the provider's object holds the account id [default: by provider].
    #[arg(long)]
    account: Option<String>,
}

#[derive(Debug, clap::Args)]
struct SendArgs {
    /// The provider; its first endpoint is used, unless --path names another.
    provider: String,
    /// The provider's name of the event [default: that of money that came].
    #[arg(long, default_value = "")]
    event: String,
    /// The endpoint's path.
    #[arg(long)]
    path: Option<String>,
    /// Where the ingress listens.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9400")]
    to: SocketAddr,
    /// What makes its ids its own; the same id is the same event [default: the time].
    #[arg(long)]
    id: Option<String>,
    /// The account.
    #[arg(long, default_value = "acct-1001")]
    account: String,
    /// The amount, in the provider's minor units.
    #[arg(long, default_value_t = 1_999)]
    amount: u64,
    /// The currency.
    #[arg(long, default_value = "EUR")]
    currency: String,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, file: Option<PathBuf>, args: Args) -> Result<(), Failure> {
    match args.command {
        None => Ok(app::run_ingress(config, args.listen, args.health_listen).await?),
        Some(Command::Init(args)) => init(&config, file.as_deref(), &args),
        Some(Command::Check { json }) => check(&config, json),
        Some(Command::Send(args)) => send(&config, &args).await,
    }
}

fn check(config: &Config, json: bool) -> Result<(), Failure> {
    let endpoints = app::endpoints(config, &app::keys(config)?)?;
    for endpoint in endpoints.iter() {
        let (path, provider, source) = (&endpoint.path, endpoint.kind.name, &endpoint.terms.source);
        if json {
            print_json(
                &json!({ "path": path, "provider": provider, "source": source, "account": endpoint.terms.account.path }),
            )?;
        } else {
            say!("{path}: {provider}, source {source}, account at {}", safe(&endpoint.terms.account.path));
        }
    }
    if !json {
        say!("Every endpoint can take webhooks, and every source has a key.");
    }
    Ok(())
}

fn known(provider: &str) -> Result<&'static Kind, Failure> {
    let names = || KINDS.map(|kind| kind.name).join(", ");
    kind(provider).ok_or_else(|| Failure::Usage(format!("{provider:?} is not one of {}", names())))
}

fn init(config: &Config, file: Option<&Path>, args: &InitArgs) -> Result<(), Failure> {
    let kind = known(&args.provider)?;
    if file.is_none() && Path::new(DEFAULT_FILE).exists() {
        // It was not read: what it says already would be said twice.
        return Err(Failure::Usage(format!(
            "{DEFAULT_FILE} is there already; to add to it, say --config {DEFAULT_FILE}"
        )));
    }
    let file = file.unwrap_or(Path::new(DEFAULT_FILE));
    let folder = file.parent().unwrap_or(Path::new(""));
    let ask = |needed: bool, given: &Option<String>, what: &str| match given {
        Some(given) => Ok(Some(given.clone())),
        None if needed => ask(what).map(Some),
        None => Ok(None),
    };
    let purpose =
        ask(kind.needs_purpose, &args.purpose, "purpose: deposit (money in) or payment (money out)")?;
    let capture = ask(kind.needs_capture, &args.capture, "capture: automatic or manual")?;
    let name = args.path.as_deref().unwrap_or(kind.name).trim_matches('/').replace('/', "-");
    let endpoint = EndpointConfig {
        path: args.path.clone().unwrap_or_else(|| format!("/{}", kind.name)),
        provider: kind.name.to_owned(),
        source: args.source.clone().unwrap_or_else(|| format!("/providers/{}", kind.name)),
        purpose,
        account: args.account.clone(),
        account_until: None,
        references: Default::default(),
        secrets_file: PathBuf::from(format!("{name}.secrets")),
        capture,
        live: None,
    };
    if config.ingress.endpoint.iter().any(|known| known.path == endpoint.path) {
        return Err(Failure::Usage(format!(
            "{}: the configuration has it already; name another --path",
            endpoint.path
        )));
    }
    let mut lines = Vec::new();
    let asked: Vec<String> = kind.names.iter().map(|(name, holds)| format!("{name} = … ({holds})")).collect();
    let also = if asked.is_empty() { String::new() } else { format!("; also {}", asked.join(", ")) };
    if std::io::stdin().is_terminal() {
        eprintln!("Secrets of {}, one a line, an empty line ends them{also}:", kind.title);
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|cause| Failure::Usage(cause.to_string()))?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let secrets_path = folder.join(&endpoint.secrets_file);
    write_new(&secrets_path, &(lines.join("\n") + "\n"))?;
    let opened = Endpoint::open(&EndpointConfig { secrets_file: secrets_path.clone(), ..endpoint.clone() });
    if let Err(problem) = opened {
        // Nothing of a secret stays behind.
        drop(fs::remove_file(&secrets_path));
        return Err(Failure::Usage(format!("{problem}. Nothing was written")));
    }
    let (keys_path, adds_keys_file) = match &config.keys_file {
        Some(path) => (path.clone(), false),
        None => (folder.join("keys.toml"), true),
    };
    Keyring::edit(&keys_path, |rules| {
        if !rules.contains_key(&endpoint.source) {
            let key = signature::Key::generate(signature::Kind::Hmac)
                .map_err(|problem| KeyProblem(problem.to_string()))?;
            rules.insert(endpoint.source.clone(), Rule { policy: Policy::Required, keys: vec![key] });
        }
        Ok::<(), KeyProblem>(())
    })
    .map_err(|problem| Failure::Usage(problem.0))
    .and_then(|()| append(file, &endpoint, adds_keys_file.then_some(keys_path.as_path())))
    .inspect_err(|_| {
        // Nothing of a secret stays behind, and the same command can be given again.
        drop(fs::remove_file(&secrets_path));
    })?;
    say!(
        "Wrote the endpoint {} to {}, its secrets to {}, and a key for {} to {}.",
        endpoint.path,
        file.display(),
        secrets_path.display(),
        endpoint.source,
        keys_path.display()
    );
    say!("Workers need that key too: keys_file (PAYONCE_KEYS_FILE).");
    say!("Next: payonce ingress check --config {0}; payonce ingress --config {0}", file.display());
    Ok(())
}

struct KeyProblem(String);

impl From<KeysError> for KeyProblem {
    fn from(problem: KeysError) -> Self {
        Self(problem.to_string())
    }
}

fn ask(what: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        let flag = what.split(':').next().unwrap_or_default();
        return Err(Failure::Usage(format!("--{flag}: missing; {what}")));
    }
    eprint!("{what}: ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|cause| Failure::Usage(cause.to_string()))?;
    Ok(line.trim().to_owned())
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |cause: std::io::Error| Failure::Usage(format!("{}: {cause}", path.display()));
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|cause| {
        if cause.kind() != std::io::ErrorKind::AlreadyExists {
            return failed(cause);
        }
        Failure::Usage(format!(
            "{}: is there already, and no endpoint of this configuration uses it; move it away, or name another --path",
            path.display()
        ))
    })?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// Settings stand before the first table, endpoints at the end.
fn append(file: &Path, endpoint: &EndpointConfig, keys_file: Option<&Path>) -> Result<(), Failure> {
    let failed = |cause: std::io::Error| Failure::Usage(format!("{}: {cause}", file.display()));
    let before = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(cause) => return Err(failed(cause)),
    };
    let setting =
        keys_file.map(|path| format!("keys_file = {:?}\n", path.display().to_string())).unwrap_or_default();
    let table = to_toml(endpoint).map_err(Failure::Usage)?;
    let text = format!("{setting}{before}\n[[ingress.endpoint]]\n{table}");
    let new = file.with_extension("toml.new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).map_err(failed)
}

async fn send(config: &Config, args: &SendArgs) -> Result<(), Failure> {
    let kind = known(&args.provider)?;
    let is_asked = |endpoint: &&EndpointConfig| {
        endpoint.provider == kind.name && args.path.as_ref().is_none_or(|path| *path == endpoint.path)
    };
    let found = config.ingress.endpoint.iter().find(is_asked).ok_or_else(|| {
        Failure::Usage(format!(
            "the configuration has no such endpoint; name its file by --config, or `payonce ingress init {}` writes one",
            kind.name
        ))
    })?;
    let endpoint = Endpoint::open(found).map_err(Failure::Usage)?;
    let names: Vec<&str> = kind.names.iter().map(|(name, _)| *name).collect();
    let secrets = Secrets::load(&found.secrets_file, &names).map_err(Failure::Usage)?;
    let now = clock::now();
    let id = args.id.clone().unwrap_or_else(|| now.as_micros().to_string());
    let sample = Sample {
        event: args.event.clone(),
        id,
        account: args.account.clone(),
        amount: args.amount,
        currency: args.currency.clone(),
    };
    let made = sample::make(&endpoint, &secrets, &sample, now.as_secs()).map_err(Failure::Usage)?;
    let status = tokio::time::timeout(ANSWER_DEADLINE, client::send(args.to, &found.path, made)).await;
    let status = status.unwrap_or_else(|_| Err("no answer".to_owned()));
    let status = status.map_err(|cause| {
        Failure::Unreachable(format!("{}: {cause}. Does `payonce ingress` run there?", args.to))
    })?;
    if args.json {
        print_json(&json!({ "endpoint": found.path, "id": sample.id, "status": status }))?;
    } else {
        say!("{} {} answered {status}.", found.path, sample.id);
    }
    if (200..300).contains(&status) { Ok(()) } else { Err(Failure::No(format!("not a yes: {status}"))) }
}
