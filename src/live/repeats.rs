//! Repeated equal errors become one line with a count. The count is of log lines that were held
//! back, not of anything that happened in the world.

use std::time::{Duration, Instant};

/// An error that keeps coming is written again this often.
pub const WINDOW: Duration = Duration::from_secs(300);

/// After a success it is news again, but one that flaps does not fill the log.
pub const FLAPPING: Duration = Duration::from_secs(30);

/// Distinct errors remembered at once; the one written longest ago makes room, so errors that
/// differ every time cost bounded memory.
const REMEMBERED: usize = 64;

/// Remembers which errors were written lately. `now` is an argument.
pub struct Repeats {
    window: Duration,
    errors: Vec<Repeated>,
}

struct Repeated {
    name: &'static str,
    error: String,
    written: Instant,
    held: u64,
    /// What failed has worked since.
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Write it, and say how many equal log lines were held back since the last one.
    Say { collapsed: u64 },
    /// An equal line was written lately.
    Hold,
}

/// Lines that were held back and whose cause has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collapsed {
    pub name: &'static str,
    pub error: String,
    pub log_lines: u64,
}

impl Repeats {
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            errors: Vec::new(),
        }
    }

    /// Asks whether this error should be written. Errors are equal when name and text are.
    pub fn hear(&mut self, name: &'static str, error: &str, now: Instant) -> Hearing {
        let known = self
            .errors
            .iter_mut()
            .find(|e| e.name == name && e.error == error);
        if let Some(known) = known {
            let quiet = if known.settled { FLAPPING } else { self.window };
            if now.saturating_duration_since(known.written) < quiet {
                known.held += 1;
                return Hearing::Hold;
            }
            known.written = now;
            known.settled = false;
            let collapsed = std::mem::take(&mut known.held);
            return Hearing::Say { collapsed };
        }
        if self.errors.len() == REMEMBERED {
            let oldest = (0..REMEMBERED).min_by_key(|&n| self.errors[n].written);
            self.errors.swap_remove(oldest.unwrap_or(0));
        }
        self.errors.push(Repeated {
            name,
            error: error.to_owned(),
            written: now,
            held: 0,
            settled: false,
        });
        Hearing::Say { collapsed: 0 }
    }

    /// The thing called `name` works again: gives back what was held, so that no count is lost.
    pub fn settle(&mut self, name: &str) -> Vec<Collapsed> {
        let mut held = Vec::new();
        for error in self.errors.iter_mut().filter(|e| e.name == name) {
            error.settled = true;
            if error.held > 0 {
                held.push(Collapsed {
                    name: error.name,
                    error: error.error.clone(),
                    log_lines: std::mem::take(&mut error.held),
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
    fn an_error_that_repeats_is_written_once_a_window_with_its_count() {
        let (mut repeats, start) = (Repeats::new(WINDOW), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut hear = |s| repeats.hear("cycle.fetch_failed", "HTTP 503", at(s));
        assert_eq!(hear(0), Hearing::Say { collapsed: 0 });
        assert_eq!(hear(10), Hearing::Hold);
        assert_eq!(hear(299), Hearing::Hold);
        assert_eq!(hear(300), Hearing::Say { collapsed: 2 });
        assert_eq!(hear(310), Hearing::Hold);
        let settled = repeats.settle("cycle.fetch_failed");
        assert_eq!(settled.len(), 1);
        assert_eq!(settled[0].log_lines, 1);
        assert!(repeats.settle("cycle.fetch_failed").is_empty());
    }

    #[test]
    fn after_a_success_the_same_error_is_news_again() {
        let (mut repeats, start) = (Repeats::new(WINDOW), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        repeats.hear("cycle.store_failed", "refused", at(0));
        repeats.settle("cycle.store_failed");
        let hearing = repeats.hear("cycle.store_failed", "refused", at(10));
        assert_eq!(hearing, Hearing::Hold, "it flaps");
        repeats.settle("cycle.store_failed");
        let hearing = repeats.hear("cycle.store_failed", "refused", at(60));
        assert_eq!(hearing, Hearing::Say { collapsed: 0 }, "a second outage");
    }

    proptest! {
        /// Every error heard is written, or counted by a later line, or still held.
        #[test]
        fn no_log_line_is_lost(heard in prop::collection::vec((0usize..5, 0u64..200), 1..200)) {
            let (mut repeats, mut now) = (Repeats::new(WINDOW), Instant::now());
            let texts = ["a", "b", "c", "d", "e"];
            let mut accounted = 0;
            for (text, wait) in &heard {
                now += Duration::from_secs(*wait);
                if let Hearing::Say { collapsed } = repeats.hear("x", texts[*text], now) {
                    accounted += 1 + collapsed;
                }
            }
            accounted += repeats.settle("x").iter().map(|c| c.log_lines).sum::<u64>();
            prop_assert_eq!(accounted, heard.len() as u64);
        }

        #[test]
        fn memory_is_bounded(errors in prop::collection::vec("[a-z]{1,3}", 0..300)) {
            let mut repeats = Repeats::new(WINDOW);
            for error in &errors {
                repeats.hear("x", error, Instant::now());
            }
            prop_assert!(repeats.errors.len() <= REMEMBERED);
        }
    }
}
