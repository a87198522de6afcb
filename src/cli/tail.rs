//! `tail`: follows the daemon's cycles and removals. It reads the database, so that a worker without an open port is
//! observable too.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::output::{err, write_line};
use super::{duration, open_existing, stop_on_signals};
use crate::config::Settings;
use oddsd_store::{CycleRow, LogFilter, Removal, Store, StoreError};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of rows of each kind in one poll.
/// The limit of the end after a signal: a line may wait for a reader that takes nothing.
const STOP_LIMIT: Duration = Duration::from_secs(1);
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
    let stop = stop_on_signals(args.tail_for, STOP_LIMIT)?;
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
    let wanted = LogFilter {
        after: (removal >= 0).then_some(removal),
        limit,
        ..LogFilter::default()
    };
    let cycles = store.cycles(cycle, limit).await?.into_iter();
    let removals = store.removals(&wanted).await?.into_iter();
    let mut entries: Vec<TailEntry> = cycles.map(TailEntry::Cycle).collect();
    entries.extend(removals.map(TailEntry::Removal));
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
    // They are sorted, and the racecard's key, which matters most, is the last.
    let shown = row.keys.iter().rev().take(SHOWN).map(String::as_str);
    let mut keys = shown.collect::<Vec<_>>().join(" ");
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
