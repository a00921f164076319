//! Stories: the callbacks of one payment, such that every order of arrival ends in the same money.

use rand::{RngExt, rngs::StdRng};

use crate::{plan::Kind, poison::Poison};

/// One callback of a story.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: Kind,
    pub amount: i64,
    pub is_final: bool,
    pub poison: Option<Poison>,
    pub is_late: bool,
}

fn event(kind: Kind, amount: i64) -> Event {
    Event { kind, amount, is_final: false, poison: None, is_late: false }
}

/// A story that begins with what the rest needs; the plan shuffles it. A void of a payment with captures comes late, because
/// before them it would refuse them; in a prefilled queue nothing says that they are settled, so there it has none.
pub fn events(prefill: bool, random: &mut StdRng) -> Vec<Event> {
    let amount = random.random_range(1_000..=100_000);
    let authorized = event(Kind::Authorized, amount);
    let mut events = vec![authorized];
    match random.random_range(0..20) {
        0..5 => {
            let captured = amount - random.random_range(1..amount / 2);
            events.extend(parts(Kind::Captured, captured, random));
            if let Some(last) = events.last_mut() {
                last.is_final = true;
            }
            events.extend(refunds(captured, random));
        }
        5..8 => {
            events.extend(parts(Kind::Captured, amount, random));
            events.extend(refunds(amount, random));
        }
        8..10 => {
            let captured = amount - random.random_range(1..amount / 2);
            events.extend(parts(Kind::Captured, captured, random));
            events.extend(refunds(captured, random));
        }
        10..12 => events.push(event(Kind::Voided, amount)),
        12..14 => {
            if !prefill {
                events.extend(parts(Kind::Captured, amount / 2, random));
            }
            events.push(Event { is_late: !prefill, ..event(Kind::Voided, amount - amount / 2) });
        }
        14 => events.push(event(Kind::Failed, amount)),
        15 => {
            events.push(Event { poison: Some(Poison::OverCapture), ..event(Kind::Captured, amount + 1) });
            events.push(Event { is_final: true, ..event(Kind::Captured, amount / 2) });
        }
        16 => {
            events = vec![
                event(Kind::Succeeded, amount),
                Event { poison: Some(Poison::OverRefund), ..event(Kind::Refunded, amount + 1) },
            ];
        }
        _ => {
            events = vec![event(Kind::Succeeded, amount)];
            events.extend(refunds(amount, random));
        }
    }
    events
}

fn refunds(captured: i64, random: &mut StdRng) -> Vec<Event> {
    if random.random_bool(0.5) {
        parts(Kind::Refunded, random.random_range(1..=captured), random)
    } else {
        Vec::new()
    }
}

/// One to three callbacks of this sum.
fn parts(kind: Kind, sum: i64, random: &mut StdRng) -> Vec<Event> {
    let mut rest = sum;
    let mut parts = Vec::new();
    for _ in 0..random.random_range(0..3) {
        if rest > 1 {
            let part = random.random_range(1..rest);
            rest -= part;
            parts.push(event(kind, part));
        }
    }
    parts.push(event(kind, rest));
    parts
}
