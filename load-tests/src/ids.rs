//! The ids that providers give events, payments and operations.

/// How the ids of events, payments and operations are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ids {
    /// Two of three at random, as most providers make them; every third counts up. An index of a large ledger is read and written
    /// all over by random ones.
    Random,
    /// All count up: each new row is the neighbour of the last one in every index, so that a large ledger costs no more than an empty one.
    Sequential,
}

impl Ids {
    /// The id of the thing with this number, without a prefix; another for each number and seed.
    pub fn of(self, seed: u64, number: u32) -> String {
        match self {
            Self::Random if !number.is_multiple_of(3) => {
                format!("{:016x}", scattered(seed.rotate_left(32) ^ u64::from(number)))
            }
            Self::Random | Self::Sequential => format!("{seed}_{number}"),
        }
    }
}

/// Another number for each, without order: the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
/// 2014), which is a bijection.
const fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
