//! What a ratio of two runners may claim: its rounds, taken in pairs, must differ less among themselves than it says the two differ.

use serde::Serialize;

/// One runner's rate over another's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Of the two medians.
    pub of_medians: f64,
    /// Of the rounds, each with its neighbour in time: the lowest and the highest.
    pub lowest: f64,
    pub highest: f64,
}

impl Ratio {
    /// `rounds`: the rates of both, in the order in which they were measured. `None` where there is nothing to divide.
    pub fn new(of_medians: f64, rounds: impl Iterator<Item = (f64, f64)>) -> Option<Self> {
        let (mut lowest, mut highest) = (f64::INFINITY, f64::NEG_INFINITY);
        for (one, other) in rounds {
            let ratio = one / other.max(f64::EPSILON);
            (lowest, highest) = (lowest.min(ratio), highest.max(ratio));
        }
        (lowest.is_finite() && highest.is_finite()).then(|| Self {
            of_medians: thousandths(of_medians),
            lowest: thousandths(lowest),
            highest: thousandths(highest),
        })
    }

    /// Whether the spread over the rounds is smaller than the difference that it claims. One round has no spread, and shows nothing.
    pub fn is_shown(&self, rounds: usize) -> bool {
        let claimed = self.of_medians.max(1.0 / self.of_medians.max(f64::EPSILON));
        rounds > 1 && self.highest / self.lowest.max(f64::EPSILON) < claimed
    }

    /// As the table has it: a ratio only where it is shown.
    pub fn text(&self, rounds: usize) -> String {
        let Self { of_medians, lowest, highest } = self;
        match (rounds, self.is_shown(rounds)) {
            (1, _) => "one round: no ratio".to_owned(),
            (_, true) => format!("× {of_medians:.2} ({lowest:.2} to {highest:.2})"),
            (_, false) => format!("not shown ({lowest:.2} to {highest:.2})"),
        }
    }
}

fn thousandths(ratio: f64) -> f64 {
    (ratio * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(rounds: &[(f64, f64)]) -> Ratio {
        let middle = rounds[rounds.len() / 2];
        Ratio::new(middle.0 / middle.1, rounds.iter().copied()).expect("there are rounds")
    }

    #[test]
    fn a_ratio_is_printed_where_its_rounds_differ_less_than_it_claims() {
        let wide_apart = ratio(&[(1_500.0, 100.0), (1_800.0, 100.0), (2_100.0, 100.0)]);
        assert_eq!(wide_apart.text(3), "× 18.00 (15.00 to 21.00)");
        let half = ratio(&[(49.0, 100.0), (50.0, 100.0), (52.0, 100.0)]);
        assert_eq!(half.text(3), "× 0.50 (0.49 to 0.52)");
    }

    #[test]
    fn a_ratio_is_not_printed_where_its_rounds_differ_more_than_it_claims() {
        let noise = ratio(&[(80.0, 100.0), (110.0, 100.0), (130.0, 100.0)]);
        assert_eq!(noise.text(3), "not shown (0.80 to 1.30)");
        let lower = ratio(&[(70.0, 100.0), (90.0, 100.0), (110.0, 100.0)]);
        assert!(!lower.is_shown(3));
    }

    #[test]
    fn one_round_shows_no_ratio() {
        assert_eq!(ratio(&[(1_800.0, 100.0)]).text(1), "one round: no ratio");
    }
}
