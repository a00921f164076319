//! `payonce account ID --from DAY --to DAY`: the statement of one account.

use super::{
    Failure, account, print_bytes, print_json,
    report::print_table,
    table::{self, count},
    with_database,
};
use crate::{
    config::Config,
    reports::{ENTRIES_MAX, asked::Days, csv, statement_json, statement_table},
    store::{
        finance,
        statement::{self, Statement},
    },
};

pub(super) async fn run(
    config: &Config,
    id: &str,
    days: &Days,
    as_csv: bool,
    as_json: bool,
) -> Result<(), Failure> {
    let made = with_database(config, async |connection| {
        if !finance::is_time_zone(connection, &days.time_zone).await? {
            return Ok(None);
        }
        let between = (days.first, days.last);
        statement::statement(connection, id, between, &days.time_zone, 0, ENTRIES_MAX).await.map(Some)
    });
    let Some(found) = made.await? else { return Err(Failure::Usage(days.unknown_time_zone())) };
    let Some(statement) = found else { return Err(account::not_open(id)) };
    if statement.entries_total > ENTRIES_MAX {
        return Err(Failure::Usage(format!(
            "these days have {} ledger rows, and a statement has at most {ENTRIES_MAX}: ask for fewer days",
            statement.entries_total
        )));
    }
    if as_csv {
        print_bytes(&csv(&statement_table(&statement)).map_err(Failure::No)?);
    } else if as_json {
        print_json(&statement_json(&statement, days).map_err(|error| Failure::No(error.to_string()))?)?;
    } else {
        print(&statement, days);
    }
    Ok(())
}

fn print(statement: &Statement, days: &Days) {
    say!(
        "Account {}, {} ({}), booked by recorded_at: {} in {}",
        table::safe(&statement.account_id),
        days.in_words(),
        table::safe(&days.time_zone),
        count(statement.entries_total, "ledger row"),
        statement.currency
    );
    if statement.preliminary {
        say!(
            "This statement is preliminary: the period was not over then, or only just, and may get more rows."
        );
    }
    print_table(&statement_table(statement));
}
