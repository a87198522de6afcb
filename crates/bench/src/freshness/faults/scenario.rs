//! What happens in a run under faults and when, drawn from one seed: the faults of the cache, the delays of removals and
//! readers, and which row changes next. `injection` and `load` carry it out.

use std::time::Duration;

/// The longest delay of a removal after its commit.
const MAX_FIRST_DELAY_MS: u64 = 150;
/// One removal in this many is delivered a second time, usually after the removals of newer changes.
const SECOND_DELIVERY_ONE_IN: u32 = 3;
const MAX_SECOND_DELAY_MS: u64 = 450;
/// The longest delay of a reader between load and fill.
const MAX_READER_LAG_MS: u64 = 50;
/// Flushes in each minute, and in a quick run.
const FLUSHES: usize = 20;

#[derive(Clone, Copy)]
pub struct FaultScenario {
    pub seed: u64,
    pub lasts: Duration,
    /// A read that begins more than this after a commit and does not show it is stale.
    pub allowed: Duration,
    pub quick: bool,
    pub commits_a_second: u32,
    /// The duration of one long transaction.
    pub open_for: Duration,
    /// The duration of each hang of the cache.
    hang_time: Duration,
    /// The longest downtime of a restart.
    max_downtime: Duration,
    /// Hangs in each minute, and in a quick run.
    hangs: usize,
    /// The same for restarts: each number counts one empty and one with the memory of a copy.
    restarts: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CacheFault {
    /// All keys are deleted at once.
    Flush,
    /// The cache's memory is copied for a later restart.
    Copy,
    /// The cache is killed and starts empty after this time.
    RestartEmpty(Duration),
    /// The cache is killed and starts with the memory of the copy after this time.
    RestartFromCopy(Duration),
    /// The cache accepts commands and does not answer for this time.
    Hang(Duration),
}

impl FaultScenario {
    pub fn full(seed: u64, lasts: Duration) -> Self {
        Self {
            seed,
            lasts,
            allowed: Duration::from_millis(250),
            quick: false,
            commits_a_second: 40,
            open_for: Duration::from_secs(30).min(lasts / 2),
            hang_time: Duration::from_millis(300),
            max_downtime: Duration::from_millis(500),
            hangs: 5,
            restarts: 2,
        }
    }

    /// Allows more staleness, because other load of the machine can delay a removal by more than 250 ms.
    pub fn quick(seed: u64) -> Self {
        let lasts = Duration::from_secs(3);
        Self {
            allowed: Duration::from_secs(2),
            quick: true,
            open_for: lasts / 2,
            hang_time: Duration::from_millis(100),
            max_downtime: Duration::from_millis(100),
            hangs: 1,
            restarts: 1,
            ..Self::full(seed, lasts)
        }
    }

    /// The faults of the whole run in order. Near its end Redis restarts with an old copy: a key that is not written
    /// after that stays wrong if the scheme trusts the copy.
    pub fn faults(&self) -> Vec<(Duration, CacheFault)> {
        let (mut rng, mut downtimes) = (self.rng(0), self.rng(1));
        let part = Duration::from_secs(60).min(self.lasts);
        let parts = self.lasts.div_duration_f64(part) as u32;
        let mut faults = Vec::new();
        for n in 0..parts {
            // At a random moment between these shares of the minute.
            let mut add = |from: f64, to: f64, fault| {
                let at = from + (to - from) * rng.f64();
                faults.push((part * n + part.mul_f64(at), fault));
            };
            add(0.05, 0.08, CacheFault::Copy);
            for _ in 0..FLUSHES {
                add(0.1, 0.98, CacheFault::Flush);
            }
            for _ in 0..self.hangs {
                add(0.1, 0.95, CacheFault::Hang(self.hang_time));
            }
            for restart in 0..self.restarts {
                let share = |of: f64| 0.15 + 0.75 * (restart as f64 + of) / self.restarts as f64;
                let downtime = self.max_downtime.mul_f64(0.2 + 0.8 * downtimes.f64());
                add(share(0.0), share(0.3), CacheFault::RestartEmpty(downtime));
                add(share(0.4), share(0.5), CacheFault::Copy);
                add(
                    share(0.7),
                    share(1.0),
                    CacheFault::RestartFromCopy(downtime),
                );
            }
        }
        let last = CacheFault::RestartFromCopy(self.max_downtime / 2);
        faults.push((self.lasts.mul_f64(0.985), last));
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    /// A generator for each task: a task draws the same numbers however the tasks interleave.
    pub fn rng(&self, task: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ task)
    }
}

/// The delays after the commit: of a removal's first delivery, and of the second one if there is one.
pub fn deliveries(rng: &mut fastrand::Rng) -> (Duration, Option<Duration>) {
    let first = Duration::from_millis(rng.u64(0..=MAX_FIRST_DELAY_MS));
    let is_repeated = rng.u32(0..SECOND_DELIVERY_ONE_IN) == 0;
    let second = Duration::from_millis(rng.u64(MAX_FIRST_DELAY_MS..=MAX_SECOND_DELAY_MS));
    (first, is_repeated.then_some(second))
}

pub fn reader_lag(rng: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(rng.u64(0..=MAX_READER_LAG_MS))
}

/// The row of the next change: a few rows get most of the changes, as a few races do.
pub fn next_row(rng: &mut fastrand::Rng, rows: usize) -> usize {
    let at = rng.f64().powi(3) * rows as f64;
    (at as usize).min(rows - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_makes_same_faults() {
        let scenario = |seed| FaultScenario::full(seed, Duration::from_secs(120)).faults();
        assert_eq!(scenario(7), scenario(7));
        assert_ne!(scenario(7), scenario(8));
    }

    #[test]
    fn every_scenario_has_every_fault_and_copies_before_it_restores() {
        for seed in 0..50 {
            for scenario in [
                FaultScenario::quick(seed),
                FaultScenario::full(seed, Duration::from_secs(60)),
                FaultScenario::full(seed, Duration::from_secs(150)),
            ] {
                let faults = scenario.faults();
                let first = |wanted: fn(&CacheFault) -> bool| {
                    let at = faults.iter().position(|(_, fault)| wanted(fault));
                    at.expect("one of each kind")
                };
                let restored = first(|fault| matches!(fault, CacheFault::RestartFromCopy(_)));
                assert!(first(|fault| *fault == CacheFault::Copy) < restored);
                first(|fault| matches!(fault, CacheFault::RestartEmpty(_)));
                first(|fault| matches!(fault, CacheFault::Hang(_)));
                let flushes = faults
                    .iter()
                    .filter(|(_, fault)| *fault == CacheFault::Flush);
                let minutes = (scenario.lasts.as_secs() / 60).max(1) as usize;
                assert_eq!(flushes.count(), FLUSHES * minutes);
                assert!(faults.iter().all(|(at, _)| *at < scenario.lasts));
            }
        }
    }
}
