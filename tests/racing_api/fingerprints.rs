//! What has not changed is not read again, and not even sent where the provider can tell.

use oddsd::feed::racing_api::{RacingApi, RacingApiSettings};
use oddsd::feed::{Ask, Feed, FeedError};
use oddsd::model::{EventId, Look, Scope};
use serde_json::{Value, json};

use super::{now, odds, race, runner};
use crate::harness::event_sink::Taker;
use crate::harness::racing::feed_settings;
use oddsd_testkit::racing_provider::{Fault, RacingProvider};

struct Story {
    provider: RacingProvider,
    feed: Feed,
    taker: Taker,
}

impl Story {
    async fn with(change: impl FnOnce(&mut RacingApiSettings)) -> Self {
        let provider = RacingProvider::start().await;
        let mut settings = feed_settings(&provider);
        // One day, one list: what is counted is counted once.
        settings.days = 1;
        change(&mut settings);
        let feed = RacingApi::new(settings).expect("valid settings");
        Self {
            feed: Feed::RacingApi(Box::new(feed)),
            taker: Taker::default(),
            provider,
        }
    }

    async fn look(&mut self, races: Vec<Value>) -> Look {
        self.provider.serve_cards(races);
        self.again().await
    }

    async fn again(&mut self) -> Look {
        let look = self.taker.look(&mut self.feed, &Ask::Everything, now());
        look.await.expect("an answer")
    }

    fn read(&self) -> Vec<&str> {
        let read = self.taker.read.iter();
        read.map(|(race, _)| race.event.id.as_str()).collect()
    }

    fn same(&self) -> Vec<&str> {
        self.taker.same.iter().map(EventId::as_str).collect()
    }

    /// Whether the last request asked only for what was modified.
    fn was_conditional(&self) -> bool {
        self.provider
            .requests()
            .last()
            .expect("a request")
            .conditional
    }
}

fn races(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| race(name)).collect()
}

fn with_decimal(id: &str, decimal: &str) -> Value {
    let mut race = race(id);
    race["runners"] = json!([runner("hrs_1", json!([odds("Bet365", decimal)]))]);
    race
}

#[tokio::test]
async fn the_same_again_is_not_read_wherever_it_stands() {
    let mut story = Story::with(|_| {}).await;
    let names = ["rac_1", "rac_2", "rac_3", "rac_4", "rac_5"];
    let first = story.look(races(&names)).await;
    assert_eq!((story.read(), story.same()), (names.to_vec(), vec![]));

    let again = story.again().await;
    assert_eq!((story.read(), story.same()), (vec![], names.to_vec()));
    assert_eq!(again.scope, first.scope);
    assert!(again.rejects.is_empty());

    let other_order = ["rac_4", "rac_1", "rac_5", "rac_2", "rac_3"];
    story.look(races(&other_order)).await;
    assert_eq!((story.read(), story.same()), (vec![], other_order.to_vec()));

    // One price moved: one race is read.
    let mut moved = races(&names);
    moved[2] = with_decimal("rac_3", "7.5");
    story.look(moved.clone()).await;
    assert_eq!(story.read(), ["rac_3"]);
    assert_eq!(story.same(), ["rac_1", "rac_2", "rac_4", "rac_5"]);

    // One left, one came.
    moved.remove(0);
    moved.insert(1, race("rac_6"));
    story.look(moved).await;
    assert_eq!(story.read(), ["rac_6"]);
    assert_eq!(story.same(), ["rac_2", "rac_3", "rac_4", "rac_5"]);
    assert!(matches!(first.scope, Scope::Days { .. }));

    // Whoever forgot reads everything.
    story.taker.forget();
    story.again().await;
    assert_eq!(story.taker.read_and_same(), (5, 0));
}

#[tokio::test]
async fn a_race_with_a_row_set_aside_is_read_and_counted_every_time() {
    let mut story = Story::with(|_| {}).await;
    story.provider.use_etags();
    let cards = vec![race("rac_1"), with_decimal("rac_2", "evens"), race("rac_3")];
    for look in 0..3 {
        let answer = story.look(cards.clone()).await;
        assert_eq!(answer.rejects.total(), 1, "look {look}");
        let bad = story
            .taker
            .read
            .iter()
            .find(|(race, _)| race.event.id.as_str() == "rac_2");
        let (bad, may_be_skipped) = bad.expect("read");
        assert!(!bad.complete && !may_be_skipped);
        assert!(!story.was_conditional(), "look {look}");
        assert_eq!(story.taker.same.len(), if look == 0 { 0 } else { 2 });
    }
}

#[tokio::test]
async fn a_race_that_is_listed_twice_is_counted_every_time() {
    let mut story = Story::with(|_| {}).await;
    story.provider.use_etags();
    for _ in 0..3 {
        let answer = story.look(races(&["rac_1", "rac_2", "rac_1"])).await;
        assert_eq!(answer.rejects.by_reason["duplicate_race"].rows, 2);
        assert!(!story.was_conditional());
        let (read, same) = story.taker.read_and_same();
        assert_eq!(read + same, 2, "each once");
    }
    assert_eq!(story.taker.read_and_same(), (0, 2));
}

#[tokio::test]
async fn an_answer_is_conditional_while_all_of_it_is_known() {
    let mut story = Story::with(|_| {}).await;
    story.provider.use_etags();
    let names = ["rac_1", "rac_2"];
    let first = story.look(races(&names)).await;
    assert!(!story.was_conditional());

    let unmodified = story.again().await;
    assert!(story.was_conditional());
    assert_eq!(story.same(), names);
    assert_eq!(unmodified.scope, first.scope);

    story
        .look(vec![race("rac_1"), with_decimal("rac_2", "3")])
        .await;
    assert!(story.was_conditional());
    assert_eq!((story.read(), story.same()), (vec!["rac_2"], vec!["rac_1"]));
    story.again().await;
    assert_eq!(story.same(), names);

    // What is not known has to come: after a database error, or for a full comparison.
    story.taker.forget();
    story.again().await;
    assert!(!story.was_conditional());
    assert_eq!(story.read(), names);

    // A day without races is unmodified too.
    story.look(Vec::new()).await;
    let none = story.again().await;
    assert!(story.was_conditional());
    assert_eq!(story.taker.read_and_same(), (0, 0));
    assert_eq!(none.scope, first.scope);
}

#[tokio::test]
async fn a_recorder_has_every_body_sent() {
    let mut story = Story::with(|settings| settings.keep_bodies = true).await;
    story.provider.use_etags();
    story.provider.serve_cards(races(&["rac_1"]));
    let mut taker = Taker::default();
    for _ in 0..2 {
        let looked = story.feed.read(&Ask::Everything, now(), &mut taker).await;
        let bodies = looked.expect("an answer").bodies;
        assert_eq!(bodies.len(), 1);
        assert!(bodies[0].contains("\"rac_1\""));
        assert!(!story.was_conditional());
    }
}

#[tokio::test]
async fn pages_that_move_are_forgotten_and_read_again() {
    let mut story = Story::with(|settings| settings.page_limit = 2).await;
    story.provider.move_pages();
    story
        .provider
        .serve_cards((1..=40).map(|n| race(&format!("rac_{n}"))).collect());
    let look = story.taker.look(&mut story.feed, &Ask::Everything, now());
    let error = look.await.expect_err("no answer");
    assert!(matches!(error, FeedError::BadAnswer { .. }), "{error}");
    assert_eq!(story.taker.begun, 2);
}

#[tokio::test]
async fn a_single_race_is_known_by_its_body_and_not_taken_for_another() {
    let mut story = Story::with(|_| {}).await;
    story.provider.use_etags();
    story.provider.serve_cards(races(&["rac_1", "rac_2"]));
    let ids = |names: &[&str]| {
        names
            .iter()
            .map(|name| EventId::new(*name))
            .collect::<Vec<_>>()
    };
    let ask = Ask::Events(ids(&["rac_1", "rac_2"]));
    for (look, expected) in [(2, 0), (0, 2), (0, 2)].into_iter().enumerate() {
        let answer = story.taker.look(&mut story.feed, &ask, now()).await;
        assert_eq!(
            answer.expect("races").scope,
            Scope::Events(ids(&["rac_1", "rac_2"]))
        );
        assert_eq!(story.taker.read_and_same(), expected, "look {look}");
        assert_eq!(story.was_conditional(), look > 0);
    }

    // The provider's one-race call goes wrong for one of them: only the other is spoken for.
    story.provider.fault_on("/rac_2/", Fault::Truncated);
    story.taker.forget();
    let answer = story
        .taker
        .look(&mut story.feed, &ask, now())
        .await
        .expect("one race");
    assert_eq!(answer.scope, Scope::Events(ids(&["rac_1"])));
    assert_eq!(story.read(), ["rac_1"]);
    assert_eq!(answer.rejects.by_reason["race_failed"].rows, 1);
}
