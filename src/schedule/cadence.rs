//! The nearer the off, the more often we look.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};

/// Faster than any provider's rate limit, slower than any race day: outside it is a slip.
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One week: further ahead no card is known.
const WITHIN_MAX: u32 = 7 * 24 * 60;

const EXAMPLE: &str = "5=10s,30=60s,120=300s,*=900s";

/// From this many minutes before the off (inclusive), look this often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    pub within_minutes: u32,
    pub every: Duration,
}

impl Tier {
    fn within(&self) -> TimeDelta {
        TimeDelta::minutes(i64::from(self.within_minutes))
    }
}

/// The table of tiers, nearest first; a nearer tier is never slower. As a setting:
/// `5=10s,30=60s,120=300s,*=900s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cadence {
    tiers: Vec<Tier>,
    otherwise: Duration,
}

impl Cadence {
    /// How often to look when `left` remains to the off.
    pub fn every(&self, left: TimeDelta) -> Duration {
        self.tiers
            .iter()
            .find(|tier| left <= tier.within())
            .map_or(self.otherwise, |tier| tier.every)
    }

    /// How often to look when no race is near.
    pub fn otherwise(&self) -> Duration {
        self.otherwise
    }
}

impl Default for Cadence {
    fn default() -> Self {
        let tier = |within_minutes, seconds| Tier {
            within_minutes,
            every: Duration::from_secs(seconds),
        };
        Self {
            tiers: vec![tier(5, 10), tier(30, 60), tier(120, 300)],
            otherwise: Duration::from_secs(900),
        }
    }
}

/// How long to wait before the next look: the interval that the nearest race asks for now, cut
/// short at the moment at which a race enters a faster tier. Races at or past their off ask for
/// nothing.
pub fn next_poll(
    now: DateTime<Utc>,
    offs: impl IntoIterator<Item = DateTime<Utc>>,
    cadence: &Cadence,
) -> Duration {
    // Only the nearest race counts: no race further away is ever in a faster tier than it.
    let left = offs
        .into_iter()
        .map(|off| off - now)
        .filter(|left| *left > TimeDelta::zero())
        .min();
    let Some(left) = left else {
        return cadence.otherwise;
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
        let mut tiers: Vec<Tier> = Vec::new();
        let mut otherwise = None;
        let mut column = 1;
        for part in text.split(',') {
            let at = format!("cadence, column {column}, {:?}", part.trim());
            column += part.chars().count() + 1;
            let Some((within, every)) = part.split_once('=') else {
                bail!("{at}: expected minutes=interval, as in {EXAMPLE}");
            };
            let every = interval(every.trim(), &at)?;
            if within.trim() == "*" {
                ensure!(otherwise.is_none(), "{at}: a second *; keep one of them");
                otherwise = Some(every);
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
            tiers.push(Tier {
                within_minutes,
                every,
            });
        }
        let Some(otherwise) = otherwise else {
            bail!("cadence {text:?}: nothing said about all other times; add ,*=900s at the end");
        };
        let slower = tiers
            .iter()
            .zip(tiers.iter().skip(1).map(|t| t.every).chain([otherwise]))
            .find(|(tier, further)| tier.every > *further);
        if let Some((tier, further)) = slower {
            bail!(
                "cadence {text:?}: within {} minutes it would look every {} s, but further away \
                 every {} s; nearer must not be slower",
                tier.within_minutes,
                tier.every.as_secs(),
                further.as_secs()
            );
        }
        Ok(Self { tiers, otherwise })
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
        write!(f, "*={}s", self.otherwise.as_secs())
    }
}
