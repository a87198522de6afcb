//! The stage of a race by the time to its off (start), and how long an answer that shows stages may be cached.
//! Pure functions of the off and a given `now`; the read API calls them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantArray};

use crate::model::text_forms;

/// The longest time that an answer which depends on the clock is cached.
const TTL_MAX: Duration = Duration::from_secs(60);

/// An answer that would be correct for less than this is not cached.
const TTL_MIN: Duration = Duration::from_secs(1);

/// The stage of a race that has not started, by the exact time to its off: at 5 min 0 s it is going to post, at
/// 4 min 59 s it is at the post.
#[derive(EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Less than 5 minutes.
    AtPost,
    /// Less than 30 minutes.
    GoingToPost,
    /// Less than 2 hours.
    PreRace,
    /// 2 hours or more.
    EarlyMarket,
}

text_forms!(Stage);

impl Stage {
    /// The time before the off at which the stage ends.
    fn ends_before_off(self) -> TimeDelta {
        TimeDelta::minutes(match self {
            Self::AtPost => 0,
            Self::GoingToPost => 5,
            Self::PreRace => 30,
            Self::EarlyMarket => 120,
        })
    }

    /// The stage at `now`; `None` from the off on.
    pub fn at(off: DateTime<Utc>, now: DateTime<Utc>) -> Option<Self> {
        let left = off - now;
        if left <= TimeDelta::zero() {
            return None;
        }
        Self::ALL
            .into_iter()
            .rev()
            .find(|stage| left >= stage.ends_before_off())
    }

    /// When it ends for a race with this off, and the name of what follows; after `at_post` it is `off`, the start.
    pub(super) fn end(self, off: DateTime<Utc>) -> (DateTime<Utc>, &'static str) {
        let mut nearer = Self::ALL.into_iter().rev().filter(|stage| *stage < self);
        let next = nearer.next().map_or("off", Self::as_str);
        (off - self.ends_before_off(), next)
    }
}

/// How long an answer built at `now` from races with these off times may be cached: at most a minute, and never
/// past the next change of a stage. `None`: that change is less than a second away, so the answer should be served
/// but not cached.
pub fn races_by_stage_ttl(
    now: DateTime<Utc>,
    offs: impl IntoIterator<Item = DateTime<Utc>>,
) -> Option<Duration> {
    let nearest = offs
        .into_iter()
        .filter_map(|off| Some(Stage::at(off, now)?.end(off).0))
        .map(|end| (end - now).to_std().unwrap_or_default())
        .min();
    let ttl = nearest.map_or(TTL_MAX, |left| left.min(TTL_MAX));
    (ttl >= TTL_MIN).then_some(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).expect("valid")
    }

    fn after(ms: i64) -> DateTime<Utc> {
        now() + TimeDelta::milliseconds(ms)
    }

    const MINUTE: i64 = 60_000;

    #[test]
    fn stage_boundaries_are_exact() {
        let cases = [
            (-1, None),
            (0, None),
            (1, Some(Stage::AtPost)),
            (5 * MINUTE - 1, Some(Stage::AtPost)),
            (5 * MINUTE, Some(Stage::GoingToPost)),
            (30 * MINUTE - 1, Some(Stage::GoingToPost)),
            (30 * MINUTE, Some(Stage::PreRace)),
            (120 * MINUTE - 1, Some(Stage::PreRace)),
            (120 * MINUTE, Some(Stage::EarlyMarket)),
            (48 * 60 * MINUTE, Some(Stage::EarlyMarket)),
        ];
        for (left, expected) in cases {
            assert_eq!(Stage::at(after(left), now()), expected, "{left} ms");
        }
    }

    #[test]
    fn stage_ttl_is_a_minute_or_until_the_next_boundary() {
        let ttl = |offs: &[i64]| races_by_stage_ttl(now(), offs.iter().map(|ms| after(*ms)));
        assert_eq!(ttl(&[]), Some(Duration::from_secs(60)));
        assert_eq!(ttl(&[-MINUTE, 20 * MINUTE]), Some(Duration::from_secs(60)));
        assert_eq!(
            ttl(&[20 * MINUTE, 30 * MINUTE + 4000]),
            Some(Duration::from_secs(4))
        );
        assert_eq!(ttl(&[5 * MINUTE + 999]), None);
        assert_eq!(ttl(&[5 * MINUTE]), None);
    }

    proptest! {
        /// While an answer may be cached, every race stays in the stage that it shows.
        #[test]
        fn stage_ttl_never_passes_a_boundary(
            lefts in prop::collection::vec(-10 * MINUTE..200 * MINUTE, 0..20),
            part in 0.0f64..1.0,
        ) {
            let offs: Vec<_> = lefts.iter().map(|ms| after(*ms)).collect();
            if let Some(ttl) = races_by_stage_ttl(now(), offs.iter().copied()) {
                prop_assert!((TTL_MIN..=TTL_MAX).contains(&ttl));
                let later = now() + TimeDelta::from_std(ttl.mul_f64(part)).expect("small");
                for off in offs {
                    prop_assert_eq!(Stage::at(off, later), Stage::at(off, now()));
                }
            }
        }

        #[test]
        fn stage_end_is_when_the_stage_changes(left in 1..200 * MINUTE) {
            let off = after(left);
            let stage = Stage::at(off, now()).expect("not started");
            let (end, next) = stage.end(off);
            let beyond = end + TimeDelta::milliseconds(1);
            prop_assert_eq!(Stage::at(off, beyond).map_or("off", Stage::as_str), next);
            if next != "off" {
                prop_assert_eq!(Stage::at(off, end), Some(stage));
            }
        }
    }
}
