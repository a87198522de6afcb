//! Tests of skipped texts: a known race is not parsed again, and not even sent where the provider
//! supports ETags.

use oddsd_core::model::{EventId, Scope, SnapshotMeta};
use oddsd_feeds::racing_api::{RacingApi, RacingApiSettings};
use oddsd_feeds::{Feed, FeedError, FetchRequest};
use serde_json::{Value, json};

use super::{now, odds, race, runner};
use crate::harness::event_sink::RecordingSink;
use crate::harness::racing::feed_settings;
use oddsd_testkit::racing_provider::{RacingFault, RacingProvider};

struct FetchTest {
    provider: RacingProvider,
    feed: Feed,
    taker: RecordingSink,
}

impl FetchTest {
    async fn with(change: impl FnOnce(&mut RacingApiSettings)) -> Self {
        let provider = RacingProvider::start().await;
        let mut settings = feed_settings(&provider);
        // One day and one list, so that each race is counted once.
        settings.days = 1;
        change(&mut settings);
        let feed = RacingApi::new(settings).expect("valid settings");
        Self {
            feed: Feed::RacingApi(Box::new(feed)),
            taker: RecordingSink::default(),
            provider,
        }
    }

    async fn look(&mut self, races: Vec<Value>) -> SnapshotMeta {
        self.provider.serve_cards(races);
        self.again().await
    }

    async fn again(&mut self) -> SnapshotMeta {
        let look = self
            .taker
            .fetch(&mut self.feed, &FetchRequest::Everything, now());
        look.await.expect("an answer")
    }

    fn read(&self) -> Vec<&str> {
        let read = self.taker.read.iter();
        read.map(|(race, _)| race.event.id.as_str()).collect()
    }

    fn same(&self) -> Vec<&str> {
        self.taker.skipped.iter().map(EventId::as_str).collect()
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
async fn known_race_is_skipped_at_any_position() {
    let mut test = FetchTest::with(|_| {}).await;
    let names = ["rac_1", "rac_2", "rac_3", "rac_4", "rac_5"];
    let first = test.look(races(&names)).await;
    assert_eq!((test.read(), test.same()), (names.to_vec(), vec![]));

    let again = test.again().await;
    assert_eq!((test.read(), test.same()), (vec![], names.to_vec()));
    assert_eq!(again.scope, first.scope);
    assert!(again.rejected.is_empty());

    let other_order = ["rac_4", "rac_1", "rac_5", "rac_2", "rac_3"];
    test.look(races(&other_order)).await;
    assert_eq!((test.read(), test.same()), (vec![], other_order.to_vec()));

    // One price moved: one race is read.
    let mut moved = races(&names);
    moved[2] = with_decimal("rac_3", "7.5");
    test.look(moved.clone()).await;
    assert_eq!(test.read(), ["rac_3"]);
    assert_eq!(test.same(), ["rac_1", "rac_2", "rac_4", "rac_5"]);

    // One left, one came.
    moved.remove(0);
    moved.insert(1, race("rac_6"));
    test.look(moved).await;
    assert_eq!(test.read(), ["rac_6"]);
    assert_eq!(test.same(), ["rac_2", "rac_3", "rac_4", "rac_5"]);
    assert!(matches!(first.scope, Scope::Days { .. }));

    // The same bytes again, while one of their races is not stored any more.
    test.taker.forget_event("rac_3");
    test.again().await;
    assert_eq!(test.read(), ["rac_3"]);
    assert_eq!(test.same(), ["rac_2", "rac_6", "rac_4", "rac_5"]);

    // Without known texts everything is read.
    test.taker.forget();
    test.again().await;
    assert_eq!(test.taker.read_and_same(), (5, 0));
}

#[tokio::test]
async fn race_with_a_rejected_row_is_read_every_time() {
    let mut test = FetchTest::with(|_| {}).await;
    test.provider.use_etags();
    let cards = vec![race("rac_1"), with_decimal("rac_2", "x"), race("rac_3")];
    for look in 0..3 {
        let answer = test.look(cards.clone()).await;
        assert_eq!(answer.rejected.total(), 1, "look {look}");
        let bad = test
            .taker
            .read
            .iter()
            .find(|(race, _)| race.event.id.as_str() == "rac_2");
        let (bad, may_be_skipped) = bad.expect("read");
        assert!(!bad.in_doubt.is_empty() && !may_be_skipped);
        assert!(!test.was_conditional(), "look {look}");
        assert_eq!(test.taker.skipped.len(), if look == 0 { 0 } else { 2 });
    }
}

#[tokio::test]
async fn duplicate_race_is_counted_every_time() {
    let mut test = FetchTest::with(|_| {}).await;
    test.provider.use_etags();
    for _ in 0..3 {
        let answer = test.look(races(&["rac_1", "rac_2", "rac_1"])).await;
        assert_eq!(answer.rejected.by_reason["duplicate_race"].rows, 2);
        assert!(!test.was_conditional());
        let (read, same) = test.taker.read_and_same();
        assert_eq!(read + same, 2, "each once");
    }
    assert_eq!(test.taker.read_and_same(), (0, 2));
}

#[tokio::test]
async fn request_is_conditional_while_every_race_is_known() {
    let mut test = FetchTest::with(|_| {}).await;
    test.provider.use_etags();
    let names = ["rac_1", "rac_2"];
    let first = test.look(races(&names)).await;
    assert!(!test.was_conditional());

    let unmodified = test.again().await;
    assert!(test.was_conditional());
    assert_eq!(test.same(), names);
    assert_eq!(unmodified.scope, first.scope);

    test.look(vec![race("rac_1"), with_decimal("rac_2", "3")])
        .await;
    assert!(test.was_conditional());
    assert_eq!((test.read(), test.same()), (vec!["rac_2"], vec!["rac_1"]));
    test.again().await;
    assert_eq!(test.same(), names);

    // Unknown races must be sent: after a database error, or for a full comparison.
    test.taker.forget();
    test.again().await;
    assert!(!test.was_conditional());
    assert_eq!(test.read(), names);

    // A day without races is unmodified too.
    test.look(Vec::new()).await;
    let none = test.again().await;
    assert!(test.was_conditional());
    assert_eq!(test.taker.read_and_same(), (0, 0));
    assert_eq!(none.scope, first.scope);
}

#[tokio::test]
async fn recorder_gets_every_body() {
    let mut test = FetchTest::with(|settings| settings.keep_bodies = true).await;
    test.provider.use_etags();
    test.provider.serve_cards(races(&["rac_1"]));
    let mut taker = RecordingSink::default();
    for _ in 0..2 {
        let looked = test
            .feed
            .read(&FetchRequest::Everything, now(), &mut taker)
            .await;
        let bodies = looked.expect("an answer").bodies;
        assert_eq!(bodies.len(), 1);
        assert!(bodies[0].contains("\"rac_1\""));
        assert!(!test.was_conditional());
    }
}

#[tokio::test]
async fn moving_pages_are_discarded_and_read_again() {
    let mut test = FetchTest::with(|settings| settings.page_limit = 2).await;
    test.provider.move_pages();
    test.provider
        .serve_cards((1..=40).map(|n| race(&format!("rac_{n}"))).collect());
    let look = test
        .taker
        .fetch(&mut test.feed, &FetchRequest::Everything, now());
    let error = look.await.expect_err("no answer");
    assert!(matches!(error, FeedError::BadAnswer { .. }), "{error}");
    assert_eq!(test.taker.begun, 2);
}

#[tokio::test]
async fn single_race_is_known_by_its_body() {
    let mut test = FetchTest::with(|_| {}).await;
    test.provider.use_etags();
    test.provider.serve_cards(races(&["rac_1", "rac_2"]));
    let ids = |names: &[&str]| {
        names
            .iter()
            .map(|name| EventId::new(*name))
            .collect::<Vec<_>>()
    };
    let ask = FetchRequest::Events(ids(&["rac_1", "rac_2"]));
    for (look, expected) in [(2, 0), (0, 2), (0, 2)].into_iter().enumerate() {
        let answer = test.taker.fetch(&mut test.feed, &ask, now()).await;
        assert_eq!(
            answer.expect("races").scope,
            Scope::Events(ids(&["rac_1", "rac_2"]))
        );
        assert_eq!(test.taker.read_and_same(), expected, "look {look}");
        assert_eq!(test.was_conditional(), look > 0);
    }

    // The single-race request of one of them fails: the scope holds only the other.
    test.provider.fault_on("/rac_2/", RacingFault::Truncated);
    test.taker.forget();
    let answer = test
        .taker
        .fetch(&mut test.feed, &ask, now())
        .await
        .expect("one race");
    assert_eq!(answer.scope, Scope::Events(ids(&["rac_1"])));
    assert_eq!(test.read(), ["rac_1"]);
    assert_eq!(answer.rejected.by_reason["race_failed"].rows, 1);
}
