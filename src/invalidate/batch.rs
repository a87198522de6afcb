//! What a batch of outbox rows comes to. No door is opened here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;

use super::FIRST_RETRY;
use crate::cache::{Cache, Removed, Targets};
use crate::key::Key;
use crate::rules;
use crate::store::{Claimed, Purpose, Removal};

/// Low enough that readers see fresh prices soon after the cache is back.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// Nobody can heal a refusal (password, rights) within seconds.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

/// All that these rows make wrong, each once: this is where an outage coalesces. Beside it, the
/// plain keys that are only to be removed again.
pub(super) fn targets(rows: &[Claimed]) -> (Targets, Vec<Key>) {
    let (mut keys, mut again) = (BTreeSet::new(), BTreeSet::new());
    for row in rows {
        match row.purpose {
            Purpose::Again => again.extend(row.keys.iter().cloned()),
            Purpose::Change | Purpose::Canary => keys.extend(row.keys.iter().cloned()),
        }
        if let Some(event) = &row.event {
            keys.extend(rules::targets(event));
        }
    }
    let targets = Targets {
        keys: keys.into_iter().collect(),
        tags: Vec::new(),
    };
    (targets, again.into_iter().collect())
}

/// The line of the log; second removals and the canary have none.
pub(super) fn removal(
    rows: &[Claimed],
    targets: &Targets,
    removed: Removed,
    cache: &Arc<Cache>,
    took: Duration,
) -> Option<Removal> {
    let rows: Vec<&Claimed> = rows
        .iter()
        .filter(|row| row.purpose == Purpose::Change)
        .collect();
    let manual = rows.iter().all(|row| !row.keys.is_empty());
    (!rows.is_empty()).then(|| Removal {
        id: 0,
        at: Utc::now(),
        cycle: rows.iter().filter_map(|row| row.cycle).max(),
        rule: if manual {
            rules::MANUAL
        } else {
            rules::LIVE_ODDS
        }
        .into(),
        reason: reason(rows.iter().copied()).into(),
        keys: targets.keys.iter().map(Key::to_string).collect(),
        existed: removed.existed as i64,
        backend: cache.backend().into(),
        attempts: most_attempts(rows.iter().copied()),
        took_ms: took.as_millis() as i64,
    })
}

pub(super) fn reason<'a>(rows: impl IntoIterator<Item = &'a Claimed>) -> &'static str {
    let kinds = rows.into_iter().flat_map(|row| row.kinds.iter().copied());
    rules::reason(&kinds.collect())
}

pub(super) fn most_attempts<'a>(rows: impl IntoIterator<Item = &'a Claimed>) -> i32 {
    rows.into_iter().map(|row| row.attempts).max().unwrap_or(1)
}

pub(super) fn newest_cycle(rows: &[Claimed]) -> Option<i64> {
    rows.iter().filter_map(|row| row.cycle).max()
}

pub(super) fn retry_after(attempt: i32, retryable: bool) -> Duration {
    let longest = if retryable {
        LONGEST_RETRY
    } else {
        REFUSED_RETRY
    };
    let doublings = attempt.saturating_sub(1).clamp(0, 16) as u32;
    let wait = if retryable {
        FIRST_RETRY * (1 << doublings)
    } else {
        longest
    };
    wait.min(longest).mul_f64(0.75 + fastrand::f64() / 4.0)
}
