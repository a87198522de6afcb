//! A circuit breaker between readers and a cache that does not answer: after a few failures in a row no reader
//! asks for a while, then one reader probes. The guard of the reader calls it with the current time.

use std::time::{Duration, Instant};

/// Failures in a row before readers stop asking.
const FAILURES_TO_OPEN: u32 = 3;

/// The first pause, doubled after each failed probe up to the longest. The longest bounds how long
/// readers go without a cache that has come back.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A probe without a result (its request was dropped) is ignored after this.
const PROBE_LOST_AFTER: Duration = Duration::from_secs(1);

/// Closed: readers ask the cache. Open: they do not.
#[derive(Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    /// Pauses since the last success.
    pauses: u32,
}

#[derive(Debug)]
enum BreakerState {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing { since: Instant },
}

/// How a result changed the breaker: each change is one log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerTransition {
    None,
    Opened,
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: BreakerState::Closed { failures: 0 },
            pauses: 0,
        }
    }
}

impl Breaker {
    /// Whether a reader may ask the cache now. After a pause, only the first one may.
    pub fn allows(&mut self, now: Instant) -> bool {
        match self.state {
            BreakerState::Closed { .. } => true,
            BreakerState::Open { until } if now < until => false,
            BreakerState::Probing { since } if now < since + PROBE_LOST_AFTER => false,
            BreakerState::Open { .. } | BreakerState::Probing { .. } => {
                self.state = BreakerState::Probing { since: now };
                true
            }
        }
    }

    pub fn record_success(&mut self) -> BreakerTransition {
        let was_closed = matches!(self.state, BreakerState::Closed { .. });
        *self = Self::default();
        if was_closed {
            BreakerTransition::None
        } else {
            BreakerTransition::Closed
        }
    }

    /// `jitter` in 0..1 spreads the probes of many processes: a pause is cut by up to half.
    pub fn record_failure(&mut self, now: Instant, jitter: f64) -> BreakerTransition {
        match &mut self.state {
            BreakerState::Closed { failures } => {
                *failures += 1;
                if *failures < FAILURES_TO_OPEN {
                    return BreakerTransition::None;
                }
                self.pause(now, jitter);
                BreakerTransition::Opened
            }
            BreakerState::Probing { .. } => {
                self.pause(now, jitter);
                BreakerTransition::None
            }
            // The request began before the breaker opened.
            BreakerState::Open { .. } => BreakerTransition::None,
        }
    }

    fn pause(&mut self, now: Instant, jitter: f64) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16));
        let pause = doubled
            .min(LONGEST_PAUSE)
            .mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
        self.pauses = self.pauses.saturating_add(1);
        self.state = BreakerState::Open { until: now + pause };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            assert!(breaker.allows(now));
            breaker.record_failure(now, 0.0);
        }
        breaker
    }

    #[test]
    fn a_few_failures_in_a_row_open_it_and_one_success_between_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN - 1 {
            assert_eq!(breaker.record_failure(now, 0.0), BreakerTransition::None);
        }
        assert_eq!(breaker.record_success(), BreakerTransition::None);
        for _ in 0..FAILURES_TO_OPEN - 1 {
            assert_eq!(breaker.record_failure(now, 0.0), BreakerTransition::None);
        }
        assert_eq!(breaker.record_failure(now, 0.0), BreakerTransition::Opened);
        assert!(!breaker.allows(now));
    }

    #[test]
    fn after_the_pause_one_reader_probes_and_its_success_closes_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_PAUSE;
        assert!(breaker.allows(later));
        assert!(!breaker.allows(later), "only one probe at a time");
        assert_eq!(breaker.record_success(), BreakerTransition::Closed);
        assert!(breaker.allows(later));
    }

    #[test]
    fn a_probe_that_never_reports_does_not_keep_it_open_for_ever() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_PAUSE;
        assert!(breaker.allows(later));
        assert!(breaker.allows(later + PROBE_LOST_AFTER));
    }

    proptest! {
        /// After any history, readers ask again within the longest pause.
        #[test]
        fn it_always_asks_again(steps in prop::collection::vec((0u64..3_000, any::<bool>(), 0.0f64..1.0), 1..80)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            for (wait_ms, works, jitter) in steps {
                now += Duration::from_millis(wait_ms);
                if breaker.allows(now) {
                    if works {
                        breaker.record_success();
                        let is_closed = matches!(breaker.state, BreakerState::Closed { .. });
                        prop_assert!(is_closed);
                    } else {
                        breaker.record_failure(now, jitter);
                    }
                }
            }
            prop_assert!(breaker.allows(now + LONGEST_PAUSE));
        }
    }
}
