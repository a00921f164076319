//! A reading of the database that costs too much to be made for each view: made once for all who look, kept for a time that follows from what it
//! cost, and told with the moment that it is of. What must not live here: what is read.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::clock;
use crate::store::{Reader, StoreError};

/// A reading is shown for so many times as long as it took: however many look, and in however many processes, each of these spends no more than 2 %
/// of its time on it.
const SHOWN_FOR: u32 = 50;
/// A new one is begun when so much of that is over, so that nobody waits for it.
const BEGUN_AFTER: u32 = 40;
/// Pause between two that nobody has asked for, at least.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// What makes a reading.
type Read<T> = fn(Reader) -> BoxFuture<'static, Result<T, StoreError>>;

/// The latest reading.
pub(super) struct Kept<T> {
    reader: Reader,
    read: Read<T>,
    latest: Mutex<Option<Reading<T>>>,
    /// Who has it reads; the others wait for what that finds.
    turn: tokio::sync::Mutex<()>,
}

/// What was read, and when.
pub(super) struct Reading<T> {
    pub(super) value: Arc<T>,
    /// By the database's clock, before it was read.
    pub(super) at: OffsetDateTime,
    made: Instant,
    cost: Duration,
}

impl<T> Clone for Reading<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), ..*self }
    }
}

impl<T> Kept<T> {
    pub(super) fn new(reader: Reader, read: Read<T>) -> Self {
        Self { reader, read, latest: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }
    }

    fn latest(&self) -> Option<Reading<T>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fresh(&self) -> Option<Reading<T>> {
        self.latest().filter(|latest| latest.made.elapsed() <= latest.cost.saturating_mul(SHOWN_FOR))
    }

    /// The latest reading, or where that is too old a new one; where none can be made, the latest still.
    ///
    /// # Errors
    /// [`StoreError`], where there was never a reading.
    pub(super) async fn get(&self) -> Result<Reading<T>, StoreError> {
        if let Some(fresh) = self.fresh() {
            return Ok(fresh);
        }
        let _turn = self.turn.lock().await;
        match self.fresh() {
            Some(fresh) => Ok(fresh),
            None => self.renew().await,
        }
    }

    /// Reads again and again until `stop`, early enough that a view finds what is fresh.
    pub(super) async fn follow(&self, stop: &CancellationToken) {
        loop {
            let cost = {
                let _turn = self.turn.lock().await;
                self.renew().await.map_or(Duration::ZERO, |reading| reading.cost)
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(cost.saturating_mul(BEGUN_AFTER).max(PAUSE_MIN)) => {}
            }
        }
    }

    async fn renew(&self) -> Result<Reading<T>, StoreError> {
        let (at, began) = (clock::now(), Instant::now());
        match (self.read)(self.reader.clone()).await {
            Ok(value) => {
                let reading =
                    Reading { value: Arc::new(value), at, made: Instant::now(), cost: began.elapsed() };
                *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading.clone());
                Ok(reading)
            }
            Err(cause) => self.latest().ok_or(cause),
        }
    }
}
