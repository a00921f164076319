//! What one sender may take: requests a second by endpoint and address, and memory for bodies that have not come whole. What must not live
//! here: sockets.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;

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
        Self::every(Duration::from_secs(1) / per_second.max(1), burst)
    }

    /// One in `pause` on average, and `burst` at once beyond that.
    #[must_use]
    pub fn every(pause: Duration, burst: u32) -> Self {
        Self { per_request: pause, burst: pause * burst.max(1), seen: Mutex::default() }
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

/// Memory for bodies from their first byte on until they are mapped, in KiB, and how much of it one address may take.
pub struct Bodies {
    free: Arc<Semaphore>,
    share_kib: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// Why a body finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The memory of all is taken.
    Full,
    /// The address has its share already.
    Share,
}

impl Bodies {
    /// `all_kib` for all addresses together, `share_kib` of it for one.
    #[must_use]
    pub fn new(all_kib: usize, share_kib: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(all_kib)), share_kib, by_address: Mutex::default() }
    }

    /// Room for what comes from an address: none yet.
    #[must_use]
    pub fn room(self: &Arc<Self>, address: IpAddr) -> Room {
        Room { bodies: Arc::clone(self), address: block(address), kib: 0 }
    }
}

/// The memory that one request has taken; given back when it is dropped.
pub struct Room {
    bodies: Arc<Bodies>,
    address: IpAddr,
    kib: usize,
}

impl Room {
    /// Takes so many KiB more.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing was taken then.
    pub fn grow(&mut self, kib: usize) -> Result<(), NoRoom> {
        if kib == 0 {
            return Ok(());
        }
        let permits = u32::try_from(kib).map_err(|_| NoRoom::Full)?;
        let mut by_address = self.bodies.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = by_address.get(&self.address).copied().unwrap_or_default();
        if taken + kib > self.bodies.share_kib {
            return Err(NoRoom::Share);
        }
        self.bodies.free.try_acquire_many(permits).map_err(|_| NoRoom::Full)?.forget();
        by_address.insert(self.address, taken + kib);
        self.kib += kib;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.kib == 0 {
            return;
        }
        self.bodies.free.add_permits(self.kib);
        let mut by_address = self.bodies.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = by_address.entry(self.address) {
            match entry.get().checked_sub(self.kib) {
                Some(rest @ 1..) => *entry.get_mut() = rest,
                Some(0) | None => drop(entry.remove()),
            }
        }
    }
}

/// One host of the sixth version has a whole /64.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address @ IpAddr::V4(_) => address,
    }
}
