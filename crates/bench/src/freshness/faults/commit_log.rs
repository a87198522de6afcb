//! What was committed when, and which reads did not show it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// More are not told one by one.
const OFFENDERS: usize = 3;

/// Per key, when each version was acknowledged as committed: known after it happened, never before.
pub struct Ledger {
    began: Instant,
    allowed: Duration,
    keys: Vec<Mutex<Vec<Option<Instant>>>>,
    /// When the cache hung: since when, and until when.
    hung: Mutex<Vec<(Instant, Option<Instant>)>>,
}

/// For how long a change had been committed when a read began that does not show it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Age {
    pub whole: Duration,
    /// Without the time in which the cache took commands and answered none: nobody could be told then.
    pub reachable: Duration,
}

impl Ledger {
    pub fn new(keys: usize, allowed: Duration) -> Self {
        Self {
            began: Instant::now(),
            allowed,
            keys: (0..keys).map(|_| Mutex::default()).collect(),
            hung: Mutex::default(),
        }
    }

    pub fn hangs(&self, at: Instant) {
        self.hung().push((at, None));
    }

    pub fn answers_again(&self, at: Instant) {
        if let Some((_, until)) = self.hung().last_mut() {
            *until = Some(at);
        }
    }

    pub fn committed(&self, key: usize, version: u64, at: Instant) {
        let mut versions = self.versions(key);
        let n = version as usize;
        if versions.len() <= n {
            versions.resize(n + 1, None);
        }
        versions[n] = Some(at);
    }

    /// The highest version that is known to be committed.
    pub fn newest(&self, key: usize) -> u64 {
        self.versions(key).len().saturating_sub(1) as u64
    }

    /// Of a read that showed this version; of the first change that it should have shown.
    pub fn age(&self, key: usize, version: u64, began: Instant) -> Age {
        let versions = self.versions(key);
        let newer = versions.iter().skip(version as usize + 1).flatten();
        let Some(since) = newer.min().filter(|at| **at < began) else {
            return Age::default();
        };
        let whole = began.duration_since(*since);
        let hung = |(from, until): &(Instant, Option<Instant>)| {
            let until = until.unwrap_or(began).min(began);
            until.saturating_duration_since(*from.max(since))
        };
        let hung: Duration = self.hung().iter().map(hung).sum();
        Age {
            whole,
            reachable: whole.saturating_sub(hung),
        }
    }

    fn hung(&self) -> MutexGuard<'_, Vec<(Instant, Option<Instant>)>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn versions(&self, key: usize) -> MutexGuard<'_, Vec<Option<Instant>>> {
        self.keys[key]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the reads of one scheme went.
#[derive(Default)]
pub struct Tally {
    reads: AtomicU64,
    hits: AtomicU64,
    errors: AtomicU64,
    stale: AtomicU64,
    stale_reachable: AtomicU64,
    stale_first_level: AtomicU64,
    oldest_us: AtomicU64,
    oldest_reachable_us: AtomicU64,
    slowest_us: AtomicU64,
    offenders: Mutex<Vec<String>>,
}

/// The same, as numbers.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub reads: u64,
    pub hits: u64,
    pub errors: u64,
    pub stale: u64,
    /// Of them, those that no hanging cache excuses.
    pub stale_reachable: u64,
    /// Of them, those from a first level.
    pub stale_first_level: u64,
    /// The longest that a committed change was not shown, allowed or not.
    pub oldest: Duration,
    /// The same, without the time in which the cache hung.
    pub oldest_reachable: Duration,
    /// From the question to the answer, at most.
    pub slowest: Duration,
    /// The first stale reads and errors, in words.
    pub offenders: Vec<String>,
}

/// An answer that a reader got.
pub struct Read {
    pub version: u64,
    pub source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    FirstLevel,
    Cache,
    Loader,
}

impl Tally {
    pub fn read(&self, ledger: &Ledger, key: usize, began: Instant, read: anyhow::Result<Read>) {
        self.reads.fetch_add(1, Relaxed);
        let took = began.elapsed().as_micros() as u64;
        self.slowest_us.fetch_max(took, Relaxed);
        let read = match read {
            Ok(read) => read,
            Err(why) => {
                self.errors.fetch_add(1, Relaxed);
                return self.offends(|| format!("{why:#}"));
            }
        };
        let is_hit = read.source != Source::Loader;
        self.hits.fetch_add(u64::from(is_hit), Relaxed);
        let age = ledger.age(key, read.version, began);
        let us = |age: Duration| age.as_micros() as u64;
        self.oldest_us.fetch_max(us(age.whole), Relaxed);
        let reachable = us(age.reachable);
        self.oldest_reachable_us.fetch_max(reachable, Relaxed);
        if age.whole <= ledger.allowed {
            return;
        }
        let add = |count: &AtomicU64, is: bool| count.fetch_add(u64::from(is), Relaxed);
        add(&self.stale, true);
        add(&self.stale_reachable, age.reachable > ledger.allowed);
        let from_first = read.source == Source::FirstLevel;
        add(&self.stale_first_level, from_first);
        self.offends(|| {
            format!(
                "at {:.3} s version {} of answer {key}, {} ms late ({:?})",
                began.duration_since(ledger.began).as_secs_f64(),
                read.version,
                age.whole.as_millis(),
                read.source,
            )
        });
    }

    fn offends(&self, what: impl FnOnce() -> String) {
        let mut offenders = self.offenders();
        if offenders.len() < OFFENDERS {
            offenders.push(what());
        }
    }

    fn offenders(&self) -> MutexGuard<'_, Vec<String>> {
        self.offenders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn told(&self) -> Told {
        Told {
            reads: self.reads.load(Relaxed),
            hits: self.hits.load(Relaxed),
            errors: self.errors.load(Relaxed),
            stale: self.stale.load(Relaxed),
            stale_reachable: self.stale_reachable.load(Relaxed),
            stale_first_level: self.stale_first_level.load(Relaxed),
            oldest_reachable: Duration::from_micros(self.oldest_reachable_us.load(Relaxed)),
            oldest: Duration::from_micros(self.oldest_us.load(Relaxed)),
            slowest: Duration::from_micros(self.slowest_us.load(Relaxed)),
            offenders: self.offenders().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_as_old_as_the_first_change_that_it_does_not_show() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let ledger = Ledger::new(1, ms(250));
        // Two writers may tell in another order than they committed in.
        ledger.committed(0, 2, start + ms(100));
        ledger.committed(0, 1, start + ms(101));
        assert_eq!(ledger.newest(0), 2);
        let age = |version, at| ledger.age(0, version, start + ms(at)).whole;
        assert_eq!(age(2, 1_000), Duration::ZERO);
        assert_eq!(age(1, 300), ms(200));
        assert_eq!(age(0, 300), ms(200));
        assert_eq!(age(0, 50), Duration::ZERO);
        // Seen before its writer had the acknowledgement.
        assert_eq!(age(3, 1_000), Duration::ZERO);

        let tally = Tally::default();
        let read = |version, source| Ok(Read { version, source });
        tally.read(&ledger, 0, start + ms(350), read(1, Source::Cache));
        assert_eq!(tally.told().stale, 0);
        tally.read(&ledger, 0, start + ms(351), read(0, Source::Cache));
        tally.read(&ledger, 0, start + ms(352), Err(anyhow::anyhow!("no")));
        let told = tally.told();
        assert_eq!(
            (told.reads, told.hits, told.errors, told.stale),
            (3, 2, 1, 1)
        );
        assert_eq!(told.offenders.len(), 2);
    }

    #[test]
    fn nobody_can_be_told_of_a_change_while_the_cache_hangs() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let ledger = Ledger::new(1, ms(250));
        ledger.committed(0, 1, start + ms(100));
        ledger.hangs(start + ms(50));
        ledger.answers_again(start + ms(150));
        ledger.hangs(start + ms(300));
        let age = |at| {
            let age = ledger.age(0, 0, start + ms(at));
            (age.whole, age.reachable)
        };
        assert_eq!(age(250), (ms(150), ms(100)));
        assert_eq!(age(400), (ms(300), ms(150)));
        ledger.answers_again(start + ms(350));
        assert_eq!(age(400), (ms(300), ms(200)));
    }
}
