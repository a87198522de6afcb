//! A target that fails does not stop the others, and is retried alone.

use std::sync::Arc;

use oddsd::live::DaemonEvent;
use oddsd::relay::{Relay, RelayOutcome};
use oddsd_cache::{Cache, CacheSettings};
use oddsd_core::key::Tag;
use oddsd_store::Removal;
use serde_json::json;

use super::{DatabaseBackend, Engine, on_every_backend};
use crate::cache::open;
use oddsd_testkit::eventually;
use oddsd_testkit::log::CapturedLog;
use oddsd_testkit::resp::RespReply;

on_every_backend!(
    failed_key_is_retried_alone,
    failed_tag_is_retried_alone,
    unreachable_cache_postpones_all_targets,
);

const RULES: &str = r#"
[[rule]]
name = "stats"
on = ["task_completed"]
keys = ["good", "bad", "stats:{run_id}"]
tags = ["run:{run_id}"]
reason = "SIDEBAR_REFRESH"
"#;

impl Engine {
    /// Denies access to all unmanaged keys but these.
    async fn allow_only(&self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| format!("~{name}")).collect();
        let mut rights = vec!["ACL", "SETUSER", "default", "resetkeys", "~oddsd:*"];
        rights.extend(names.iter().map(String::as_str));
        assert_eq!(
            self.redis.command(&rights).await,
            RespReply::Status("OK".into())
        );
    }

    /// The targets of each row of the outbox.
    async fn waiting(&self) -> Vec<String> {
        let rows = self.home.query("SELECT keys FROM oddsd.outbox ORDER BY id");
        rows.await
    }
}

async fn failed_key_is_retried_alone(backend: DatabaseBackend) {
    let (log, _listening) = CapturedLog::start();
    let engine = Engine::with(backend, RULES).await;
    engine.begin_epoch().await;
    let theirs = ["good", "bad", "stats:7"];
    engine.put(&theirs).await;
    engine.allow_only(&["good", "stats:*"]).await;
    let done = json!({ "change": "task_completed", "task": "build", "run_id": "7" });
    let mut published = engine.relay.live.subscribe();
    engine.report(done).await;
    engine.drain().await;
    assert_eq!(engine.waiting().await, ["bad"], "{}", log.text());
    // The failed target is no part of the removal that is published, logged and counted.
    let (confirmed, deleted) = loop {
        let event = published.try_recv().expect("a removal was published");
        if let DaemonEvent::Invalidated {
            keys,
            tags,
            deleted,
            ..
        } = &event.event
        {
            let keys = keys.iter().map(|key| key.as_str().to_owned());
            break (
                keys.chain(tags.iter().cloned()).collect::<Vec<_>>(),
                *deleted,
            );
        }
    };
    assert_eq!(confirmed, ["good", "stats:7", "run:7"]);
    assert_eq!(deleted, 2);
    assert_eq!(engine.relay.live.counters().removals, 1);
    let status = engine.home.store.status().await.expect("a status");
    assert!(status.outbox_last_error.is_some(), "{status:?}");
    let first = engine.log().await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].keys, ["good", "stats:7", "tag run:7"]);
    let failed = log.lines("cache.invalidate_failed");
    assert!(!failed.is_empty(), "{}", log.text());
    engine.allow_only(&["*"]).await;
    assert_eq!(engine.left(&theirs).await, ["bad"]);

    // The retry fails as well and removes nothing else.
    engine.put(&["good"]).await;
    engine.allow_only(&["good", "stats:*"]).await;
    engine.make_all_due().await;
    let tried = engine.relay.step().await.expect("the database answers");
    assert!(
        matches!(tried, RelayOutcome::Failed { rows: 1, .. }),
        "{tried:?}"
    );
    assert_eq!(engine.log().await.len(), 1);
    engine.allow_only(&["*"]).await;
    assert_eq!(engine.left(&theirs).await, ["good", "bad"]);

    engine.make_all_due().await;
    engine.drain().await;
    assert_eq!(engine.left(&theirs).await, ["good"]);
    assert_eq!(engine.waiting().await, [""; 0]);
    let all = engine.log().await;
    assert_eq!((all.len(), &all[1].keys[..]), (2, &["bad".to_owned()][..]));
    assert!(all[1].attempts >= 3, "{:?}", all[1]);
    // The retry records the same reason, change and rule.
    let of = |n: usize| {
        let line: &Removal = &all[n];
        let words = [&line.reason, &line.change, &line.rule];
        (words.map(String::as_str), line.entity.as_deref())
    };
    let told = ["SIDEBAR_REFRESH", "task_completed", "stats"];
    assert_eq!(of(0), (told, Some("build")));
    assert_eq!(of(1), of(0));
}

async fn failed_tag_is_retried_alone(backend: DatabaseBackend) {
    let engine = Engine::with(backend, RULES).await;
    engine.begin_epoch().await;
    let tag = Tag::from_text("run:7").expect("a tag");
    let members = tag.members_key(tag.shard(1));
    // A member list of the wrong type.
    engine.put(&[&members, "good", "bad", "stats:7"]).await;
    let done = json!({ "change": "task_completed", "task": "build", "run_id": "7" });
    engine.report(done).await;
    engine.drain().await;
    assert_eq!(engine.left(&["good", "bad", "stats:7"]).await, [""; 0]);
    assert_eq!(engine.waiting().await, ["\trun:7"]);
    assert_eq!(
        engine.redis.command(&["DEL", &members]).await,
        RespReply::Int(1)
    );
    engine.make_all_due().await;
    engine.drain().await;
    assert_eq!(engine.waiting().await, [""; 0]);
    let log = engine.log().await;
    let last = ["tag run:7".to_owned()];
    assert_eq!((log.len(), &log[1].keys[..]), (2, &last[..]));
}

async fn unreachable_cache_postpones_all_targets(backend: DatabaseBackend) {
    let engine = Engine::with(backend, RULES).await;
    engine.redis.kill().await;
    engine
        .report(json!({ "change": "task_completed", "task": "build", "run_id": "7" }))
        .await;
    let hasty = open(CacheSettings {
        redis_url: Some(engine.redis.url().into()),
        ..CacheSettings::default()
    });
    let cache: Arc<Cache> = Arc::new(hasty.await);
    let relay = Relay::without_observers(
        engine.home.store.clone(),
        cache,
        engine.relay.rules.clone(),
        "ann".into(),
    );
    let tried = relay.step().await.expect("the database answers");
    assert!(
        matches!(tried, RelayOutcome::Failed { rows: 1, .. }),
        "{tried:?}"
    );
    assert_eq!(engine.waiting().await, ["NULL"], "the row stays as it was");
    assert_eq!(engine.log().await, []);
    engine.redis.restart().await;
    engine.cache().connected().await;
    engine.put(&["good", "bad"]).await;
    // The connection may take a moment to come back.
    eventually("the removal", async || {
        engine.make_all_due().await;
        engine.relay.step().await.expect("the database answers");
        let outbox = engine.home.outbox().await;
        outbox.is_empty().then_some(()).ok_or(outbox)
    })
    .await;
    assert_eq!(engine.left(&["good", "bad"]).await, [""; 0]);
}
