//! A cron line: six fields in a time zone, with errors that name the wrong field. The settings check and the
//! ticker in `clock` use it.

use std::fmt;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};

const FIELDS: [&str; 6] = ["second", "minute", "hour", "day", "month", "weekday"];

const EXAMPLE: &str = "\"*/30 * * * * *\" (every 30 seconds)";

/// A valid cron line.
#[derive(Clone, Debug)]
pub struct Cron {
    text: String,
    zone: Tz,
    pattern: croner::Cron,
}

impl Cron {
    /// `zone` is an IANA name such as `Europe/London`. A line that never fires after `now` is an error.
    pub fn parse(text: &str, zone: &str, now: DateTime<Utc>) -> Result<Self> {
        let Ok(zone) = zone.trim().parse::<Tz>() else {
            bail!("unknown time zone {zone:?} for cron: use a name such as UTC or Europe/London");
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let count = fields.len();
        ensure!(
            count != 5,
            "cron {text:?} has five fields; put seconds first, as in \"0 {}\"",
            text.trim()
        );
        ensure!(
            count == FIELDS.len(),
            "cron {text:?} has {count} fields; six are needed ({}), as in {EXAMPLE}",
            FIELDS.join(" ")
        );
        let text = fields.join(" ");
        let pattern = match parse_pattern(&text) {
            Ok(pattern) => pattern,
            Err(error) => {
                let at = locate_wrong_field(&fields);
                bail!("cron {text:?}{at}: {error}; a valid one is {EXAMPLE}");
            }
        };
        let cron = Self {
            text,
            zone,
            pattern,
        };
        ensure!(
            cron.next_after(now).is_some(),
            "cron {:?} never fires: no such date comes; a valid one is {EXAMPLE}",
            cron.text
        );
        Ok(cron)
    }

    /// The first time after `now` at which the line fires; `None` when there is none.
    pub fn next_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self
            .pattern
            .find_next_occurrence(&now.with_timezone(&self.zone), false);
        next.ok().map(|at| at.to_utc())
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

/// Six fields, without a year. A day and a weekday must both match.
fn parse_pattern(text: &str) -> Result<croner::Cron, croner::errors::CronError> {
    CronParser::builder()
        .seconds(Seconds::Required)
        .year(Year::Disallowed)
        .dom_and_dow(true)
        .build()
        .parse(text)
}

/// The first field that is wrong on its own, with its column, as text.
fn locate_wrong_field(fields: &[&str]) -> String {
    let mut column = 1;
    for (n, field) in fields.iter().enumerate() {
        let mut alone = ["*"; FIELDS.len()];
        alone[n] = field;
        if parse_pattern(&alone.join(" ")).is_err() {
            return format!(", column {column}, {} {field:?}", FIELDS[n]);
        }
        column += field.chars().count() + 1;
    }
    String::new()
}
