//! Who works on a case, and what people note about it. Each act is one transaction with its line of the audit log; a note is that line. What must not
//! live here: anything that a case's fate depends on.

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{
    StoreError,
    actions::{self, Act, Begun, Line, Via},
    filter::Filter,
    requests::{self, Start},
    server,
};
use payonce_ledger::CaseId;

/// Cases of one act.
pub const CASES_MAX: usize = 500;

/// What a person does with cases that leaves them where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseWork<'a> {
    /// Open and waiting cases are this person's from now on, whoever had them before. 1 to 200 bytes.
    Take(&'a str),
    /// They are nobody's.
    HandBack,
    /// The reason of the line is noted about them, in whatever state they are.
    Note,
}

impl CaseWork<'_> {
    /// Its line of the audit log.
    #[must_use]
    pub fn act(self) -> Act {
        match self {
            Self::Take(_) => Act::Take,
            Self::HandBack => Act::HandBack,
            Self::Note => Act::Note,
        }
    }

    /// Where nobody says why.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Take(_) => "to be worked on",
            Self::HandBack => "for somebody else",
            Self::Note => "",
        }
    }

    /// What came of it, in words and for programs.
    fn result(self, cases: usize) -> (String, Value) {
        let plural = if cases == 1 { "" } else { "s" };
        match self {
            Self::Take(assignee) => (
                format!("{cases} case{plural} for {assignee}"),
                json!({ "taken": cases, "assignee": assignee }),
            ),
            Self::HandBack => (format!("{cases} case{plural} for anybody"), json!({ "handed_back": cases })),
            Self::Note => (format!("noted about {cases} case{plural}"), json!({ "noted": cases })),
        }
    }
}

/// Who does it, and why.
#[derive(Debug, Clone, Copy)]
pub struct CaseWorker<'a> {
    /// The person, 1 to 200 bytes.
    pub who: &'a str,
    /// The channel.
    pub via: Via,
    /// The reason, or the note: 1 to 1000 bytes.
    pub why: &'a str,
    /// Makes it one: of one key there is one line.
    pub key: Option<&'a str>,
}

/// Does it: [`Start::Begun`] with the line, which has ended; [`Start::Refused`] where none of these cases can have it done to them, and nothing
/// is written. At most [`CASES_MAX`] cases.
///
/// # Errors
/// [`StoreError`]; after [`StoreError::Unavailable`] it is unknown whether it was done, and the same key says.
pub async fn work(
    connection: &mut PgConnection,
    cases: &[i64],
    work: CaseWork<'_>,
    CaseWorker { who, via, why, key }: CaseWorker<'_>,
) -> Result<Start, StoreError> {
    let mut cases = cases.to_vec();
    cases.sort_unstable();
    cases.dedup();
    if cases.len() > CASES_MAX {
        return Ok(Start::Refused(format!("more than {CASES_MAX} cases are chosen: choose fewer")));
    }
    let mut chosen = Filter { ids: cases.clone(), ..Filter::default() }.to_string();
    if let CaseWork::Take(assignee) = work {
        chosen.push_str(&format!("; by {assignee}"));
    }
    let action = work.act().as_str();
    let line = Line { who, via, action, why, chosen: &chosen, key, proposed_by: None };
    let mut transaction = connection.begin().await?;
    if let Some(before) = requests::before(&mut transaction, &line).await? {
        return Ok(before);
    }
    let action = match actions::begin(&mut transaction, &line).await? {
        Begun::New(action) => action,
        Begun::Before(row) => return Ok(Start::Before(row)),
        Begun::OtherContent(row) => return Ok(Start::OtherContent(format!("{} {}", row.action, row.chosen))),
    };
    // Workers that decide one of these cases now are waited for, in the order of the ids.
    let sql = match work {
        CaseWork::Take(_) | CaseWork::HandBack => {
            "update quarantine set assignee = $2
             where id in (select id from quarantine where id = any($1) and state in ('open', 'waiting') order by id for no key update)
             returning id"
        }
        CaseWork::Note => "select id from quarantine where id = any($1) and $2::text is null order by id",
    };
    let assignee = match work {
        CaseWork::Take(assignee) => Some(assignee),
        CaseWork::HandBack | CaseWork::Note => None,
    };
    let worked: Vec<i64> =
        sqlx::query_scalar(sql).bind(&cases).bind(assignee).fetch_all(&mut *transaction).await?;
    if worked.is_empty() {
        transaction.rollback().await?;
        let words = match work {
            CaseWork::Take(_) | CaseWork::HandBack => "none of these cases is open or waiting",
            CaseWork::Note => "none of these cases is there",
        };
        return Ok(Start::Refused(words.to_owned()));
    }
    let ids: Vec<CaseId> = worked.iter().copied().map(CaseId).collect();
    actions::add_cases(&mut transaction, action, &ids).await?;
    let (result, outcome) = work.result(worked.len());
    actions::end(&mut transaction, action, &result, &outcome).await?;
    server::confirm(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Start::Begun(action))
}
