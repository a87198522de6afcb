//! `tail` and `status`: what the daemon did and does, through the database. A worker without an open
//! port is as observable as any other.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::fresh::print_freshness;
use super::say::{heard, remark, say};
use super::{duration, open_existing, stop_on_signals};
use crate::config::Settings;
use crate::model::plain_text;
use crate::store::{CycleRow, Removal, RemovalStats, Store, StoreError, StoreStatus, Wanted};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const AT_ONCE: i64 = 500;

#[derive(Debug, clap::Args)]
pub struct TailArgs {
    /// Only removals of this rule, e.g. live-odds or manual.
    #[arg(long)]
    rule: Option<String>,
    /// Only removals that touched this event.
    #[arg(long)]
    event: Option<String>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// How many past cycles and removals to look through first.
    #[arg(long, default_value = "10")]
    last: u32,
    /// End by itself after this long, e.g. 30s.
    #[arg(long = "for", value_parser = duration)]
    tail_for: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One line of the tail, in the order of time.
enum Entry {
    Cycle(CycleRow),
    Removal(Removal),
}

impl Entry {
    fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Cycle(cycle) => cycle.committed_at,
            Self::Removal(removal) => removal.at,
        }
    }
}

pub async fn tail(settings: &Settings, args: &TailArgs) -> anyhow::Result<ExitCode> {
    let store = open_existing(settings).await?;
    store.check_schema().await?;
    let stop = stop_on_signals(args.tail_for)?;
    let narrow = args.rule.is_some() || args.event.is_some();
    let wanted = |removal: &Removal| {
        let has_rule = |rule: &String| removal.rule.split(',').any(|one| one == rule);
        args.rule.as_ref().is_none_or(has_rule)
            && (args.event.is_none() || removal.entity == args.event)
    };
    // One of the past is read in any case: it says where the present begins.
    let (mut cycle, mut removal, mut limit) = (-1, -1, i64::from(args.last).max(1));
    let mut silent = args.last == 0;
    loop {
        match entries(&store, cycle, removal, limit).await {
            Ok(entries) => {
                for entry in entries {
                    let line = match &entry {
                        Entry::Cycle(row) => {
                            cycle = cycle.max(row.id);
                            (!narrow).then(|| cycle_line(row, args.json))
                        }
                        Entry::Removal(row) => {
                            removal = removal.max(row.id);
                            wanted(row).then(|| removal_line(row, args.json))
                        }
                    };
                    let heard = line.filter(|_| !silent).is_none_or(heard);
                    if !heard {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                (cycle, removal, limit) = (cycle.max(0), removal.max(0), AT_ONCE);
                silent = false;
            }
            // Whoever watches wants to know, and to go on watching.
            Err(StoreError::Down(why)) => {
                remark!("oddsd: the database does not answer ({why}); still trying")
            }
            Err(why) => return Err(why.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
        }
    }
}

async fn entries(
    store: &Store,
    cycle: i64,
    removal: i64,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    let cycles = store
        .cycles(cycle, limit)
        .await?
        .into_iter()
        .map(Entry::Cycle);
    let removals = store
        .removals(&Wanted {
            after: (removal >= 0).then_some(removal),
            limit,
            ..Wanted::default()
        })
        .await?
        .into_iter()
        .map(Entry::Removal);
    let mut entries: Vec<Entry> = cycles.chain(removals).collect();
    entries.sort_by_key(Entry::at);
    Ok(entries)
}

fn cycle_line(row: &CycleRow, as_json: bool) -> String {
    if as_json {
        return json!({ "type": "cycle", "cycle": row }).to_string();
    }
    let counts = &row.counts;
    format!(
        "{}  cycle {:<6} {} inserted, {} updated, {} withdrawn, {} skipped | {} races | {} horses | {} bookmakers | {} rejected",
        row.committed_at.format("%H:%M:%S"),
        row.id,
        counts.inserted,
        counts.changed + counts.reopened,
        counts.withdrawn,
        counts.unchanged + counts.stale + counts.no_price,
        row.races,
        row.horses,
        row.bookmakers,
        counts.rejected
    )
}

fn removal_line(row: &Removal, as_json: bool) -> String {
    if as_json {
        return json!({ "type": "removal", "removal": row }).to_string();
    }
    const SHOWN: usize = 3;
    let mut keys = row
        .keys
        .iter()
        // Sorted as they are, the card's own key comes last.
        .rev()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    if row.keys.len() > SHOWN {
        keys.push_str(&format!(" and {} more", row.keys.len() - SHOWN));
    }
    format!(
        "{}  removed      {keys} ({}, rule {}, {}, attempt {}, {} ms)",
        row.at.format("%H:%M:%S"),
        row.reason,
        row.rule,
        row.backend,
        row.attempts,
        row.took_ms
    )
}

pub async fn status(settings: &Settings, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let store = open_existing(settings).await?;
    store.check_schema().await?;
    let (status, stats) = (store.status().await?, store.removal_stats().await?);
    store.close().await;
    if args.json {
        let mut whole = serde_json::to_value(&status)?;
        whole["removals"] = json!(stats);
        say!("{}", serde_json::to_string_pretty(&whole)?);
    } else {
        print_status(&status, &stats, Utc::now());
    }
    Ok(ExitCode::SUCCESS)
}

fn print_status(status: &StoreStatus, stats: &RemovalStats, now: DateTime<Utc>) {
    let text = |name: &str| {
        status
            .state
            .get(name)
            .and_then(|value| value.as_str())
            .unwrap_or("?")
            .to_owned()
    };
    let count = |name: &str| {
        status
            .state
            .pointer(&format!("/counters/{name}"))
            .and_then(|n| n.as_u64())
            .unwrap_or(0)
    };
    match (&status.holder, status.lease_expires_at) {
        (Some(holder), Some(until)) if until > now => {
            say!(
                "daemon    {holder} leads (oddsd {}, since {})",
                text("version"),
                text("started_at")
            );
        }
        (Some(holder), _) => {
            say!("daemon    none; {holder} was the last (start one with `oddsd run`)")
        }
        (None, _) => say!("daemon    none has worked here yet (start one with `oddsd run`)"),
    }
    say!(
        "cycles    {} ({} of them quiet), {} fetches and {} commits failed",
        count("cycles"),
        count("quiet_cycles"),
        count("fetch_failures"),
        count("store_failures")
    );
    match &status.last_cycle {
        Some(row) => say!(
            "changed   cycle {} at {}: {} inserted, {} updated, {} withdrawn",
            row.id,
            row.committed_at.format("%F %T UTC"),
            row.counts.inserted,
            row.counts.changed + row.counts.reopened,
            row.counts.withdrawn
        ),
        None => say!("changed   nothing yet"),
    }
    say!(
        "stored    {} open prices of {} listed events",
        status.open_prices,
        status.events
    );
    say!(
        "outbox    {} pending, the oldest for {:.0} s{}",
        status.outbox_pending,
        status.outbox_oldest_seconds,
        status
            .outbox_last_error
            .as_ref()
            .map(|error| format!("; last error: {}", plain_text(error, 200)))
            .unwrap_or_default()
    );
    print_rules(&status.state["rules"], stats);
    print_freshness(&status.state["audit"]);
}

/// What the daemon said of its rules, and what was removed by them since the tables were made.
fn print_rules(rules: &serde_json::Value, stats: &RemovalStats) {
    let reasons = stats
        .by_reason
        .iter()
        .map(|(reason, many)| format!("{many} {reason}"));
    let reasons = reasons.collect::<Vec<_>>().join(", ");
    say!(
        "removals  {} in all, {} keys, {} in the last minute{}",
        stats.total_invalidations,
        stats.keys_deleted,
        stats.per_minute,
        if reasons.is_empty() {
            String::new()
        } else {
            format!(" ({reasons})")
        }
    );
    let text = |name: &str| rules[name].as_str().map(|text| plain_text(text, 600));
    let Some(version) = text("version") else {
        return;
    };
    match text("file") {
        Some(file) => say!("rules     {} of {file}, version {version}", rules["rules"]),
        None => say!("rules     the built-in ones"),
    }
    if let Some(error) = text("error") {
        say!("          its file is not valid now, the last good rules stay in force: {error}");
    }
}
