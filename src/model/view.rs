//! What a database reader saw: which transactions had committed when it looked.
//!
//! Freshness is decided by these and never by a clock. `pg_current_snapshot()` is one in Postgres; with
//! SQLite, whose writers take turns, it is a commit counter in the same form.

use std::fmt;

/// Every transaction below `xmax` is in it, except those still running.
///
/// Of two views of one database, the later one sees all that the earlier one saw.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The first id that was not yet given out, so not seen.
    xmax: u64,
    /// Ids below `xmax` that had not ended: not seen. Ascending, each once.
    running: Box<[u64]>,
}

impl View {
    /// Reads `xmin:xmax:a,b,…`, the text form of Postgres. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax, list) = (parts.next()?, parts.next()?, parts.next()?);
        let (xmin, xmax): (u64, u64) = (number(xmin)?, number(xmax)?);
        let running: Vec<u64> = match list {
            "" => Vec::new(),
            list => list.split(',').map(number).collect::<Option<_>>()?,
        };
        let ascending = running.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = running.iter().all(|id| (xmin..xmax).contains(id));
        (parts.next().is_none() && xmin <= xmax && ascending && inside).then(|| Self {
            xmax,
            running: running.into(),
        })
    }

    /// The view of a reader that saw the first `commits` commits of writers that take turns.
    pub fn after(commits: u64) -> Self {
        Self {
            xmax: commits + 1,
            running: Box::default(),
        }
    }

    /// What is known to be seen by whoever looks after `transaction` committed, which itself had this
    /// view: no question to the database is needed for it. `None` when so many others began in
    /// between that asking is cheaper.
    pub fn and(&self, transaction: u64) -> Option<Self> {
        let mut running = self.running.to_vec();
        let Some(between) = transaction.checked_sub(self.xmax) else {
            running.retain(|id| *id != transaction);
            let running = running.into();
            return Some(Self { running, ..*self });
        };
        if between > MOST_BETWEEN {
            return None;
        }
        running.extend(self.xmax..transaction);
        Some(Self {
            xmax: transaction + 1,
            running: running.into(),
        })
    }

    /// What either of the two saw.
    pub fn join(&self, other: &Self) -> Self {
        let mut running: Vec<u64> = self.running.iter().chain(&other.running).copied().collect();
        running.retain(|id| !self.sees(*id) && !other.sees(*id));
        running.sort_unstable();
        running.dedup();
        Self {
            xmax: self.xmax.max(other.xmax),
            running: running.into(),
        }
    }

    /// Whether what `transaction` wrote was there to be seen.
    pub fn sees(&self, transaction: u64) -> bool {
        transaction < self.xmax && self.running.binary_search(&transaction).is_err()
    }

    /// Whether everything that `other` saw was there to be seen. The last id of a view is one that it
    /// saw, so a smaller `xmax` alone says no.
    pub fn covers(&self, other: &Self) -> bool {
        self.xmax >= other.xmax
            && self
                .running
                .iter()
                .all(|id| *id >= other.xmax || other.running.binary_search(id).is_ok())
    }
}

/// More ids than this are not listed one by one.
const MOST_BETWEEN: u64 = 256;

fn number(text: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let xmin = self.running.first().unwrap_or(&self.xmax);
        write!(f, "{xmin}:{}:", self.xmax)?;
        for (n, id) in self.running.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{id}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view(text: &str) -> View {
        View::parse(text).expect(text)
    }

    #[test]
    fn an_older_transaction_that_commits_later_is_not_seen() {
        let seen = view("10:20:10,15");
        assert!(seen.sees(9) && seen.sees(11) && seen.sees(19));
        assert!(!seen.sees(10) && !seen.sees(15) && !seen.sees(20));
        let later = view("15:20:15");
        assert!(later.covers(&seen) && !seen.covers(&later));
    }

    #[test]
    fn what_is_no_view_is_refused() {
        for text in [
            "",
            "1",
            "1:2",
            "1:2:3:4",
            "2:1:",
            "1:5:5",
            "1:5:0",
            "1:5:3,2",
            "1:5:2,2",
            "a:5:",
            "1:5:2,",
            "+1:5:",
            "1:99999999999999999999:",
        ] {
            assert_eq!(View::parse(text), None, "{text}");
        }
        assert_eq!(View::after(7).to_string(), "8:8:");
    }

    /// A database: transactions begin and end; a view is taken at any time.
    fn history() -> impl Strategy<Value = Vec<View>> {
        prop::collection::vec(any::<prop::sample::Index>(), 1..60).prop_map(|steps| {
            let (mut next, mut running, mut views) = (1u64, Vec::new(), Vec::new());
            for step in steps {
                match step.index(3) {
                    0 => {
                        running.push(next);
                        next += 1;
                    }
                    1 if !running.is_empty() => {
                        running.remove(step.index(running.len()));
                    }
                    _ => {}
                }
                views.push(View {
                    xmax: next,
                    running: running.clone().into(),
                });
            }
            views
        })
    }

    fn seen(view: &View) -> Vec<u64> {
        (1..90).filter(|id| view.sees(*id)).collect()
    }

    proptest! {
        /// In any order and any number of times, joined views come to the same.
        #[test]
        fn what_was_joined_is_seen_and_nothing_else(views in history(), more in history()) {
            for (a, b) in views.iter().zip(&more) {
                let both = a.join(b);
                let (a_seen, b_seen) = (seen(a), seen(b));
                let mut either: Vec<u64> = a_seen.iter().chain(&b_seen).copied().collect();
                either.sort_unstable();
                either.dedup();
                prop_assert_eq!(seen(&both), either);
                prop_assert_eq!(b.join(a), both.clone());
                prop_assert_eq!(both.join(a), both.clone());
            }
        }

        /// A transaction that takes its view, then its id, then commits.
        #[test]
        fn what_a_committer_knows_is_covered_by_whoever_looks_later(views in history(), more in 0u64..9) {
            for before in &views {
                let id = before.xmax + more;
                let known = before.and(id).expect("few in between");
                prop_assert!(known.sees(id) && known.covers(before) && known.covers(&known));
                let later = View { xmax: id + 3, running: before.running.clone() };
                prop_assert!(later.covers(&known));
                let without = View { xmax: id + 1, running: [id].into() };
                prop_assert!(!without.covers(&known));
            }
        }

        #[test]
        fn a_later_view_covers_an_earlier_one_and_sees_what_it_saw(views in history()) {
            for (n, later) in views.iter().enumerate() {
                prop_assert_eq!(View::parse(&later.to_string()), Some(later.clone()));
                for earlier in &views[..=n] {
                    prop_assert!(later.covers(earlier));
                    let (early, late) = (seen(earlier), seen(later));
                    prop_assert!(early.iter().all(|id| late.contains(id)));
                    // And only then: nothing is covered that holds more.
                    prop_assert_eq!(earlier.covers(later), early == late && earlier.xmax == later.xmax);
                }
            }
        }
    }
}
