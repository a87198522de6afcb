//! `invalidate`: a removal by hand, through the outbox like any other: durable before it is tried,
//! retried until it is confirmed, and in the same log and history.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use super::say::say;
use super::{DEPENDENCY_DOWN, open_existing};
use crate::cache::{Cache, Reader};
use crate::config::{BadSetting, Settings};
use crate::invalidate::Relay;
use crate::key::Key;
use crate::live::Live;
use crate::model::EventId;
use crate::rules;

/// A running daemon looks every second; this gives it a few.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct InvalidateArgs {
    /// Cache keys to remove, e.g. races:by-stage:v1.
    keys: Vec<String>,
    /// Everything that a change of this event would remove.
    #[arg(long)]
    event: Vec<String>,
    /// Say which keys, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub async fn invalidate(settings: &Settings, args: &InvalidateArgs) -> anyhow::Result<ExitCode> {
    let mut keys = BTreeSet::new();
    for text in &args.keys {
        match Key::from_person(text) {
            Some(key) => keys.insert(key),
            None => bail!(BadSetting(format!(
                "{:?} is no cache key: it is empty, too long, or holds control characters",
                crate::model::plain_text(text, 80)
            ))),
        };
    }
    for event in &args.event {
        keys.extend(rules::targets(&EventId::new(event)));
    }
    if keys.is_empty() {
        bail!(BadSetting(
            "name at least one key or --event; e.g. oddsd invalidate races:by-stage:v1".into()
        ));
    }
    let keys: Vec<Key> = keys.into_iter().collect();
    let names: Vec<&str> = keys.iter().map(Key::as_str).collect();
    if args.dry_run {
        answer(
            args.json,
            &json!({ "dry_run": true, "keys": names }),
            &format!("would remove {}", names.join(", ")),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let store = open_existing(settings).await?;
    store.check_schema().await?;
    let row = store.request_removal(&keys).await?;
    let led = store
        .status()
        .await?
        .lease_expires_at
        .is_some_and(|until| until > chrono::Utc::now());
    let cache = Cache::open(&settings.cache())
        .await
        .map_err(|why| BadSetting(format!("{why:#}")))?;
    // What this process caches is nobody's answer: with no other cache known here, the rows, and
    // all that wait with them, are for the daemon.
    let reached = !matches!(cache, Cache::Memory(_) | Cache::Off);
    if !led && reached {
        // No daemon works on this database: remove it from here.
        let _ = tokio::time::timeout(PATIENCE, cache.connected()).await;
        let relay = Relay {
            store: store.clone(),
            reader: Reader::new(Arc::new(cache)),
            live: Live::new(),
            who: settings.instance(),
            poke: Arc::default(),
            no_floor: Arc::default(),
            back: Arc::default(),
            auditor: None,
            // Nobody would be there to do it in time.
            again_after: Duration::ZERO,
        };
        relay.drain(PATIENCE).await?;
    }
    let asked = Instant::now();
    let mut pending = store.is_pending(row).await?;
    while pending && led && asked.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK_EVERY).await;
        pending = store.is_pending(row).await?;
    }
    store.close().await;
    let text = if pending && !led && !reached {
        format!(
            "not removed yet: {}; no daemon is running and no cache is set here. It is in the outbox for the next \
             `oddsd run`, or set REDIS_URL or UPSTASH_REDIS_REST_URL as the daemon has them and try again",
            names.join(", ")
        )
    } else if pending {
        format!(
            "not confirmed yet: {}; it is in the outbox and is retried until the cache confirms (see `oddsd status`)",
            names.join(", ")
        )
    } else {
        format!("removed {}", names.join(", "))
    };
    answer(
        args.json,
        &json!({ "dry_run": false, "keys": names, "confirmed": !pending }),
        &text,
    );
    Ok(if pending {
        ExitCode::from(DEPENDENCY_DOWN)
    } else {
        ExitCode::SUCCESS
    })
}

fn answer(as_json: bool, object: &serde_json::Value, text: &str) {
    if as_json {
        say!("{object}");
    } else {
        say!("{text}");
    };
}
