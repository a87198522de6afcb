//! Tests of the simulated day: deterministic by its seed, with every special case, in the provider's
//! format.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use oddsd_core::model::{EventSnapshot, EventStatus, SelectionStatus};
use oddsd_feeds::FetchRequest;
use oddsd_feeds::racing_api::parse_cards;
use oddsd_feeds::simulator::{
    PriceTrend, QuoteState, RaceDay, RaceDaySize, ScriptedEvent, ScriptedEventKind,
};
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::{prices, racing_feed, utc};
use crate::harness::racing::{feed_settings, simulated};
use oddsd_testkit::racing_provider::RacingProvider;

const SMALL: RaceDaySize = RaceDaySize {
    races: 3,
    bookmakers: 6,
};

fn date() -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 4, 18).expect("a date")
}

fn day(seed: u64, size: RaceDaySize) -> RaceDay {
    RaceDay::new(seed, date(), size)
}

fn find(day: &RaceDay, what: impl Fn(&ScriptedEventKind) -> bool) -> ScriptedEvent {
    let found = day.scripted_events().iter().find(|twist| what(&twist.kind));
    found.expect("every day has one").clone()
}

fn race_at(day: &mut RaceDay, id: &str, at: DateTime<Utc>) -> EventSnapshot {
    let body = day.race_at(id, at).expect("on the card");
    let parsed = parse_cards(&body, at).expect("a card");
    assert!(parsed.rejected.is_empty(), "{}", parsed.rejected);
    parsed.events.into_iter().next().expect("the race")
}

/// The best price for a bettor.
fn best(race: &EventSnapshot, horse: &str) -> Decimal {
    let of_horse = race
        .prices
        .iter()
        .filter(|p| p.key.selection.as_str() == horse);
    let offers = of_horse.filter_map(|p| p.offer.as_ref());
    offers.map(|offer| offer.decimal).max().expect("priced")
}

/// The best price at the start of a plot and after each of its steps.
fn followed(seed: u64, wanted: PriceTrend) -> Vec<Decimal> {
    let mut day = day(seed, SMALL);
    let horse_of = |kind: &ScriptedEventKind| match kind {
        ScriptedEventKind::Moves { horse_id, trend } if *trend == wanted => Some(horse_id.clone()),
        _ => None,
    };
    let first = find(&day, |kind| horse_of(kind).is_some());
    let horse = horse_of(&first.kind).expect("just found");
    (0..=6)
        .map(|push| {
            let at = first.at - TimeDelta::seconds(30) + TimeDelta::minutes(6) * push;
            best(&race_at(&mut day, &first.race_id, at), &horse)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn simulated_card_depends_on_the_time_alone(
        seed: u64,
        stops in prop::collection::vec(0i64..32_000, 1..6),
    ) {
        let at = utc("2026-04-18T07:00:00Z") + TimeDelta::seconds(*stops.iter().max().expect("one"));
        let direct = day(seed, SMALL).card_at(at);
        let mut slow = day(seed, SMALL);
        let mut stops = stops;
        stops.sort_unstable();
        for stop in stops {
            slow.card_at(utc("2026-04-18T07:00:00Z") + TimeDelta::seconds(stop));
        }
        prop_assert_eq!(&slow.card_at(at), &direct);
        let parsed = parse_cards(&direct, at).expect("a card");
        prop_assert!(parsed.rejected.is_empty(), "{}", parsed.rejected);
        prop_assert!(parsed.events.iter().all(|e| e.complete));
    }

    #[test]
    fn simulated_steamer_shortens_and_drifter_lengthens(seed: u64) {
        let steps = |prices: &[Decimal], towards: fn(&Decimal, &Decimal) -> bool| {
            prices.windows(2).filter(|pair| towards(&pair[1], &pair[0])).count()
        };
        let steamer = followed(seed, PriceTrend::Steamer);
        prop_assert!(steps(&steamer, Decimal::lt) >= 3, "{:?}", steamer);
        prop_assert_eq!(steps(&steamer, Decimal::gt), 0, "{:?}", steamer);
        let drifter = followed(seed, PriceTrend::Drifter);
        prop_assert!(steps(&drifter, Decimal::gt) >= 3, "{:?}", drifter);
        prop_assert_eq!(steps(&drifter, Decimal::lt), 0, "{:?}", drifter);
    }
}

#[test]
fn simulated_seeds_give_different_days() {
    let noon = utc("2026-04-18T11:00:00Z");
    assert_ne!(day(1, SMALL).card_at(noon), day(2, SMALL).card_at(noon));
}

#[test]
fn simulated_day_has_every_special_case() {
    let mut day = day(7, SMALL);
    let minute = TimeDelta::minutes(1);

    let late = find(
        &day,
        |kind| matches!(kind, ScriptedEventKind::Quotes { state, .. } if *state == QuoteState::Priced),
    );
    let ScriptedEventKind::Quotes { bookmaker, .. } = late.kind else {
        unreachable!("just matched")
    };
    let id = oddsd_core::model::BookmakerId::from_name(bookmaker).expect("a name");
    let priced = |race: &EventSnapshot| {
        let of_late = race.prices.iter().filter(|p| p.key.bookmaker == id);
        of_late.filter(|p| p.offer.is_some()).count()
    };
    assert_eq!(
        priced(&race_at(&mut day, &late.race_id, late.at - minute)),
        0
    );
    assert!(priced(&race_at(&mut day, &late.race_id, late.at)) > 0);

    let out = find(&day, |kind| {
        matches!(kind, ScriptedEventKind::NonRunner { .. })
    });
    let ScriptedEventKind::NonRunner { horse_id } = &out.kind else {
        unreachable!("just matched")
    };
    let race = race_at(&mut day, &out.race_id, out.at);
    let selection = race.selections.iter().find(|s| s.id.as_str() == horse_id);
    assert_eq!(
        selection.expect("listed").status,
        SelectionStatus::NonRunner
    );
    let offered = race
        .prices
        .iter()
        .filter(|p| p.key.selection.as_str() == horse_id);
    assert!(offered.into_iter().all(|p| p.offer.is_none()));

    let change = find(&day, |kind| matches!(kind, ScriptedEventKind::Going { .. }));
    let ScriptedEventKind::Going { going } = change.kind else {
        unreachable!("just matched")
    };
    let race = race_at(&mut day, &change.race_id, change.at);
    assert_eq!(race.event.attributes.get("going"), Some(going));

    let lost = find(&day, |kind| *kind == ScriptedEventKind::Abandoned);
    let race = race_at(&mut day, &lost.race_id, lost.at);
    assert_eq!(race.event.status, EventStatus::Abandoned);
    assert!(race.prices.iter().all(|p| p.offer.is_none()));
}

#[test]
fn simulated_prices_are_on_the_ladder_in_both_formats() {
    let mut day = day(
        3,
        RaceDaySize {
            races: 8,
            bookmakers: 28,
        },
    );
    let at = utc("2026-04-18T13:10:00Z");
    let parsed = parse_cards(&day.card_at(at), at).expect("a card");
    let cent = Decimal::from_str("0.01").expect("a number");
    for offer in parsed
        .events
        .iter()
        .flat_map(|e| &e.prices)
        .filter_map(|p| p.offer.as_ref())
    {
        if let Some(fraction) = &offer.fractional {
            let exact = fraction.decimal().expect("odds");
            assert!((exact - offer.decimal).abs() < cent, "{offer:?}");
        }
    }
    assert_eq!(parsed.bookmakers.len(), 28);
    assert!(parsed.events.iter().all(|e| e.event.starts_at.is_some()));
}

#[tokio::test]
async fn simulated_day_is_equal_over_http_and_in_process() {
    let at = utc("2026-04-18T12:58:00Z");
    let provider = RacingProvider::start().await;
    provider.serve_day(simulated(day(5, SMALL)), at);
    let mut wire = racing_feed(feed_settings(&provider));
    let wired = wire
        .fetch(&FetchRequest::Everything, at)
        .await
        .expect("a card")
        .snapshot;
    let mut simulator = day(5, SMALL);
    let fetched = simulator.fetch(&FetchRequest::Everything, at);
    let mut simulated = fetched.expect("a card").snapshot;
    assert_eq!(&*simulated.source, "simulator");
    assert!(prices(&simulated) > 60);
    for found in &mut simulated.events {
        assert_eq!(&*found.event.source, "simulator");
        found.event.source = "racing_api".into();
    }
    assert_eq!(wired.events, simulated.events);

    let id = simulated.events[1].event.id.clone();
    let one = simulator
        .fetch(&FetchRequest::Events(vec![id.clone()]), at)
        .expect("a race");
    assert_eq!(one.snapshot.events.len(), 1);
    assert_eq!(one.snapshot.events[0].prices, simulated.events[1].prices);
}

#[tokio::test]
async fn simulated_full_day_fits_the_http_limits() {
    let at = utc("2026-04-18T12:50:00Z");
    let size = RaceDaySize {
        races: 57,
        bookmakers: 28,
    };
    let provider = RacingProvider::start().await;
    provider.serve_day(simulated(day(11, size)), at);
    let mut feed = racing_feed(feed_settings(&provider));
    let fetched = feed
        .fetch(&FetchRequest::Everything, at)
        .await
        .expect("a card");
    assert_eq!(fetched.snapshot.events.len(), 57);
    assert!(prices(&fetched.snapshot) > 8_000);
    assert!(fetched.snapshot.rejected.is_empty());
}
