//! `payonce migrate`.

use serde_json::json;

use super::{Failure, print_json};
use crate::{app, config::Config, store};

pub(super) async fn run(config: &Config, json: bool) -> Result<(), Failure> {
    let database = app::database(config, "payonce-migrate")?.for_reading();
    let mut connection = database.connect().await?;
    let applied = store::migrate(&mut connection).await?;
    if json {
        return print_json(&json!({ "applied": applied }));
    }
    match applied.as_slice() {
        [] => say!("The schema is up to date."),
        versions => {
            let versions: Vec<String> = versions.iter().map(i64::to_string).collect();
            say!("Applied migrations {}. The schema is up to date.", versions.join(", "));
        }
    }
    Ok(())
}
