//! The canary: a row of no meaning that is changed again and again. Its removal goes the way of every
//! removal, and then a read must show the new beat. While one beat is on its way no other begins, so
//! an outage leaves one row behind and not thousands.

use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cause::{Cause, Level};
use super::ledger::Audited;
use super::offender::Wrong;
use crate::cache::{self, Loaded, Policy, Reader};
use crate::key::Key;
use crate::store::{Gone, Lease, Poke, Rows, Store};

/// It is missed after this long, and after so many beats.
const SILENCE: Duration = Duration::from_secs(10);
const SILENT_BEATS: u32 = 3;
/// How often we see to a beat that is on its way: whether another relay took it, whether it is late.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// What the database gets to answer.
const ASK: Duration = Duration::from_secs(5);
/// How long its answer is served.
const FRESH: Duration = Duration::from_secs(60);

pub struct Canary {
    store: Store,
    reader: Reader,
    poke: Poke,
    every: Duration,
    audited: Audited,
    next_at: Option<Instant>,
    flying: Option<Flying>,
    is_missed: bool,
}

/// A beat whose removal has not been confirmed.
struct Flying {
    beat: i64,
    row: i64,
    touched_at: Instant,
    asked_at: Instant,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    NotDue,
    Touched,
    /// Its removal is not confirmed yet.
    Flying,
    /// A reader was shown it.
    Clean,
    /// A reader was shown an older one.
    Stale,
    /// The database or the loader did not answer.
    Unknown,
}

/// What the auditor hears of it.
#[derive(Default)]
pub(super) struct Singing {
    since: Option<Instant>,
    clean_at: Option<Instant>,
    waits_for: Option<i64>,
    is_removed: bool,
    /// That were shown to a reader.
    pub beats: u64,
}

impl Singing {
    /// Since it last came through clean; `None` while it does not sing.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let since = self.since?;
        let last = self.clean_at.map_or(since, |clean| clean.max(since));
        Some(now.saturating_duration_since(last))
    }

    /// Whether that was the one it waits for.
    pub fn removed(&mut self, gone: &Gone) -> bool {
        let ours = |row: &i64| self.waits_for == Some(*row);
        let is_ours = match &gone.rows {
            Rows::These(rows) => rows.iter().any(ours),
            // Only a transaction longer than all of a backlog could hide it; then the outbox tells.
            Rows::Through(..) => false,
        };
        self.is_removed |= is_ours;
        is_ours
    }
}

impl Canary {
    /// `every`: from beat to beat, not zero.
    pub fn new(
        store: Store,
        reader: &Reader,
        poke: Poke,
        every: Duration,
        audited: Audited,
    ) -> Self {
        Self {
            store,
            // Its reads are none of the readers' counts.
            reader: Reader::new(reader.cache().clone()),
            poke,
            every,
            audited,
            next_at: None,
            flying: None,
            is_missed: false,
        }
    }

    /// Works until `stop`, while this daemon leads.
    pub async fn run(mut self, mut lease: watch::Receiver<Option<Lease>>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let leads = lease.borrow_and_update().is_some();
            match leads {
                true => drop(self.step(Instant::now()).await),
                false => self.stand_by(),
            }
            tokio::select! {
                () = tokio::time::sleep_until(self.wakes_at(Instant::now()).into()), if leads => {}
                () = self.audited.canary_removed(), if leads => {}
                changed = lease.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Begins a beat that is due at `now`, or sees to the one that is on its way.
    pub async fn step(&mut self, now: Instant) -> Beat {
        self.audited.lock().canary.since.get_or_insert(now);
        let beat = match self.flying.take() {
            Some(flying) => self.see_to(flying, now).await,
            None if self.next_at.is_some_and(|next| now < next) => Beat::NotDue,
            None => self.touch(now).await,
        };
        self.listen_for_silence(now);
        beat
    }

    async fn touch(&mut self, now: Instant) -> Beat {
        self.next_at = Some(now + self.every);
        let key = Key::canary();
        let touch = self.store.touch_canary(&key);
        // The write itself is never cut short.
        let Ok(Ok(touched)) = tokio::time::timeout(ASK, touch).await else {
            return Beat::Unknown;
        };
        let row = touched.told.as_ref().and_then(|told| told.rows.first());
        let row = row.map(|row| row.id);
        {
            let canary = &mut self.audited.lock().canary;
            (canary.waits_for, canary.is_removed) = (row, false);
        }
        // Where it takes the relay's look into the outbox to find it, this beat tells nothing.
        self.flying = row.map(|row| Flying {
            beat: touched.beat,
            row,
            touched_at: now,
            asked_at: now,
        });
        self.poke.committed(touched.told, Utc::now());
        Beat::Touched
    }

    async fn see_to(&mut self, mut flying: Flying, now: Instant) -> Beat {
        if !self.is_removed(&mut flying, now).await {
            self.flying = Some(flying);
            return Beat::Flying;
        }
        let (store, policy) = (self.store.clone(), Policy::fresh_for(FRESH));
        let load = move || {
            let store = store.clone();
            async move {
                let beat = store.canary().await?;
                Ok(Loaded::new(beat.value.to_string(), beat.view))
            }
        };
        let Ok(served) = self.reader.read(&Key::canary(), &policy, load).await else {
            self.flying = Some(flying);
            return Beat::Unknown;
        };
        let shown = std::str::from_utf8(served.body()).ok();
        let shown = shown.and_then(|beat| beat.parse::<i64>().ok());
        let mut ledger = self.audited.lock();
        if shown.is_some_and(|beat| beat >= flying.beat) {
            ledger.canary.clean_at = Some(now);
            ledger.canary.beats += 1;
            return Beat::Clean;
        }
        let (level, cause) = match served.level {
            cache::Level::First => (Level::First, Cause::FirstLevelGap),
            cache::Level::Second | cache::Level::Loader => (Level::Second, Cause::Lost),
        };
        let age = now.saturating_duration_since(flying.touched_at);
        ledger.offenders.add(Wrong {
            change: flying.row,
            cycle: None,
            committed_at: Utc::now() - age,
            key: Key::canary(),
            level: Some(level),
            cause,
            age,
        });
        Beat::Stale
    }

    /// Heard, or, when nothing is heard for a while, asked: another daemon's relay may have done it.
    async fn is_removed(&self, flying: &mut Flying, now: Instant) -> bool {
        if self.audited.lock().canary.is_removed {
            return true;
        }
        if now.saturating_duration_since(flying.asked_at) < LOOK_AFTER {
            return false;
        }
        flying.asked_at = now;
        let asked = tokio::time::timeout(ASK, self.store.is_pending(flying.row)).await;
        matches!(asked, Ok(Ok(false)))
    }

    fn wakes_at(&self, now: Instant) -> Instant {
        match (&self.flying, self.next_at) {
            (None, Some(next)) => next.min(now + SILENCE),
            _ => now + LOOK_AFTER,
        }
    }

    fn stand_by(&mut self) {
        (self.next_at, self.flying, self.is_missed) = (None, None, false);
        let canary = &mut self.audited.lock().canary;
        (canary.since, canary.waits_for) = (None, None);
    }

    /// Said once, and once when it is back.
    fn listen_for_silence(&mut self, now: Instant) {
        let age = self.audited.lock().canary.age(now).unwrap_or_default();
        let is_silent = age > SILENCE.max(self.every * SILENT_BEATS);
        if is_silent && !self.is_missed {
            tracing::warn!(
                event = "canary.missed",
                silent_s = age.as_secs(),
                "No change has been seen to reach readers for {} s: the database or the cache does not answer, or readers \
                 are shown old answers; `oddsd status` says more",
                age.as_secs()
            );
        }
        if self.is_missed && !is_silent {
            tracing::info!(event = "canary.recovered", "Changes reach readers again");
        }
        self.is_missed = is_silent;
    }
}
