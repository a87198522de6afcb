//! Statuses move at their moment, also when the feed is down or the next look is far, and when a person says
//! so: a commit like any other, without a look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Ingest;
use crate::diff::{Changes, moves};
use crate::live::Activity;
use crate::model::StatusSource;
use crate::schedule::{Clock, Wait};
use crate::store::{CycleFacts, Lease, StoreError};

/// Stands in the cycle's row for the feed.
const CLOCK: &str = "clock";

/// When the next status moves, and whether somebody corrects one.
#[derive(Default)]
pub(super) struct Standing {
    /// `None`: not worked out for what memory holds now.
    next: Option<Option<DateTime<Utc>>>,
    /// Whoever has just begun to lead does not know of any, and asks.
    corrections_known: bool,
    corrected: Arc<Notify>,
}

impl Standing {
    /// Events have changed.
    pub(super) fn unknown(&mut self) {
        self.next = None;
    }

    pub(super) fn begin_anew(&mut self) {
        self.next = None;
        self.corrections_known = false;
    }
}

impl Ingest {
    /// To be rung when a correction waits.
    pub fn corrected(&self) -> Arc<Notify> {
        Arc::clone(&self.standing.corrected)
    }

    /// Waits for `over`, and moves statuses meanwhile.
    pub(super) async fn meanwhile<T>(
        &mut self,
        lease: &watch::Receiver<Option<Lease>>,
        stop: &CancellationToken,
        over: impl Future<Output = T>,
    ) -> T {
        let (mut lease, clock, corrected) = (lease.clone(), self.clock.clone(), self.corrected());
        let mut over = std::pin::pin!(over);
        loop {
            let held = lease.borrow_and_update().clone();
            if let Some(held) = &held {
                self.take_over(held);
            }
            let wait = held.as_ref().and_then(|_| self.until_next_move());
            tokio::select! {
                biased;
                done = &mut over => return done,
                Ok(()) = lease.changed() => continue,
                () = corrected.notified() => self.standing.corrections_known = false,
                () = moment(&clock, wait, stop) => {}
            }
            if let Some(held) = &held {
                self.move_statuses(held, self.clock.now()).await;
            }
        }
    }

    /// `None`: no status moves by itself.
    fn until_next_move(&mut self) -> Option<Duration> {
        if self.memory.is_none() {
            return Some(match self.failures {
                0 => Duration::ZERO,
                _ => self.retry,
            });
        }
        if !self.standing.corrections_known {
            return Some(Duration::ZERO);
        }
        let at = self.next_move()?;
        Some((at - self.clock.now()).to_std().unwrap_or_default())
    }

    fn next_move(&mut self) -> Option<DateTime<Utc>> {
        let book = &self.memory.as_ref()?.book;
        *self.standing.next.get_or_insert_with(|| book.next_move())
    }

    /// Commits the transitions that are due at `now`, and the corrections that wait.
    pub(super) async fn move_statuses(&mut self, lease: &Lease, now: DateTime<Utc>) {
        let due = self.memory.is_none() || self.next_move().is_some_and(|at| at <= now);
        if (due || !self.standing.corrections_known)
            && let Err(why) = self.try_to_move(lease, now).await
        {
            self.memory = None;
            self.standing.begin_anew();
            self.store_failed(0, why);
        }
    }

    async fn try_to_move(&mut self, lease: &Lease, now: DateTime<Utc>) -> Result<(), StoreError> {
        let mut loaded = self.remember().await?;
        let words = match self.standing.corrections_known {
            true => Vec::new(),
            false => self.store.corrections().await?,
        };
        let words: Vec<_> = words
            .into_iter()
            .map(|c| (c.id, c.event, c.status))
            .collect();
        let mut changes = moves(&loaded.book, &words, now);
        if !changes.is_quiet() {
            let facts = CycleFacts {
                id: loaded.next_cycle,
                feed: CLOCK.into(),
                races: changes.events.len() as i64,
                ..CycleFacts::default()
            };
            loaded.next_cycle += 1;
            let committed = self.store.commit(lease, &facts, &mut changes).await?;
            self.tell(committed.told, &loaded.book, &changes);
            self.tell_statuses(facts.id, &changes);
            loaded.book.apply(changes);
            self.standing.unknown();
        }
        self.standing.corrections_known = true;
        self.memory = Some(loaded);
        Ok(())
    }

    /// A line for each status that events came to; new events are no news of this kind.
    pub(super) fn tell_statuses(&self, cycle: i64, changes: &Changes) {
        let mut moved: BTreeMap<(&str, &str), (u64, _)> = BTreeMap::new();
        for change in &changes.events {
            if let Some((Some(_), status)) = change.transition() {
                let by: StatusSource = change.status_by;
                let told = moved.entry((status.as_str(), by.as_str()));
                told.or_insert((0, (status, by))).0 += 1;
            }
        }
        for (events, (status, by)) in moved.into_values() {
            self.live.say(Activity::StatusChanged {
                cycle: cycle as u64,
                status,
                by,
                events,
            });
        }
    }
}

async fn moment(clock: &Clock, wait: Option<Duration>, stop: &CancellationToken) {
    match wait {
        Some(wait) if clock.sleep(wait, stop).await == Wait::Over => {}
        // Stopped: whoever is waited for ends as well.
        _ => std::future::pending().await,
    }
}
