//! One load for any number of readers of this process who want the same key at the same time.
//!
//! Nobody is handed what was loaded before they came, unless the cache vouched for it after they
//! came: readers, looks and loads are numbered in one sequence, and a fill that was accepted proves
//! that nothing was removed until then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::entry::Entry;
use super::fill::ReadError;
use crate::key::Key;

#[derive(Default)]
pub(super) struct Flights {
    current: Mutex<HashMap<Key, (u64, watch::Receiver<Progress>)>>,
    last: AtomicU64,
}

/// What waiters can see of a flight. One that ended without landing is seen as a closed channel.
#[derive(Clone, Debug)]
enum Progress {
    /// Another process loads; this one looks until it is there.
    Watching,
    Loading,
    /// The fill is on its way: whoever comes now may come after a removal that it came before.
    Filling,
    Landed(Landing),
}

#[derive(Clone, Debug)]
pub(super) enum Landing {
    /// Seen in the cache by the look of this number.
    Found(Arc<Entry>, u64),
    /// Loaded, the load having begun at this number.
    Loaded(Arc<Entry>, u64, Verdict),
    Failed(ReadError),
}

/// What the fill said about a loaded value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Stored: nothing was removed between load and fill.
    Kept,
    /// No fill, or no yes to it.
    NotKept,
}

/// A place for the one who leads.
pub(super) struct Own(watch::Receiver<Progress>);

/// Held by whoever flies; going out of scope ends the flight.
pub(super) struct Flight {
    flights: Arc<Flights>,
    key: Key,
    number: u64,
    progress: watch::Sender<Progress>,
}

/// A place in somebody else's flight.
pub(super) struct Seat {
    receiver: watch::Receiver<Progress>,
    /// The fill was not yet on its way when we sat down.
    in_time: bool,
}

impl Flights {
    /// The next number of the sequence.
    pub fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub fn join(&self, key: &Key) -> Option<Seat> {
        let receiver = self.lock().get(key)?.1.clone();
        let in_time = matches!(*receiver.borrow(), Progress::Watching | Progress::Loading);
        Some(Seat { receiver, in_time })
    }

    /// A new flight, also when one is under way: whoever holds a fresh lease flies, because a second
    /// lease exists only where a removal voided the first.
    pub fn lead(self: &Arc<Self>, key: &Key) -> Flight {
        let (progress, receiver) = watch::channel(Progress::Watching);
        let number = self.number();
        self.lock().insert(key.clone(), (number, receiver));
        Flight {
            flights: Arc::clone(self),
            key: key.clone(),
            number,
            progress,
        }
    }

    /// As `lead`, but a place in the flight that is under way goes before.
    pub fn join_or_lead(self: &Arc<Self>, key: &Key) -> Result<Flight, Seat> {
        match self.join(key) {
            Some(seat) => Err(seat),
            None => Ok(self.lead(key)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (u64, watch::Receiver<Progress>)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    pub fn own(&self) -> Own {
        Own(self.progress.subscribe())
    }

    /// Says so, and tells the number at which the load begins.
    pub fn loading(&self) -> u64 {
        let number = self.flights.number();
        self.progress.send_replace(Progress::Loading);
        number
    }

    pub fn filling(&self) {
        self.progress.send_replace(Progress::Filling);
    }

    pub fn landed(self, landing: Landing) {
        self.progress.send_replace(Progress::Landed(landing));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut current = self.flights.lock();
        if current
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            current.remove(&self.key);
        }
    }
}

impl Seat {
    /// Waits for the landing; `None`: it is too old for a reader who came at `arrived`, or there was
    /// none. Look again.
    pub async fn landed(self, arrived: u64) -> Option<Landing> {
        let in_time = self.in_time;
        let landing = Own(self.receiver).landed().await?;
        let is_new = match &landing {
            Landing::Found(_, look) => *look > arrived,
            Landing::Loaded(_, load, verdict) => {
                *load > arrived || (in_time && *verdict == Verdict::Kept)
            }
            Landing::Failed(_) => true,
        };
        is_new.then_some(landing)
    }
}

impl Own {
    /// The answer is theirs, whatever becomes of it; `None` when the flight ended without one.
    pub async fn landed(mut self) -> Option<Landing> {
        let landed = self.0.wait_for(|p| matches!(p, Progress::Landed(_))).await;
        match landed.ok().as_deref() {
            Some(Progress::Landed(landing)) => Some(landing.clone()),
            _ => None,
        }
    }
}
