//! The brake on guessing tokens: how many wrong ones an address may show in a minute. Nobody else is kept out by it: where very many addresses
//! guess at once, each has one try left, so that a person with the right token still gets in. What must not live here: what a token opens.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// After this time all is forgotten.
const WINDOW: Duration = Duration::from_secs(60);
/// Wrong tokens of one address within it.
const FAILURES_MAX: u32 = 30;
/// Wrong tokens of all together, after which an address has one try.
const FAILURES_OF_ALL_MAX: u32 = 600;
/// Addresses that are remembered; with more the window ends.
const ADDRESSES_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Brake(Mutex<Option<Window>>);

struct Window {
    began: Instant,
    failures: HashMap<IpAddr, u32>,
    of_all: u32,
}

impl Brake {
    /// # Errors
    /// How many seconds this address has to wait.
    pub(super) fn check(&self, address: IpAddr, now: Instant) -> Result<(), u64> {
        let window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = window.as_ref() else { return Ok(()) };
        let left = WINDOW.saturating_sub(now.saturating_duration_since(window.began));
        let failures = window.failures.get(&network(address)).copied().unwrap_or(0);
        let allowed = if window.of_all >= FAILURES_OF_ALL_MAX { 1 } else { FAILURES_MAX };
        if left.is_zero() || failures < allowed { Ok(()) } else { Err(left.as_secs() + 1) }
    }

    /// Counts a wrong token.
    pub(super) fn count(&self, address: IpAddr, now: Instant) {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |window: &Window| {
            now.saturating_duration_since(window.began) >= WINDOW || window.failures.len() >= ADDRESSES_MAX
        };
        if window.as_ref().is_none_or(is_over) {
            *window = None;
        }
        let window = window.get_or_insert_with(|| Window { began: now, failures: HashMap::new(), of_all: 0 });
        *window.failures.entry(network(address)).or_default() += 1;
        window.of_all = window.of_all.saturating_add(1);
    }
}

/// Whoever has one address of IPv6 has a /64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn an_address_that_guesses_waits_for_the_end_of_the_minute_and_others_do_not() {
        let (brake, began) = (Brake::default(), Instant::now());
        for _ in 0..FAILURES_MAX {
            assert_eq!(brake.check(v4(1), began), Ok(()));
            brake.count(v4(1), began);
        }
        assert_eq!(brake.check(v4(1), began + Duration::from_secs(20)), Err(41));
        assert_eq!(brake.check("::ffff:0.0.0.1".parse().expect("an address"), began), Err(61));
        assert_eq!(brake.check(v4(2), began), Ok(()));
        assert_eq!(brake.check(v4(1), began + WINDOW), Ok(()));
        brake.count(v4(1), began + WINDOW);
        assert_eq!(brake.check(v4(1), began + WINDOW), Ok(()), "a new minute");
    }

    #[test]
    fn where_very_many_guess_each_has_one_try_and_memory_is_bounded() {
        let (brake, began) = (Brake::default(), Instant::now());
        for n in 0..FAILURES_OF_ALL_MAX {
            brake.count(v4(n), began);
        }
        assert!(brake.check(v4(1), began).is_err());
        assert_eq!(brake.check(v4(u32::MAX), began), Ok(()), "one that has not guessed");
        for n in 0..u32::try_from(2 * ADDRESSES_MAX).expect("fits") {
            brake.count(v4(n), began);
        }
        let window = brake.0.lock().expect("not poisoned");
        assert!(window.as_ref().is_some_and(|window| window.failures.len() <= ADDRESSES_MAX));
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_count_as_one() {
        let (brake, now) = (Brake::default(), Instant::now());
        for n in 0..FAILURES_MAX {
            brake.count(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | u128::from(n)).into(), now);
        }
        assert!(brake.check("2001:db8::ffff:1".parse().expect("an address"), now).is_err());
        assert_eq!(brake.check("2001:db8:0:1::1".parse().expect("an address"), now), Ok(()));
    }
}
