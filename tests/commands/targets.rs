//! The targets of `invalidate`: keys, patterns, tags, sidebars, events, changes, and the keys of a scan.

use serde_json::{Value, json};

use super::on_postgres;
use crate::harness::program::Program;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;

async fn migrated_with_redis() -> (RedisServer, Program) {
    let redis = RedisServer::start().await;
    let oddsd = on_postgres().await.with("REDIS_URL", redis.url());
    oddsd.run(&["migrate"]).await.expect_code(0);
    (redis, oddsd)
}

/// The keys that a dry run prints.
async fn dry(oddsd: &Program, args: &[&str]) -> Value {
    let args = [&["invalidate", "--dry-run", "--json"], args].concat();
    let output = oddsd.run(&args).await.expect_code(0).json();
    assert_eq!(output["dry_run"], true);
    output["keys"].clone()
}

#[tokio::test]
async fn dry_run_shows_the_targets_of_each_argument() {
    let (_redis, oddsd) = migrated_with_redis().await;
    assert_eq!(
        dry(&oddsd, &["a:key", "sidebar:7:*"]).await,
        json!(["a:key", "sidebar:7:*"])
    );
    assert_eq!(
        dry(&oddsd, &["--tag", "event:a*"]).await,
        json!(["tag event:a%2A"])
    );
    assert_eq!(
        dry(&oddsd, &["--sidebar", "all"]).await,
        json!(["sidebar:*"])
    );
    assert_eq!(
        dry(&oddsd, &["--sidebar", "horse_racing"]).await,
        json!(["sidebar:horse_racing:*"])
    );
    assert_eq!(
        dry(&oddsd, &["--sidebar", "tennis:wta-1"]).await,
        json!(["sidebar:tennis:wta-1:*"])
    );
    let unmatched = r#"{"change":"row_changed","table":"of_no_rule"}"#;
    assert_eq!(dry(&oddsd, &["--change", unmatched]).await, json!([]));
    let price = r#"{"change":"price_changed","event_id":"e","current_status":"live"}"#;
    assert_eq!(
        dry(&oddsd, &["--change", price]).await,
        json!([
            "event:e:prices:v1",
            "movers:v1",
            "odds:live:e",
            "races:by-stage:v1"
        ])
    );
    let event = dry(&oddsd, &["--event", "rac_1"]).await;
    let event = event.as_array().expect("a list");
    for key in [
        "event:rac_1:prices:v1",
        "odds:live:rac_1",
        "odds:abandoned:rac_1",
        "races:by-stage:v1",
    ] {
        assert!(event.contains(&json!(key)), "{key} {event:?}");
    }
    assert!(
        !event.contains(&json!("odds:*")),
        "no other event's: {event:?}"
    );
    let status = oddsd.run(&["status", "--json"]).await.json();
    assert_eq!(status["outbox_pending"], 0);
    oddsd
        .run(&["invalidate", "--change", "{"])
        .await
        .expect_code(78)
        .expect_texts(&["not JSON"]);
}

/// The sport and league of a stored event are known, so other sidebars are kept.
#[tokio::test]
async fn stored_event_removes_only_its_own_sidebars() {
    let redis = RedisServer::start().await;
    let oddsd = super::simulated().with("REDIS_URL", redis.url());
    oddsd.run(&["once"]).await.expect_code(0);
    let tail = oddsd
        .run(&["tail", "--for", "100ms", "--json"])
        .await
        .expect_code(0)
        .json_lines();
    let mut entities = tail
        .iter()
        .filter_map(|line| line["removal"]["entity"].as_str());
    let event = entities.next().expect("an event");
    let keys = dry(&oddsd, &["--event", event]).await;
    let keys: Vec<&str> = keys
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        keys.contains(&"sidebar:horse_racing:v1") && !keys.contains(&"sidebar:*"),
        "{keys:?}"
    );
}

#[tokio::test]
async fn sidebar_removal_has_its_own_reason() {
    let (_redis, oddsd) = migrated_with_redis().await;
    let output = oddsd
        .run(&["invalidate", "--sidebar", "horse_racing:GB", "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(output["confirmed"], true);
    oddsd
        .run(&["invalidate", "--tag", "t", "x"])
        .await
        .expect_code(0);
    let lines = oddsd
        .run(&["tail", "--for", "100ms", "--json"])
        .await
        .expect_code(0)
        .json_lines();
    let reasons: Vec<&Value> = lines
        .iter()
        .map(|line| &line["removal"]["reason"])
        .collect();
    assert_eq!(reasons, [&json!("SIDEBAR_REFRESH"), &json!("MANUAL")]);
    assert_eq!(
        lines[0]["removal"]["targets"],
        json!(["sidebar:horse_racing:GB:*"])
    );
}

#[tokio::test]
async fn scan_removes_keys_by_beginning_up_to_its_limit() {
    let (redis, oddsd) = migrated_with_redis().await;
    for n in 0..30 {
        assert_eq!(
            redis.command(&["SET", &format!("x:*:{n}"), "1"]).await,
            RespReply::Status("OK".into())
        );
        assert_eq!(
            redis.command(&["SET", &format!("x:a:{n}"), "1"]).await,
            RespReply::Status("OK".into())
        );
    }
    let left = async |pattern: &str| match redis.command(&["KEYS", pattern]).await {
        RespReply::Array(keys) => keys.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(dry(&oddsd, &["--scan", "nothing:"]).await, json!([]));
    assert_eq!(
        dry(&oddsd, &["--scan", "x:*:"])
            .await
            .as_array()
            .map(Vec::len),
        Some(30)
    );
    assert_eq!(left("x:*").await, 60);
    let cut = oddsd
        .run(&["invalidate", "--scan", "x:*:", "--scan-most", "10"])
        .await
        .expect_code(0);
    cut.expect_texts(&["more than", "run it again"]);
    assert!((1..30).contains(&left(r"x:\*:*").await));
    oddsd
        .run(&["invalidate", "--scan", "x:*:"])
        .await
        .expect_code(0)
        .expect_texts(&["removed"])
        .expect_none_of(&["run it again"]);
    assert_eq!((left(r"x:\*:*").await, left("x:a:*").await), (0, 30));
    oddsd
        .run(&["invalidate", "--scan", "x:*:"])
        .await
        .expect_code(0)
        .expect_texts(&["nothing to remove"]);
}
