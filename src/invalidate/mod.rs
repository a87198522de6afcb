//! The relay: outbox to cache. One batch claims what is due, removes every answer it makes wrong,
//! and settles; the loop around it wakes at a poke and looks by itself (safe path). What this process
//! commits itself is handed over (`fast`), and removed before anybody asks the database again.
//!
//! It runs beside the cycle and never inside it. A row leaves the outbox only when all of its keys
//! are confirmed gone; until then it comes back, for ever, also after a restart.

mod alarm;
mod fast;
mod floor;
mod plan;
mod retry;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, CacheError, Reader, Removed};
use crate::key::Key;
use crate::live::{Activity, Live};
use crate::model::View;
use crate::rulebook::Rulebook;
use crate::store::{
    Backlog, Claimed, Gone, Lease, Purpose, Rows, Settlement, Store, StoreError, Told,
};

pub use alarm::Alarm;
pub use fast::{Fast, InFlight, hand_over};
pub use floor::FloorKeeper;
use plan::{Done, Failed, Plan};
use retry::{FIRST_RETRY, retry_after};

/// Rows taken at once. A full batch means that more wait: those are coalesced by the database.
const BATCH: i64 = 2_000;
/// Changes of a backlog that are removed together, and the most rows that they are looked for in. Memory
/// holds the changes.
const FIRST_PAGE: i64 = 10_000;
const BACKLOG: i64 = 100_000;
/// A claimed row is due again after this, should we die with it in our hands.
const CLAIM_FOR: Duration = Duration::from_secs(10);
/// The safe path: how often the relay looks without having been poked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the last pass may take of the daemon's goodbye.
const LAST_DRAIN: Duration = Duration::from_secs(8);
/// A removal that waits longer than this is a person's business; said once a while.
const ESCALATE_AFTER: Duration = Duration::from_secs(60);
/// No cached answer of ours lives longer: the bound that the log promises while a removal is late.
pub const STALE_AT_MOST: Duration = Duration::from_secs(60);

/// What one batch came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// Nothing is due.
    Empty,
    Removed {
        rows: usize,
        targets: usize,
    },
    /// The cache did not confirm; the rows are due again after `retry`.
    Failed {
        rows: usize,
        retry: Duration,
    },
}

#[derive(Clone)]
pub struct Relay {
    pub store: Store,
    pub reader: Reader,
    /// What a change makes wrong.
    pub rules: Rulebook,
    pub live: Live,
    /// Whose claims these are.
    pub who: String,
    pub poke: Arc<Notify>,
    /// Rung when the cache says that it has no floor.
    pub no_floor: Arc<Notify>,
    /// Rung when a cache that was away answers again.
    pub back: Arc<Notify>,
    /// Told what was removed.
    pub auditor: Option<mpsc::Sender<Told>>,
    /// Told what is to be loaded again. A queue that is full is no loss: the next reader loads.
    pub warm: Option<mpsc::Sender<Key>>,
    pub alarm: Alarm,
    /// Rows that are done with, but still in the outbox: a claim may find them there.
    pub done: InFlight,
    /// Keys are removed once more after this, for programs that fill the cache on their own. Zero: not.
    pub again_after: Duration,
}

/// What a removal came to, before it is written down.
struct Worked {
    settlement: Settlement,
    targets: usize,
}

impl Relay {
    /// For a process that is no daemon: nobody checks, warms or removes again.
    pub fn alone(store: Store, cache: Arc<Cache>, rules: Rulebook, who: String) -> Self {
        Self {
            store,
            reader: Reader::new(cache),
            rules,
            live: Live::new(),
            who,
            poke: Arc::default(),
            no_floor: Arc::default(),
            back: Arc::default(),
            auditor: None,
            warm: None,
            alarm: Alarm::at(u64::MAX),
            done: InFlight::default(),
            again_after: Duration::ZERO,
        }
    }

    /// Works until `stop`, then drains what the last cycle left. The database being away is no
    /// reason to end: the cycle says so already, and the rows are safe in it.
    ///
    /// A cache of this process alone is nobody else's: while another daemon leads, and its readers
    /// have what the rows make wrong, the rows are left to it.
    pub async fn run(
        self,
        mut fast: Fast,
        lease: watch::Receiver<Option<Lease>>,
        stop: CancellationToken,
    ) {
        let ours = || self.cache().is_shared() || lease.borrow().is_some();
        let settler = fast.settler(&self);
        let mut failing_since = None;
        // A clock of its own, that no stream of commits holds up.
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = looks.tick() => {
                    // What was handed over need not be claimed.
                    if fast.is_waiting() {
                        fast.removed(&self).await;
                    }
                    self.alarm.look(&self.store).await;
                }
                () = fast.removed(&self) => continue,
                () = self.poke.notified() => {}
            }
            while ours() && !stop.is_cancelled() {
                match self.turn().await {
                    Ok(Batch::Removed { .. }) => failing_since = None,
                    Ok(Batch::Failed { retry, .. }) => {
                        self.escalate(failing_since.get_or_insert_with(Instant::now));
                        // What waits can do no better before this, but what is committed meanwhile may
                        // find the cache back, and filled again.
                        let over = tokio::time::sleep(retry);
                        tokio::pin!(over);
                        loop {
                            tokio::select! {
                                biased;
                                () = stop.cancelled() => break,
                                () = &mut over => break,
                                // Not due yet, and no reason to wait any longer.
                                () = self.back.notified() => {
                                    if let Err(why) = self.backlog().await {
                                        tracing::debug!(event = "relay.store_failed", error = %why, "the outbox cannot be read");
                                    }
                                    break;
                                }
                                () = fast.removed(&self) => {}
                            }
                        }
                        continue;
                    }
                    Ok(Batch::Empty) => break,
                    Err(why) => {
                        tracing::debug!(event = "relay.store_failed", error = %why, "the outbox cannot be read");
                        break;
                    }
                }
                if fast.is_waiting() {
                    fast.removed(&self).await;
                }
            }
        }
        drop(fast);
        settler.ended().await;
        if ours()
            && let Err(why) = self.drain(LAST_DRAIN).await
        {
            tracing::debug!(event = "relay.store_failed", error = %why, "the outbox cannot be read");
        }
    }

    /// Removes what is due until nothing is, or the cache does not confirm, or `deadline` is over.
    pub async fn drain(&self, deadline: Duration) -> Result<Batch, StoreError> {
        let started = Instant::now();
        let mut last = self.turn().await?;
        while matches!(last, Batch::Removed { .. }) && started.elapsed() < deadline {
            match self.turn().await? {
                Batch::Empty => break,
                next => last = next,
            }
        }
        Ok(last)
    }

    /// As `drain`, and waits for rows that are not due yet: an earlier run postponed them, or died
    /// with them in its hands. Says how many are left.
    pub async fn drain_all(&self, deadline: Duration) -> Result<i64, StoreError> {
        let started = Instant::now();
        let mut removed = false;
        loop {
            let last = self
                .drain(deadline.saturating_sub(started.elapsed()))
                .await?;
            let left = self.store.status().await?.outbox_pending;
            let failed = matches!(last, Batch::Failed { .. });
            removed |= matches!(last, Batch::Removed { .. });
            if left == 0 && removed && self.removes_again() {
                // The second removals are due when this is over, and nobody else may be there then.
                tokio::time::sleep(self.again_after + FIRST_RETRY).await;
                self.drain(deadline).await?;
                removed = false;
            }
            if left == 0 || failed || started.elapsed() >= deadline {
                return Ok(left);
            }
            tokio::time::sleep(FIRST_RETRY).await;
        }
    }

    /// A batch; and where it was a full one, the whole backlog.
    async fn turn(&self) -> Result<Batch, StoreError> {
        let batch = self.batch().await?;
        match batch {
            Batch::Removed { rows, .. } if rows as i64 == BATCH => self.backlog().await,
            batch => Ok(batch),
        }
    }

    /// Claim, targets, remove, settle.
    pub async fn batch(&self) -> Result<Batch, StoreError> {
        let mut claim = self.store.claim(&self.who, BATCH, CLAIM_FOR).await?;
        let claimed = claim.rows.len();
        claim.rows.retain(|row| !self.done.contains(row.id));
        if claim.rows.is_empty() {
            // Those that were done with are about to be settled.
            return Ok(match claimed as i64 == BATCH {
                true => Batch::Removed {
                    rows: claimed,
                    targets: 0,
                },
                false => Batch::Empty,
            });
        }
        let rows: Vec<i64> = claim.rows.iter().map(|row| row.id).collect();
        match self.work(&claim.rows, &claim.view, None).await {
            Ok(worked) => {
                let lately = self.store.settle(&rows, worked.settlement).await?;
                self.alarm.note(&self.store, lately).await;
                Ok(Batch::Removed {
                    rows: rows.len(),
                    targets: worked.targets,
                })
            }
            Err(why) => {
                let retry = self.failed(&claim.rows, &why);
                self.store.postpone(&rows, retry, why.detail()).await?;
                Ok(Batch::Failed {
                    rows: rows.len(),
                    retry,
                })
            }
        }
    }

    /// All that waits, the oldest first, coalesced.
    async fn backlog(&self) -> Result<Batch, StoreError> {
        let mut page = FIRST_PAGE;
        loop {
            let mut backlog: Backlog = self.store.backlog(page).await?;
            for change in &mut backlog.changes {
                // Nobody claimed them for this one, so it is not counted yet.
                change.attempts += 1;
            }
            if backlog.changes.is_empty() {
                return Ok(Batch::Empty);
            }
            let changes = backlog.changes.len() as i64;
            let which = Rows::Through(backlog.through, backlog.view.clone());
            let worked = match self
                .work(&backlog.changes, &backlog.view, Some(which))
                .await
            {
                Ok(worked) => worked,
                Err(why) => {
                    let retry = self.failed(&backlog.changes, &why);
                    return Ok(Batch::Failed {
                        rows: backlog.rows as usize,
                        retry,
                    });
                }
            };
            let settled = self
                .store
                .settle_backlog(&backlog, worked.settlement)
                .await?;
            let (settled, lately) = settled;
            self.alarm.note(&self.store, lately).await;
            if settled < page as u64 / 2 {
                return Ok(Batch::Removed {
                    rows: settled as usize,
                    targets: worked.targets,
                });
            }
            // As many rows as come to that many changes, if it goes on like this.
            page = (page * FIRST_PAGE / changes).clamp(FIRST_PAGE, BACKLOG);
        }
    }

    /// Removes all that these rows make wrong, and tells everybody. An error says that the cache as a whole
    /// did not answer; targets that it alone refused are in the settlement. `which` is for rows that
    /// bear no number.
    async fn work(
        &self,
        rows: &[Claimed],
        view: &View,
        which: Option<Rows>,
    ) -> Result<Worked, CacheError> {
        let rules = self.rules.now();
        let plan = Plan::of(rows, &rules, &self.store).await;
        for fault in &plan.faults {
            tracing::warn!(
                event = "rules.target_failed",
                version = %rules.version(),
                error = %fault,
                "A target could not be spelt; the others were removed"
            );
        }
        let started = Instant::now();
        let removed = self.remove(&plan, view).await?;
        let took = started.elapsed();
        let failed = plan.failed(&removed);
        let left = plan.rows_left(&failed);
        match which {
            Some(which) if left.is_empty() => self.audit(which),
            Some(_) => {}
            None => {
                let gone = rows.iter().map(|row| row.id);
                self.audit(Rows::These(
                    gone.filter(|row| !left.contains(row)).collect(),
                ));
            }
        }
        self.warm_again(&plan);
        self.tell(&plan, &failed, took);
        let targets = plan.targets.len();
        let settlement = plan.settlement(&Done {
            removed: &removed,
            failed: &failed,
            backend: self.cache().backend(),
            took,
            again_after: self.removes_again().then_some(self.again_after),
        });
        Ok(Worked {
            settlement,
            targets,
        })
    }

    /// The second removals go to the plain keys alone: our own readers need none.
    async fn remove(&self, plan: &Plan, view: &View) -> Result<Removed, CacheError> {
        if !plan.again.is_empty() {
            self.cache().remove_plain(&plan.again).await?;
        }
        if plan.targets.is_empty() {
            return Ok(Removed::default());
        }
        let removed = self.reader.remove(&plan.targets, view).await?;
        if removed.no_floor {
            self.no_floor.notify_one();
        }
        Ok(removed)
    }

    fn warm_again(&self, plan: &Plan) {
        if let Some(warm) = &self.warm {
            for key in &plan.warm {
                let _ = warm.try_send(key.clone());
            }
        }
    }

    /// No reader can be wrong about these any more.
    fn audit(&self, rows: Rows) {
        if let Some(auditor) = &self.auditor {
            let _ = auditor.try_send(Told::Removed(Gone::now(rows)));
        }
    }

    /// Where there can be other programs.
    fn removes_again(&self) -> bool {
        let shared = matches!(**self.cache(), Cache::Remote(_));
        shared && !self.again_after.is_zero()
    }

    fn tell(&self, plan: &Plan, failed: &Failed, took: Duration) {
        if plan.tells_nobody() || self.cache().backend() == "off" {
            return;
        }
        if let Some(why) = failed.values().next() {
            let retry = retry_after(plan.attempts(), why.is_retryable());
            self.say_failed(plan.cycle(), failed.len(), plan.attempts(), retry, why);
        }
        if failed.len() == plan.targets.len() {
            return;
        }
        let keys = plan.targets.keys.iter().chain(&plan.targets.stale).cloned();
        self.live.say(Activity::Invalidated {
            cycle: plan.cycle(),
            rule: plan.rules(),
            backend: self.cache().backend(),
            keys: keys.collect(),
            tags: plan.targets.tags.iter().map(ToString::to_string).collect(),
            reason: plan.reason(),
            attempts: plan.attempts() as u32,
            took_ms: took.as_millis() as u64,
            actor: None,
        });
    }

    /// The cache as a whole did not answer.
    fn failed(&self, rows: &[Claimed], why: &CacheError) -> Duration {
        let attempt = rows.iter().map(|row| row.attempts).max().unwrap_or(1);
        let retry = retry_after(attempt, why.is_retryable());
        if rows.iter().all(|row| row.purpose == Purpose::Canary) {
            // Nobody waits for it, and it says itself when it is not heard.
            return retry;
        }
        let cycle = rows.iter().filter_map(|row| row.cycle).max();
        self.say_failed(
            cycle.map(|cycle| cycle as u64),
            rows.len(),
            attempt,
            retry,
            why,
        );
        retry
    }

    fn say_failed(
        &self,
        cycle: Option<u64>,
        waiting: usize,
        attempt: i32,
        retry: Duration,
        why: &CacheError,
    ) {
        self.live.say(Activity::InvalidateFailed {
            cycle,
            backend: self.cache().backend(),
            keys: waiting as u64,
            attempt: attempt as u32,
            retry_ms: retry.as_millis() as u64,
            stale_s: STALE_AT_MOST.as_secs(),
            error: why.to_string(),
        });
    }

    /// A warning each time is enough for an hour of a cache's maintenance, and too little for a wrong
    /// password that nobody notices.
    fn escalate(&self, since: &mut Instant) {
        if since.elapsed() < ESCALATE_AFTER {
            return;
        }
        *since = Instant::now();
        tracing::error!(
            event = "cache.invalidate_stuck",
            backend = self.cache().backend(),
            host = self.cache().host(),
            "Removals have failed for over {} s: readers of other programs see old prices until the cache answers. \
             Nothing is lost; `oddsd status` says how many wait and why",
            ESCALATE_AFTER.as_secs()
        );
    }

    fn cache(&self) -> &Arc<Cache> {
        self.reader.cache()
    }
}
