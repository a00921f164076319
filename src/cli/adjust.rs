//! `payonce adjust`.

use std::sync::Arc;

use serde_json::json;

use super::{Failure, approvals, print_json, table, values};
use crate::{
    app,
    config::Config,
    ledger::{AccountId, Amount, Correction, Currency, Direction, EventId, OPERATOR_SOURCE},
    operators::adjust::{self, Requested},
    store::{
        self, StoreError,
        actions::{Act, Line, Via},
        acts::Adjusted,
    },
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "An adjustment is a ledger row of source urn:payonce:operator. Of one id there is never a second: after a failure run the\n\
                        same command again, with --id; it answers as the first did. Exits 1 where nothing was posted: the id used for\n\
                        something else, no such account, another currency, account closed. Where approvals names adjust, it is proposed,\n\
                        and posted when another person approves it: `payonce approvals approve`."
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
    #[arg(long, value_parser = values::words, value_name = "TEXT")]
    why: String,
    /// What makes it once: 1 to 200 bytes [default: a random one, which is printed].
    #[arg(long, value_parser = event_id, value_name = "ID", allow_hyphen_values = true)]
    id: Option<EventId>,
    /// Who does this, kept in the audit log.
    #[arg(long, env = "USER", default_value = "operator", value_parser = values::name, value_name = "NAME")]
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
    let id = match &args.id {
        Some(id) => id.clone(),
        None => event_id(&format!("{:032x}", rand::random::<u128>())).map_err(Failure::No)?,
    };
    let database = Arc::new(app::database(config, "payonce")?);
    let mut reading = database.for_reading().connect().await?;
    store::check_schema(&mut reading).await?;
    let correction = Correction {
        id,
        account_id: args.account.clone(),
        direction: args.direction,
        amount: args.amount,
        currency: args.currency,
    };
    let id = correction.id.as_str();
    let chosen = correction.to_string();
    let line = Line {
        who: &args.by,
        via: Via::CommandLine,
        action: Act::Adjust.as_str(),
        why: &args.why,
        chosen: &chosen,
        key: None,
        proposed_by: None,
    };
    let mut connection = store::Connection::new(database);
    let policy = (config.worker.policy(), config.approvals);
    let requested = adjust::request(&mut connection, &correction, policy, line).await;
    connection.close().await;
    match requested.map_err(|cause| unknown(cause, id))? {
        Requested::Adjusted(adjusted) => report(&adjusted, &args, id),
        Requested::Proposed(start) => approvals::report_start(&start, args.json),
    }
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

fn report(adjusted: &Adjusted, args: &Args, id: &str) -> Result<(), Failure> {
    if args.json {
        let mut value = adjusted.outcome();
        value["id"] = json!(id);
        value["account_id"] = json!(args.account.as_str());
        print_json(&value)?;
    }
    match adjusted {
        Adjusted::Posted { .. } if args.json => Ok(()),
        Adjusted::Posted { .. } => {
            say!("Account {}: {}, id {}", table::safe(args.account.as_str()), adjusted, table::safe(id));
            Ok(())
        }
        Adjusted::OtherContent => Err(Failure::No(format!(
            "account {}: {adjusted}. `payonce event {OPERATOR_SOURCE} {id}` shows that one",
            args.account
        ))),
        Adjusted::Refused { .. } => Err(Failure::No(format!("account {}: {adjusted}", args.account))),
    }
}
