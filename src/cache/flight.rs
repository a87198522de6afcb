//! One load for any number of readers of this process who want the same key at the same time.
//!
//! The load runs inside the request that leads, not in a task of its own, so loaders may borrow; a
//! leader that panics or is dropped wakes its waiters, and one of them leads next.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Bytes;
use crate::key::Key;

#[derive(Default)]
pub(super) struct Flights {
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    by_key: HashMap<Key, (u64, watch::Receiver<Progress>)>,
    last_number: u64,
}

/// What waiters can see of a flight. An abandoned one is seen as a closed channel.
#[derive(Clone, Debug)]
enum Progress {
    Loading,
    Loaded(Loaded),
    Settled(Loaded, Verdict),
    Failed,
}

#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub body: Bytes,
    pub ttl: Duration,
}

/// What the fill said about a loaded value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Stored under its lease: nothing was removed between load and fill.
    Current,
    /// A removal came in between: true for the leader, too old for whoever joined later.
    Voided,
    /// No fill, or no answer to it.
    Unknown,
}

pub(super) enum Part<'a> {
    Lead(Flight<'a>),
    Wait(Waiter),
}

/// Held by the leader; going out of scope ends the flight.
pub(super) struct Flight<'a> {
    flights: &'a Flights,
    key: Key,
    number: u64,
    progress: watch::Sender<Progress>,
}

pub(super) struct Waiter(watch::Receiver<Progress>);

pub(super) enum Landed {
    Answer(Loaded),
    /// The value is too old for this reader, or its leader is gone: look again.
    LookAgain,
    /// The load failed: load yourself, do not queue behind the next failure.
    LoadYourself,
}

impl Flights {
    /// Whoever holds a fresh lease leads, also when a flight is under way: a second lease exists
    /// only because a removal voided the first, so that flight's value is too old.
    pub fn join(&self, key: &Key, holds_lease: bool) -> Part<'_> {
        let mut current = self.lock();
        if !holds_lease && let Some((_, progress)) = current.by_key.get(key) {
            return Part::Wait(Waiter(progress.clone()));
        }
        let (sender, receiver) = watch::channel(Progress::Loading);
        current.last_number += 1;
        let number = current.last_number;
        current.by_key.insert(key.clone(), (number, receiver));
        Part::Lead(Flight {
            flights: self,
            key: key.clone(),
            number,
            progress: sender,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight<'_> {
    pub fn loaded(&self, loaded: Loaded) {
        self.progress.send_replace(Progress::Loaded(loaded));
    }

    pub fn settled(&self, loaded: Loaded, verdict: Verdict) {
        self.progress
            .send_replace(Progress::Settled(loaded, verdict));
    }

    pub fn failed(&self) {
        self.progress.send_replace(Progress::Failed);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut current = self.flights.lock();
        let is_ours = |(number, _): &(u64, _)| *number == self.number;
        if current.by_key.get(&self.key).is_some_and(is_ours) {
            current.by_key.remove(&self.key);
        }
    }
}

impl Waiter {
    /// Waits for the load as long as it takes, and then for the fill at most `patience`.
    pub async fn landed(mut self, patience: Duration) -> Landed {
        let progress = self.0.wait_for(|p| !matches!(p, Progress::Loading)).await;
        match progress.map(|progress| progress.clone()) {
            Err(_) => Landed::LookAgain,
            Ok(Progress::Loading | Progress::Failed) => Landed::LoadYourself,
            Ok(Progress::Settled(loaded, verdict)) => Landed::after(loaded, verdict),
            Ok(Progress::Loaded(loaded)) => {
                let settled = self.0.wait_for(|p| matches!(p, Progress::Settled(..)));
                match tokio::time::timeout(patience, settled).await {
                    Ok(Ok(progress)) => match &*progress {
                        Progress::Settled(_, verdict) => Landed::after(loaded, *verdict),
                        _ => Landed::Answer(loaded),
                    },
                    Ok(Err(_)) | Err(_) => Landed::Answer(loaded),
                }
            }
        }
    }
}

impl Landed {
    fn after(loaded: Loaded, verdict: Verdict) -> Self {
        match verdict {
            Verdict::Voided => Self::LookAgain,
            Verdict::Current | Verdict::Unknown => Self::Answer(loaded),
        }
    }
}
