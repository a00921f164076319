//! `payonce quarantine take|hand-back|note`. What must not live here: anything that applies, discards or moves a case.

use super::{Failure, approvals::report_start, print_json, quarantine::By, table};
use crate::{
    app,
    config::Config,
    store::{
        self, actions,
        actions::Via,
        case_work::{self, CaseWork, CaseWorker},
        requests::Start,
    },
};

pub(super) async fn run(
    config: &Config,
    ids: &[i64],
    work: CaseWork<'_>,
    why: Option<&str>,
    by: &By,
) -> Result<(), Failure> {
    let mut connection = app::database(config, "payonce")?.connect().await?;
    store::check_schema(&mut connection).await?;
    let worker = CaseWorker {
        who: &by.by,
        via: Via::CommandLine,
        why: why.unwrap_or_else(|| work.why()),
        key: by.idempotency_key.as_deref(),
    };
    let action = match case_work::work(&mut connection, ids, work, worker).await? {
        Start::Begun(action) => action,
        Start::Refused(words) => return Err(Failure::No(format!("nothing was done: {words}"))),
        other @ (Start::Before(_) | Start::Proposed(_) | Start::Ended(_) | Start::OtherContent(_)) => {
            return report_start(&other, by.json);
        }
    };
    let line = actions::show(&mut connection, action).await?;
    let line = line.ok_or_else(|| Failure::No(format!("the audit log has no line {action}")))?;
    if by.json {
        return print_json(&line.outcome());
    }
    say!("{}", table::safe(line.result.as_deref().unwrap_or_default()));
    Ok(())
}
