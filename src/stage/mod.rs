//! Where a race stands on its way to the off, from its facts and a given `now`.

mod movers;
mod payload;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

pub use movers::{Heading, Mover, Step, mover, movers_from};
pub use payload::{OddsRow, Payload, RaceRow, RunnerRow, payload};

/// An answer that depends on the clock is cached no longer than this.
const TTL_MAX: Duration = Duration::from_secs(60);

/// An answer that would be right for less than this is not worth caching.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Every race not yet started is in exactly one of these, by its minutes to the off, counted
/// exactly: at 5 min 0 s it is going to post, at 4 min 59 s it is at the post.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    AtPost,
    GoingToPost,
    PreRace,
    EarlyMarket,
}

/// What comes after the current stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The last moment of the current stage.
    pub at: DateTime<Utc>,
    /// The stage that follows. After `at_post` it is `off`: the race has started.
    pub name: &'static str,
}

impl Stage {
    pub const ALL: [Self; 4] = [
        Self::AtPost,
        Self::GoingToPost,
        Self::PreRace,
        Self::EarlyMarket,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtPost => "at_post",
            Self::GoingToPost => "going_to_post",
            Self::PreRace => "pre_race",
            Self::EarlyMarket => "early_market",
        }
    }

    /// The stage lasts down to this many minutes before the off.
    fn ends_before_off(self) -> TimeDelta {
        TimeDelta::minutes(match self {
            Self::AtPost => 0,
            Self::GoingToPost => 5,
            Self::PreRace => 30,
            Self::EarlyMarket => 120,
        })
    }

    /// `None` from the moment of the off on.
    pub fn of(off: DateTime<Utc>, now: DateTime<Utc>) -> Option<Self> {
        let left = off - now;
        if left <= TimeDelta::zero() {
            return None;
        }
        Self::ALL
            .into_iter()
            .rev()
            .find(|stage| left >= stage.ends_before_off())
    }

    /// When the current stage ends and what follows. `None` once the race has started.
    pub fn next(off: DateTime<Utc>, now: DateTime<Utc>) -> Option<Next> {
        let stage = Self::of(off, now)?;
        Some(Next {
            at: off - stage.ends_before_off(),
            name: match stage {
                Self::AtPost => "off",
                Self::GoingToPost => Self::AtPost.as_str(),
                Self::PreRace => Self::GoingToPost.as_str(),
                Self::EarlyMarket => Self::PreRace.as_str(),
            },
        })
    }
}

/// How long an answer built at `now` over races with these off times may be cached: at most a
/// minute, and never past the moment at which one of them changes its stage. `None`: that moment
/// is less than a second away, so the answer should be given but not stored.
pub fn payload_ttl(
    now: DateTime<Utc>,
    offs: impl IntoIterator<Item = DateTime<Utc>>,
) -> Option<Duration> {
    let nearest = offs
        .into_iter()
        .filter_map(|off| Stage::next(off, now))
        .map(|next| (next.at - now).to_std().unwrap_or_default())
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
    fn boundaries_are_exact() {
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
            assert_eq!(Stage::of(after(left), now()), expected, "{left} ms");
        }
    }

    #[test]
    fn what_follows_has_its_time_and_name() {
        let next = |left| Stage::next(after(left), now()).map(|n| (n.at, n.name));
        assert_eq!(next(3 * MINUTE), Some((after(3 * MINUTE), "off")));
        assert_eq!(next(6 * MINUTE), Some((after(MINUTE), "at_post")));
        assert_eq!(next(31 * MINUTE), Some((after(MINUTE), "going_to_post")));
        assert_eq!(next(150 * MINUTE), Some((after(30 * MINUTE), "pre_race")));
        assert_eq!(next(0), None);
    }

    #[test]
    fn an_answer_lives_a_minute_or_until_the_next_boundary() {
        let ttl = |offs: &[i64]| payload_ttl(now(), offs.iter().map(|ms| after(*ms)));
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
        /// While an answer may be cached, every race stays in the stage it was answered in.
        #[test]
        fn a_ttl_never_passes_a_boundary(
            lefts in prop::collection::vec(-10 * MINUTE..200 * MINUTE, 0..20),
            part in 0.0f64..1.0,
        ) {
            let offs: Vec<_> = lefts.iter().map(|ms| after(*ms)).collect();
            if let Some(ttl) = payload_ttl(now(), offs.iter().copied()) {
                prop_assert!((TTL_MIN..=TTL_MAX).contains(&ttl));
                let later = now() + TimeDelta::from_std(ttl.mul_f64(part)).expect("small");
                for off in offs {
                    prop_assert_eq!(Stage::of(off, later), Stage::of(off, now()));
                }
            }
        }

        /// Stages only move towards the off, and `next` tells truly when.
        #[test]
        fn next_is_when_the_stage_changes(left in 1..200 * MINUTE) {
            let off = after(left);
            let next = Stage::next(off, now()).expect("not started");
            let beyond = next.at + TimeDelta::milliseconds(1);
            let name = Stage::of(off, beyond).map_or("off", Stage::as_str);
            prop_assert_eq!(name, next.name);
            if next.name != "off" {
                prop_assert_eq!(Stage::of(off, next.at), Stage::of(off, now()));
            }
        }
    }
}
