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
    /// As `Late`, while the relay waits for the database.
    DatabaseWait,
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
    /// Whether the relay waited for the database.
    pub relay_waits: bool,
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
            Some(true) | None if observed.relay_waits => Some(Cause::DatabaseWait),
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
        && history.cause.is_some_and(|cause| {
            !matches!(cause, Cause::Late | Cause::DatabaseWait | Cause::TtlOnly)
        });
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

    #[test]
    fn each_kind_of_stale_answer_has_its_cause() {
        use LevelState::{Absent, Current, Unreachable};
        let expires = Instant::now() + Duration::from_secs(60);
        let stale = LevelState::Stale { expires };
        let at_first = |cause| Assessment::Stale(AuditLevel::First, Some(cause));
        let at_second = |cause| Assessment::Stale(AuditLevel::Second, Some(cause));
        let unknown_cause = Assessment::Stale(AuditLevel::Second, None);
        for (first, second, pending, expected) in [
            (Absent, Absent, None, Assessment::Clean),
            (Absent, Current, None, Assessment::Clean),
            (Current, Absent, None, Assessment::Clean),
            (Current, Current, None, Assessment::Clean),
            (stale, Absent, Some(false), at_first(Cause::FirstLevelGap)),
            (stale, Current, Some(false), at_first(Cause::FirstLevelGap)),
            (stale, Absent, Some(true), at_first(Cause::Late)),
            (stale, Current, Some(true), at_first(Cause::Late)),
            (Absent, stale, Some(true), at_second(Cause::Late)),
            (Absent, stale, Some(false), at_second(Cause::Lost)),
            (Absent, stale, None, unknown_cause),
            (Absent, Unreachable, Some(true), at_second(Cause::Late)),
            (Absent, Unreachable, Some(false), Assessment::Unknown),
            (Absent, Unreachable, None, Assessment::Unknown),
        ] {
            let observed = Observation {
                first,
                second,
                pending,
                relay_waits: false,
            };
            let assessed = assess(&mut History::default(), &observed, Instant::now());
            assert_eq!(assessed, expected, "{observed:?}");
        }
    }

    #[test]
    fn a_stale_answer_after_a_clean_one_is_a_late_fill_and_one_that_expires_was_never_removed() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let observed = |second, pending| Observation {
            first: LevelState::Absent,
            second,
            pending,
            relay_waits: false,
        };
        let expires = after(5);
        let stale = |pending| observed(LevelState::Stale { expires }, Some(pending));
        let found = |cause| Assessment::Stale(AuditLevel::Second, Some(cause));
        let absent = observed(LevelState::Absent, None);
        let clean = |seconds| (seconds, absent, Assessment::Clean);
        let filled_late = (0, stale(false), found(Cause::LateFill));
        let expired = (6, absent, Assessment::CleanAtLast(Cause::TtlOnly));
        for checks in [
            vec![clean(0), filled_late, clean(1)],
            vec![clean(0), filled_late, expired, clean(7)],
            // A late removal is a removal whenever it came.
            vec![(0, stale(true), found(Cause::Late)), clean(6)],
        ] {
            let mut history = History::default();
            for (seconds, observed, expected) in checks {
                let assessed = assess(&mut history, &observed, after(seconds));
                assert_eq!(assessed, expected, "after {seconds} s");
            }
        }
    }
}
