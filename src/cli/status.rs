//! `status`: shows the daemon's state, from the report that the leading daemon stored last. It reads the database, so
//! that a worker without an open port is observable too.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::open_existing;
use super::output::out;
use crate::config::Settings;
use oddsd_core::model::sanitize_text;
use oddsd_store::{RemovalStats, StoreStatus};

/// Number of stale reads in the text; `--json` has all of them.
const SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
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
            let (version, started_at) = (text("version"), text("started_at"));
            out!("daemon    {holder} leads (oddsd {version}, since {started_at})");
        }
        (Some(holder), _) => {
            out!("daemon    none; the last was {holder} (start one with `oddsd run`)");
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
    let (prices, events) = (status.open_prices, status.events);
    out!("stored    {prices} open prices of {events} listed events");
    let (pending, age) = (status.outbox_pending, status.outbox_oldest_seconds);
    let error = status.outbox_last_error.as_ref();
    let error = error.map_or(String::new(), |error| {
        format!("; last error: {}", sanitize_text(error, 200))
    });
    out!("outbox    {pending} pending, the oldest for {age:.0} s{error}");
    print_cost(&state["cache"]);
    print_rules(&state["rules"], stats);
    print_freshness(&state["audit"]);
}

/// Prints what a billed cache costs at the current rate.
fn print_cost(cache: &Value) {
    if cache["is_billed"] != true {
        return;
    }
    let commands = &cache["commands"];
    match cache["commands_per_minute"].as_f64() {
        Some(rate) => {
            let month = (rate * 60.0 * 24.0 * 30.0).round();
            out!(
                "cost      {commands} billed commands since the start; now {rate:.1} a minute with reads, which is {month} a month"
            );
        }
        None => out!(
            "cost      {commands} billed commands since the start; their rate is known after three minutes"
        ),
    }
}

/// Prints the totals of removals and the rules that the daemon reported last.
fn print_rules(rules: &Value, stats: &RemovalStats) {
    let reasons = stats.by_reason.iter();
    let reasons = reasons.map(|(reason, count)| format!("{count} {reason}"));
    let reasons = match reasons.collect::<Vec<_>>() {
        none if none.is_empty() => String::new(),
        reasons => format!(" ({})", reasons.join(", ")),
    };
    let (total, keys) = (stats.total_invalidations, stats.keys_deleted);
    let recent = stats.per_minute;
    out!(
        "removals  {total} in all{reasons}, {recent} in the last minute; {keys} cached answers deleted"
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

/// Prints the report; it is not an object if the daemon does not audit.
fn print_freshness(report: &Value) {
    let Some(clean) = report["clean"].as_object() else {
        return out!("fresh     unknown: no daemon has audited here (AUDIT)");
    };
    let commit = percentiles(&report["commit_to_readable"]);
    let feed = match &report["freshness"] {
        Value::Null => String::new(),
        feed => format!("feed to readable {}; ", percentiles(feed)),
    };
    out!("fresh     {feed}commit to readable {commit}");
    let shares = crate::audit::SLO_WINDOWS.iter().map(|(within, _)| {
        match clean.get(*within).and_then(Value::as_f64) {
            Some(share) => format!("{} % within {within}", percent(share)),
            None => format!("? within {within}"),
        }
    });
    let (shares, audited) = (shares.collect::<Vec<_>>().join(", "), &report["looked_at"]);
    out!("clean     {shares} ({audited} changes audited)");
    match report["canary"]["age_seconds"].as_f64() {
        Some(age) => out!("canary    last reached a reader {age:.1} s before this report"),
        None => out!("canary    none"),
    }
    let offenders = report["offenders"].as_array().into_iter().flatten();
    for offender in offenders.take(SHOWN) {
        let text = |name: &str| sanitize_text(offender[name].as_str().unwrap_or("?"), 120);
        out!(
            "offender  {} at {}: {} was old at the {} level from {} to {} ms after the commit",
            text("cause"),
            text("committed_at"),
            text("key"),
            text("level"),
            offender["first_seen_ms"],
            offender["last_seen_ms"]
        );
    }
}

/// Rounds down, so that only a full share shows 100.
fn percent(share: f64) -> f64 {
    (share * 1000.0).floor() / 10.0
}

fn percentiles(times: &Value) -> String {
    match (times["p50_ms"].as_f64(), times["p99_ms"].as_f64()) {
        (Some(p50), Some(p99)) => format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
        _ => "not measured lately".into(),
    }
}
