//! `payonce migrate`: what the owner of the data does before workers start.

use serde_json::json;

use super::{Failure, print_json};
use crate::{
    app,
    broker::{self, Names},
    config::Config,
    store::{self, Grantee},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Give this role the rights that workers need, and take away every other that it has on payonce's tables.
    #[arg(long, env = "PAYONCE_GRANT_WORKER", value_name = "ROLE")]
    grant_worker: Option<String>,
    /// The same for people and pages that work the cases: all reading, and what a replay writes.
    #[arg(long, env = "PAYONCE_GRANT_OPS", value_name = "ROLE")]
    grant_ops: Option<String>,
    /// The same for those who only look: all reading, no writing.
    #[arg(long, env = "PAYONCE_GRANT_READER", value_name = "ROLE")]
    grant_reader: Option<String>,
    /// The same for `payonce feed`: reading the ledger, and keeping how far it has sent it.
    #[arg(long, env = "PAYONCE_GRANT_FEED", value_name = "ROLE")]
    grant_feed: Option<String>,
    /// The same for `payonce api`: reading balances, payments, and where callbacks ended.
    #[arg(long, env = "PAYONCE_GRANT_API", value_name = "ROLE")]
    grant_api: Option<String>,
    /// Declare exchange and queues on the broker, so that the workers' user needs no right to configure.
    #[arg(long)]
    declare: bool,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let database = app::database(config, "payonce-migrate")?.for_reading();
    let mut connection = database.connect().await?;
    let applied = store::migrate(&mut connection).await?;
    let grants = [
        (args.grant_worker, Grantee::Worker),
        (args.grant_ops, Grantee::Ops),
        (args.grant_reader, Grantee::Reader),
        (args.grant_feed, Grantee::Feed),
        (args.grant_api, Grantee::Api),
    ];
    let grants: Vec<(String, Grantee)> =
        grants.into_iter().filter_map(|(role, grantee)| Some((role?, grantee))).collect();
    for (role, grantee) in &grants {
        store::grant(&mut connection, role, *grantee).await?;
    }
    if args.declare {
        let url = app::amqp_url(config)?.expose();
        let connection = broker::connect(url, "payonce-migrate", &config.tls).await?;
        let names = Names::new(&config.prefix);
        broker::topology::declare(&connection, &names).await?;
        broker::declare_events(&connection, &names).await?;
        broker::disconnect(connection).await?;
    }
    if args.json {
        return print_json(&json!({ "applied": applied }));
    }
    match applied.as_slice() {
        [] => say!("The schema is up to date."),
        versions => {
            let versions: Vec<String> = versions.iter().map(i64::to_string).collect();
            say!("Applied migrations {}. The schema is up to date.", versions.join(", "));
        }
    }
    for (role, grantee) in &grants {
        say!("Role {role} has the rights of {}, and no others on these tables.", grantee.as_str());
    }
    if args.declare {
        say!("Exchange and queues are declared.");
    }
    Ok(())
}
