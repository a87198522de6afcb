//! The commits of the run under faults, and counters of the reads that do not show them. Writers and readers of all
//! schemes record into them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The report contains so many stale reads and errors as text.
const EXAMPLES: usize = 3;

/// By key, the time of each version's acknowledged commit. It is recorded after the commit, never before.
pub struct CommitLog {
    began: Instant,
    allowed: Duration,
    keys: Vec<Mutex<Vec<Option<Instant>>>>,
    /// The beginning and the end of each hang of the cache.
    hung: Mutex<Vec<(Instant, Option<Instant>)>>,
}

/// The time from the commit of a change to the beginning of a read that does not show it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Staleness {
    pub whole: Duration,
    /// Without the time in which the cache hung, because no removal could reach it then.
    pub without_hangs: Duration,
}

impl CommitLog {
    pub fn new(keys: usize, allowed: Duration) -> Self {
        Self {
            began: Instant::now(),
            allowed,
            keys: (0..keys).map(|_| Mutex::default()).collect(),
            hung: Mutex::default(),
        }
    }

    pub fn begin_hang(&self, at: Instant) {
        self.hung.lock().push((at, None));
    }

    pub fn end_hang(&self, at: Instant) {
        if let Some((_, until)) = self.hung.lock().last_mut() {
            *until = Some(at);
        }
    }

    pub fn record_commit(&self, key: usize, version: u64, at: Instant) {
        let mut versions = self.keys[key].lock();
        let n = version as usize;
        if versions.len() <= n {
            versions.resize(n + 1, None);
        }
        versions[n] = Some(at);
    }

    /// The highest committed version.
    pub fn newest(&self, key: usize) -> u64 {
        self.keys[key].lock().len().saturating_sub(1) as u64
    }

    /// The staleness of a read that showed this version, by the first change that it does not show.
    pub fn staleness(&self, key: usize, version: u64, began: Instant) -> Staleness {
        let versions = self.keys[key].lock();
        let newer = versions.iter().skip(version as usize + 1).flatten();
        let Some(since) = newer.min().filter(|at| **at < began) else {
            return Staleness::default();
        };
        let whole = began.duration_since(*since);
        let hung = |(from, until): &(Instant, Option<Instant>)| {
            let until = until.unwrap_or(began).min(began);
            until.saturating_duration_since(*from.max(since))
        };
        let hung: Duration = self.hung.lock().iter().map(hung).sum();
        Staleness {
            whole,
            without_hangs: whole.saturating_sub(hung),
        }
    }
}

/// The reads of one scheme.
#[derive(Default)]
pub struct ReadCounter {
    reads: AtomicU64,
    hits: AtomicU64,
    errors: AtomicU64,
    stale: AtomicU64,
    stale_without_hangs: AtomicU64,
    stale_l1: AtomicU64,
    stalest_us: AtomicU64,
    stalest_without_hangs_us: AtomicU64,
    slowest_us: AtomicU64,
    examples: Mutex<Vec<String>>,
}

/// The values of a [`ReadCounter`].
#[derive(Clone, Debug, Default)]
pub struct ReadTotals {
    pub reads: u64,
    pub hits: u64,
    pub errors: u64,
    pub stale: u64,
    /// Of them, those that are stale even without the time in which the cache hung.
    pub stale_without_hangs: u64,
    /// Of them, those from L1.
    pub stale_l1: u64,
    /// The longest staleness of a read, allowed or not.
    pub stalest: Duration,
    /// The same, without the time in which the cache hung.
    pub stalest_without_hangs: Duration,
    /// The longest time of a read.
    pub slowest: Duration,
    /// The first stale reads and errors as text.
    pub examples: Vec<String>,
}

/// The answer of a read.
pub struct VersionRead {
    pub version: u64,
    pub source: ReadSource,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReadSource {
    L1,
    Cache,
    Loader,
}

impl ReadCounter {
    pub fn record(
        &self,
        log: &CommitLog,
        key: usize,
        began: Instant,
        read: anyhow::Result<VersionRead>,
    ) {
        self.reads.fetch_add(1, Relaxed);
        let took = began.elapsed().as_micros() as u64;
        self.slowest_us.fetch_max(took, Relaxed);
        let read = match read {
            Ok(read) => read,
            Err(why) => {
                self.errors.fetch_add(1, Relaxed);
                return self.add_example(|| format!("{why:#}"));
            }
        };
        let is_hit = read.source != ReadSource::Loader;
        self.hits.fetch_add(u64::from(is_hit), Relaxed);
        let staleness = log.staleness(key, read.version, began);
        let us = |time: Duration| time.as_micros() as u64;
        self.stalest_us.fetch_max(us(staleness.whole), Relaxed);
        let without_hangs = us(staleness.without_hangs);
        self.stalest_without_hangs_us
            .fetch_max(without_hangs, Relaxed);
        if staleness.whole <= log.allowed {
            return;
        }
        let add = |count: &AtomicU64, is: bool| count.fetch_add(u64::from(is), Relaxed);
        add(&self.stale, true);
        add(
            &self.stale_without_hangs,
            staleness.without_hangs > log.allowed,
        );
        let from_l1 = read.source == ReadSource::L1;
        add(&self.stale_l1, from_l1);
        self.add_example(|| {
            format!(
                "at {:.3} s version {} of answer {key}, {} ms late ({:?})",
                began.duration_since(log.began).as_secs_f64(),
                read.version,
                staleness.whole.as_millis(),
                read.source,
            )
        });
    }

    fn add_example(&self, text: impl FnOnce() -> String) {
        let mut examples = self.examples.lock();
        if examples.len() < EXAMPLES {
            examples.push(text());
        }
    }

    pub fn totals(&self) -> ReadTotals {
        ReadTotals {
            reads: self.reads.load(Relaxed),
            hits: self.hits.load(Relaxed),
            errors: self.errors.load(Relaxed),
            stale: self.stale.load(Relaxed),
            stale_without_hangs: self.stale_without_hangs.load(Relaxed),
            stale_l1: self.stale_l1.load(Relaxed),
            stalest_without_hangs: Duration::from_micros(
                self.stalest_without_hangs_us.load(Relaxed),
            ),
            stalest: Duration::from_micros(self.stalest_us.load(Relaxed)),
            slowest: Duration::from_micros(self.slowest_us.load(Relaxed)),
            examples: self.examples.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_is_as_stale_as_the_first_change_that_it_does_not_show() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let log = CommitLog::new(1, ms(250));
        // Two writers may record in another order than they committed in.
        log.record_commit(0, 2, start + ms(100));
        log.record_commit(0, 1, start + ms(101));
        assert_eq!(log.newest(0), 2);
        let staleness = |version, at| log.staleness(0, version, start + ms(at)).whole;
        assert_eq!(staleness(2, 1_000), Duration::ZERO);
        assert_eq!(staleness(1, 300), ms(200));
        assert_eq!(staleness(0, 300), ms(200));
        assert_eq!(staleness(0, 50), Duration::ZERO);
        // Read before its writer had the acknowledgement.
        assert_eq!(staleness(3, 1_000), Duration::ZERO);

        let counter = ReadCounter::default();
        let read = |version, source| Ok(VersionRead { version, source });
        counter.record(&log, 0, start + ms(350), read(1, ReadSource::Cache));
        assert_eq!(counter.totals().stale, 0);
        counter.record(&log, 0, start + ms(351), read(0, ReadSource::Cache));
        counter.record(&log, 0, start + ms(352), Err(anyhow::anyhow!("no")));
        let totals = counter.totals();
        assert_eq!(
            (totals.reads, totals.hits, totals.errors, totals.stale),
            (3, 2, 1, 1)
        );
        assert_eq!(totals.examples.len(), 2);
    }

    #[test]
    fn time_in_which_the_cache_hangs_is_subtracted() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let log = CommitLog::new(1, ms(250));
        log.record_commit(0, 1, start + ms(100));
        log.begin_hang(start + ms(50));
        log.end_hang(start + ms(150));
        log.begin_hang(start + ms(300));
        let staleness = |at| {
            let staleness = log.staleness(0, 0, start + ms(at));
            (staleness.whole, staleness.without_hangs)
        };
        assert_eq!(staleness(250), (ms(150), ms(100)));
        assert_eq!(staleness(400), (ms(300), ms(150)));
        log.end_hang(start + ms(350));
        assert_eq!(staleness(400), (ms(300), ms(200)));
    }
}
