//! Single flight: one load for all readers of this process who want the same key at the same time. `Reader` leads
//! and follows flights.
//!
//! No reader gets what was loaded before it arrived, unless the cache accepted the fill after it arrived:
//! arrivals, lookups and loads are numbered in one sequence, and an accepted fill proves that nothing was
//! removed until then.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::answer::ReadError;
use super::entry::Entry;
use super::sync::{AtomicU64, Mutex, Ordering};
use oddsd_core::key::Key;

#[derive(Default)]
pub(super) struct SingleFlight {
    flights: Mutex<Flights>,
    /// The last number of the sequence that was given out.
    last: AtomicU64,
}

/// With the number of the flight, so that the leader of an older one does not remove a newer one.
type Flights = HashMap<Key, (u64, watch::Receiver<FlightProgress>)>;

/// The progress that followers see. A flight that ended without a result is a closed channel.
#[derive(Clone, Debug)]
enum FlightProgress {
    /// The leader looks up or loads.
    BeforeFill,
    /// The fill is under way: a reader that arrives now may come after a removal that the fill precedes.
    Filling,
    Done(LoadResult),
}

#[derive(Clone, Debug)]
pub(super) enum LoadResult {
    /// Found in the cache.
    Found {
        entry: Arc<Entry>,
        /// The number of the lookup.
        lookup: u64,
    },
    Loaded {
        entry: Arc<Entry>,
        /// The number at which the load began.
        load: u64,
        /// The cache accepted the fill, so nothing was removed between load and fill.
        is_stored: bool,
    },
    Failed(ReadError),
}

/// The reader that loads for the others. If it is dropped without `finish`, its followers look up again.
pub(super) struct FlightLeader {
    flights: Arc<SingleFlight>,
    key: Key,
    number: u64,
    progress: watch::Sender<FlightProgress>,
}

/// The result of a flight for the reader who leads it.
pub(super) struct FlightResult(watch::Receiver<FlightProgress>);

/// A reader that waits for the flight of another.
pub(super) struct FlightFollower {
    receiver: watch::Receiver<FlightProgress>,
    /// The fill was not yet under way when this reader joined.
    joined_before_fill: bool,
}

impl SingleFlight {
    /// The next number of the sequence.
    pub fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Begins a flight, also when one is under way. The holder of a new lease calls it, because a second lease exists
    /// only where a removal ended the first, and a reader whose lookups were all overtaken by removals.
    pub fn lead(self: &Arc<Self>, key: &Key) -> FlightLeader {
        self.begin(&mut self.flights.lock(), key)
    }

    /// Joins the flight that is under way, else leads one.
    pub fn join_or_lead(self: &Arc<Self>, key: &Key) -> Result<FlightLeader, FlightFollower> {
        // Under one lock: of two readers that arrive together, one leads.
        let mut flights = self.flights.lock();
        match flights.get(key) {
            Some((_, receiver)) => Err(FlightFollower::new(receiver.clone())),
            None => Ok(self.begin(&mut flights, key)),
        }
    }

    fn begin(self: &Arc<Self>, flights: &mut Flights, key: &Key) -> FlightLeader {
        let (progress, receiver) = watch::channel(FlightProgress::BeforeFill);
        let number = self.next_number();
        flights.insert(key.clone(), (number, receiver));
        FlightLeader {
            flights: Arc::clone(self),
            key: key.clone(),
            number,
            progress,
        }
    }
}

impl FlightLeader {
    pub fn result(&self) -> FlightResult {
        FlightResult(self.progress.subscribe())
    }

    /// The number of the load that begins now.
    pub fn begin_load(&self) -> u64 {
        self.flights.next_number()
    }

    pub fn begin_fill(&self) {
        self.progress.send_replace(FlightProgress::Filling);
    }

    pub fn finish(self, result: LoadResult) {
        self.progress.send_replace(FlightProgress::Done(result));
    }
}

impl Drop for FlightLeader {
    fn drop(&mut self) {
        let mut flights = self.flights.flights.lock();
        if flights
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            flights.remove(&self.key);
        }
    }
}

impl FlightFollower {
    fn new(receiver: watch::Receiver<FlightProgress>) -> Self {
        let joined_before_fill = matches!(*receiver.borrow(), FlightProgress::BeforeFill);
        Self {
            receiver,
            joined_before_fill,
        }
    }

    /// Waits for the result. Returns `None` if there was none, or if it is too old for a reader that arrived at
    /// this number: look up again. `fills_prove`: that the cache accepted a fill proves that nothing was removed until
    /// then, which is so unless removals are owed.
    pub async fn wait(self, arrived: u64, fills_prove: bool) -> Option<LoadResult> {
        let result = FlightResult(self.receiver).wait().await?;
        let is_new_enough = match &result {
            LoadResult::Found { lookup, .. } => fills_prove && *lookup > arrived,
            LoadResult::Loaded {
                load, is_stored, ..
            } => *load > arrived || (fills_prove && self.joined_before_fill && *is_stored),
            // Whoever arrives meanwhile shares a failure.
            LoadResult::Failed(_) => true,
        };
        is_new_enough.then_some(result)
    }
}

impl FlightResult {
    /// Waits for the result; `None`: the flight ended without one.
    pub async fn wait(mut self) -> Option<LoadResult> {
        let done = |progress: &FlightProgress| matches!(progress, FlightProgress::Done(_));
        match self.0.wait_for(done).await.ok().as_deref() {
            Some(FlightProgress::Done(result)) => Some(result.clone()),
            _ => None,
        }
    }
}
