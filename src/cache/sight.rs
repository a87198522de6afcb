//! What a look at a remote cache brought, and whether it may be served.

use std::sync::Arc;
use std::time::Instant;

use super::clock::ServerClock;
use super::entry::{BEGINNING, Entry};
use super::{Bytes, Cache, CacheError};
use crate::key::{Key, Tag};
use crate::model::View;

/// What a look found.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What is there, and still right.
    pub entry: Option<Arc<Entry>>,
    pub(super) seen: Seen,
}

/// What was there, right or not: a lease is only given on that.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Stamp(Option<u128>),
    Beginning(Bytes),
}

impl Looked {
    pub(super) fn nothing() -> Self {
        Self::here(None)
    }

    /// In this process's memory.
    pub(super) fn here(entry: Option<Arc<Entry>>) -> Self {
        let seen = Seen::Stamp(entry.as_ref().map(|entry| entry.stamp));
        Self { entry, seen }
    }
}

impl Seen {
    pub fn stamp(&self) -> Option<u128> {
        match self {
            Self::Stamp(stamp) => *stamp,
            Self::Beginning(_) => None,
        }
    }

    pub fn beginning(&self) -> Bytes {
        match self {
            Self::Stamp(_) => Bytes::new(),
            Self::Beginning(seen) => seen.clone(),
        }
    }
}

impl Cache {
    /// What Redis keeps under our name for this key, as it stands there and unproved: for whoever looks
    /// into a cache, never for a reader. Nothing elsewhere.
    pub async fn stored(&self, key: &Key) -> Result<Option<Bytes>, CacheError> {
        match self {
            Self::Redis(redis) => redis.stored(key).await,
            Self::Off | Self::Memory(_) | Self::Upstash(_) => Ok(None),
        }
    }
}

pub(super) struct Sight {
    pub value: Option<Bytes>,
    pub floor: Option<String>,
    /// Fences of the tags that were asked for, in their order.
    pub tags: Vec<Option<String>>,
}

impl Sight {
    /// The entry, if it is of this life of the memory, on this run of the server, and has seen what
    /// the removals of its tags had seen. A fence that is not there tells nothing, so it says no.
    pub fn standing(self, tags: &[Tag], run: &str, clock: &ServerClock, now: Instant) -> Looked {
        let value = self.value.as_deref().unwrap_or_default();
        let seen = Bytes::copy_from_slice(&value[..value.len().min(BEGINNING)]);
        let entry = self.entry(tags, run, clock, now);
        Looked {
            entry,
            seen: Seen::Beginning(seen),
        }
    }

    fn entry(
        self,
        tags: &[Tag],
        run: &str,
        clock: &ServerClock,
        now: Instant,
    ) -> Option<Arc<Entry>> {
        let (value, floor) = (self.value?, self.floor?);
        let (life, floor_run) = floor.split_once(' ')?;
        if floor_run != run {
            return None;
        }
        let (of, entry) = Entry::decode(&value, now, |ms| clock.age(ms, now))?;
        let seen = |tag: &Tag| {
            let at = tags.iter().position(|asked| asked == tag)?;
            let (of, fence) = self.tags.get(at)?.as_deref()?.split_once(' ')?;
            let fence = (of == life).then(|| View::parse(fence)).flatten()?;
            Some(entry.view.covers(&fence))
        };
        let stands = of == life && entry.tags.iter().all(|tag| seen(tag) == Some(true));
        stands.then(|| Arc::new(entry))
    }
}
