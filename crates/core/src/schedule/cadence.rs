//! The table of polling intervals by time to the off (the scheduled start), read from the setting `CADENCE`. The
//! planner and `oddsd record` ask it how long to wait.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};

/// Shorter is above any provider's rate limit and longer misses a race day: such a setting is a mistake.
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One week: no provider publishes races further ahead.
const WITHIN_MAX: u32 = 7 * 24 * 60;

const EXAMPLE: &str = "5=10s,30=60s,120=300s,*=900s";

/// The interval from this many minutes before the off (inclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IntervalTier {
    within_minutes: u32,
    every: Duration,
}

impl IntervalTier {
    fn within(&self) -> TimeDelta {
        TimeDelta::minutes(i64::from(self.within_minutes))
    }
}

/// The table of tiers, nearest first; a nearer tier is never slower. As a setting:
/// `5=10s,30=60s,120=300s,*=900s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cadence {
    tiers: Vec<IntervalTier>,
    default_interval: Duration,
}

impl Cadence {
    /// The interval when `left` remains to the off.
    pub fn every(&self, left: TimeDelta) -> Duration {
        self.tiers
            .iter()
            .find(|tier| left <= tier.within())
            .map_or(self.default_interval, |tier| tier.every)
    }

    /// The interval when no race is near.
    pub fn default_interval(&self) -> Duration {
        self.default_interval
    }
}

impl Default for Cadence {
    fn default() -> Self {
        let tier = |within_minutes, seconds| IntervalTier {
            within_minutes,
            every: Duration::from_secs(seconds),
        };
        Self {
            tiers: vec![tier(5, 10), tier(30, 60), tier(120, 300)],
            default_interval: Duration::from_secs(900),
        }
    }
}

/// The wait before the next poll: the interval of the nearest race, cut short where a race enters a faster tier.
/// Races at or past their off do not count.
pub fn next_poll(
    now: DateTime<Utc>,
    offs: impl IntoIterator<Item = DateTime<Utc>>,
    cadence: &Cadence,
) -> Duration {
    // No race further away is ever in a faster tier than the nearest one.
    let left = offs
        .into_iter()
        .map(|off| off - now)
        .filter(|left| *left > TimeDelta::zero())
        .min();
    let Some(left) = left else {
        return cadence.default_interval;
    };
    let every = cadence.every(left);
    cadence
        .tiers
        .iter()
        .filter(|tier| tier.every < every)
        .filter_map(|tier| (left - tier.within()).to_std().ok())
        .fold(every, Duration::min)
}

impl FromStr for Cadence {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut tiers: Vec<IntervalTier> = Vec::new();
        let mut default_interval = None;
        let mut column = 1;
        for part in text.split(',') {
            let at = format!("cadence, column {column}, {:?}", part.trim());
            column += part.chars().count() + 1;
            let Some((within, every)) = part.split_once('=') else {
                bail!("{at}: expected minutes=interval, as in {EXAMPLE}");
            };
            let every = interval(every.trim(), &at)?;
            if within.trim() == "*" {
                ensure!(
                    default_interval.is_none(),
                    "{at}: a second *; keep one of them"
                );
                default_interval = Some(every);
                continue;
            }
            let within_minutes = match within.trim().parse() {
                Ok(minutes) if (1..=WITHIN_MAX).contains(&minutes) => minutes,
                _ => bail!(
                    "{at}: {:?} is not a number of minutes from 1 to {WITHIN_MAX}, nor * for all \
                     other times",
                    within.trim()
                ),
            };
            if let Some(last) = tiers.last() {
                ensure!(
                    last.within_minutes < within_minutes,
                    "{at}: {within_minutes} comes after {}; put the nearest tier first",
                    last.within_minutes
                );
            }
            tiers.push(IntervalTier {
                within_minutes,
                every,
            });
        }
        let Some(default_interval) = default_interval else {
            bail!("cadence {text:?}: no interval for all other times; add ,*=900s at the end");
        };
        let further = tiers.iter().skip(1).map(|tier| tier.every);
        let mut pairs = tiers.iter().zip(further.chain([default_interval]));
        if let Some((tier, further)) = pairs.find(|(tier, further)| tier.every > *further) {
            bail!(
                "cadence {text:?}: within {} minutes the interval is {} s, but further away {} s; \
                 nearer must not be slower",
                tier.within_minutes,
                tier.every.as_secs(),
                further.as_secs()
            );
        }
        Ok(Self {
            tiers,
            default_interval,
        })
    }
}

fn interval(text: &str, at: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "" if digits.is_empty() => bail!("{at}: no interval after =; write for example 10s"),
        "" => bail!("{at}: {text:?} has no unit; did you mean \"{text}s\"?"),
        other => bail!("{at}: unknown unit {other:?}; use s, m or h"),
    };
    let every = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .map(Duration::from_secs);
    match every {
        Some(every) if (EVERY_MIN..=EVERY_MAX).contains(&every) => Ok(every),
        _ => bail!("{at}: {text:?} is not an interval from 1s to 24h"),
    }
}

impl fmt::Display for Cadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tier in &self.tiers {
            write!(f, "{}={}s,", tier.within_minutes, tier.every.as_secs())?;
        }
        write!(f, "*={}s", self.default_interval.as_secs())
    }
}
