//! The removal log: its records, its counts and the API that reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use chrono::DateTime;
use oddsd::relay::Relay;
use oddsd_core::key::{Key, Tag};
use oddsd_core::model::EventStatus;
use oddsd_store::{Removal, Retention};
use serde_json::{Value, json};

use super::{ApiServer, DatabaseBackend, Engine, on_every_backend};
use crate::daemon::fixture::get;
use crate::store::fixture::{StateWriter, TestDay, at, offer};
use oddsd_testkit::WAIT_LIMIT;

on_every_backend!(
    removal_log_has_a_reason_for_each_kind_of_change,
    removal_log_has_a_reason_for_each_request,
    removal_counts_include_all_daemons,
    removal_log_is_read_page_by_page,
    removal_log_filters_and_rejects_invalid_queries,
);

const RULES: &str = r#"
[[rule]]
name = "others"
on = ["row_changed", "task_completed"]
keys = ["others:v1"]

[[rule]]
name = "moved"
on = ["price_changed"]
when = { movement = "significant" }
keys = ["moved:{event_id}"]
"#;

const DAY: Duration = Duration::from_secs(86_400);

impl Engine {
    /// The reasons of the removals since the last call.
    async fn reasons(&self, known: &mut usize) -> BTreeSet<String> {
        self.drain().await;
        let log = self.log().await;
        let new = log[*known..].iter().map(|line| line.reason.clone());
        let new = new.collect();
        *known = log.len();
        new
    }

    async fn ask_for(&self, keys: &[&str], tags: &[&str], detail: Option<&str>) {
        let keys: Vec<Key> = keys
            .iter()
            .filter_map(|key| Key::from_user_input(key))
            .collect();
        let tags: Vec<Tag> = tags.iter().filter_map(|tag| Tag::from_text(tag)).collect();
        let row = self.home.store.request_removal(&keys, &tags, detail).await;
        row.expect("a row");
    }
}

fn reasons(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

struct Race {
    engine: Engine,
    ann: StateWriter,
    day: TestDay,
    known: usize,
}

/// Boxed, so that the test's future fits its stack.
type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

impl Race {
    /// Runs a cycle and returns the reasons of its removals.
    fn look(&mut self) -> Later<'_, BTreeSet<String>> {
        Box::pin(async {
            self.day.advance(10);
            self.ann.commit_snapshot(&self.day.snapshot()).await;
            self.engine.reasons(&mut self.known).await
        })
    }

    fn last(&self) -> Later<'_, Removal> {
        Box::pin(async { self.engine.log().await.pop().expect("a line") })
    }
}

async fn removal_log_has_a_reason_for_each_kind_of_change(backend: DatabaseBackend) {
    let engine = Engine::with(backend, RULES).await;
    let ann = StateWriter::start(&engine.home.store, "ann").await;
    let mut race = Race {
        engine,
        ann,
        day: TestDay::with_races(2, 2, 2),
        known: 0,
    };
    let first = race.look().await;
    assert!(first.contains("EVENT_CHANGE"), "{first:?}");

    race.day.set(0, 0, Some(offer(151)));
    assert_eq!(race.look().await, reasons(&["PRICE_CHANGE"]));
    let price = race.last().await;
    let (before, after) = (price.before.as_deref(), price.after.as_deref());
    assert_eq!((before, after), (Some("1.5"), Some("1.51")), "{price:?}");
    assert_eq!(price.entity.as_deref(), Some("rac_0"));
    assert_eq!(
        (price.change.as_str(), price.cycle),
        ("price_changed", Some(2))
    );
    race.day.set(0, 0, Some(offer(902)));
    let both = reasons(&["PRICE_CHANGE", "ODDS_MOVEMENT"]);
    assert_eq!(race.look().await, both);

    for (status, reason) in [
        (EventStatus::Suspended, "STATUS_CHANGE"),
        (EventStatus::Postponed, "POSTPONED"),
        (EventStatus::Cancelled, "CANCELLED"),
    ] {
        race.day.races[0].event.status = status;
        assert_eq!(race.look().await, reasons(&[reason]), "{status:?}");
        let line = race.last().await;
        assert_eq!(line.after.as_deref(), Some(status.as_str()), "{line:?}");
        assert!(line.before.is_some(), "{line:?}");
    }
    race.day.races[1].event.status = EventStatus::Abandoned;
    assert_eq!(race.look().await, reasons(&["CANCELLED"]));

    let keep = Retention {
        history: DAY * 99,
        finished_events: DAY,
    };
    let store = &race.engine.home.store;
    let gone = store.prune(&race.ann.lease, keep, at(5 * 86_400)).await;
    assert_eq!(gone.expect("pruned").events.len(), 2);
    assert_eq!(
        race.engine.reasons(&mut race.known).await,
        reasons(&["EXPIRED"])
    );
}

async fn removal_log_has_a_reason_for_each_request(backend: DatabaseBackend) {
    let engine = Engine::with(backend, RULES).await;
    let known = &mut 0;
    let row = json!({ "change": "row_changed", "table": "tlog", "row": { "id": 1 } });
    let task = json!({ "change": "task_completed", "task": "build" });
    for (change, reason) in [(row, "ROW_CHANGE"), (task, "TASK_COMPLETED")] {
        engine.report(change).await;
        assert_eq!(engine.reasons(known).await, reasons(&[reason]));
    }
    let refresh = r#"{"reason":"SIDEBAR_REFRESH"}"#;
    for (detail, reason) in [(None, "MANUAL"), (Some(refresh), "SIDEBAR_REFRESH")] {
        engine.ask_for(&["x"], &["t"], detail).await;
        assert_eq!(engine.reasons(known).await, reasons(&[reason]));
    }
}

async fn removal_counts_include_all_daemons(backend: DatabaseBackend) {
    let engine = Engine::with(backend, RULES).await;
    let other = engine.home.another().await;
    let bob = Relay::without_observers(
        other,
        engine.cache().clone(),
        engine.relay.rules.clone(),
        "bob".into(),
    );
    for n in 0..30 {
        let name = format!("k{n}");
        engine.put(&[&name]).await;
        engine
            .ask_for(
                &[&name],
                &[],
                (n % 3 == 0).then_some(r#"{"reason":"SIDEBAR_REFRESH"}"#),
            )
            .await;
        let relay = if n % 2 == 0 { &engine.relay } else { &bob };
        relay.drain(WAIT_LIMIT).await.expect("the database answers");
    }
    let at_once = [engine.relay.clone(), bob.clone()].map(|relay| {
        tokio::spawn(async move { relay.drain(WAIT_LIMIT).await.expect("the database answers") })
    });
    for n in 0..30 {
        engine
            .report(
                json!({ "change": "row_changed", "table": format!("t{n}"), "row": { "id": n } }),
            )
            .await;
    }
    for relay in at_once {
        relay.await.expect("no panic");
    }
    engine.drain().await;

    let log = engine.log().await;
    let mut by_reason: BTreeMap<String, i64> = BTreeMap::new();
    for line in &log {
        *by_reason.entry(line.reason.clone()).or_default() += 1;
    }
    let stats = engine.home.store.removal_stats().await.expect("statistics");
    assert_eq!(stats.total_invalidations, log.len() as i64);
    assert_eq!(
        stats.keys_deleted,
        log.iter().map(|line| line.existed).sum::<i64>()
    );
    assert_eq!(stats.keys_deleted, 30);
    assert_eq!(stats.by_reason, by_reason);
    assert_eq!(
        (
            by_reason["MANUAL"],
            by_reason["SIDEBAR_REFRESH"],
            by_reason["ROW_CHANGE"]
        ),
        (20, 10, 30)
    );
    assert!((0..=stats.total_invalidations).contains(&stats.per_minute));
}

async fn json_of(api: &ApiServer, path: &str) -> Value {
    let answer = get(&format!("{}{path}", api.url)).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

const EVENTS: &str = "/v1/invalidations/events";
const TWIN: &str = "/api/v1/shared/cache/invalidation";

async fn removal_log_is_read_page_by_page(backend: DatabaseBackend) {
    let mut engine = Engine::with(backend, RULES).await;
    let api = engine.serve_api().await;
    let none = json_of(&api, EVENTS).await;
    assert_eq!((&none["events"], &none["count"]), (&json!([]), &json!(0)));
    for n in 0..25 {
        engine.ask_for(&[&format!("k{n}")], &[], None).await;
        engine.drain().await;
    }
    let ids = |page: &Value| -> Vec<i64> {
        let events = page["events"].as_array().expect("a list").iter();
        events
            .map(|event| event["id"].as_i64().expect("an id"))
            .collect()
    };
    let all = json_of(&api, EVENTS).await;
    let all = ids(&all);
    assert!(all.len() == 25 && all.is_sorted(), "{all:?}");
    assert_eq!(
        ids(&json_of(&api, &format!("{EVENTS}?limit=10")).await),
        all[15..],
        "the newest"
    );
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = json_of(&api, &format!("{EVENTS}?limit=10&after={after}")).await;
        after = page["after"].as_i64().expect("where to go on");
        if ids(&page).is_empty() {
            break;
        }
        seen.extend(ids(&page));
    }
    assert_eq!((seen, after), (all.clone(), all[24]));
    let twin = json_of(&api, &format!("{TWIN}/events?limit=10")).await;
    assert_eq!(ids(&twin), all[15..]);
    let stats = json_of(&api, "/v1/invalidations/stats").await;
    assert_eq!(stats["total_invalidations"], 25);
    assert_eq!(stats["by_reason"], json!({ "MANUAL": 25 }));
    for field in ["keys_deleted", "per_minute"] {
        assert!(stats[field].is_i64(), "{stats}");
    }
    assert_eq!(
        json_of(&api, &format!("{TWIN}/stats")).await["total_invalidations"],
        25
    );
}

async fn removal_log_filters_and_rejects_invalid_queries(backend: DatabaseBackend) {
    let mut engine = Engine::with(backend, RULES).await;
    let api = engine.serve_api().await;
    let mut ann = StateWriter::start(&engine.home.store, "ann").await;
    let mut day = TestDay::with_races(2, 2, 2);
    ann.commit_snapshot(&day.snapshot()).await;
    engine.drain().await;
    day.advance(10);
    day.set(1, 0, Some(offer(902)));
    ann.commit_snapshot(&day.snapshot()).await;
    engine
        .report(json!({ "change": "row_changed", "table": "t b/c", "row": { "id": 1 } }))
        .await;
    engine.drain().await;

    let of = async |query: &str| {
        let page = json_of(&api, &format!("{EVENTS}?{query}")).await;
        page["events"].as_array().expect("a list").clone()
    };
    let moved = of("reason=PRICE_CHANGE&event_id=rac_1").await;
    assert_eq!(moved.len(), 2, "{moved:?}");
    let event = &moved[1];
    let text = |name: &str| {
        event[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name}: {event}"))
    };
    assert_eq!(
        (text("reason"), text("change"), text("entity")),
        ("PRICE_CHANGE", "price_changed", "rac_1")
    );
    assert!(DateTime::parse_from_rfc3339(text("at")).is_ok(), "{event}");
    assert!(
        event["targets"]
            .as_array()
            .is_some_and(|targets| targets.contains(&json!("event:rac_1:prices:v1")))
    );
    assert_eq!((text("before"), text("after")), ("1.5", "9.02"));
    assert_eq!(
        (text("backend"), event["cycle"].as_i64()),
        ("redis", Some(2))
    );
    assert_eq!(
        text("rules_version"),
        engine.relay.rules.current().version().as_ref()
    );
    for number in ["id", "keys_removed", "attempts", "took_ms"] {
        assert!(event[number].is_i64(), "{number}: {event}");
    }
    assert_eq!(text("rule"), "live-odds");
    assert_eq!(of("entity=t%20b%2Fc").await.len(), 1);
    assert_eq!(of("event_id=t+b/c&reason=ROW_CHANGE").await.len(), 1);
    assert_eq!(of("event_id=rac_9").await.len(), 0);
    assert_eq!(of("event_id=%27%3B--").await.len(), 0);

    for (query, word) in [
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("limit=many", "1 to 1000"),
        ("after=-1", "id of a logged event"),
        ("after=x", "id of a logged event"),
        ("after=99999999999999999999", "id of a logged event"),
        ("reason=PRICE_CHNAGE", "did you mean \"PRICE_CHANGE\""),
        ("reason=", "one of"),
        ("event_id=a%00", "control character"),
        ("entity=%0A", "control character"),
        ("resaon=MANUAL", "did you mean \"reason\""),
        ("page=2", "one of limit"),
    ] {
        for path in [EVENTS.to_owned(), format!("{TWIN}/events")] {
            let wrong = get(&format!("{}{path}?{query}", api.url)).await;
            assert_eq!(wrong.status, 400, "{query}: {}", wrong.body);
            let told = wrong.json();
            let error = told["error"].as_str().expect("a text");
            assert!(error.contains(word), "{query}: {error}");
            assert!(told["hint"].is_string());
        }
    }
    for path in ["/v1/invalidations/stats?x=1", &format!("{TWIN}/stats?x=1")] {
        assert_eq!(get(&format!("{}{path}", api.url)).await.status, 400);
    }
}
