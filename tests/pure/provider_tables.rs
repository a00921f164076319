//! docs/providers says of each provider what the code does: the table of its events, the lines of its secrets file. With
//! `PAYONCE_WRITE_TABLES=1` the tables are written instead of compared.

use std::{collections::BTreeSet, fs, path::PathBuf};

use payonce::ingress::{
    mapping::{Becomes, Capture, Means, Purpose, Step, becomes},
    providers::{KINDS, Kind},
};

const BEGIN: &str = "<!-- events: compared with the code by a test -->\n";
const END: &str = "<!-- end of events -->";

fn page(kind: &Kind) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("docs/providers/{}.md", kind.name))
}

fn shown(purpose: Purpose, step: Step) -> String {
    let one = |capture| match becomes(purpose, capture, step) {
        Becomes::Callback(kind) => format!("`{}`", kind.as_str()),
        Becomes::Nothing(_) => "nothing".to_owned(),
        Becomes::NoType(_) => "a case".to_owned(),
    };
    let (automatic, manual) = (one(Capture::Automatic), one(Capture::Manual));
    if automatic == manual { automatic } else { format!("automatic: {automatic}; manual: {manual}") }
}

fn table(kind: &Kind) -> String {
    let mut table = "\n| event | purpose deposit | purpose payment | how |\n|---|---|---|---|\n".to_owned();
    for row in kind.rows {
        let (deposit, payment) = match row.means {
            Means::Money(step) => (shown(Purpose::Deposit, step), shown(Purpose::Payment, step)),
            Means::Nothing => ("nothing".to_owned(), "nothing".to_owned()),
            Means::Unclear => ("a case".to_owned(), "a case".to_owned()),
        };
        table += &format!("| `{}` | {deposit} | {payment} | {} |\n", row.event, row.note);
    }
    table + "\n"
}

#[test]
fn each_providers_page_has_the_table_that_the_code_follows() {
    for kind in KINDS {
        let path = page(kind);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (name, _) in kind.names {
            assert!(text.contains(&format!("`{name}")), "{}: does not say {name}", path.display());
        }
        if kind.rows.is_empty() {
            continue;
        }
        let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{}: no table", path.display()));
        let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("{}: no end", path.display()));
        if std::env::var_os("PAYONCE_WRITE_TABLES").is_some() {
            fs::write(&path, [before, BEGIN, &table(kind), END, after].concat()).unwrap();
            continue;
        }
        assert_eq!(found, table(kind), "{}: run it with PAYONCE_WRITE_TABLES=1", path.display());
    }
}

#[test]
fn no_event_stands_twice_in_a_table() {
    for kind in KINDS {
        let names: BTreeSet<&str> = kind.rows.iter().map(|row| row.event).collect();
        assert_eq!(names.len(), kind.rows.len(), "{}", kind.name);
    }
}

#[test]
fn an_event_moves_the_same_money_whichever_purpose_and_at_most_one_way() {
    // What is a hold is no deposit; what takes money back under one purpose takes it back under the other.
    for (step, deposit, payment) in [
        (Step::Succeeded, "deposit.succeeded", "payment.succeeded"),
        (Step::Refunded, "deposit.refunded", "refund.succeeded"),
        (Step::RefundFailed, "deposit.reinstated", "refund.failed"),
    ] {
        for capture in [Capture::Automatic, Capture::Manual] {
            for (purpose, expected) in [(Purpose::Deposit, deposit), (Purpose::Payment, payment)] {
                match becomes(purpose, capture, step) {
                    Becomes::Callback(kind) => assert_eq!(kind.as_str(), expected, "{step:?}"),
                    other @ (Becomes::Nothing(_) | Becomes::NoType(_)) => panic!("{step:?}: {other:?}"),
                }
            }
        }
    }
    // An authorisation and its capture are one fact where capture is automatic: one of the two is money, never both.
    for purpose in [Purpose::Deposit, Purpose::Payment] {
        assert!(matches!(becomes(purpose, Capture::Automatic, Step::Approved), Becomes::Callback(_)));
        assert!(matches!(becomes(purpose, Capture::Automatic, Step::Captured), Becomes::Nothing(_)));
    }
    assert!(matches!(becomes(Purpose::Deposit, Capture::Manual, Step::Approved), Becomes::Nothing(_)));
}
