//! `payonce payment SOURCE ID`.

use super::{Failure, account, print_answer, table, values, with_database};
use crate::{
    answers::money,
    config::Config,
    store::payment_story::{self, PaymentStory},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The provider: CloudEvents `source`, such as /providers/stripe.
    #[arg(value_parser = values::id, allow_hyphen_values = true)]
    source: String,
    /// The provider's id of the payment: `data.payment_id`.
    #[arg(value_parser = values::id, allow_hyphen_values = true)]
    id: String,
    /// One JSON object in place of text.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<(), Failure> {
    let story = with_database(config, async |connection| {
        payment_story::show(connection, &args.source, &args.id).await
    })
    .await?;
    let Some(story) = story else {
        return Err(Failure::No(format!(
            "no callback about payment {} of {} was ever settled",
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

fn print(story: &PaymentStory) {
    say!("Payment {} of {}", table::safe(&story.payment_id), table::safe(&story.source));
    let currency = story.currency.as_deref().unwrap_or_default();
    let sums = story.sums().into_iter();
    let sums: Vec<String> =
        sums.map(|(name, amount)| format!("{} {}", name.to_lowercase(), money(amount, currency))).collect();
    match &story.state {
        Some(state) => {
            let account = table::optional(story.account_id.as_ref());
            say!("  {state}, account {account}: {}", sums.join(", "));
        }
        None if story.entries.is_empty() => say!("  nothing is applied yet"),
        None => {}
    }
    account::print_entries(&story.entries);
    for case in &story.quarantined {
        say!(
            "  case {}: {} of {}, {}, {}: {}",
            case.id,
            table::optional(case.event_id.as_ref()),
            table::time(case.first_seen_at),
            case.state,
            case.reason,
            table::safe(&case.detail)
        );
    }
}
