//! What one look at one answer means, and what an answer that is wrong is wrong by.

use std::time::Instant;

use serde::Serialize;

use crate::cache::Entry;

/// Why an answer was still served that a change had made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its outbox row is gone, and the answer is not.
    Lost,
    /// The removal has not been confirmed yet.
    Late,
    /// It was put there after the removal, by a load that had not seen the change.
    LateFill,
    /// The second level had it right, the first one had not heard.
    FirstLevelGap,
    /// Nobody removed it: its time was up.
    TtlOnly,
}

impl Cause {
    pub const ALL: [Self; 5] = [
        Self::Lost,
        Self::Late,
        Self::LateFill,
        Self::FirstLevelGap,
        Self::TtlOnly,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Late => "late",
            Self::LateFill => "late_fill",
            Self::FirstLevelGap => "first_level_gap",
            Self::TtlOnly => "ttl_only",
        }
    }
}

/// Where a reader would get it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    First,
    Second,
}

/// What one level has, held against one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Right,
    Wrong {
        /// When its time is up.
        ends: Instant,
    },
    Unreachable,
}

impl Found {
    pub fn of(entry: Option<&Entry>, transaction: u64) -> Self {
        match entry {
            None => Self::Absent,
            Some(entry) if entry.view.sees(transaction) => Self::Right,
            // Marked stale: nobody is served it without that label.
            Some(entry) if entry.fresh.is_zero() => Self::Absent,
            Some(entry) => Self::Wrong {
                ends: entry.stored_at + entry.ttl(),
            },
        }
    }

    pub fn is_wrong(self) -> bool {
        matches!(self, Self::Wrong { .. })
    }
}

/// One look at one answer. `pending`: whether its outbox row was still there, asked only of what
/// looks stale; `None` also when nobody could say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding {
    pub first: Found,
    pub second: Found,
    pub pending: Option<bool>,
}

impl Finding {
    /// Worth a question to the database.
    pub fn looks_stale(&self) -> bool {
        self.first.is_wrong() || self.second.is_wrong() || self.second == Found::Unreachable
    }
}

/// What earlier looks at one answer had shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// The second level had been right or empty.
    was_right: bool,
    /// When the wrong answer's time would be up.
    ends: Option<Instant>,
    cause: Option<Cause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Clean,
    /// It is gone only now, and this is why.
    CleanAtLast(Cause),
    /// A level could not be asked, and nothing else speaks against it.
    Unknown,
    Wrong(Level, Option<Cause>),
}

/// Judges one look at `now`, and remembers it.
pub(super) fn judge(past: &mut Past, finding: &Finding, now: Instant) -> Verdict {
    let wrong = finding.first.is_wrong() || finding.second.is_wrong();
    let level = match finding.first.is_wrong() && !finding.second.is_wrong() {
        true => Level::First,
        false => Level::Second,
    };
    for found in [finding.first, finding.second] {
        if let Found::Wrong { ends } = found {
            past.ends = past.ends.max(Some(ends));
        }
    }
    let late = finding.pending == Some(true) && finding.looks_stale();
    if wrong || late {
        let cause = match finding.pending {
            None => None,
            Some(true) => Some(Cause::Late),
            Some(false) if level == Level::First => Some(Cause::FirstLevelGap),
            Some(false) if past.was_right => Some(Cause::LateFill),
            Some(false) => Some(Cause::Lost),
        };
        past.cause = cause.or(past.cause);
        return Verdict::Wrong(level, cause);
    }
    if finding.second == Found::Unreachable {
        return Verdict::Unknown;
    }
    past.was_right = true;
    // What was late came in the end; anything else had nobody left who would remove it.
    let by_itself = past.ends.is_some_and(|ends| ends <= now)
        && past
            .cause
            .is_some_and(|cause| !matches!(cause, Cause::Late | Cause::TtlOnly));
    match by_itself {
        true => {
            past.cause = Some(Cause::TtlOnly);
            Verdict::CleanAtLast(Cause::TtlOnly)
        }
        false => Verdict::Clean,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(first: Found, second: Found, pending: Option<bool>) -> Finding {
        Finding {
            first,
            second,
            pending,
        }
    }

    #[test]
    fn each_way_to_be_wrong_has_its_cause() {
        use Found::{Absent, Right, Unreachable};
        let now = Instant::now();
        let wrong = Found::Wrong {
            ends: now + Duration::from_secs(60),
        };
        let told = |finding| judge(&mut Past::default(), &finding, now);
        let is = |level, cause| Verdict::Wrong(level, Some(cause));
        for second in [Absent, Right] {
            assert_eq!(told(look(Absent, second, None)), Verdict::Clean);
            assert_eq!(told(look(Right, second, None)), Verdict::Clean);
            let gap = look(wrong, second, Some(false));
            assert_eq!(told(gap), is(Level::First, Cause::FirstLevelGap));
            let late = look(wrong, second, Some(true));
            assert_eq!(told(late), is(Level::First, Cause::Late));
        }
        let second = |pending| look(Absent, wrong, pending);
        assert_eq!(told(second(Some(true))), is(Level::Second, Cause::Late));
        assert_eq!(told(second(Some(false))), is(Level::Second, Cause::Lost));
        assert_eq!(told(second(None)), Verdict::Wrong(Level::Second, None));
        let away = |pending| look(Absent, Unreachable, pending);
        assert_eq!(told(away(Some(true))), is(Level::Second, Cause::Late));
        assert_eq!(told(away(Some(false))), Verdict::Unknown);
        assert_eq!(told(away(None)), Verdict::Unknown);
    }

    #[test]
    fn what_was_right_before_was_filled_late_and_what_ends_by_itself_was_never_removed() {
        let now = Instant::now();
        let wrong = |seconds| Found::Wrong {
            ends: now + Duration::from_secs(seconds),
        };
        let mut past = Past::default();
        let clean = look(Found::Absent, Found::Absent, None);
        assert_eq!(judge(&mut past, &clean, now), Verdict::Clean);
        let filled = look(Found::Absent, wrong(5), Some(false));
        let told = judge(&mut past, &filled, now);
        assert_eq!(told, Verdict::Wrong(Level::Second, Some(Cause::LateFill)));
        // Somebody removed it before its time.
        let mut removed = past.clone();
        let second = Duration::from_secs(1);
        assert_eq!(judge(&mut removed, &clean, now + second), Verdict::Clean);
        let told = judge(&mut past, &clean, now + 6 * second);
        assert_eq!(told, Verdict::CleanAtLast(Cause::TtlOnly));
        assert_eq!(judge(&mut past, &clean, now + 7 * second), Verdict::Clean);
        // A late removal is a removal, whenever it came.
        let mut past = Past::default();
        judge(&mut past, &look(Found::Absent, wrong(5), Some(true)), now);
        let told = judge(&mut past, &clean, now + 6 * second);
        assert_eq!(told, Verdict::Clean);
    }
}
