//! Collapses equal failures into one log line with a count of the lines that were held back. The event
//! bus asks it before it writes the line of a failure.

use std::time::{Duration, Instant};

/// A failure that continues is written again after this time.
pub const WINDOW: Duration = Duration::from_secs(300);

/// After a success the same failure may be written again sooner; the pause keeps an alternating one from
/// filling the log.
const PAUSE_AFTER_SUCCESS: Duration = Duration::from_secs(30);

/// Bounds the memory for error texts that differ each time. The entry that was written longest ago is
/// replaced.
const MAX_FAILURES: usize = 64;

/// Remembers which failures were written lately. Failures are equal if their names and texts are.
pub struct LogDeduplicator {
    window: Duration,
    failures: Vec<KnownFailure>,
}

struct KnownFailure {
    name: &'static str,
    error: String,
    written: Instant,
    held: u64,
    /// The operation has succeeded since the failure was written.
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogDecision {
    /// Write the line; `held` equal ones were held back since the last.
    Write { held: u64 },
    /// An equal line was written lately.
    Hold,
}

/// Equal lines that were held back until their cause ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLines {
    pub name: &'static str,
    pub error: String,
    pub log_lines: u64,
}

impl LogDeduplicator {
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            failures: Vec::new(),
        }
    }

    /// Decides whether the line of this failure is written.
    pub fn decide(&mut self, name: &'static str, error: &str, now: Instant) -> LogDecision {
        let known = self
            .failures
            .iter_mut()
            .find(|failure| failure.name == name && failure.error == error);
        if let Some(known) = known {
            let pause = if known.ended {
                PAUSE_AFTER_SUCCESS
            } else {
                self.window
            };
            if now.saturating_duration_since(known.written) < pause {
                known.held += 1;
                return LogDecision::Hold;
            }
            known.written = now;
            known.ended = false;
            let held = std::mem::take(&mut known.held);
            return LogDecision::Write { held };
        }
        // The count of the evicted failure is lost; it is the one that was written longest ago.
        if self.failures.len() == MAX_FAILURES {
            let oldest = (0..MAX_FAILURES).min_by_key(|&n| self.failures[n].written);
            self.failures.swap_remove(oldest.unwrap_or(0));
        }
        self.failures.push(KnownFailure {
            name,
            error: error.to_owned(),
            written: now,
            held: 0,
            ended: false,
        });
        LogDecision::Write { held: 0 }
    }

    /// Marks the failures of this name as ended and returns the lines that were held back, so that no
    /// count is lost.
    pub fn end(&mut self, name: &str) -> Vec<HeldLines> {
        let mut held = Vec::new();
        for failure in self.failures.iter_mut().filter(|f| f.name == name) {
            failure.ended = true;
            if failure.held > 0 {
                held.push(HeldLines {
                    name: failure.name,
                    error: failure.error.clone(),
                    log_lines: std::mem::take(&mut failure.held),
                });
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
        let (mut dedup, start) = (LogDeduplicator::new(WINDOW), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut decide = |s| dedup.decide("cycle.fetch_failed", "HTTP 503", at(s));
        assert_eq!(decide(0), LogDecision::Write { held: 0 });
        assert_eq!(decide(10), LogDecision::Hold);
        assert_eq!(decide(299), LogDecision::Hold);
        assert_eq!(decide(300), LogDecision::Write { held: 2 });
        assert_eq!(decide(310), LogDecision::Hold);
        let held = dedup.end("cycle.fetch_failed");
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].log_lines, 1);
        assert!(dedup.end("cycle.fetch_failed").is_empty());
    }

    #[test]
    fn failure_after_a_success_is_written_again_after_a_pause() {
        let (mut dedup, start) = (LogDeduplicator::new(WINDOW), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        dedup.decide("cycle.store_failed", "refused", at(0));
        dedup.end("cycle.store_failed");
        let decision = dedup.decide("cycle.store_failed", "refused", at(10));
        assert_eq!(decision, LogDecision::Hold, "within the pause");
        dedup.end("cycle.store_failed");
        let decision = dedup.decide("cycle.store_failed", "refused", at(60));
        assert_eq!(decision, LogDecision::Write { held: 0 }, "a second outage");
    }

    proptest! {
        /// Each failure is written, or counted by a later line, or still held.
        #[test]
        fn no_log_line_is_lost(failures in prop::collection::vec((0usize..5, 0u64..200), 1..200)) {
            let (mut dedup, mut now) = (LogDeduplicator::new(WINDOW), Instant::now());
            let texts = ["a", "b", "c", "d", "e"];
            let mut accounted = 0;
            for (text, wait) in &failures {
                now += Duration::from_secs(*wait);
                if let LogDecision::Write { held } = dedup.decide("x", texts[*text], now) {
                    accounted += 1 + held;
                }
            }
            accounted += dedup.end("x").iter().map(|held| held.log_lines).sum::<u64>();
            prop_assert_eq!(accounted, failures.len() as u64);
        }

        #[test]
        fn memory_is_bounded(errors in prop::collection::vec("[a-z]{1,3}", 0..300)) {
            let mut dedup = LogDeduplicator::new(WINDOW);
            for error in &errors {
                dedup.decide("x", error, Instant::now());
            }
            prop_assert!(dedup.failures.len() <= MAX_FAILURES);
        }
    }
}
