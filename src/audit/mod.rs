//! The auditor: looks at what readers are served after a change, at every level, and says how fresh
//! it was. It asks the database only about what looks stale.
//!
//! Beside it the canary (`canary`): a row of no meaning that is changed again and again through the
//! real path, so that silence is noticed without traffic.

mod canary;
mod cause;
mod fresh;
mod histogram;
mod ledger;
mod offender;
mod sample;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::{Entry, Reader};
use crate::key::Key;
use crate::store::{Lease, Store, Told};

pub use canary::{Beat, Canary};
pub use cause::{Cause, Level};
use cause::{Finding, Found};
pub use histogram::{BOUNDS, Histogram};
pub use ledger::{Audited, CanaryReport, Report, Took, Totals};
pub use offender::Offender;
use sample::Watched;
pub use sample::{LOOKS, Rate, Shares, WITHIN};

/// Commits and removals that wait to be heard; more are not audited.
const HEARD: usize = 8 * 1024;
/// What the cache gets for one look, and the database for one question. Whoever does not answer in
/// time is away, and is not asked again in that step.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// Questions to the database in one step; what is stale beyond them is asked about at its next look.
const ASKS: usize = 64;

/// The queue from those who commit and remove to the auditor.
pub fn hearing() -> (mpsc::Sender<Told>, mpsc::Receiver<Told>) {
    mpsc::channel(HEARD)
}

pub struct Auditor {
    pub store: Store,
    pub reader: Reader,
    pub told: mpsc::Receiver<Told>,
    pub audited: Audited,
    /// [`PATIENCE`].
    pub patience: Duration,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Changes that were looked at.
    pub looked: usize,
    /// Of those, the ones that some level had wrong.
    pub stale: usize,
    /// Questions to the database.
    pub asked: usize,
}

/// What the levels have under one key.
struct Sight {
    first: Option<Arc<Entry>>,
    /// `Err`: the cache did not answer.
    second: Result<Option<Arc<Entry>>, ()>,
}

impl Auditor {
    /// Works until `stop`, while this daemon leads.
    pub async fn run(mut self, lease: watch::Receiver<Option<Lease>>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let next = self.audited.lock().samples.next_due();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = until(next) => {}
                told = self.told.recv() => match told {
                    Some(told) => self.audited.hear(&told),
                    None => return,
                },
            }
            let leads = lease.borrow().is_some();
            match leads {
                true => drop(self.step(Instant::now()).await),
                false => self.stand_by(),
            }
        }
    }

    /// Hears what was done, and makes the looks that are due at `now`.
    pub async fn step(&mut self, now: Instant) -> Step {
        self.listen();
        let due = self.audited.lock().samples.due(now);
        let (mut step, mut doors) = (Step::default(), Doors::of(&*self));
        for due in due {
            let mut findings = Vec::with_capacity(due.watched.len());
            for watched in &due.watched {
                findings.push(doors.find(watched).await);
            }
            let mut ledger = self.audited.lock();
            let wrongs = ledger.samples.looked(due.number, due.look, &findings, now);
            step.looked += 1;
            step.stale += usize::from(!wrongs.is_empty());
            wrongs
                .into_iter()
                .for_each(|wrong| ledger.offenders.add(wrong));
        }
        step.asked = doors.asked;
        step
    }

    fn listen(&mut self) {
        while let Ok(told) = self.told.try_recv() {
            self.audited.hear(&told);
        }
    }

    fn stand_by(&mut self) {
        self.listen();
        self.audited.forget();
    }
}

/// What one step has seen so far: each key is looked at once, each row asked about once.
struct Doors<'a> {
    store: &'a Store,
    reader: &'a Reader,
    seen: HashMap<Key, Sight>,
    pending: HashMap<i64, Option<bool>>,
    patience: Duration,
    cache_answers: bool,
    store_answers: bool,
    asked: usize,
}

impl<'a> Doors<'a> {
    fn of(auditor: &'a Auditor) -> Self {
        Self {
            store: &auditor.store,
            reader: &auditor.reader,
            seen: HashMap::new(),
            pending: HashMap::new(),
            patience: auditor.patience,
            cache_answers: true,
            store_answers: true,
            asked: 0,
        }
    }

    async fn find(&mut self, watched: &Watched) -> Finding {
        if !self.seen.contains_key(&watched.key) {
            let sight = self.look(&watched.key).await;
            self.seen.insert(watched.key.clone(), sight);
        }
        let mut finding = self.seen[&watched.key].held_against(watched.transaction);
        if !finding.looks_stale() {
            return finding;
        }
        finding.pending = self.is_pending(watched.row).await;
        if finding.pending != Some(false) || finding.second == Found::Unreachable {
            return finding;
        }
        // The row left the outbox, perhaps since we looked: what is wrong now is wrong without excuse,
        // and what is not was late.
        let sight = self.look(&watched.key).await;
        let again = sight.held_against(watched.transaction);
        self.seen.insert(watched.key.clone(), sight);
        match again.first.is_wrong() || again.second.is_wrong() {
            true => Finding {
                pending: Some(false),
                ..again
            },
            false => Finding {
                pending: Some(true),
                ..finding
            },
        }
    }

    async fn look(&mut self, key: &Key) -> Sight {
        // The first level before the second, which fills it.
        let first = self.reader.peek_first(key);
        let mut second = Err(());
        if self.cache_answers {
            let look = self.reader.cache().look(key, &[]);
            if let Ok(Ok(found)) = tokio::time::timeout(self.patience, look).await {
                second = Ok(found.entry);
            }
            self.cache_answers = second.is_ok();
        }
        Sight { first, second }
    }

    /// `None`: nobody can say.
    async fn is_pending(&mut self, row: i64) -> Option<bool> {
        if let Some(known) = self.pending.get(&row) {
            return *known;
        }
        if !self.store_answers || self.asked >= ASKS {
            return None;
        }
        self.asked += 1;
        let asked = tokio::time::timeout(self.patience, self.store.is_pending(row)).await;
        let pending = asked.ok().and_then(Result::ok);
        self.store_answers = pending.is_some();
        self.pending.insert(row, pending);
        pending
    }
}

impl Sight {
    fn held_against(&self, transaction: u64) -> Finding {
        Finding {
            first: Found::of(self.first.as_deref(), transaction),
            second: match &self.second {
                Ok(entry) => Found::of(entry.as_deref(), transaction),
                Err(()) => Found::Unreachable,
            },
            pending: None,
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
