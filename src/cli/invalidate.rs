//! `invalidate`: a removal by hand, through the outbox like any other: durable before it is tried,
//! retried until it is confirmed, and in the same log and history.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use super::rules::parse_change;
use super::say::{remark, say};
use super::{DEPENDENCY_DOWN, open_existing};
use crate::cache::Cache;
use crate::config::{BadSetting, Settings};
use crate::key::{self, Key, Tag};
use crate::model::{ChangeKind, EventId, EventStatus};
use crate::relay::Relay;
use crate::rules::{Change, Rules, Target};
use crate::store::Place;

/// A running daemon looks every second; this gives it a few.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct InvalidateArgs {
    /// Cache keys to remove, e.g. races:by-stage:v1; one that ends with :* is a pattern.
    keys: Vec<String>,
    /// Everything that a change of this event would remove, by the rules.
    #[arg(long)]
    event: Vec<String>,
    /// Everything under this tag.
    #[arg(long)]
    tag: Vec<String>,
    /// Side bars: "all", a sport, or sport:league.
    #[arg(long)]
    sidebar: Vec<String>,
    /// Everything that this change would remove, as for `oddsd rules explain`.
    #[arg(long)]
    change: Vec<String>,
    /// Look through the whole cache for keys that begin like this. It reads every name there is: only
    /// where nothing else finds them.
    #[arg(long, value_name = "BEGINNING")]
    scan: Option<String>,
    /// Most keys that a scan may find.
    #[arg(long, default_value = "10000", requires = "scan")]
    scan_most: usize,
    /// Say which keys, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub async fn invalidate(settings: &Settings, args: &InvalidateArgs) -> anyhow::Result<ExitCode> {
    let (rules, _) = settings.rules()?;
    let events = places(settings, &args.event).await;
    let mut targets = named(args, &rules.now(), &events)?;
    let cache = Cache::open(&settings.cache())
        .await
        .map_err(|why| BadSetting(format!("{why:#}")))?;
    if let Some(begin) = &args.scan {
        let _ = tokio::time::timeout(PATIENCE, cache.connected()).await;
        let found = cache.scan(begin, args.scan_most).await?;
        if found.is_cut_off {
            remark!(
                "there are more than {} keys that begin with {begin:?}: run it again",
                found.keys.len()
            );
        }
        targets.extend(found.keys.into_iter().map(Target::Key));
    }
    if targets.is_empty() {
        if args.scan.is_some() {
            answer(
                args.json,
                &json!({ "dry_run": args.dry_run, "keys": [] }),
                "nothing to remove",
            );
            return Ok(ExitCode::SUCCESS);
        }
        bail!(BadSetting(
            "name at least one key, --event, --tag, --sidebar, --change or --scan; e.g. oddsd invalidate races:by-stage:v1".into()
        ));
    }
    let names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    if args.dry_run {
        answer(
            args.json,
            &json!({ "dry_run": true, "keys": names }),
            &format!("would remove {}", names.join(", ")),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let keys: Vec<Key> = targets.iter().filter_map(Target::key).cloned().collect();
    let tags: Vec<Tag> = targets.iter().filter_map(Target::tag).cloned().collect();
    let only_sidebars = !args.sidebar.is_empty()
        && args.keys.is_empty()
        && args.event.is_empty()
        && args.tag.is_empty()
        && args.change.is_empty()
        && args.scan.is_none();
    let detail = only_sidebars.then_some(r#"{"reason":"SIDEBAR_REFRESH"}"#);
    let store = open_existing(settings).await?;
    store.check_schema().await?;
    let row = store.request_removal(&keys, &tags, detail).await?;
    let led = store
        .status()
        .await?
        .lease_expires_at
        .is_some_and(|until| until > chrono::Utc::now());
    // What this process caches is nobody's answer: with no other cache known here, the rows, and
    // all that wait with them, are for the daemon.
    let reached = !matches!(cache, Cache::Memory(_) | Cache::Off);
    if !led && reached {
        // No daemon works on this database: remove it from here.
        let _ = tokio::time::timeout(PATIENCE, cache.connected()).await;
        // Alone: nobody would be there to remove again in time.
        let relay = Relay::alone(store.clone(), Arc::new(cache), rules, settings.instance());
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

/// What the words of the command name.
fn named(
    args: &InvalidateArgs,
    rules: &Rules,
    events: &[Change],
) -> anyhow::Result<BTreeSet<Target>> {
    let mut targets = BTreeSet::new();
    for text in &args.keys {
        let target = match text.strip_suffix('*') {
            Some(begin) if begin.ends_with(':') => Tag::family(begin).map(Target::Tag),
            _ => Key::from_person(text).map(Target::Key),
        };
        targets.insert(target.ok_or_else(|| no_target(text, "cache key"))?);
    }
    for text in &args.tag {
        let tag = Tag::new(text.trim()).ok_or_else(|| no_target(text, "tag"))?;
        targets.insert(Target::Tag(tag));
    }
    for text in &args.sidebar {
        let part = |text: &str| Tag::family(&format!("sidebar:{text}"));
        let tag = match text.split_once(':') {
            _ if text == "all" => part(""),
            None => part(&format!("{}:", key::escape(text))),
            Some((sport, league)) => {
                part(&format!("{}:{}:", key::escape(sport), key::escape(league)))
            }
        };
        targets.insert(Target::Tag(tag.ok_or_else(|| no_target(text, "side bar"))?));
    }
    let mut changes = Vec::new();
    for text in &args.change {
        changes.push(parse_change(text)?);
    }
    for change in changes.iter().chain(events) {
        for hit in rules.decide(change, None) {
            let aims = hit.aims.into_iter().filter(|aim| change.holds(aim));
            targets.extend(aims.map(|aim| aim.target));
        }
    }
    Ok(targets)
}

/// All that can happen to these events. Where one stands narrows it; of one that is not stored it is left
/// open, and so it is without a database.
async fn places(settings: &Settings, events: &[String]) -> Vec<Change> {
    let kinds = ChangeKind::ALL.into_iter();
    let kinds: BTreeSet<_> = kinds.filter(|kind| *kind != ChangeKind::Manual).collect();
    let store = match events.is_empty() {
        true => None,
        false => open_existing(settings).await.ok(),
    };
    let mut changes = Vec::new();
    for id in events.iter().map(EventId::new) {
        let mut change = Change::of_event(kinds.clone(), &id);
        // No feed's id has one, and no database takes a NUL.
        let known = !id.as_str().chars().any(char::is_control);
        if let Some(store) = store.as_ref().filter(|_| known)
            && let Ok(found) = store.event_prices(&id).await
            && let Some(found) = found.value
        {
            Place::of(&found.event).tell(&mut change);
        } else {
            // In any, then; but of this event alone.
            for status in EventStatus::ALL {
                change.fields.add("current_status", status.as_str());
            }
        }
        changes.push(change);
    }
    changes
}

fn no_target(text: &str, what: &str) -> BadSetting {
    BadSetting(format!(
        "{:?} is no {what}: it is empty, too long, or holds control characters",
        crate::model::plain_text(text, 80)
    ))
}

fn answer(as_json: bool, object: &serde_json::Value, text: &str) {
    if as_json {
        say!("{object}");
    } else {
        say!("{text}");
    };
}
