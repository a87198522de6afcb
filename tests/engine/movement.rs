//! Rules that ignore small movements: measured exactly against the prices that a cache may show.

use std::num::NonZeroU32;

use oddsd_core::model::{Fraction, Offer};
use serde_json::Value;

use super::{DatabaseBackend, Engine, on_every_backend};
use crate::store::fixture::{StateWriter, TestDay, decimal, offer};

on_every_backend!(
    movement_of_several_small_steps_adds_up,
    movement_of_exactly_the_threshold_removes_nothing,
    movement_rule_removes_at_a_change_of_state,
    movement_of_fractions_is_exact,
    movement_is_measured_from_the_last_removal,
    movement_is_measured_by_bookmaker_and_market,
);

pub const MOVED: &str = r#"
builtin = false
[[rule]]
name = "moved"
on = ["price_changed", "price_withdrawn"]
when = { movement = "significant" }
keys = ["best:{event_id}"]
"#;

struct Race {
    engine: Engine,
    ann: StateWriter,
    day: TestDay,
    known: usize,
}

impl Race {
    async fn begin(backend: DatabaseBackend, rules: &str, day: TestDay) -> Self {
        let engine = Box::pin(Engine::with(backend, rules)).await;
        let ann = StateWriter::start(&engine.home.store, "ann").await;
        let mut race = Self {
            engine,
            ann,
            day,
            known: 0,
        };
        Box::pin(race.look()).await;
        race
    }

    /// Runs a cycle and returns the targets that were removed for it.
    async fn look(&mut self) -> Vec<String> {
        self.day.advance(10);
        self.ann.commit_snapshot(&self.day.snapshot()).await;
        Box::pin(self.engine.drain()).await;
        assert_eq!(self.engine.home.outbox().await, [0; 0]);
        self.engine.gone(&mut self.known).await
    }

    async fn goes_to(&mut self, nth: usize, offer: Offer) -> Vec<String> {
        self.day.advance(10);
        self.day.set(0, nth, Some(offer));
        self.look().await
    }

    async fn marks(&self) -> Vec<String> {
        self.engine
            .home
            .query("SELECT target FROM oddsd.marks ORDER BY target")
            .await
    }
}

fn at(price: &str) -> Offer {
    Offer::decimal(decimal(price))
}

/// One runner at one bookmaker, at this price.
pub fn one(first: Offer) -> TestDay {
    let mut day = TestDay::with_races(1, 1, 1);
    day.set(0, 0, Some(first));
    day
}

const NOTHING: [&str; 0] = [];

async fn movement_of_several_small_steps_adds_up(backend: DatabaseBackend) {
    let mut race = Race::begin(backend, MOVED, one(at("10"))).await;
    let lines = race.engine.log().await.len();
    let mut removed = Vec::new();
    for (step, price) in [
        (1, "10.9"),
        (2, "11.881"),
        (3, "12.950"),
        (4, "14.115"),
        (5, "15.385"),
    ] {
        if !race.goes_to(0, at(price)).await.is_empty() {
            removed.push(step);
            assert_eq!(race.marks().await, NOTHING, "step {step}");
        } else {
            assert_eq!(race.marks().await, ["best:rac_0"], "step {step}");
        }
    }
    // Against the price that is shown: 9 %; 18.8 %; 9 % of the new one; 18.8 %; 9 %.
    assert_eq!(removed, [2, 4]);
    let log = race.engine.log().await;
    assert_eq!(log.len(), lines + 2, "a minor movement is no removal");
    assert!(
        log[lines..]
            .iter()
            .all(|line| line.reason == "ODDS_MOVEMENT")
    );
}

async fn movement_of_exactly_the_threshold_removes_nothing(backend: DatabaseBackend) {
    let mut race = Race::begin(backend, MOVED, one(at("10"))).await;
    assert_eq!(race.goes_to(0, at("11")).await, NOTHING);
    assert_eq!(race.marks().await, ["best:rac_0"]);
    assert_eq!(
        race.goes_to(0, at("9")).await.len(),
        1,
        "18.2 % of 11, which may be shown"
    );
    assert_eq!(race.goes_to(0, at("9.9")).await, NOTHING);
    assert_eq!(
        race.goes_to(0, at("9")).await,
        NOTHING,
        "back to what is shown; 9.1 % of what may be"
    );
    assert_eq!(race.goes_to(0, at("8.1")).await, ["best:rac_0"]);
    assert_eq!(
        race.goes_to(0, at("8.911")).await,
        ["best:rac_0"],
        "10.01 %"
    );
}

async fn movement_rule_removes_at_a_change_of_state(backend: DatabaseBackend) {
    let mut day = TestDay::with_races(1, 2, 1);
    for nth in 0..2 {
        day.set(0, nth, Some(at("10")));
    }
    // One that is not offered yet.
    let later = day.races[0].prices.pop().expect("two");
    let mut race = Race::begin(backend, MOVED, day).await;
    race.day.price(0, 0).suspended = true;
    assert_eq!(race.look().await, ["best:rac_0"], "suspended");
    race.day.price(0, 0).suspended = false;
    assert_eq!(race.look().await, ["best:rac_0"], "open again");
    race.day.set(0, 0, None);
    assert_eq!(race.look().await, ["best:rac_0"], "withdrawn");
    assert_eq!(race.goes_to(0, at("10")).await, ["best:rac_0"], "back");
    race.day.races[0].prices.push(later);
    assert_eq!(race.look().await, ["best:rac_0"], "a new price");
    assert_eq!(race.goes_to(1, at("10.1")).await, NOTHING);
}

async fn movement_of_fractions_is_exact(backend: DatabaseBackend) {
    let five = MOVED.replace("\"significant\"", "\"5%\"");
    let american = |odds: i64| Offer::american(odds).expect("valid");
    let mut race = Race::begin(backend, &five, one(american(-105))).await;
    assert_eq!(race.goes_to(0, american(105)).await, NOTHING, "exactly 5 %");
    let mut race = Race::begin(backend, &five, one(american(-105))).await;
    assert_eq!(race.goes_to(0, american(106)).await, ["best:rac_0"]);

    let third = MOVED.replace("\"significant\"", "\"25%\"");
    let fraction = |profit: u32| {
        let part = |n| NonZeroU32::new(n).expect("not zero");
        let fraction = Fraction {
            profit: part(profit),
            stake: part(3),
        };
        Offer {
            fractional: Some(fraction),
            ..Offer::decimal(fraction.decimal().expect("odds").round_dp(9))
        }
    };
    let mut race = Race::begin(backend, &third, one(fraction(1))).await;
    assert_eq!(
        race.goes_to(0, fraction(2)).await,
        NOTHING,
        "4/3 to 5/3 is exactly 25 %"
    );
    assert_eq!(race.goes_to(0, fraction(3)).await, ["best:rac_0"]);
}

async fn movement_is_measured_from_the_last_removal(backend: DatabaseBackend) {
    let rules = format!(
        "{MOVED}\n[[rule]]\nname = \"event\"\non = [\"event_changed\"]\nkeys = [\"best:{{event_id}}\"]\n"
    );
    let mut race = Race::begin(backend, &rules, one(at("10"))).await;
    assert_eq!(race.goes_to(0, at("10.9")).await, NOTHING);
    race.day.races[0].event.name = "The Other Stakes".into();
    assert_eq!(race.look().await, ["best:rac_0"]);
    assert_eq!(race.marks().await, NOTHING);
    assert_eq!(race.goes_to(0, at("11.9")).await, NOTHING, "9.2 % of 10.9");
    // Both in one cycle: it goes for the event, and nothing is held.
    race.day.races[0].event.name = "Again Another".into();
    assert_eq!(race.goes_to(0, at("11.95")).await, ["best:rac_0"]);
    assert_eq!(race.marks().await, NOTHING);
    // By hand.
    assert_eq!(race.goes_to(0, at("13")).await, NOTHING);
    let key = oddsd_core::key::Key::from_user_input("best:rac_0").expect("a key");
    let asked = race
        .engine
        .home
        .store
        .request_removal(&[key], &[], None)
        .await;
    asked.expect("a row");
    race.engine.drain().await;
    assert_eq!(race.engine.gone(&mut race.known).await, ["best:rac_0"]);
    assert_eq!(race.goes_to(0, at("14")).await, NOTHING, "7.7 % of 13");
    assert_eq!(
        race.goes_to(0, at("14.4")).await,
        ["best:rac_0"],
        "10.8 % of 13"
    );
}

async fn movement_is_measured_by_bookmaker_and_market(backend: DatabaseBackend) {
    const RULES: &str = r#"
builtin = false
[movement]
threshold = "20%"
[[rule]]
name = "bookmaker"
on = ["price_changed"]
when = { market = "win", movement = "significant" }
keys = ["best:{event_id}:{bookmaker}"]
[[rule]]
name = "places"
on = ["price_changed"]
when = { market = ["place", "each_way"] }
keys = ["places:{event_id}:{market}"]
"#;
    let mut day = TestDay::with_races(1, 1, 4);
    for nth in 0..4 {
        day.set(0, nth, Some(at("10")));
    }
    day.races[0].prices[3].key.market = "place".into();
    let mut race = Race::begin(backend, RULES, day).await;
    assert_eq!(race.goes_to(1, at("13")).await, ["best:rac_0:bookie1"]);
    assert_eq!(race.goes_to(2, at("11.5")).await, NOTHING);
    assert_eq!(race.marks().await, ["best:rac_0:bookie2"]);
    race.day.set(0, 0, Some(at("13")));
    race.day.set(0, 2, Some(at("12.5")));
    let both = ["best:rac_0:bookie0", "best:rac_0:bookie2"];
    assert_eq!(
        race.look().await,
        both,
        "25 % of what is shown, in two steps"
    );
    assert_eq!(race.goes_to(3, at("10.1")).await, ["places:rac_0:place"]);
    assert_eq!(race.goes_to(0, offer(1301)).await, NOTHING);
    let log: Vec<Value> = race
        .engine
        .log()
        .await
        .iter()
        .map(|line| serde_json::to_value(line).expect("JSON"))
        .collect();
    assert!(log.iter().all(|line| line["entity"] == "rac_0"), "{log:?}");
}
