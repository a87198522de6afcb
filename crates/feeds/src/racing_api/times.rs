//! The provider's clock: UK local time, mostly without a zone. `card` and `RaceParser` convert its times to UTC.

use chrono::offset::LocalResult;
use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::Europe::London;

/// A price that claims to be newer than this comes from a wrong clock: it counts as observed now.
const MAX_AHEAD: Duration = Duration::minutes(5);

/// The UK date at a moment: the provider's "today".
pub(super) fn uk_date(at: DateTime<Utc>) -> NaiveDate {
    at.with_timezone(&London).date_naive()
}

/// Regions where races are run in the British day.
const BRITISH_DAY: &[&str] = &["GB", "IRE"];

/// When a race starts: `off_dt`, else the card's date and the wall-clock time; `None` if nothing tells.
pub(super) fn off_at(
    off_dt: Option<&str>,
    day: Option<NaiveDate>,
    off_time: Option<&str>,
    region: &str,
) -> Option<DateTime<Utc>> {
    if let Some(text) = off_dt {
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Some(at.to_utc());
        }
        if let Some(local) = local_time(text) {
            return Some(uk_time(local).0);
        }
    }
    Some(uk_time(day?.and_time(wall_clock(off_time?, region)?)).0)
}

/// A 12-hour time of the British clock, without am or pm. In Britain and Ireland, and where no region is named,
/// races are run from late morning to the evening, so 10:00 to 11:59 is the morning, 12 is noon, 1:00 to 9:59 is the
/// afternoon. Elsewhere either half of the day is possible: a race at noon in Hong Kong is run early in the British
/// morning. Hours that only a 24-hour clock has (0, 13 to 23) are used as they are.
fn wall_clock(text: &str, region: &str) -> Option<NaiveTime> {
    let (hour, rest) = text.split_once(':')?;
    let minute = rest.split(':').next()?;
    let mut regions = BRITISH_DAY.iter();
    let is_british = region.is_empty() || regions.any(|known| region.eq_ignore_ascii_case(known));
    let hour = match hour.parse::<u32>().ok()? {
        1..=12 if !is_british => return None,
        hour @ 1..=9 => hour + 12,
        hour => hour,
    };
    NaiveTime::from_hms_opt(hour, minute.parse().ok()?, 0)
}

/// When a price was observed, from `updated`; `None` if that is missing, unreadable or too far ahead.
pub(super) fn observed_at(updated: Option<&str>, as_of: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let text = updated?;
    let (early, late) = match DateTime::parse_from_rfc3339(text) {
        Ok(at) => (at.to_utc(), at.to_utc()),
        Err(_) => uk_time(local_time(text)?),
    };
    latest(early, late, as_of)
}

/// In the hour that October repeats, the later reading is right unless it lies in the future.
fn latest(
    early: DateTime<Utc>,
    late: DateTime<Utc>,
    as_of: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let ahead = as_of.checked_add_signed(MAX_AHEAD).unwrap_or(as_of);
    [late, early].into_iter().find(|at| *at <= ahead)
}

/// Parses times faster: those that follow each other are mostly in one hour, so its text is parsed, and the time
/// zone consulted, once.
pub(super) struct TimestampCache {
    as_of: DateTime<Utc>,
    /// The text of an hour, `2025-10-13 14:`, and the two moments at which it may begin.
    hour: (String, DateTime<Utc>, DateTime<Utc>),
}

impl TimestampCache {
    pub(super) fn new(as_of: DateTime<Utc>) -> Self {
        Self {
            as_of,
            hour: (String::new(), as_of, as_of),
        }
    }

    /// Returns the same as [`observed_at`].
    pub(super) fn parse(&mut self, updated: Option<&str>) -> Option<DateTime<Utc>> {
        match updated.and_then(split_hour) {
            Some((hour, since)) if self.find_hour(hour) => {
                let (_, early, late) = &self.hour;
                latest(*early + since, *late + since, self.as_of)
            }
            _ => observed_at(updated, self.as_of),
        }
    }

    /// Makes `hour` the cached one; false if it is no hour. Britain has changed its clocks only on full hours in
    /// this century, so an hour has one offset.
    fn find_hour(&mut self, hour: &str) -> bool {
        if self.hour.0 != hour {
            let Some(begins) = local_time(&format!("{hour}00:00")) else {
                return false;
            };
            let (early, late) = uk_time(begins);
            self.hour = (hour.to_owned(), early, late);
        }
        true
    }
}

/// Splits `2025-10-13 14:11:07` into the text of its hour and the time since that began. `None` for any other
/// form, and for another century.
fn split_hour(text: &str) -> Option<(&str, Duration)> {
    let (hour, rest) = text.split_at_checked("2025-10-13 14:".len())?;
    let [m1, m2, b':', s1, s2] = *rest.as_bytes() else {
        return None;
    };
    let two = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        let number = digits.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))?;
        (number < 60).then_some(number)
    };
    let since = Duration::seconds(two(m1, m2)? * 60 + two(s1, s2)?);
    (hour.starts_with("20") && hour.ends_with(':')).then_some((hour, since))
}

fn local_time(text: &str) -> Option<NaiveDateTime> {
    let time = text.replacen('T', " ", 1);
    NaiveDateTime::parse_from_str(&time, "%Y-%m-%d %H:%M:%S%.f").ok()
}

/// The earliest and latest moment that a UK wall-clock time can mean. They differ only in the hour that October
/// repeats. A time in the hour that March skips is read with winter's offset.
fn uk_time(local: NaiveDateTime) -> (DateTime<Utc>, DateTime<Utc>) {
    match London.from_local_datetime(&local) {
        LocalResult::Single(at) => (at.to_utc(), at.to_utc()),
        LocalResult::Ambiguous(early, late) => (early.to_utc(), late.to_utc()),
        LocalResult::None => (local.and_utc(), local.and_utc()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cached_times_equal_parsed_times(
            texts in prop::collection::vec(prop_oneof![
                "2025-(03-30|10-26|10-2[0-9])[ T](0[0-3]|2[0-4]):[0-6][0-9]:[0-6][0-9]",
                "(18|19|20)[0-9]{2}-1[0-2]-0[1-9] 0[0-2]:[0-5][0-9]:[0-5][0-9]",
                "2025-10-26 0[0-2]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,3}|Z|\\+01:00|é)",
            ], 1..30),
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
            as_of in 1_761_400_000i64..1_761_480_000,
        ) {
            let as_of = DateTime::from_timestamp(as_of, 0).expect("a moment");
            let mut cache = TimestampCache::new(as_of);
            for at in order {
                let text = Some(texts[at.index(texts.len())].as_str());
                prop_assert_eq!(cache.parse(text), observed_at(text, as_of), "{:?}", text);
            }
        }
    }

    fn utc(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("valid").to_utc()
    }

    #[test]
    fn updated_is_read_as_uk_time_across_daylight_saving() {
        let seen = |text, now| observed_at(Some(text), utc(now)).map(|at| at.to_rfc3339());
        let cases = [
            (
                "2025-10-13 14:11:07",
                "2025-10-13T13:11:30Z",
                Some("2025-10-13T13:11:07+00:00"),
            ),
            (
                "2025-12-13 14:11:07",
                "2025-12-13T14:11:30Z",
                Some("2025-12-13T14:11:07+00:00"),
            ),
            // The repeated hour: summer time before the clocks go back, winter time after.
            (
                "2025-10-26 01:30:00",
                "2025-10-26T00:31:00Z",
                Some("2025-10-26T00:30:00+00:00"),
            ),
            (
                "2025-10-26 01:30:00",
                "2025-10-26T01:31:00Z",
                Some("2025-10-26T01:30:00+00:00"),
            ),
            // The hour that March skips.
            (
                "2025-03-30 01:30:00",
                "2025-03-30T01:31:00Z",
                Some("2025-03-30T01:30:00+00:00"),
            ),
            // Ahead of our clock by less than the tolerance, and by more.
            (
                "2025-12-13 14:04:00",
                "2025-12-13T14:00:00Z",
                Some("2025-12-13T14:04:00+00:00"),
            ),
            ("2025-12-13 15:00:00", "2025-12-13T14:00:00Z", None),
            ("yesterday", "2025-12-13T14:00:00Z", None),
        ];
        for (updated, now, expected) in cases {
            assert_eq!(
                seen(updated, now).as_deref(),
                expected,
                "{updated} seen at {now}"
            );
        }
    }

    #[test]
    fn an_off_time_without_am_or_pm_is_in_racing_hours() {
        let day = NaiveDate::from_ymd_opt(2025, 10, 13);
        let off = |text, region| {
            let off = off_at(None, day, Some(text), region);
            off.map(|at| at.format("%H:%M").to_string())
        };
        for (text, expected) in [
            ("2:12", Some("13:12")),
            ("9:00", Some("20:00")),
            ("10:50", Some("09:50")),
            ("11:59", Some("10:59")),
            ("12:30", Some("11:30")),
            ("17:45", Some("16:45")),
            ("25:00", None),
            ("soon", None),
        ] {
            for region in ["GB", "IRE", "ire", ""] {
                assert_eq!(
                    off(text, region).as_deref(),
                    expected,
                    "{text} in {region:?}"
                );
            }
        }
        // In other zones only the hours of a 24-hour clock have one reading.
        for (text, expected) in [
            ("2:12", None),
            ("5:00", None),
            ("9:59", None),
            ("10:50", None),
            ("12:30", None),
            ("0:30", Some("23:30")),
            ("00:30", Some("23:30")),
            ("13:05", Some("12:05")),
            ("22:45", Some("21:45")),
        ] {
            for region in ["HK", "USA", "AUS", "JPN", "FR"] {
                assert_eq!(off(text, region).as_deref(), expected, "{text} in {region}");
            }
        }
        assert_eq!(off_at(None, None, Some("2:12"), "GB"), None);
        assert_eq!(
            off_at(Some("2025-10-13T14:12:00+01:00"), None, None, "HK"),
            Some(utc("2025-10-13T13:12:00Z"))
        );
        let unusable = off_at(Some("soon"), day, Some("5:00"), "HK");
        assert_eq!(unusable, None);
    }
}
