//! What goes wrong, when, and how late removals arrive: drawn from one number, before anything begins.

use std::time::Duration;

/// A removal is delivered within this of its commit.
const LATE_AT_MOST_MS: u64 = 150;
/// One in so many is delivered twice, the second time up to so much later: after those of newer changes.
const TWICE_ONE_IN: u32 = 3;
const AGAIN_AT_MOST_MS: u64 = 450;
/// A reader that has loaded is held up for so long before it fills.
const LAG_AT_MOST_MS: u64 = 50;
/// Of each minute, or of a quick run.
const FLUSHES: usize = 20;

/// How long everything lasts, and how much of it.
#[derive(Clone, Copy)]
pub struct Course {
    pub seed: u64,
    pub lasts: Duration,
    /// A change may be unseen for so long after its commit: later is stale.
    pub allowed: Duration,
    pub quick: bool,
    pub commits_a_second: u32,
    /// One transaction stays open for so long.
    pub open_for: Duration,
    /// The cache hangs for so long at a time.
    hangs_for: Duration,
    /// The cache is away for at most so long at a time.
    away_at_most: Duration,
    hangs: usize,
    restarts: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Everything in the cache is gone at once.
    Flush,
    /// A copy of the cache's memory is put aside.
    Copy,
    /// The cache dies, and comes back with nothing.
    Empty(Duration),
    /// The cache dies, and comes back with what was in the copy.
    Old(Duration),
    /// The cache takes commands and does not answer.
    Hang(Duration),
}

impl Course {
    pub fn full(seed: u64, lasts: Duration) -> Self {
        Self {
            seed,
            lasts,
            allowed: Duration::from_millis(250),
            quick: false,
            commits_a_second: 40,
            open_for: Duration::from_secs(30).min(lasts / 2),
            hangs_for: Duration::from_millis(300),
            away_at_most: Duration::from_millis(500),
            hangs: 5,
            restarts: 2,
        }
    }

    /// On a machine that does something else at the same time nobody can promise a quarter of a second.
    pub fn quick(seed: u64) -> Self {
        let lasts = Duration::from_secs(3);
        Self {
            allowed: Duration::from_secs(2),
            quick: true,
            open_for: lasts / 2,
            hangs_for: Duration::from_millis(100),
            away_at_most: Duration::from_millis(100),
            hangs: 1,
            restarts: 1,
            ..Self::full(seed, lasts)
        }
    }

    /// The faults of the whole run in their order. Near its end an old copy comes back: what nobody
    /// writes after that is told apart from what is soon written over.
    pub fn faults(&self) -> Vec<(Duration, Fault)> {
        let mut dice = self.dice(0);
        let minute = Duration::from_secs(60).min(self.lasts);
        let minutes = self.lasts.div_duration_f64(minute).round() as u32;
        let mut faults = Vec::new();
        for n in 0..minutes {
            let mut add = |from: f64, to: f64, fault| {
                let at = from + (to - from) * dice.f64();
                faults.push((minute * n + minute.mul_f64(at), fault));
            };
            add(0.05, 0.08, Fault::Copy);
            for _ in 0..FLUSHES {
                add(0.1, 0.98, Fault::Flush);
            }
            for _ in 0..self.hangs {
                add(0.1, 0.95, Fault::Hang(self.hangs_for));
            }
            for n in 0..self.restarts {
                let share = |of: f64| 0.15 + 0.75 * (n as f64 + of) / self.restarts as f64;
                let away = self
                    .away_at_most
                    .mul_f64(0.2 + 0.8 * fraction(self.seed, n));
                add(share(0.0), share(0.3), Fault::Empty(away));
                add(share(0.4), share(0.5), Fault::Copy);
                add(share(0.7), share(1.0), Fault::Old(away));
            }
        }
        let away = self.away_at_most / 2;
        faults.push((self.lasts.mul_f64(0.985), Fault::Old(away)));
        faults.sort_by_key(|(at, _)| *at);
        faults
    }

    /// Whoever needs luck has some of its own, so that one does not disturb the other's.
    pub fn dice(&self, whose: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ whose)
    }
}

fn fraction(seed: u64, n: usize) -> f64 {
    fastrand::Rng::with_seed(seed.wrapping_add(n as u64 + 1)).f64()
}

/// When a removal arrives after its commit, and when once more.
pub fn deliveries(dice: &mut fastrand::Rng) -> (Duration, Option<Duration>) {
    let late = Duration::from_millis(dice.u64(0..=LATE_AT_MOST_MS));
    let twice = dice.u32(0..TWICE_ONE_IN) == 0;
    let again = Duration::from_millis(dice.u64(LATE_AT_MOST_MS..=AGAIN_AT_MOST_MS));
    (late, twice.then_some(again))
}

pub fn lag(dice: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(dice.u64(0..=LAG_AT_MOST_MS))
}

/// Some are changed all the time and some hardly ever, as races are.
pub fn changed(dice: &mut fastrand::Rng, keys: usize) -> usize {
    let at = dice.f64().powi(3) * keys as f64;
    (at as usize).min(keys - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_is_the_same_course() {
        let course = |seed| Course::full(seed, Duration::from_secs(120)).faults();
        assert_eq!(course(7), course(7));
        assert_ne!(course(7), course(8));
    }

    #[test]
    fn every_kind_is_in_every_course_and_a_copy_is_there_before_it_comes_back() {
        for seed in 0..50 {
            for course in [
                Course::quick(seed),
                Course::full(seed, Duration::from_secs(60)),
            ] {
                let faults = course.faults();
                let first = |wanted: fn(&Fault) -> bool| {
                    let at = faults.iter().position(|(_, fault)| wanted(fault));
                    at.expect("one of each kind")
                };
                let old = first(|fault| matches!(fault, Fault::Old(_)));
                assert!(first(|fault| *fault == Fault::Copy) < old);
                first(|fault| matches!(fault, Fault::Empty(_)));
                first(|fault| matches!(fault, Fault::Hang(_)));
                let flushes = faults.iter().filter(|(_, fault)| *fault == Fault::Flush);
                assert_eq!(flushes.count(), FLUSHES);
                assert!(faults.iter().all(|(at, _)| *at < course.lasts));
            }
        }
    }
}
