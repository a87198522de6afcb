//! Assesses one observation of a cached answer: clean or stale, and by which cause. The sampler calls it for each
//! key that it watches.

use std::time::Instant;

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use oddsd_cache::Entry;

/// Why an answer was still served that a change had made wrong.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// Its outbox row is settled, but the answer is still there.
    Lost,
    /// The removal has not been confirmed yet.
    Late,
    /// It was stored after the removal, by a load that had not seen the change.
    LateFill,
    /// The second level was right, but the first one had not received the removal.
    FirstLevelGap,
    /// It was not removed; it expired.
    TtlOnly,
}

impl Cause {
    pub const ALL: &[Self] = Self::VARIANTS;

    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The level that would serve the stale answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditLevel {
    First,
    Second,
}

/// The entry of one level, compared with one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LevelState {
    Absent,
    /// It includes the transaction.
    Current,
    Stale {
        expires: Instant,
    },
    Unreachable,
}

impl LevelState {
    pub fn of(entry: Option<&Entry>, transaction: u64) -> Self {
        match entry {
            None => Self::Absent,
            Some(entry) if entry.snapshot.is_visible(transaction) => Self::Current,
            // Marked stale: it is served only with that label.
            Some(entry) if entry.fresh.is_zero() => Self::Absent,
            Some(entry) => Self::Stale {
                expires: entry.stored_at + entry.ttl(),
            },
        }
    }

    pub fn is_stale(self) -> bool {
        matches!(self, Self::Stale { .. })
    }
}

/// One observation of one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    pub first: LevelState,
    pub second: LevelState,
    /// Whether its outbox row was still there; `None`: not queried, or the database did not answer.
    pub pending: Option<bool>,
}

impl Observation {
    pub fn is_stale(&self) -> bool {
        self.first.is_stale() || self.second.is_stale()
    }

    /// Whether a query to the database is needed to tell.
    pub fn looks_stale(&self) -> bool {
        self.is_stale() || self.second == LevelState::Unreachable
    }
}

/// The earlier observations of one answer.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The second level was current or empty.
    was_clean: bool,
    /// When the stale answer expires.
    expires: Option<Instant>,
    cause: Option<Cause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assessment {
    Clean,
    /// Clean only now, by this cause.
    CleanAtLast(Cause),
    /// A level did not answer, and the other one is clean.
    Unknown,
    Stale(AuditLevel, Option<Cause>),
}

/// Assesses an observation made at `now`, and adds it to the history.
pub(super) fn assess(history: &mut History, observed: &Observation, now: Instant) -> Assessment {
    let level = match observed.first.is_stale() && !observed.second.is_stale() {
        true => AuditLevel::First,
        false => AuditLevel::Second,
    };
    for level in [observed.first, observed.second] {
        if let LevelState::Stale { expires } = level {
            history.expires = history.expires.max(Some(expires));
        }
    }
    let is_late = observed.pending == Some(true) && observed.looks_stale();
    if observed.is_stale() || is_late {
        let cause = match observed.pending {
            None => None,
            Some(true) => Some(Cause::Late),
            Some(false) if level == AuditLevel::First => Some(Cause::FirstLevelGap),
            Some(false) if history.was_clean => Some(Cause::LateFill),
            Some(false) => Some(Cause::Lost),
        };
        history.cause = cause.or(history.cause);
        return Assessment::Stale(level, cause);
    }
    if observed.second == LevelState::Unreachable {
        return Assessment::Unknown;
    }
    history.was_clean = true;
    // A late removal came in the end. With any other cause no removal was left to come.
    let is_expired = history.expires.is_some_and(|expires| expires <= now)
        && history
            .cause
            .is_some_and(|cause| !matches!(cause, Cause::Late | Cause::TtlOnly));
    match is_expired {
        true => {
            history.cause = Some(Cause::TtlOnly);
            Assessment::CleanAtLast(Cause::TtlOnly)
        }
        false => Assessment::Clean,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn observed(first: LevelState, second: LevelState, pending: Option<bool>) -> Observation {
        Observation {
            first,
            second,
            pending,
        }
    }

    #[test]
    fn each_kind_of_stale_answer_has_its_cause() {
        use LevelState::{Absent, Current, Unreachable};
        let now = Instant::now();
        let stale = LevelState::Stale {
            expires: now + Duration::from_secs(60),
        };
        let assessed = |observed| assess(&mut History::default(), &observed, now);
        let is = |level, cause| Assessment::Stale(level, Some(cause));
        for second in [Absent, Current] {
            assert_eq!(assessed(observed(Absent, second, None)), Assessment::Clean);
            assert_eq!(assessed(observed(Current, second, None)), Assessment::Clean);
            let gap = observed(stale, second, Some(false));
            assert_eq!(assessed(gap), is(AuditLevel::First, Cause::FirstLevelGap));
            let late = observed(stale, second, Some(true));
            assert_eq!(assessed(late), is(AuditLevel::First, Cause::Late));
        }
        let second = |pending| observed(Absent, stale, pending);
        assert_eq!(
            assessed(second(Some(true))),
            is(AuditLevel::Second, Cause::Late)
        );
        assert_eq!(
            assessed(second(Some(false))),
            is(AuditLevel::Second, Cause::Lost)
        );
        assert_eq!(
            assessed(second(None)),
            Assessment::Stale(AuditLevel::Second, None)
        );
        let away = |pending| observed(Absent, Unreachable, pending);
        assert_eq!(
            assessed(away(Some(true))),
            is(AuditLevel::Second, Cause::Late)
        );
        assert_eq!(assessed(away(Some(false))), Assessment::Unknown);
        assert_eq!(assessed(away(None)), Assessment::Unknown);
    }

    #[test]
    fn a_stale_answer_after_a_clean_one_is_a_late_fill_and_one_that_expires_was_never_removed() {
        let now = Instant::now();
        let stale = |seconds| LevelState::Stale {
            expires: now + Duration::from_secs(seconds),
        };
        let mut history = History::default();
        let clean = observed(LevelState::Absent, LevelState::Absent, None);
        assert_eq!(assess(&mut history, &clean, now), Assessment::Clean);
        let filled = observed(LevelState::Absent, stale(5), Some(false));
        let assessed = assess(&mut history, &filled, now);
        assert_eq!(
            assessed,
            Assessment::Stale(AuditLevel::Second, Some(Cause::LateFill))
        );
        // It was removed before it expired.
        let mut removed = history.clone();
        let second = Duration::from_secs(1);
        assert_eq!(
            assess(&mut removed, &clean, now + second),
            Assessment::Clean
        );
        let assessed = assess(&mut history, &clean, now + 6 * second);
        assert_eq!(assessed, Assessment::CleanAtLast(Cause::TtlOnly));
        assert_eq!(
            assess(&mut history, &clean, now + 7 * second),
            Assessment::Clean
        );
        // A late removal is a removal whenever it came.
        let mut history = History::default();
        assess(
            &mut history,
            &observed(LevelState::Absent, stale(5), Some(true)),
            now,
        );
        let assessed = assess(&mut history, &clean, now + 6 * second);
        assert_eq!(assessed, Assessment::Clean);
    }
}
