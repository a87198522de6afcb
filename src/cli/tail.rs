//! `tail` and `status`: show the daemon's cycles, removals and state. They read the database, so that a worker
//! without an open port is observable too.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::freshness::print_freshness;
use super::output::{err, out, write_line};
use super::{duration, open_existing, stop_on_signals};
use crate::config::Settings;
use oddsd_core::model::sanitize_text;
use oddsd_store::{CycleRow, LogFilter, Removal, RemovalStats, Store, StoreError, StoreStatus};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of rows of each kind in one poll.
const PAGE: i64 = 500;

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
    /// Number of past cycles and of past removals to show first.
    #[arg(long, default_value = "10")]
    last: u32,
    /// Stop after this time, e.g. 30s.
    #[arg(long = "for", value_parser = duration)]
    tail_for: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A line of the tail.
enum TailEntry {
    Cycle(CycleRow),
    Removal(Removal),
}

impl TailEntry {
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
    let is_filtered = args.rule.is_some() || args.event.is_some();
    let matches = |removal: &Removal| {
        let has_rule = |rule: &String| removal.rule.split(',').any(|name| name == rule);
        args.rule.as_ref().is_none_or(has_rule)
            && (args.event.is_none() || removal.entity == args.event)
    };
    // At least one past row is read, because its id is where the new ones begin.
    let (mut cycle, mut removal, mut limit) = (-1, -1, i64::from(args.last).max(1));
    let mut skip_past = args.last == 0;
    loop {
        match entries(&store, cycle, removal, limit).await {
            Ok(entries) => {
                for entry in entries {
                    let line = match &entry {
                        TailEntry::Cycle(row) => {
                            cycle = cycle.max(row.id);
                            (!is_filtered).then(|| cycle_line(row, args.json))
                        }
                        TailEntry::Removal(row) => {
                            removal = removal.max(row.id);
                            matches(row).then(|| removal_line(row, args.json))
                        }
                    };
                    let is_read = line.filter(|_| !skip_past).is_none_or(write_line);
                    if !is_read {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                (cycle, removal, limit) = (cycle.max(0), removal.max(0), PAGE);
                skip_past = false;
            }
            // The operator should know, and the tail continues when the database is back.
            Err(StoreError::Down(why)) => {
                err!("oddsd: the database does not answer ({why}); still trying")
            }
            Err(why) => return Err(why.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
        }
    }
}

async fn entries(
    store: &Store,
    cycle: i64,
    removal: i64,
    limit: i64,
) -> Result<Vec<TailEntry>, StoreError> {
    let cycles = store
        .cycles(cycle, limit)
        .await?
        .into_iter()
        .map(TailEntry::Cycle);
    let removals = store
        .removals(&LogFilter {
            after: (removal >= 0).then_some(removal),
            limit,
            ..LogFilter::default()
        })
        .await?
        .into_iter()
        .map(TailEntry::Removal);
    let mut entries: Vec<TailEntry> = cycles.chain(removals).collect();
    entries.sort_by_key(TailEntry::at);
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
        // They are sorted, and the racecard's key, which matters most, is the last.
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
        let mut object = serde_json::to_value(&status)?;
        object["removals"] = json!(stats);
        out!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        print_status(&status, &stats, Utc::now());
    }
    Ok(ExitCode::SUCCESS)
}

fn print_status(status: &StoreStatus, stats: &RemovalStats, now: DateTime<Utc>) {
    let state = &status.state;
    let text = |name: &str| state[name].as_str().unwrap_or("?");
    let count = |name: &str| state["counters"][name].as_u64().unwrap_or(0);
    match (&status.holder, status.lease_expires_at) {
        (Some(holder), Some(until)) if until > now => {
            out!(
                "daemon    {holder} leads (oddsd {}, since {})",
                text("version"),
                text("started_at")
            );
        }
        (Some(holder), _) => {
            out!("daemon    none; the last was {holder} (start one with `oddsd run`)")
        }
        (None, _) => out!("daemon    none yet (start one with `oddsd run`)"),
    }
    out!(
        "cycles    {} ({} without changes), {} fetches and {} commits failed",
        count("cycles"),
        count("quiet_cycles"),
        count("fetch_failures"),
        count("store_failures")
    );
    match &status.last_cycle {
        Some(row) => out!(
            "changed   cycle {} at {}: {} inserted, {} updated, {} withdrawn",
            row.id,
            row.committed_at.format("%F %T UTC"),
            row.counts.inserted,
            row.counts.changed + row.counts.reopened,
            row.counts.withdrawn
        ),
        None => out!("changed   nothing yet"),
    }
    out!(
        "stored    {} open prices of {} listed events",
        status.open_prices,
        status.events
    );
    let (pending, age) = (status.outbox_pending, status.outbox_oldest_seconds);
    let error = status.outbox_last_error.as_ref();
    let error = error.map_or(String::new(), |error| {
        format!("; last error: {}", sanitize_text(error, 200))
    });
    out!("outbox    {pending} pending, the oldest for {age:.0} s{error}");
    print_rules(&state["rules"], stats);
    print_freshness(&state["audit"]);
}

/// Prints the totals of removals and the rules that the daemon reported last.
fn print_rules(rules: &serde_json::Value, stats: &RemovalStats) {
    let reasons = stats.by_reason.iter();
    let reasons: Vec<String> = reasons
        .map(|(reason, many)| format!("{many} {reason}"))
        .collect();
    let reasons = match reasons.as_slice() {
        [] => String::new(),
        reasons => format!(" ({})", reasons.join(", ")),
    };
    out!(
        "removals  {} in all, {} keys, {} in the last minute{reasons}",
        stats.total_invalidations,
        stats.keys_deleted,
        stats.per_minute
    );
    let text = |name: &str| rules[name].as_str().map(|text| sanitize_text(text, 600));
    let Some(version) = text("version") else {
        return;
    };
    match text("file") {
        Some(file) => out!("rules     {} of {file}, version {version}", rules["rules"]),
        None => out!("rules     the built-in ones"),
    }
    if let Some(error) = text("error") {
        out!(
            "          the rules file is invalid now, so the last valid rules stay in force: {error}"
        );
    }
}
