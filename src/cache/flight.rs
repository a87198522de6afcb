//! One load for any number of readers of this process who want the same key at the same time.
//!
//! The load runs inside the request that leads, not in a task of its own, so loaders may borrow; a
//! leader that panics or is dropped wakes its waiters, and one of them leads next.
//!
//! Each reader looks into the cache for itself, so that nobody is handed what somebody else saw there
//! a moment before a removal. Looks are counted: the one that got the lease may be the last to hear it.

use std::collections::{BTreeSet, HashMap};
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
    rooms: HashMap<Key, Room>,
    /// Numbers looks and flights.
    last: u64,
}

/// What goes on around one key.
#[derive(Default)]
struct Room {
    looks: BTreeSet<u64>,
    flight: Option<(u64, watch::Receiver<Progress>)>,
    /// Changes whenever a look ends or a flight begins.
    turn: watch::Sender<()>,
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

/// Held while a reader looks into the cache.
pub(super) struct Looking<'a> {
    flights: &'a Flights,
    key: &'a Key,
    number: u64,
}

impl Flights {
    pub fn look<'a>(&'a self, key: &'a Key) -> Looking<'a> {
        let mut current = self.lock();
        let number = current.number();
        current.room(key).looks.insert(number);
        Looking {
            flights: self,
            key,
            number,
        }
    }

    /// Whoever holds a fresh lease leads, also when a flight is under way: a second lease exists
    /// only because a removal voided the first, so that flight's value is too old.
    pub fn lead(&self, key: &Key) -> Flight<'_> {
        self.lock().begin(self, key)
    }

    /// Joins the flight under way, or leads.
    pub fn join(&self, key: &Key) -> Part<'_> {
        let mut current = self.lock();
        match &current.room(key).flight {
            Some((_, progress)) => Part::Wait(Waiter(progress.clone())),
            None => Part::Lead(current.begin(self, key)),
        }
    }

    /// As `join`, for a reader who saw that somebody else holds the lease. A look that began before
    /// this one ended may have got it: wait for those, at most `patience`.
    pub async fn join_after(&self, looking: Looking<'_>, patience: Duration) -> Part<'_> {
        let key = looking.key;
        let seen = self.lock().last;
        drop(looking);
        let waiting = async {
            loop {
                let mut turn = {
                    let current = self.lock();
                    let Some(room) = current.rooms.get(key) else {
                        return;
                    };
                    let earlier = room.looks.first().is_some_and(|first| *first <= seen);
                    if room.flight.is_some() || !earlier {
                        return;
                    }
                    room.turn.subscribe()
                };
                if turn.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, waiting).await;
        self.join(key)
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn room(&mut self, key: &Key) -> &mut Room {
        self.rooms.entry(key.clone()).or_default()
    }

    fn begin<'a>(&mut self, flights: &'a Flights, key: &Key) -> Flight<'a> {
        let (progress, receiver) = watch::channel(Progress::Loading);
        let number = self.number();
        let room = self.room(key);
        room.flight = Some((number, receiver));
        room.turn.send_replace(());
        Flight {
            flights,
            key: key.clone(),
            number,
            progress,
        }
    }

    /// Ends what `end` ends, and closes the room behind the last one.
    fn leave(&mut self, key: &Key, end: impl FnOnce(&mut Room)) {
        let Some(room) = self.rooms.get_mut(key) else {
            return;
        };
        end(room);
        room.turn.send_replace(());
        if room.looks.is_empty() && room.flight.is_none() {
            self.rooms.remove(key);
        }
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        let number = self.number;
        self.flights.lock().leave(self.key, |room| {
            room.looks.remove(&number);
        });
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
        let number = self.number;
        self.flights.lock().leave(&self.key, |room| {
            if room.flight.as_ref().is_some_and(|(n, _)| *n == number) {
                room.flight = None;
            }
        });
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
