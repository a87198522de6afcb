//! `tail` and `status`: what the daemon did and does, through the database. A worker without an open
//! port is as observable as any other.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::{duration, stop_on_signals};
use crate::config::Settings;
use crate::key::Key;
use crate::model::EventId;
use crate::store::{CycleRow, Removal, Store, StoreError, StoreStatus};

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
    /// How many of the past to begin with.
    #[arg(long, default_value = "10")]
    last: u32,
    /// End by itself after this long, e.g. 30s.
    #[arg(long = "for", value_parser = duration)]
    tail_for: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
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
    let store = Store::open(&settings.store()).await?;
    store.check_schema().await?;
    let stop = stop_on_signals(args.tail_for)?;
    let narrow = args.rule.is_some() || args.event.is_some();
    let of_event = args
        .event
        .as_ref()
        .map(|event| Key::event_prices(&EventId::new(event)).to_string());
    let wanted = |removal: &Removal| {
        args.rule.as_ref().is_none_or(|rule| *rule == removal.rule)
            && of_event
                .as_ref()
                .is_none_or(|key| removal.keys.contains(key))
    };
    let (mut cycle, mut removal, mut limit) = (-1, -1, i64::from(args.last));
    loop {
        match entries(&store, cycle, removal, limit).await {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Entry::Cycle(row) => {
                            cycle = cycle.max(row.id);
                            if !narrow {
                                print_cycle(&row, args.json);
                            }
                        }
                        Entry::Removal(row) => {
                            removal = removal.max(row.id);
                            if wanted(&row) {
                                print_removal(&row, args.json);
                            }
                        }
                    }
                }
                (cycle, removal, limit) = (cycle.max(0), removal.max(0), AT_ONCE);
            }
            // Whoever watches wants to know, and to go on watching.
            Err(StoreError::Down(why)) => {
                eprintln!("oddsd: the database does not answer ({why}); still trying")
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
        .removals(removal, limit)
        .await?
        .into_iter()
        .map(Entry::Removal);
    let mut entries: Vec<Entry> = cycles.chain(removals).collect();
    entries.sort_by_key(Entry::at);
    Ok(entries)
}

fn print_cycle(row: &CycleRow, as_json: bool) {
    if as_json {
        println!("{}", json!({ "type": "cycle", "cycle": row }));
        return;
    }
    let counts = &row.counts;
    println!(
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
    );
}

fn print_removal(row: &Removal, as_json: bool) {
    if as_json {
        println!("{}", json!({ "type": "removal", "removal": row }));
        return;
    }
    const SHOWN: usize = 3;
    let mut keys = row
        .keys
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    if row.keys.len() > SHOWN {
        keys.push_str(&format!(" and {} more", row.keys.len() - SHOWN));
    }
    println!(
        "{}  removed      {keys} ({}, rule {}, {}, attempt {}, {} ms)",
        row.at.format("%H:%M:%S"),
        row.reason,
        row.rule,
        row.backend,
        row.attempts,
        row.took_ms
    );
}

pub async fn status(settings: &Settings, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open(&settings.store()).await?;
    store.check_schema().await?;
    let status = store.status().await?;
    store.close().await;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print_status(&status, Utc::now());
    }
    Ok(ExitCode::SUCCESS)
}

fn print_status(status: &StoreStatus, now: DateTime<Utc>) {
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
            println!(
                "daemon    {holder} leads (oddsd {}, since {})",
                text("version"),
                text("started_at")
            );
        }
        (Some(holder), _) => {
            println!("daemon    none; {holder} was the last (start one with `oddsd run`)")
        }
        (None, _) => println!("daemon    none has worked here yet (start one with `oddsd run`)"),
    }
    println!(
        "cycles    {} ({} of them quiet), {} fetches and {} commits failed",
        count("cycles"),
        count("quiet_cycles"),
        count("fetch_failures"),
        count("store_failures")
    );
    match &status.last_cycle {
        Some(row) => println!(
            "changed   cycle {} at {}: {} inserted, {} updated, {} withdrawn",
            row.id,
            row.committed_at.format("%F %T UTC"),
            row.counts.inserted,
            row.counts.changed + row.counts.reopened,
            row.counts.withdrawn
        ),
        None => println!("changed   nothing yet"),
    }
    println!(
        "stored    {} open prices of {} listed events",
        status.open_prices, status.events
    );
    println!(
        "outbox    {} pending, the oldest for {:.0} s{}",
        status.outbox_pending,
        status.outbox_oldest_seconds,
        status
            .outbox_last_error
            .as_ref()
            .map(|error| format!("; last error: {error}"))
            .unwrap_or_default()
    );
}
