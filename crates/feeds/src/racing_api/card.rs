//! Maps the fields of a race and a runner to an event and a selection. `RaceParser` calls it for both forms.

use std::sync::Arc;

use chrono::NaiveDate;

use super::fields::{JsonScalar, RaceJson, RunnerJson};
use super::times::{off_at, uk_date};
use oddsd_core::model::{
    Attributes, Event, EventId, EventStatus, Selection, SelectionId, SelectionStatus,
};

pub(super) fn build_event<F: JsonScalar, const LENIENT: bool>(
    race: &RaceJson<F, LENIENT>,
    id: EventId,
    source: Arc<str>,
) -> Event {
    let date = race.date.text();
    let date = date.and_then(|d| NaiveDate::parse_from_str(&d, "%Y-%m-%d").ok());
    let starts_at = off_at(
        race.off_dt.text().as_deref(),
        date,
        race.off_time.text().as_deref(),
    );
    Event {
        id,
        source,
        sport: "horse_racing".into(),
        league: race.region.name(),
        venue: race.course.name(),
        name: race.race_name.name(),
        starts_at,
        day: date.or_else(|| starts_at.map(uk_date)),
        status: event_status(race),
        in_play: false,
        listed: true,
        attributes: attributes([
            ("race_date", &race.date),
            ("race_time", &race.off_time),
            ("race_class", &race.race_class),
            ("race_type", &race.race_type),
            ("distance", &race.distance),
            ("going", &race.going),
            ("surface", &race.surface),
            ("field_size", &race.field_size),
            ("age_band", &race.age_band),
            ("prize", &race.prize),
        ]),
    }
}

/// The values of `race_status` are not documented: only unambiguous ones are used. For the others the
/// clock decides.
fn event_status<F: JsonScalar, const LENIENT: bool>(race: &RaceJson<F, LENIENT>) -> EventStatus {
    let word = race
        .race_status
        .text()
        .map_or_else(String::new, |s| s.to_lowercase());
    if race.is_abandoned.is_true() || word.contains("abandon") {
        return EventStatus::Abandoned;
    }
    match EventStatus::from_source_word(&word) {
        Some(status @ (EventStatus::Cancelled | EventStatus::Postponed)) => status,
        _ if word.contains("cancel") => EventStatus::Cancelled,
        _ if word.contains("postpone") => EventStatus::Postponed,
        _ => EventStatus::Scheduled,
    }
}

pub(super) fn build_selection<F: JsonScalar, const LENIENT: bool>(
    runner: &RunnerJson<F, LENIENT>,
    id: SelectionId,
) -> Selection {
    let number = runner.number.text().unwrap_or_default();
    let jockey = runner.jockey.text().unwrap_or_default();
    let withdrawn = jockey
        .get(.."NON-RUNNER".len())
        .is_some_and(|start| start.eq_ignore_ascii_case("NON-RUNNER"));
    let reserve = number
        .strip_prefix(['R', 'r'])
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
    let status = if withdrawn || number.eq_ignore_ascii_case("NR") {
        SelectionStatus::NonRunner
    } else if reserve {
        SelectionStatus::Reserve
    } else {
        SelectionStatus::Active
    };
    Selection {
        id,
        name: runner.horse.name(),
        status,
        attributes: attributes([
            ("number", &runner.number),
            ("draw", &runner.draw),
            ("jockey", &runner.jockey),
            ("trainer", &runner.trainer),
            ("weight", &runner.lbs),
            ("age", &runner.age),
            ("form", &runner.form),
        ]),
    }
}

fn attributes<F: JsonScalar, const N: usize>(fields: [(&'static str, &F); N]) -> Attributes {
    fields
        .into_iter()
        .map(|(name, field)| (name, field.name()))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}
