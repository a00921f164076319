//! Settles payment callbacks in PostgreSQL from a program of one's own: no broker, no Redis, no worker. What must not live here: anything that
//! one who copies it does not need. Run it with `PAYONCE_DATABASE_URL=… cargo run --example embed`.

#![forbid(unsafe_code)]

use std::{error::Error, sync::Arc, time::Duration};

use payonce_ledger::{Outcome, Rules};
use payonce_message::wire;
use payonce_postgres::engine::{self, Policy};
use payonce_postgres::{Connection, Database, migrate};

/// Settles a deposit, the same once more, and a fee of one account; what became of each. `None`: it could not be written now.
///
/// # Errors
/// A wrong address, a message that is no callback, a database that does not answer.
pub async fn settle(url: &str) -> Result<Vec<Option<Outcome>>, Box<dyn Error + Send + Sync>> {
    let database = Database::new(url, "embed", Duration::from_secs(10))?;
    migrate(&mut database.for_reading().connect().await?).await?;
    let [deposit, fee] = [("deposit.succeeded", 1_999), ("fee.charged", 99)].map(|(kind, amount)| {
        format!(
            r#"{{"specversion": "1.0", "id": "{kind}", "source": "/shop", "type": "{kind}", "subject": "acct-1",
                 "data": {{"amount": {amount}, "currency": "EUR"}}}}"#
        )
    });
    let callbacks = [&deposit, &deposit, &fee].map(|body| wire::decode(body.as_bytes()));
    let callbacks: Vec<_> = callbacks.into_iter().collect::<Result<_, _>>().map_err(|error| error.detail)?;
    let policy = Policy { rules: Rules::default(), mask_cards: true };
    let mut connection = Connection::new(Arc::new(database));
    let (outcomes, passed_over) =
        engine::settle_all(&mut connection, &callbacks, "embed", policy, engine::REPLAY_WAITS_MAX).await?;
    passed_over.iter().for_each(|callback| eprintln!("{}: {}", callback.item, callback.cause));
    Ok(outcomes)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    println!("{:?}", settle(&std::env::var("PAYONCE_DATABASE_URL")?).await?);
    Ok(())
}
