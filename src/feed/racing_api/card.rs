//! What a race and a runner are called on the card, and what we call it.

use std::sync::Arc;

use chrono::NaiveDate;

use super::row::{Field, Race, Runner, is_true, name, text};
use super::times::{off_at, uk_date};
use crate::model::{Event, EventId, EventStatus, Facts, Selection, SelectionId, SelectionStatus};

pub(super) fn event(race: &Race<'_>, id: EventId, source: Arc<str>) -> Event {
    let date = text(race.date);
    let date = date.and_then(|d| NaiveDate::parse_from_str(&d, "%Y-%m-%d").ok());
    let starts_at = off_at(
        text(race.off_dt).as_deref(),
        date,
        text(race.off_time).as_deref(),
    );
    Event {
        id,
        source,
        sport: "horse_racing".into(),
        league: name(race.region),
        venue: name(race.course),
        name: name(race.race_name),
        starts_at,
        day: date.or_else(|| starts_at.map(uk_date)),
        status: event_status(race),
        in_play: false,
        listed: true,
        facts: facts([
            ("race_date", race.date),
            ("race_time", race.off_time),
            ("race_class", race.race_class),
            ("race_type", race.r#type),
            ("distance", race.distance),
            ("going", race.going),
            ("surface", race.surface),
            ("field_size", race.field_size),
            ("age_band", race.age_band),
            ("prize", race.prize),
        ]),
    }
}

/// `race_status` is young and its words are not documented: only those that cannot mean anything
/// else are taken.
fn event_status(race: &Race<'_>) -> EventStatus {
    let word = text(race.race_status).map_or_else(String::new, |s| s.to_lowercase());
    if is_true(race.is_abandoned) || word.contains("abandon") {
        EventStatus::Abandoned
    } else if word.contains("cancel") || word == "void" {
        EventStatus::Cancelled
    } else if word.contains("postpone") {
        EventStatus::Postponed
    } else {
        EventStatus::Scheduled
    }
}

pub(super) fn selection(runner: &Runner<'_>, id: SelectionId) -> Selection {
    let number = text(runner.number).unwrap_or_default();
    let jockey = text(runner.jockey).unwrap_or_default();
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
        name: name(runner.horse),
        status,
        facts: facts([
            ("number", runner.number),
            ("draw", runner.draw),
            ("jockey", runner.jockey),
            ("trainer", runner.trainer),
            ("weight", runner.lbs),
            ("age", runner.age),
            ("form", runner.form),
        ]),
    }
}

fn facts<const N: usize>(fields: [(&str, Field<'_>); N]) -> Facts {
    fields
        .into_iter()
        .map(|(fact, field)| (fact, name(field)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}
