//! Collapses equal failures into one log line with a count of the lines that were held back. The event
//! bus asks it before it writes the line of a failure.

use std::time::{Duration, Instant};

/// A failure that continues is written again after this time.
const WINDOW: Duration = Duration::from_secs(300);

/// After a success the same failure may be written again sooner; the pause keeps an alternating one from
/// filling the log.
const PAUSE_AFTER_SUCCESS: Duration = Duration::from_secs(30);

/// Bounds the memory for error texts that differ each time. The failure that was written longest ago is
/// evicted.
const MAX_FAILURES: usize = 64;

/// Remembers which failures were written lately. Failures are equal if their names and texts are.
#[derive(Default)]
pub struct LogDeduplicator(Vec<KnownFailure>);

struct KnownFailure {
    held: HeldLines,
    written: Instant,
    /// The last time, written or not.
    occurred: Instant,
    /// The operation has succeeded since the failure was written.
    ended: bool,
}

/// Equal lines that were held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLines {
    pub name: &'static str,
    pub error: String,
    pub log_lines: u64,
}

/// The permission to write the line of a failure.
#[derive(Debug, PartialEq, Eq)]
pub struct WriteLine {
    /// Equal lines that were held back since the last.
    pub held: u64,
    /// Lines of another failure, which is evicted. Their count is written first, so that none is lost.
    pub evicted: Option<HeldLines>,
}

impl LogDeduplicator {
    /// Decides whether the line of this failure is written. `None`: an equal one was written lately.
    pub fn decide(&mut self, name: &'static str, error: &str, now: Instant) -> Option<WriteLine> {
        let mut failures = self.0.iter_mut();
        let known = failures.find(|known| known.held.name == name && known.held.error == error);
        if let Some(known) = known {
            known.occurred = now;
            let pause = match known.ended {
                true => PAUSE_AFTER_SUCCESS,
                false => WINDOW,
            };
            if now.saturating_duration_since(known.written) < pause {
                known.held.log_lines += 1;
                return None;
            }
            (known.written, known.ended) = (now, false);
            return Some(WriteLine {
                held: std::mem::take(&mut known.held.log_lines),
                evicted: None,
            });
        }
        let evicted = match self.0.len() {
            MAX_FAILURES => (0..MAX_FAILURES).min_by_key(|&at| self.0[at].written),
            _ => None,
        };
        let evicted = evicted.map(|at| self.0.swap_remove(at).held);
        self.0.push(KnownFailure {
            held: HeldLines {
                name,
                error: error.to_owned(),
                log_lines: 0,
            },
            written: now,
            occurred: now,
            ended: false,
        });
        Some(WriteLine {
            held: 0,
            evicted: evicted.filter(|held| held.log_lines > 0),
        })
    }

    /// Marks the failures of this name as ended and returns the lines that were held back, so that no
    /// count is lost.
    pub fn end(&mut self, name: &str) -> Vec<HeldLines> {
        self.end_if(name, |_| true)
    }

    /// As `end`, for those that have not occurred for [`PAUSE_AFTER_SUCCESS`].
    pub fn end_faded(&mut self, name: &str, now: Instant) -> Vec<HeldLines> {
        self.end_if(name, |known| {
            now.saturating_duration_since(known.occurred) >= PAUSE_AFTER_SUCCESS
        })
    }

    fn end_if(&mut self, name: &str, is_over: impl Fn(&KnownFailure) -> bool) -> Vec<HeldLines> {
        let mut held = Vec::new();
        let mut failures = self.0.iter_mut();
        while let Some(failure) = failures.find(|known| known.held.name == name && is_over(known)) {
            failure.ended = true;
            if failure.held.log_lines > 0 {
                held.push(failure.held.clone());
                failure.held.log_lines = 0;
            }
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeated_failure_is_written_once_a_window_with_its_count() {
        let (mut dedup, start) = (LogDeduplicator::default(), Instant::now());
        let written = [0, 10, 299, 300, 310].map(|seconds| {
            let decision = dedup.decide("x", "HTTP 503", start + Duration::from_secs(seconds));
            decision.map(|write| write.held)
        });
        assert_eq!(written, [Some(0), None, None, Some(2), None]);
        let held = dedup.end("x");
        assert_eq!((held.len(), held[0].log_lines), (1, 1));
        assert!(dedup.end("x").is_empty());
    }

    #[test]
    fn failure_after_a_success_is_written_again_after_a_pause() {
        let (mut dedup, start) = (LogDeduplicator::default(), Instant::now());
        for (seconds, is_written) in [(0, true), (10, false), (60, true)] {
            let now = start + Duration::from_secs(seconds);
            let decision = dedup.decide("x", "refused", now);
            assert_eq!(decision.map(|write| write.held), is_written.then_some(0));
            dedup.end("x");
        }
    }

    #[test]
    fn failure_of_single_requests_ends_when_it_has_not_occurred_for_a_while() {
        let (mut dedup, start) = (LogDeduplicator::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 10, 20] {
            dedup.decide("x", "refused", at(seconds));
        }
        assert_eq!(dedup.end_faded("x", at(49)), []);
        let held = dedup.end_faded("x", at(50));
        assert_eq!((held.len(), held[0].log_lines), (1, 2));
        assert!(dedup.decide("x", "refused", at(51)).is_some());
    }

    #[test]
    fn evicted_failure_returns_its_count() {
        let (mut dedup, start) = (LogDeduplicator::default(), Instant::now());
        let mut decide = |n: usize| {
            let now = start + Duration::from_millis(n as u64);
            dedup.decide("x", &n.to_string(), now)
        };
        (0..MAX_FAILURES).for_each(|n| drop(decide(n)));
        assert_eq!(decide(0), None, "held back");
        let evicted = decide(MAX_FAILURES).and_then(|write| write.evicted);
        let evicted = evicted.expect("the oldest failure");
        assert_eq!((evicted.error.as_str(), evicted.log_lines), ("0", 1));
    }

    proptest! {
        /// Each failure is written, or counted by a later line, or still held; also when it is evicted.
        #[test]
        fn no_log_line_is_lost(failures in prop::collection::vec((0..2 * MAX_FAILURES, 0u64..20), 1..500)) {
            let (mut dedup, mut now) = (LogDeduplicator::default(), Instant::now());
            let mut accounted = 0;
            for (text, wait) in &failures {
                now += Duration::from_secs(*wait);
                if let Some(WriteLine { held, evicted }) = dedup.decide("x", &text.to_string(), now) {
                    accounted += 1 + held + evicted.map_or(0, |evicted| evicted.log_lines);
                }
            }
            prop_assert!(dedup.0.len() <= MAX_FAILURES);
            accounted += dedup.end("x").iter().map(|held| held.log_lines).sum::<u64>();
            prop_assert_eq!(accounted, failures.len() as u64);
        }
    }
}
