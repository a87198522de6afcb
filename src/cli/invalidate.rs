//! `invalidate`: an operator removes cached answers. The request goes through the outbox like the removals of
//! changes: it is durable, retried until the cache confirms it, and logged.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::output::{answer, err};
use super::rules::parse_change;
use super::{DEPENDENCY_DOWN, is_led, open_existing, wait_for_daemon};
use crate::config::{InvalidSetting, Settings};
use crate::relay::Relay;
use oddsd_cache::Cache;
use oddsd_core::key::{self, Key, Tag};
use oddsd_core::model::{ChangeKind, EventId, EventStatus, sanitize_text};
use oddsd_core::rules::{RuleChange, RuleTarget, Rules};
use oddsd_store::EventContext;

/// The limit of each wait: for the cache's connection, for the relay of this process, and for a running daemon, which
/// polls the outbox every second.
const PATIENCE: Duration = Duration::from_secs(5);

const GLOB: [char; 3] = ['*', '?', '['];

#[derive(Debug, clap::Args)]
pub struct InvalidateArgs {
    /// Cache keys to remove, e.g. races:by-stage:v1; one that ends with :* is a pattern. Other * ? [ are refused: to
    /// find keys by their beginning use --scan.
    keys: Vec<String>,
    /// Remove everything that a change of this event would remove, by the rules.
    #[arg(long)]
    event: Vec<String>,
    /// Remove everything with this tag.
    #[arg(long)]
    tag: Vec<String>,
    /// Remove sidebars: "all", a sport, or sport:league.
    #[arg(long)]
    sidebar: Vec<String>,
    /// Remove everything that this change would remove, as shown by `oddsd rules explain`.
    #[arg(long)]
    change: Vec<String>,
    /// Scan the whole cache for keys with this beginning. It reads every key, so use it only if nothing else
    /// finds them.
    #[arg(long, value_name = "BEGINNING")]
    scan: Option<String>,
    /// Maximum number of keys that a scan may find.
    #[arg(long, default_value = "10000", requires = "scan")]
    scan_most: usize,
    /// Print the keys without removing them.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl InvalidateArgs {
    fn names_only_sidebars(&self) -> bool {
        let others = [&self.keys, &self.event, &self.tag, &self.change];
        !self.sidebar.is_empty() && self.scan.is_none() && others.iter().all(|list| list.is_empty())
    }

    fn names_nothing(&self) -> bool {
        let lists = [
            &self.keys,
            &self.event,
            &self.tag,
            &self.sidebar,
            &self.change,
        ];
        self.scan.is_none() && lists.iter().all(|list| list.is_empty())
    }
}

pub async fn invalidate(settings: &Settings, args: &InvalidateArgs) -> anyhow::Result<ExitCode> {
    if args.names_nothing() {
        bail!(InvalidSetting(
            "name at least one key, --event, --tag, --sidebar, --change or --scan; e.g. oddsd invalidate races:by-stage:v1".into()
        ));
    }
    let (rules, _) = settings.rules(None)?;
    let events = event_changes(settings, &args.event).await;
    let mut targets = named_targets(args, &rules.current(), &events)?;
    let cache = Cache::open(&settings.cache())
        .await
        .map_err(|why| InvalidSetting(format!("{why:#}")))?;
    if let Some(beginning) = &args.scan {
        targets.extend(scan(&cache, beginning, args.scan_most).await?);
    }
    let names: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let mut object = json!({ "dry_run": args.dry_run, "keys": names });
    if targets.is_empty() {
        answer(args.json, &object, "nothing to remove");
        return Ok(ExitCode::SUCCESS);
    }
    let names = names.join(", ");
    if args.dry_run {
        answer(args.json, &object, &format!("would remove {names}"));
        return Ok(ExitCode::SUCCESS);
    }
    let keys = targets.iter().filter_map(RuleTarget::key);
    let keys: Vec<Key> = keys.cloned().collect();
    let tags = targets.iter().filter_map(RuleTarget::tag);
    let tags: Vec<Tag> = tags.cloned().collect();
    let reason = r#"{"reason":"SIDEBAR_REFRESH"}"#;
    let detail = args.names_only_sidebars().then_some(reason);
    let store = open_existing(settings).await?;
    store.check_schema().await?;
    cache.set_database(&store.identity().await?);
    let row = store.request_removal(&keys, &tags, detail).await?;
    let led = is_led(&store).await?;
    // Without a cache that other processes see, this process cannot remove anything for readers. The rows
    // stay for a daemon that knows the cache.
    let has_shared_cache = !matches!(cache, Cache::InProcess(_) | Cache::Off);
    if !led && has_shared_cache {
        let _ = tokio::time::timeout(PATIENCE, cache.connected()).await;
        // This process ends before a second removal would be due, so it makes none.
        let relay =
            Relay::without_observers(store.clone(), Arc::new(cache), rules, settings.instance());
        relay.drain(PATIENCE).await?;
    }
    let patience = if led { PATIENCE } else { Duration::ZERO };
    let pending = wait_for_daemon(patience, async || store.is_pending(row).await).await?;
    store.close().await;
    let text = match pending {
        false => format!("removed {names}"),
        true if !led && !has_shared_cache => format!(
            "not removed yet: {names}; no daemon is running and no cache is set here. The removal is in the outbox for the \
             next `oddsd run`, or set REDIS_URL or UPSTASH_REDIS_REST_URL as the daemon has them and try again"
        ),
        true => format!(
            "not confirmed yet: {names}; the removal is in the outbox and is retried until the cache confirms it (see \
             `oddsd status`)"
        ),
    };
    object["confirmed"] = json!(!pending);
    answer(args.json, &object, &text);
    Ok(ExitCode::from(if pending { DEPENDENCY_DOWN } else { 0 }))
}

async fn scan(cache: &Cache, beginning: &str, limit: usize) -> anyhow::Result<Vec<RuleTarget>> {
    let _ = tokio::time::timeout(PATIENCE, cache.connected()).await;
    let found = cache.scan_unmanaged(beginning, limit).await?;
    if found.is_truncated {
        err!(
            "there are more than {} keys that begin with {beginning:?}: run it again",
            found.keys.len()
        );
    }
    Ok(found.keys.into_iter().map(RuleTarget::Key).collect())
}

/// The targets that the arguments name, without those of a scan.
fn named_targets(
    args: &InvalidateArgs,
    rules: &Rules,
    events: &[RuleChange],
) -> anyhow::Result<BTreeSet<RuleTarget>> {
    let mut targets = BTreeSet::new();
    for text in &args.keys {
        let target = match text.strip_suffix('*') {
            Some(begin) if begin.ends_with(':') && !begin.contains(GLOB) => {
                Tag::prefix_tag(begin).map(RuleTarget::Tag)
            }
            _ if text.contains(GLOB) => bail!(InvalidSetting(refuse_glob(text))),
            _ => Key::from_user_input(text).map(RuleTarget::Key),
        };
        targets.insert(target.ok_or_else(|| invalid_target(text, "cache key"))?);
    }
    for text in &args.tag {
        let tag = Tag::from_text(text.trim()).ok_or_else(|| invalid_target(text, "tag"))?;
        targets.insert(RuleTarget::Tag(tag));
    }
    for text in &args.sidebar {
        let prefix = match text.split_once(':') {
            _ if text == "all" => String::new(),
            None => format!("{}:", key::escape(text)),
            Some((sport, league)) => format!("{}:{}:", key::escape(sport), key::escape(league)),
        };
        let tag = Tag::prefix_tag(&format!("sidebar:{prefix}"));
        let tag = tag.ok_or_else(|| invalid_target(text, "sidebar"))?;
        targets.insert(RuleTarget::Tag(tag));
    }
    let changes = args.change.iter().map(|text| parse_change(text));
    let changes: Vec<RuleChange> = changes.collect::<anyhow::Result<_>>()?;
    for change in changes.iter().chain(events) {
        let matches = rules.match_change(change, None).into_iter();
        let planned = matches.flat_map(|matched| matched.targets);
        let planned = planned.filter(|planned| change.moved_enough_for(planned));
        targets.extend(planned.map(|planned| planned.target));
    }
    Ok(targets)
}

/// A change of any kind for each event. The stored event narrows the rules that match; without it or without a
/// database the change has every status.
async fn event_changes(settings: &Settings, events: &[String]) -> Vec<RuleChange> {
    let kinds = ChangeKind::ALL.into_iter();
    let kinds: BTreeSet<_> = kinds.filter(|kind| *kind != ChangeKind::Manual).collect();
    let store = match events.is_empty() {
        true => None,
        false => open_existing(settings).await.ok(),
    };
    let mut changes = Vec::new();
    for id in events.iter().map(EventId::new) {
        let mut change = RuleChange::for_event(kinds.clone(), &id);
        // An id with control characters cannot exist, and Postgres rejects NUL.
        let possible = !id.as_str().chars().any(char::is_control);
        if let Some(store) = store.as_ref().filter(|_| possible)
            && let Ok(found) = store.event_prices(&id).await
            && let Some(found) = found.value
        {
            EventContext::from_event(&found.event).add_to(&mut change);
        } else {
            for status in EventStatus::ALL {
                change.fields.add("current_status", status.as_str());
            }
        }
        changes.push(change);
    }
    changes
}

/// A glob would be taken for the name of one key, which no cache has: nothing would be removed.
fn refuse_glob(text: &str) -> String {
    let shown = sanitize_text(text, 80);
    let begin = shown.split(GLOB).next().unwrap_or_default();
    match begin {
        "" => format!(
            "{shown:?} is no key: * ? [ are not expanded here. Name the keys, or use --event, --tag or --sidebar; all answers of the \
             sidebar are --sidebar all"
        ),
        begin => format!(
            "{shown:?} is no key: * ? [ are not expanded here. The keys that begin with {begin:?} are --scan {begin:?} (it reads \
             every key of the cache); a pattern of the rules ends with :*"
        ),
    }
}

fn invalid_target(text: &str, kind: &str) -> InvalidSetting {
    InvalidSetting(format!(
        "{:?} is not a valid {kind}: it is empty, too long, or holds control characters",
        sanitize_text(text, 80)
    ))
}
