//! Dry runs: what they say is what then happens, batch by batch, whatever was stored before.

use payonce_ledger::{AccountId, CaseEnd, Entry, Outcome, Plan, Unwritten};
use proptest::prelude::*;

use crate::{
    book::Book,
    draft::build,
    properties::opened,
    streams::{Accounts, cut, cuts, stream},
};

const LENGTH: usize = 60;

/// What a person is told of a plan, and of the accounts after it. Ids of cases that are not stored are made up, so they do not count.
#[derive(Debug, PartialEq)]
struct Said {
    outcomes: Vec<Outcome>,
    entries: Vec<Entry>,
    /// Balance, held, version.
    accounts: Vec<(AccountId, i64, i64, i64)>,
    new_cases: Vec<(usize, String)>,
    resolved: Vec<CaseEnd>,
}

fn said(plan: &Plan) -> Said {
    let mut new_cases: Vec<_> = plan.new_cases.iter().map(|case| (case.index, case.detail.clone())).collect();
    new_cases.sort();
    Said {
        outcomes: plan.outcomes.clone(),
        entries: plan.entries.clone(),
        accounts: plan
            .accounts
            .iter()
            .map(|change| {
                (change.account_id.clone(), change.after.balance, change.after.held, change.after.version)
            })
            .collect(),
        new_cases,
        resolved: plan.resolved_cases.iter().map(|case| case.end.clone()).collect(),
    }
}

proptest! {
    #[test]
    fn a_dry_run_says_of_every_callback_what_then_becomes_of_it(
        stream in stream(LENGTH, Accounts::Mixed),
        stored in 0..LENGTH,
        sizes in cuts(),
    ) {
        let (_, mut book): (_, Book) = opened();
        let callbacks = build(&stream);
        let (before, after) = callbacks.split_at(stored.min(callbacks.len()));
        for batch in cut(before, &sizes) {
            book.take(batch);
        }
        let stored = book.clone();
        let mut unwritten = Unwritten::default();
        for (at, batch) in cut(after, &sizes).enumerate() {
            let dry = stored.decide_over(batch, &mut unwritten);
            let real = book.take(batch);
            prop_assert_eq!(said(&dry), said(&real), "batch {}", at);
        }
    }

    #[test]
    fn a_dry_replay_says_of_every_case_what_then_becomes_of_it(
        stream in stream(LENGTH, Accounts::Mixed),
        sizes in cuts(),
    ) {
        let (_, mut book): (_, Book) = opened();
        for batch in cut(&build(&stream), &sizes) {
            book.take(batch);
        }
        let stored = book.clone();
        let mut unwritten = Unwritten::default();
        for (at, ids) in cut(&stored.unended(), &sizes).enumerate() {
            let dry = stored.decide_cases_over(ids, &mut unwritten);
            let real = book.replay_ids(ids);
            prop_assert_eq!(said(&dry), said(&real), "batch {}", at);
        }
    }
}
