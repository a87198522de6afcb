//! The built-in rules remove each answer of the read API whenever something in it changes, and have no rule for a
//! key that the API does not make.

use std::collections::BTreeSet;

use chrono::{SubsecRound, TimeDelta, Utc};
use oddsd_core::key::{BUILTIN_KEYS, Key};
use oddsd_core::model::{ChangeKind, EventId, EventStatus};
use oddsd_core::rules::{RuleChange, RuleTarget, Rules};
use serde_json::Value;

use super::{ApiServer, DatabaseBackend, Engine, on_every_backend};
use crate::daemon::fixture::{HttpAnswer, get, request};
use crate::store::fixture::{StateWriter, TestDay, offer};
use oddsd_testkit::eventually;

on_every_backend!(answers_equal_the_database_after_any_change,);

const EVENT: [ChangeKind; 4] = [
    ChangeKind::EventAdded,
    ChangeKind::EventChanged,
    ChangeKind::EventRemoved,
    ChangeKind::StatusChanged,
];
const PRICES: [ChangeKind; 3] = [
    ChangeKind::PriceChanged,
    ChangeKind::PriceWithdrawn,
    ChangeKind::SelectionChanged,
];

/// What no id should be, and may.
const ID: &str = "rac:*?[1]{x}%";

fn sidebars() -> [Key; 3] {
    [(None, None), (Some("s:1"), None), (Some("s:1"), Some("l*"))]
        .map(|(sport, league)| Key::sidebar(sport, league))
}

/// Every key that a reader of this event can make.
fn all_keys() -> BTreeSet<Key> {
    let id = EventId::new(ID);
    let odds = EventStatus::ALL.map(|status| Key::odds(status, &id));
    let few = [Key::races_by_stage(), Key::event_prices(&id), Key::movers()];
    few.into_iter().chain(odds).chain(sidebars()).collect()
}

fn change(kind: ChangeKind) -> RuleChange {
    let mut change = RuleChange::for_event(BTreeSet::from([kind]), &EventId::new(ID));
    for (name, value) in [
        ("sport_id", "s:1"),
        ("league_id", "l*"),
        ("venue", "v"),
        ("current_status", "live"),
    ] {
        change.fields.add(name, value);
    }
    change
}

fn targets(change: &RuleChange) -> BTreeSet<RuleTarget> {
    let hits = Rules::builtin().match_change(change, None);
    assert!(hits.iter().all(|hit| hit.errors.is_empty()), "{hits:?}");
    let aims = hits.into_iter().flat_map(|hit| hit.targets);
    aims.inspect(|aim| assert_eq!(aim.if_moved, None))
        .map(|aim| aim.target)
        .collect()
}

fn removes(target: &RuleTarget, key: &Key) -> bool {
    match target {
        RuleTarget::Key(target) => target == key,
        RuleTarget::Tag(tag) => key.prefix_tags().contains(tag),
    }
}

fn removed(change: &RuleChange) -> BTreeSet<Key> {
    let targets = targets(change);
    let removed = all_keys().into_iter();
    removed
        .filter(|key| targets.iter().any(|target| removes(target, key)))
        .collect()
}

#[test]
fn reader_templates_match_the_keys_that_are_made() {
    let id = EventId::new("e");
    let made = [
        Key::races_by_stage(),
        Key::event_prices(&id),
        Key::odds(EventStatus::Live, &id),
        Key::sidebar(None, None),
        Key::sidebar(Some("s"), None),
        Key::sidebar(Some("s"), Some("l")),
        Key::movers(),
    ];
    let values = [
        ("{event_id}", "e"),
        ("{status}", "live"),
        ("{sport_id}", "s"),
        ("{league_id}", "l"),
    ];
    let spelt = BUILTIN_KEYS.map(|template| {
        let filled = values
            .iter()
            .fold(template.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            });
        assert!(!filled.contains('{'), "{filled}");
        filled
    });
    assert_eq!(made.each_ref().map(Key::to_string), spelt);
    for key in made.into_iter().chain(all_keys()) {
        assert!(key.api_path().is_some(), "{key} is asked for nowhere");
    }
}

#[test]
fn price_change_removes_the_answers_that_show_it() {
    let id = EventId::new(ID);
    let shows = [
        Key::races_by_stage(),
        Key::event_prices(&id),
        Key::odds(EventStatus::Live, &id),
        Key::movers(),
    ];
    for kind in PRICES {
        assert_eq!(
            removed(&change(kind)),
            BTreeSet::from(shows.clone()),
            "{kind:?}"
        );
    }
}

#[test]
fn event_change_removes_the_answers_that_contain_it() {
    for kind in EVENT {
        assert_eq!(removed(&change(kind)), all_keys(), "{kind:?}");
    }
}

/// Where nobody knows the place any more, too much is removed and never too little.
#[test]
fn change_of_an_unknown_event_removes_all_answers_that_may_contain_it() {
    for kind in EVENT {
        let unknown = RuleChange::for_event(BTreeSet::from([kind]), &EventId::new(ID));
        assert_eq!(removed(&unknown), all_keys(), "{kind:?}");
    }
    let unknown = RuleChange::for_event(BTreeSet::from(PRICES), &EventId::new(ID));
    let odds = EventStatus::ALL.map(|status| Key::odds(status, &EventId::new(ID)));
    assert!(removed(&unknown).is_superset(&BTreeSet::from(odds)));
    let other = Key::odds(EventStatus::Live, &"another".into());
    assert!(
        !targets(&unknown)
            .iter()
            .any(|target| removes(target, &other)),
        "and no other event's"
    );
}

#[test]
fn builtin_rules_remove_only_keys_that_are_made() {
    for kind in ChangeKind::ALL {
        for target in targets(&change(kind)) {
            let made = all_keys().iter().any(|key| removes(&target, key));
            assert!(made, "{kind:?} removes {target}, which no reader makes");
        }
    }
    for rule in Rules::builtin().iter() {
        assert!(
            rule.on
                .iter()
                .all(|kind| EVENT.contains(kind) || PRICES.contains(kind)),
            "{}",
            rule.name
        );
    }
}

fn paths() -> Vec<String> {
    let id = EventId::new("rac_0");
    let odds = EventStatus::ALL.map(|status| Key::odds(status, &id));
    let lists = [
        (None, None),
        (Some("horse_racing"), None),
        (Some("horse_racing"), Some("GB")),
        (Some("horse_racing"), Some("IRE")),
    ];
    let lists = lists.map(|(sport, league)| Key::sidebar(sport, league));
    let few = [Key::races_by_stage(), Key::event_prices(&id), Key::movers()];
    let keys = few.into_iter().chain(odds).chain(lists);
    keys.map(|key| key.api_path().expect("a path")).collect()
}

/// Without what says when it was made.
fn plain(answer: &HttpAnswer) -> (u16, Value) {
    fn strip(value: &mut Value) {
        if let Value::Object(members) = value {
            members.retain(|name, _| {
                !matches!(
                    name.as_str(),
                    "checked_at" | "timestamp" | "generated_at" | "minutes_to_off" | "countdown"
                )
            });
            members.values_mut().for_each(strip);
        } else if let Value::Array(items) = value {
            items.iter_mut().for_each(strip);
        }
    }
    let mut body = answer.json();
    strip(&mut body);
    (answer.status, body)
}

/// All answers are in the cache.
async fn filled(api: &ApiServer) {
    for path in paths() {
        let url = format!("{}{path}", api.url);
        // An absent answer is stored as well, without a label.
        eventually(&path, async || {
            let answer = get(&url).await;
            match answer.cache_status() == "HIT" || answer.status == 404 {
                true => Ok(()),
                false => Err(answer.status),
            }
        })
        .await;
    }
}

async fn answers_equal_the_database_after_any_change(backend: DatabaseBackend) {
    let mut engine = Engine::start(backend).await;
    let api = engine.serve_api().await;
    let mut ann = StateWriter::start(&engine.home.store, "ann").await;
    let mut day = TestDay::with_races(2, 3, 3);
    // On the card of today, and far from any stage's end.
    let soon = Utc::now().trunc_subsecs(0) + TimeDelta::hours(3);
    for race in &mut day.races {
        race.event.starts_at = Some(soon);
        race.event.day = Some(soon.date_naive());
    }
    ann.commit_snapshot(&day.snapshot()).await;
    engine.drain().await;
    engine.begin_epoch().await;

    type Step = (&'static str, fn(&mut TestDay));
    let steps: [Step; 12] = [
        ("a price", |day| day.set(0, 0, Some(offer(777)))),
        ("the best price", |day| day.set(0, 1, Some(offer(9_999)))),
        ("a price is withdrawn", |day| day.set(0, 1, None)),
        ("a price is suspended", |day| {
            day.price(0, 2).suspended = true
        }),
        ("a runner is renamed", |day| {
            day.races[0].selections[0].name = "Another".into()
        }),
        ("the event is renamed", |day| {
            day.races[0].event.name = "Another Stakes".into()
        }),
        ("it is live", |day| {
            day.races[0].event.status = EventStatus::Live
        }),
        ("it is suspended", |day| {
            day.races[0].event.status = EventStatus::Suspended
        }),
        ("it moves to another league", |day| {
            day.races[0].event.league = "IRE".into()
        }),
        ("it is over", |day| {
            day.races[0].event.status = EventStatus::Completed
        }),
        ("it is gone", |day| drop(day.races.remove(0))),
        ("it is there again", |day| {
            let mut fresh = TestDay::with_races(1, 1, 1).races.remove(0);
            fresh.event.starts_at = day.races[0].event.starts_at;
            fresh.event.day = day.races[0].event.day;
            day.races.push(fresh);
        }),
    ];
    for (what, step) in steps {
        filled(&api).await;
        day.advance(10);
        step(&mut day);
        ann.commit_snapshot(&day.snapshot()).await;
        engine.drain().await;
        for path in paths() {
            let url = format!("{}{path}", api.url);
            let cached = get(&url).await;
            let fresh = request(reqwest::Method::GET, &url, &[("cache-control", "no-cache")]).await;
            assert_eq!(
                plain(&cached),
                plain(&fresh),
                "{what}: {path} ({})",
                cached.cache_status()
            );
        }
    }
}
