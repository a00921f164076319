//! What one sender may take: requests a second by endpoint and address. What must not live here: sockets.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How often those that went are looked for, once there are so many: a look costs as much as there are.
const PRUNE_PAUSE: Duration = Duration::from_secs(1);
/// Addresses that are told apart; beyond them all others share one allowance.
const ADDRESSES_MAX: usize = 65_536;

/// The rate of requests, by endpoint and address (the generic cell rate algorithm).
pub struct Rate {
    per_request: Duration,
    burst: Duration,
    /// When an address has used up nothing any more, since the start of the process.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    empty_at: HashMap<(String, IpAddr), Duration>,
    pruned_at: Option<Duration>,
}

impl Rate {
    /// `per_second` on average, and `burst` at once beyond that.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let per_request = Duration::from_secs(1) / per_second.max(1);
        Self { per_request, burst: per_request * burst.max(1), seen: Mutex::default() }
    }

    /// Whether one more request is within the rate, at `now` since the start of the process; else how long to wait.
    ///
    /// # Errors
    /// After how long it would be.
    pub fn take(&self, endpoint: &str, address: IpAddr, now: Duration) -> Result<(), Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { empty_at, pruned_at } = &mut *seen;
        let mut key = (endpoint.to_owned(), block(address));
        if empty_at.len() >= ADDRESSES_MAX && !empty_at.contains_key(&key) {
            if pruned_at.is_none_or(|at| now.saturating_sub(at) >= PRUNE_PAUSE) {
                *pruned_at = Some(now);
                empty_at.retain(|_, at| *at > now);
            }
            if empty_at.len() >= ADDRESSES_MAX {
                key = (String::new(), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            }
        }
        let at = empty_at.entry(key).or_insert(now);
        let from = (*at).max(now);
        if from + self.per_request > now + self.burst {
            return Err(from + self.per_request - now - self.burst);
        }
        *at = from + self.per_request;
        Ok(())
    }
}

/// One host of the sixth version has a whole /64.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}
