//! Database snapshots: which transactions a reader could see. Stores take them, caches compare them.
//! Freshness is decided by them and never by a clock.
//!
//! On Postgres it is `pg_current_snapshot()`; on SQLite, whose writers take turns, a commit count in the same form.

use std::fmt;

/// A database snapshot: every transaction below `xmax` is visible, except those that were still running.
///
/// Of two snapshots of one database, the later one includes the earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DbSnapshot {
    /// The first id that was not yet assigned, so not visible.
    xmax: u64,
    /// Ids below `xmax` that had not ended, so not visible. Ascending, each once.
    running: Box<[u64]>,
}

impl DbSnapshot {
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

    /// The snapshot of a reader that saw the first `commits` commits of writers that take turns.
    pub fn from_commit_count(commits: u64) -> Self {
        Self {
            xmax: commits + 1,
            running: Box::default(),
        }
    }

    /// The snapshot that every reader has at least, once `transaction` has committed, which itself had this
    /// snapshot. It needs no query. `None` if so many others began in between that a query is cheaper.
    pub fn with_tx(&self, transaction: u64) -> Option<Self> {
        let mut running = self.running.to_vec();
        let Some(between) = transaction.checked_sub(self.xmax) else {
            running.retain(|id| *id != transaction);
            let running = running.into();
            return Some(Self { running, ..*self });
        };
        if between > MAX_BETWEEN {
            return None;
        }
        running.extend(self.xmax..transaction);
        Some(Self {
            xmax: transaction + 1,
            running: running.into(),
        })
    }

    /// The union: visible is what either of the two saw.
    pub fn merge(&self, other: &Self) -> Self {
        let mut running: Vec<u64> = self.running.iter().chain(&other.running).copied().collect();
        running.retain(|id| !self.is_visible(*id) && !other.is_visible(*id));
        running.sort_unstable();
        running.dedup();
        Self {
            xmax: self.xmax.max(other.xmax),
            running: running.into(),
        }
    }

    /// Whether the writes of `transaction` were visible.
    pub fn is_visible(&self, transaction: u64) -> bool {
        transaction < self.xmax && self.running.binary_search(&transaction).is_err()
    }

    /// Whether everything that `other` saw was visible. The last id below an `xmax` is always visible, so a
    /// smaller `xmax` alone means no.
    pub fn includes(&self, other: &Self) -> bool {
        self.xmax >= other.xmax
            && self
                .running
                .iter()
                .all(|id| *id >= other.xmax || other.running.binary_search(id).is_ok())
    }
}

/// A snapshot lists at most this many ids between its `xmax` and its own transaction.
const MAX_BETWEEN: u64 = 256;

fn number(text: &str) -> Option<u64> {
    // `parse` alone would accept a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for DbSnapshot {
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

    fn snapshot(text: &str) -> DbSnapshot {
        DbSnapshot::parse(text).expect(text)
    }

    #[test]
    fn snapshot_does_not_see_an_older_transaction_that_commits_later() {
        let seen = snapshot("10:20:10,15");
        assert!(seen.is_visible(9) && seen.is_visible(11) && seen.is_visible(19));
        assert!(!seen.is_visible(10) && !seen.is_visible(15) && !seen.is_visible(20));
        let later = snapshot("15:20:15");
        assert!(later.includes(&seen) && !seen.includes(&later));
    }

    #[test]
    fn snapshot_text_that_is_malformed_is_refused() {
        for text in [
            "", "1", "1:2", "1:2:3:4", "2:1:", "1:5:5", "1:5:0", "1:5:3,2", "1:5:2,2", "a:5:",
            "1:5:2,", "+1:5:",
        ] {
            assert_eq!(DbSnapshot::parse(text), None, "{text}");
        }
        assert_eq!(DbSnapshot::parse("1:99999999999999999999:"), None);
        assert_eq!(DbSnapshot::from_commit_count(7).to_string(), "8:8:");
    }

    /// A database: transactions begin and end; a snapshot is taken after each step.
    fn history() -> impl Strategy<Value = Vec<DbSnapshot>> {
        prop::collection::vec(any::<prop::sample::Index>(), 1..60).prop_map(|steps| {
            let (mut next, mut running, mut snapshots) = (1u64, Vec::new(), Vec::new());
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
                snapshots.push(DbSnapshot {
                    xmax: next,
                    running: running.clone().into(),
                });
            }
            snapshots
        })
    }

    fn seen(snapshot: &DbSnapshot) -> Vec<u64> {
        (1..90).filter(|id| snapshot.is_visible(*id)).collect()
    }

    proptest! {
        /// The union does not depend on order or repetition.
        #[test]
        fn snapshot_union_sees_what_either_saw_and_nothing_else(snapshots in history(), more in history()) {
            for (a, b) in snapshots.iter().zip(&more) {
                let both = a.merge(b);
                let (a_seen, b_seen) = (seen(a), seen(b));
                let mut either: Vec<u64> = a_seen.iter().chain(&b_seen).copied().collect();
                either.sort_unstable();
                either.dedup();
                prop_assert_eq!(seen(&both), either);
                prop_assert_eq!(b.merge(a), both.clone());
                prop_assert_eq!(both.merge(a), both.clone());
            }
        }

        /// A transaction that takes its snapshot, then its id, then commits.
        #[test]
        fn snapshot_of_a_committer_is_included_in_later_ones(snapshots in history(), more in 0u64..9) {
            for before in &snapshots {
                let id = before.xmax + more;
                let known = before.with_tx(id).expect("few in between");
                prop_assert!(known.is_visible(id) && known.includes(before) && known.includes(&known));
                let later = DbSnapshot { xmax: id + 3, running: before.running.clone() };
                prop_assert!(later.includes(&known));
                let without = DbSnapshot { xmax: id + 1, running: [id].into() };
                prop_assert!(!without.includes(&known));
            }
        }

        #[test]
        fn snapshot_includes_every_earlier_one(snapshots in history()) {
            for (n, later) in snapshots.iter().enumerate() {
                prop_assert_eq!(DbSnapshot::parse(&later.to_string()), Some(later.clone()));
                for earlier in &snapshots[..=n] {
                    prop_assert!(later.includes(earlier));
                    let (early, late) = (seen(earlier), seen(later));
                    prop_assert!(early.iter().all(|id| late.contains(id)));
                    // And no snapshot includes one that sees more.
                    prop_assert_eq!(earlier.includes(later), early == late && earlier.xmax == later.xmax);
                }
            }
        }
    }
}
