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
    let league = race.region.name();
    let starts_at = off_at(
        race.off_dt.text().as_deref(),
        date,
        race.off_time.text().as_deref(),
        &league,
    );
    Event {
        id,
        source,
        sport: "horse_racing".into(),
        league,
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
    let number = number.to_ascii_uppercase();
    let jockey = runner.jockey.text().unwrap_or_default();
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let no_number = number.strip_prefix("NR").is_some_and(is_number);
    let reserve = number.strip_prefix('R').filter(|rest| !rest.is_empty());
    let status = if no_number || is_non_runner(&jockey) {
        SelectionStatus::NonRunner
    } else if reserve.is_some_and(is_number) {
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

/// Whether the text in place of a jockey's name says that the horse does not run. The provider writes
/// `NON-RUNNER(5)`; other spellings are read too, but no word that could begin a name.
fn is_non_runner(jockey: &str) -> bool {
    let letters = |text: &str| {
        let letters = text.chars().filter(|c| c.is_alphanumeric());
        letters.collect::<String>().to_ascii_lowercase()
    };
    // The reason or the number of the reserve follows in brackets.
    let word = jockey.split(['(', '[']).next().unwrap_or_default();
    letters(jockey).starts_with("nonrunner")
        || matches!(&*letters(word), "nr" | "withdrawn" | "scratched")
}

fn attributes<F: JsonScalar, const N: usize>(fields: [(&'static str, &F); N]) -> Attributes {
    fields
        .into_iter()
        .map(|(name, field)| (name, field.name()))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::racing_api::fields::RawField;

    #[test]
    fn non_runner_is_recognised_in_every_spelling_and_a_jockey_is_not_one() {
        use SelectionStatus::{Active, NonRunner, Reserve};
        for (number, jockey, expected) in [
            ("5", "NON-RUNNER(5)", NonRunner),
            ("5", "Non-Runner", NonRunner),
            ("5", "Non Runner", NonRunner),
            ("5", "NON RUNNER (Vet)", NonRunner),
            ("5", "nonrunner", NonRunner),
            ("5", "NON_RUNNER", NonRunner),
            ("5", "Non\u{2013}Runner", NonRunner),
            ("5", "Withdrawn", NonRunner),
            ("5", "WITHDRAWN (Lame)", NonRunner),
            ("5", "Scratched", NonRunner),
            ("5", "NR", NonRunner),
            ("5", "N/R", NonRunner),
            ("NR", "Isla Hexley", NonRunner),
            ("nr", "", NonRunner),
            ("NR1", "Isla Hexley", NonRunner),
            ("nr12", "Isla Hexley", NonRunner),
            ("R1", "Isla Hexley", Reserve),
            ("r2", "", Reserve),
            ("R1", "NON-RUNNER", NonRunner),
            ("R", "Isla Hexley", Active),
            ("Rx", "Isla Hexley", Active),
            ("NRx", "Isla Hexley", Active),
            ("5", "Isla Hexley", Active),
            ("5", "N R Runnerman", Active),
            ("5", "Withdrawn Smith", Active),
            ("5", "Nora Non", Active),
            ("5", "", Active),
        ] {
            let json = format!(r#"{{"horse_id":"hrs_1","number":"{number}","jockey":"{jockey}"}}"#);
            let runner: RunnerJson<RawField<'_>, true> =
                serde_json::from_str(&json).expect("a runner");
            let selection = build_selection(&runner, SelectionId::new("hrs_1"));
            assert_eq!(selection.status, expected, "{number:?} {jockey:?}");
        }
    }
}
