//! `payonce event SOURCE ID`.

use super::{
    Failure, print_answer,
    style::{self, Style},
    table, values, with_database,
};
use crate::{
    answers::money,
    config::Config,
    store::{
        audit_log::CaseAct,
        report::{self, EventStory},
    },
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The provider: CloudEvents `source`, such as /providers/stripe.
    #[arg(value_parser = values::id, allow_hyphen_values = true)]
    source: String,
    /// The provider's id of the event: CloudEvents `id`.
    #[arg(value_parser = values::id, allow_hyphen_values = true)]
    id: String,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let story =
        with_database(config, async |connection| report::event(connection, &args.source, &args.id).await)
            .await?;
    let Some(story) = story else {
        return Err(Failure::No(format!(
            "event {} of {}: no ledger row and no case yet. It may still be on the queue; both ids are case-sensitive",
            table::safe(&args.id),
            table::safe(&args.source)
        )));
    };
    if args.json {
        return print_answer(&story);
    }
    print(&story);
    Ok(())
}

fn print(story: &EventStory) {
    say!("{} of {}", table::safe(&story.event_id), table::safe(&story.source));
    for (name, values) in &story.references {
        let values: Vec<String> = values.iter().map(|value| table::safe(value)).collect();
        say!("  {}: {}", table::safe(name), values.join(", "));
    }
    if let Some(row) = &story.applied {
        say!(
            "  {}      {}  {} of {} to account {}, version {}: balance {}, held {}",
            style::out(Style::Good, "applied"),
            table::time(row.recorded_at),
            row.kind,
            money(row.amount, &row.currency),
            table::safe(&row.account_id),
            row.account_version,
            money(row.balance_after, &row.currency),
            money(row.held_after, &row.currency),
        );
    }
    for case in &story.quarantined {
        say!(
            "  {}  {}  case {}, {}, {}: {}; delivered {}, last {}",
            style::out(Style::Attention, "quarantined"),
            table::time(case.first_seen_at),
            case.id,
            case.state,
            case.reason,
            table::safe(&case.detail),
            table::count(case.attempts, "time"),
            table::time(case.last_seen_at),
        );
        // What the audit log does not have: a case that was ended by another callback, or by the clock.
        let is_of_a_person = story.acts.iter().any(|of| of.case_id == case.id);
        if let (Some(at), Some(by), false) = (case.resolved_at, &case.resolved_by, is_of_a_person) {
            say!(
                "  {:<11}  {}  by {}: {}",
                case.state,
                table::time(at),
                table::safe(by),
                table::optional(case.resolved_why.as_ref())
            );
        }
    }
    for CaseAct { case_id, act } in &story.acts {
        say!(
            "  {:<11}  {}  case {case_id}, by {}: {}: {}",
            act.action,
            table::time(act.began_at),
            table::safe(&act.who),
            table::safe(&act.why),
            table::safe(act.result.as_deref().unwrap_or("at work, or cut short"))
        );
    }
    for copies in &story.duplicates {
        say!(
            "  duplicates   {}  {} rejected by {}, last {}",
            table::time(copies.first_seen_at),
            copies.copies,
            copies.layer,
            table::time(copies.last_seen_at),
        );
    }
}
