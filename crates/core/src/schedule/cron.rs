//! A cron line: six fields in a time zone, with errors that name the wrong field, and its ticks one after the
//! other. The settings check and `PollScheduler` use it.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{
    DateTime, MappedLocalTime, NaiveDateTime, Offset, SubsecRound, TimeDelta, TimeZone, Utc,
};
use chrono_tz::Tz;
use croner::JobType;
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
    ///
    /// croner searches by local time alone, here in UTC, where no hour is repeated: in a zone's repeated hour its
    /// result may lie before `now`. The changes of the clock are applied here. In the hour that the clock repeats a
    /// line with one time of day fires once, any other in both passes; in the hour that it skips a line with one
    /// time of day fires at its end, any other not at all.
    pub fn next_after(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let once_a_day = self.pattern.determine_job_type() == JobType::FixedTime;
        let mut after = now.trunc_subsecs(0);
        let mut offset = self.offset_at(after);
        let mut local = after.naive_utc() + offset;
        loop {
            local = self.next_local(local)?;
            let at = Utc.from_utc_datetime(&local.checked_sub_signed(offset)?);
            let Some(change) = self.first_offset_change(after, at, offset) else {
                if once_a_day && self.is_second_pass(local, at) {
                    continue;
                }
                return Some(at);
            };
            let before = std::mem::replace(&mut offset, self.offset_at(change));
            let resumed = change.naive_utc() + offset;
            if once_a_day && offset > before && local < resumed {
                return Some(change);
            }
            // The search goes on in the new offset. The change itself may fire.
            after = change;
            local = resumed - TimeDelta::seconds(1);
        }
    }

    fn next_local(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let after = Utc.from_utc_datetime(&after);
        let next = self.pattern.find_next_occurrence(&after, false);
        next.ok().map(|at| at.naive_utc())
    }

    /// The difference of local time from UTC.
    fn offset_at(&self, at: DateTime<Utc>) -> TimeDelta {
        let offset = self.zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        TimeDelta::seconds(i64::from(offset.local_minus_utc()))
    }

    /// The first second after `from`, up to `until`, that has another offset than `offset`.
    fn first_offset_change(
        &self,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        offset: TimeDelta,
    ) -> Option<DateTime<Utc>> {
        // No zone changes twice within a day.
        let mut same = from;
        let mut other = loop {
            let probe = (same + TimeDelta::days(1)).min(until);
            if self.offset_at(probe) != offset {
                break probe;
            }
            if probe == until {
                return None;
            }
            same = probe;
        };
        while other - same > TimeDelta::seconds(1) {
            let middle = same + TimeDelta::seconds((other - same).num_seconds() / 2);
            match self.offset_at(middle) == offset {
                true => same = middle,
                false => other = middle,
            }
        }
        Some(other)
    }

    /// Whether this local time comes twice, and `at` is its second coming.
    fn is_second_pass(&self, local: NaiveDateTime, at: DateTime<Utc>) -> bool {
        matches!(self.zone.from_local_datetime(&local), MappedLocalTime::Ambiguous(first, _) if first < at)
    }
}

/// The ticks of a cron line. Times that pass before a tick is used collapse into one.
#[derive(Clone, Debug)]
pub struct CronTicks {
    cron: Cron,
    expected: Option<DateTime<Utc>>,
    last_reading: DateTime<Utc>,
}

impl CronTicks {
    /// The first tick is at the first time after `now`.
    pub fn new(cron: Cron, now: DateTime<Utc>) -> Self {
        Self {
            expected: cron.next_after(now),
            cron,
            last_reading: now,
        }
    }

    /// When the next tick comes, by this reading of the wall clock; in the past if it is due, `None` if none comes.
    pub fn expected(&mut self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if now < self.last_reading {
            // The clock was set back. Times that ticked under the old reading tick again: a repeated poll is
            // harmless, a missing one is not.
            self.expected = self.cron.next_after(now);
        }
        self.last_reading = now;
        self.expected
    }

    /// The time from `now` to the first tick after it; `None` if none comes.
    pub fn until_next(&self, now: DateTime<Utc>) -> Option<Duration> {
        (self.cron.next_after(now)? - now).to_std().ok()
    }

    /// Uses the ticks up to `now`.
    pub fn use_up(&mut self, now: DateTime<Utc>) {
        self.expected = self.cron.next_after(now);
        self.last_reading = now;
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

/// Six fields, without a year. Where both a day and a weekday are given, either suffices, as in any crontab.
fn parse_pattern(text: &str) -> Result<croner::Cron, croner::errors::CronError> {
    CronParser::builder()
        .seconds(Seconds::Required)
        .year(Year::Disallowed)
        .dom_and_dow(false)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(time: &str) -> DateTime<Utc> {
        time.parse().expect("a time")
    }

    fn cron(text: &str, zone: &str) -> Cron {
        Cron::parse(text, zone, at("2026-01-01T00:00:00Z")).expect("valid")
    }

    /// The definition, minute by minute: a line with one time of day fires in the first pass of a repeated hour and at
    /// the end of a skipped one, any other at every minute whose local time matches.
    fn find_by_scan(cron: &Cron, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let once_a_day = cron.pattern.determine_job_type() == JobType::FixedTime;
        let matches = |local: NaiveDateTime| {
            let local = Utc.from_utc_datetime(&local);
            cron.pattern.is_time_matching(&local).expect("in range")
        };
        let first = now.timestamp() - now.timestamp().rem_euclid(60) + 60;
        (0..3 * 24 * 60).find_map(|minute| {
            let at = DateTime::from_timestamp(first + minute * 60, 0)?;
            let local = at.naive_utc() + cron.offset_at(at);
            let skipped = cron.offset_at(at) - cron.offset_at(at - TimeDelta::seconds(1));
            let in_gap =
                (1..=skipped.num_minutes()).any(|n| matches(local - TimeDelta::minutes(n)));
            let fires = match once_a_day {
                true => (matches(local) && !cron.is_second_pass(local, at)) || in_gap,
                false => matches(local),
            };
            fires.then_some(at)
        })
    }

    const ZONES: [&str; 6] = [
        "UTC",
        "Europe/London",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Africa/Casablanca",
    ];
    const LINES: [&str; 9] = [
        "0 */5 * * * *",
        "0 7,37 * * * *",
        "0 0 * * * *",
        "0 30 1 * * *",
        "0 15 2 * * *",
        "0 0 0 * * *",
        "0 59 1,2 * * *",
        "0 */15 1-3 * * *",
        "0 0 2 * * SUN",
    ];

    proptest! {
        #[test]
        fn next_time_is_the_first_after_now_that_the_definition_gives(
            zone in prop::sample::select(&ZONES[..]),
            line in prop::sample::select(&LINES[..]),
            change in prop::sample::select(vec![
                "2026-02-15T02:00:00Z", "2026-03-08T07:00:00Z", "2026-03-22T02:00:00Z", "2026-03-29T01:00:00Z",
                "2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z", "2026-10-25T01:00:00Z", "2026-11-01T06:00:00Z",
            ]),
            millis in -150 * 60_000i64..150 * 60_000,
        ) {
            let cron = cron(line, zone);
            let now = at(change) + TimeDelta::milliseconds(millis);
            let next = cron.next_after(now).expect("a time");
            prop_assert!(next > now);
            if let Some(expected) = find_by_scan(&cron, now) {
                prop_assert_eq!(next, expected);
            }
        }
    }

    #[test]
    fn a_far_line_passes_over_many_changes_of_the_clock() {
        let next = |line, zone| cron(line, zone).next_after(at("2026-07-01T00:00:00Z"));
        assert_eq!(
            next("0 0 12 29 2 *", "Europe/London"),
            Some(at("2028-02-29T12:00:00Z"))
        );
        assert_eq!(
            next("0 0 12 1 7 *", "Africa/Casablanca"),
            Some(at("2026-07-01T11:00:00Z"))
        );
    }

    #[test]
    fn a_day_and_a_weekday_are_alternatives_and_a_star_is_none() {
        let next = |line| cron(line, "UTC").next_after(at("2026-07-01T12:30:00Z"));
        assert_eq!(next("0 0 12 1 * MON"), Some(at("2026-07-06T12:00:00Z")));
        assert_eq!(next("0 0 12 3 * MON"), Some(at("2026-07-03T12:00:00Z")));
        assert_eq!(next("0 0 12 * * MON"), Some(at("2026-07-06T12:00:00Z")));
        assert_eq!(next("0 0 12 9 * *"), Some(at("2026-07-09T12:00:00Z")));
    }

    fn ticks(line: &str, now: &str) -> CronTicks {
        CronTicks::new(cron(line, "UTC"), at(now))
    }

    #[test]
    fn each_time_gives_one_tick_and_missed_ones_collapse() {
        let mut ticks = ticks("*/10 * * * * *", "2026-03-14T13:00:03Z");
        let first = at("2026-03-14T13:00:10Z");
        assert_eq!(ticks.expected(at("2026-03-14T13:00:04Z")), Some(first));
        assert_eq!(ticks.expected(at("2026-03-14T13:05:04Z")), Some(first));
        ticks.use_up(at("2026-03-14T13:05:04Z"));
        assert_eq!(
            ticks.expected(at("2026-03-14T13:05:04Z")),
            Some(at("2026-03-14T13:05:10Z"))
        );
    }

    #[test]
    fn a_clock_set_back_neither_stalls_nor_repeats_early() {
        let mut daily = ticks("0 0 6 * * *", "2026-03-14T05:59:00Z");
        let six = Some(at("2026-03-14T06:00:00Z"));
        assert_eq!(daily.expected(at("2026-03-14T04:59:30Z")), six);
        daily.use_up(at("2026-03-14T06:00:00Z"));
        assert_eq!(daily.expected(at("2026-03-14T05:30:00Z")), six);
    }
}
