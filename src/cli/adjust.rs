//! `payonce adjust`.

use std::sync::Arc;

use serde_json::json;

use super::{Failure, print_json, quarantine, table};
use crate::{
    app,
    config::Config,
    ledger::{
        AccountId, Amount, Callback, Currency, Direction, EventId, Fingerprint, Key, Kind, OPERATOR_SOURCE,
        Source,
    },
    store::{
        self, StoreError,
        actions::{self, Act, Door, Record},
    },
    worker::adjust::{Adjusted, adjust},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "An adjustment is a ledger row of source urn:payonce:operator. Of one id there is never a second: after a failure run the\n\
                        same command again, with --id. Exits 1 where nothing was posted: known already, the id used for something else, no\n\
                        such account, another currency, account closed."
)]
pub(super) struct Args {
    /// The account.
    #[arg(value_parser = account_id, allow_hyphen_values = true)]
    account: AccountId,
    /// credit: the balance grows; debit: it shrinks, below zero too.
    #[arg(value_parser = direction, value_name = "credit|debit")]
    direction: Direction,
    /// How much, in minor units: an integer from 1, 1999 for 19.99 EUR.
    #[arg(value_parser = amount)]
    amount: Amount,
    /// The account's currency: its ISO 4217 code.
    #[arg(value_parser = currency)]
    currency: Currency,
    /// Kept in the audit log.
    #[arg(long, value_parser = quarantine::words, value_name = "TEXT")]
    why: String,
    /// What makes it once: 1 to 200 bytes [default: a random one, which is printed].
    #[arg(long, value_parser = event_id, value_name = "ID", allow_hyphen_values = true)]
    id: Option<EventId>,
    /// Who does this, kept in the audit log.
    #[arg(long, env = "USER", default_value = "operator", value_parser = quarantine::name, value_name = "NAME")]
    by: String,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn account_id(text: &str) -> Result<AccountId, String> {
    AccountId::new(text).map_err(|error| error.to_string())
}

pub(super) fn currency(code: &str) -> Result<Currency, String> {
    Currency::parse(code).ok_or_else(|| "expected an ISO 4217 code in capitals, such as EUR".to_owned())
}

fn event_id(text: &str) -> Result<EventId, String> {
    EventId::new(text).map_err(|error| error.to_string())
}

fn direction(name: &str) -> Result<Direction, String> {
    Direction::parse(name).ok_or_else(|| "expected credit or debit".to_owned())
}

fn amount(text: &str) -> Result<Amount, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let units = text.parse().ok().filter(|units| is_plain && *units >= 1);
    units
        .and_then(Amount::new)
        .ok_or_else(|| format!("expected an integer from 1 to {}: minor units, such as cents", Amount::MAX))
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let event_id = match &args.id {
        Some(id) => id.clone(),
        None => event_id(&format!("{:032x}", rand::random::<u128>())).map_err(Failure::No)?,
    };
    let database = Arc::new(app::database(config, "payonce")?);
    let mut audit_log = database.for_reading().connect().await?;
    store::check_schema(&mut audit_log).await?;
    let now = store::now(&mut audit_log).await?;
    let source = Source::new(OPERATOR_SOURCE).map_err(|error| Failure::No(error.to_string()))?;
    let adjustment = Callback {
        key: Key { source, event_id },
        kind: Kind::AdjustmentPosted,
        account_id: Some(args.account.clone()),
        assigned_to: None,
        payment_id: None,
        operation_id: None,
        amount: args.amount,
        currency: args.currency,
        is_final: false,
        is_cumulative: false,
        expires_at_us: None,
        to: None,
        direction: Some(args.direction),
        occurred_at_us: i64::try_from(now.unix_timestamp_nanos() / 1_000).ok(),
        fingerprint: Fingerprint([0; 32]),
    }
    .sealed();
    let id = adjustment.key.event_id.as_str();
    let chosen = format!(
        "{} {} {} (minor units), account {}, id {id}",
        args.direction.as_str(),
        args.amount.minor_units(),
        args.currency,
        args.account
    );
    let record =
        Record { who: &args.by, via: Door::CommandLine, act: Act::Adjust, why: &args.why, chosen: &chosen };
    let line = actions::begin_act(&mut audit_log, record).await?;
    let mut connection = store::Connection::new(database);
    let adjusted = adjust(&mut connection, &adjustment, config.worker.policy()).await;
    connection.close().await;
    let adjusted = adjusted.map_err(|cause| unknown(cause, id))?;
    // Whatever the audit log cannot be told any more, the ledger has.
    let told = actions::end(&mut audit_log, line, &in_words(&adjusted, id)).await;
    report(&adjusted, &args, id)?;
    Ok(told?)
}

/// The same command says what has become of it, given the id.
fn unknown(cause: StoreError, id: &str) -> Failure {
    let is_open = matches!(cause, StoreError::Unavailable(_));
    let known =
        if is_open { "It is not known whether the adjustment was posted" } else { "Nothing was posted" };
    let again = format!("{known}. Run the same command with --id {}: it posts it once", table::safe(id));
    match Failure::from(cause) {
        Failure::No(text) => Failure::No(format!("{text}. {again}")),
        Failure::Usage(text) => Failure::Usage(format!("{text}. {again}")),
        Failure::Unreachable(text) => Failure::Unreachable(format!("{text}. {again}")),
    }
}

fn in_words(adjusted: &Adjusted, id: &str) -> String {
    match adjusted {
        Adjusted::Posted { balance, held, version } => {
            format!("posted: balance {balance}, held {held} (minor units), version {version}, id {id}")
        }
        Adjusted::Known => format!("nothing to do: the adjustment {id} is posted already"),
        Adjusted::OtherContent => format!(
            "nothing was posted: the id {id} was used for another adjustment, which `payonce event {OPERATOR_SOURCE} {id}` shows; use another"
        ),
        Adjusted::Refused { reason, detail } => {
            format!("nothing was posted: {}: {detail}", reason.as_str())
        }
    }
}

fn report(adjusted: &Adjusted, args: &Args, id: &str) -> Result<(), Failure> {
    let words = in_words(adjusted, id);
    let (outcome, reason) = match adjusted {
        Adjusted::Posted { balance, held, version } => {
            if args.json {
                return print_json(&json!({
                    "outcome": "posted", "id": id, "account_id": args.account.as_str(),
                    "balance": balance, "held": held, "version": version,
                }));
            }
            say!("Account {}: {}", table::safe(args.account.as_str()), table::safe(&words));
            return Ok(());
        }
        Adjusted::Known => ("known", None),
        Adjusted::OtherContent => ("refused", Some("payload_mismatch")),
        Adjusted::Refused { reason, .. } => ("refused", Some(reason.as_str())),
    };
    if args.json {
        print_json(&json!({ "outcome": outcome, "id": id, "reason": reason }))?;
    }
    Err(Failure::No(format!("account {}: {words}", args.account)))
}
