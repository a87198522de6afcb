//! `demo`: runs the daemon on a simulated race day and shows price changes from the feed to a reader. The feed
//! is simulated; the rest is the production path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, NaiveDate, TimeZone, Utc};
use chrono_tz::Europe::London;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::output::out;
use super::{duration, stop_on_signals};
use crate::app::{App, SHUTDOWN};
use crate::clock::Clock;
use crate::config::{Listen, Settings};
use crate::live::{DaemonEvent, EventBus};
use crate::poller::PollSchedule;
use oddsd_core::model::sanitize_text;
use oddsd_core::schedule::PollRule;
use oddsd_feeds::Feed;
use oddsd_feeds::simulator::{RaceDay, RaceDaySize};

/// A card that fits a screen.
const SIZE: RaceDaySize = RaceDaySize {
    races: 12,
    bookmakers: 12,
};
/// The demo begins four minutes before the first race starts, so the feed is polled every ten seconds of the
/// demo's time, which is three times a second.
const BEGINS: (u32, u32) = (13, 56);
/// Number of ports that are tried after the configured one.
const MORE_PORTS: u16 = 20;
/// Interval of the demo's reader.
const READ_INTERVAL: Duration = Duration::from_millis(400);

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Stop after this time, e.g. 30s.
    #[arg(long = "for", value_parser = duration)]
    demo_for: Option<Duration>,
    /// Factor to the speed of a real day.
    #[arg(long, default_value = "30", value_parser = clap::value_parser!(u16).range(1..=600))]
    speed: u16,
}

pub async fn demo(settings: &Settings, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signals(args.demo_for, SHUTDOWN)?;
    let folder = tempfile::Builder::new()
        .prefix("oddsd-demo-")
        .tempdir()
        .context("cannot create a temporary folder")?;
    let mut settings = settings.clone();
    let url = format!("sqlite:{}/demo.db", folder.path().display());
    settings.store.database_url = Some(SecretString::from(url));
    settings.cache.redis_url = None;
    settings.cache.upstash_redis_rest_url = None;
    settings.cache.upstash_redis_rest_token = None;
    settings.cache.cache_enabled = true;
    settings.store.auto_migrate = true;
    settings.daemon.listen = free_port(settings.daemon.listen).await?;

    let day = Utc::now().with_timezone(&London).date_naive();
    let clock = Clock::scaled(beginning(day), f64::from(args.speed));
    let day = RaceDay::new(settings.feed.simulator_seed, day, SIZE);
    let feed = Feed::Simulator(Box::new(day));
    let app = App::build_with(
        &settings,
        feed,
        clock.clone(),
        PollSchedule::live(PollRule::Adaptive(settings.plan())),
    )
    .await?;
    let address = app.address().context("the demo needs a port")?;

    out!(
        "oddsd demo: a SIMULATED race day (seed {}), {} times as fast as a real one. Horses, prices and bookmakers' moves\n\
         are invented; the path is the real one: feed -> diff -> store (SQLite) -> outbox -> cache (in process) -> reader.\n\
         \n  page   http://{address}/\n  JSON   http://{address}/v1/races/by-stage   (header X-Cache-Status: MISS, then HIT, until a price moves)\n  end    Ctrl-C\n",
        settings.feed.simulator_seed,
        args.speed
    );
    let events = tokio::spawn(print_events(app.live.clone(), clock.clone(), stop.clone()));
    let reads = tokio::spawn(print_reads(address, app.live.clone(), clock, stop.clone()));
    let live = app.live.clone();
    let outcome = app.run(stop).await;
    let _ = tokio::join!(events, reads);
    let counters = live.counters();
    out!(
        "\n{} cycles ({} of them changed nothing), {} prices compared, {} written, {} answers removed; reads: {} hits, {} misses",
        counters.cycles,
        counters.quiet_cycles,
        counters.prices.seen,
        counters.prices.written(),
        counters.removed_keys,
        counters.hits,
        counters.misses
    );
    out!("next: oddsd check, then oddsd run (see README.md)");
    outcome?;
    Ok(ExitCode::SUCCESS)
}

fn beginning(day: NaiveDate) -> DateTime<Utc> {
    let local = day.and_hms_opt(BEGINS.0, BEGINS.1, 0);
    let begin = London.from_local_datetime(&local.expect("a time of day"));
    begin.earliest().expect("clocks change at night").to_utc()
}

/// The configured address, or the same with the next free port.
async fn free_port(configured: Listen) -> anyhow::Result<Listen> {
    let Listen::At(configured) = configured else {
        return Ok(Listen::At(([127, 0, 0, 1], 0).into()));
    };
    for port in configured.port()..=configured.port().saturating_add(MORE_PORTS) {
        let address = SocketAddr::new(configured.ip(), port);
        if tokio::net::TcpListener::bind(address).await.is_ok() {
            if address != configured {
                out!("port {} is taken; using {port}", configured.port());
            }
            return Ok(Listen::At(address));
        }
    }
    anyhow::bail!("no free port from {configured} on; pass another with --listen 127.0.0.1:PORT")
}

/// Prints the daemon's events for a reader who does not know its log.
async fn print_events(bus: EventBus, clock: Clock, stop: CancellationToken) {
    let mut subscriber = bus.subscribe();
    loop {
        let published = tokio::select! {
            next = subscriber.recv() => match next {
                Ok(published) => published,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
            () = stop.cancelled() => return,
        };
        let at = clock.now().with_timezone(&London).format("%H:%M:%S");
        match &published.event {
            DaemonEvent::CycleComplete {
                cycle,
                counts,
                facts,
                fetch_ms,
                diff_ms,
                write_ms,
                ..
            } => {
                if counts.written() + facts == 0 {
                    continue;
                }
                out!(
                    "{at}  feed     cycle {cycle}: {} of {} prices changed ({} new, {} withdrawn) | fetch {fetch_ms} ms, diff {diff_ms} ms, write {write_ms} ms",
                    counts.written(),
                    counts.seen,
                    counts.inserted,
                    counts.withdrawn
                );
            }
            DaemonEvent::Invalidated { keys, took_ms, .. } => {
                let (count, names) = (keys.len(), shown(keys));
                out!("{at}  cache    removed {count} answers in {took_ms} ms: {names}");
            }
            DaemonEvent::RefusedRemovals { removals, open, .. } => {
                out!(
                    "{at}  feed     {removals} of {open} prices are missing: kept until a second answer agrees"
                );
            }
            DaemonEvent::FetchFailed { error, .. } | DaemonEvent::StoreFailed { error, .. } => {
                out!("{at}  failed   {error}");
            }
            _ => {}
        }
    }
}

fn shown(keys: &[oddsd_core::key::Key]) -> String {
    let mut names: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    names.sort_unstable_by_key(|name| !name.starts_with("races"));
    match names.as_slice() {
        [first, rest @ ..] if !rest.is_empty() => format!("{first} and {} more", rest.len()),
        names => names.join(""),
    }
}

/// The part of the answer that the demo's reader shows.
#[derive(Deserialize)]
struct DemoAnswer {
    stages: HashMap<String, Vec<DemoRace>>,
}

#[derive(Deserialize)]
struct DemoRace {
    race_id: String,
    race_time: Option<String>,
    course: String,
    runners_data: Vec<DemoRunner>,
}

#[derive(Deserialize)]
struct DemoRunner {
    horse_id: String,
    horse_name: String,
    all_odds: Vec<DemoOdds>,
}

#[derive(Deserialize)]
struct DemoOdds {
    bookmaker: String,
    odds_decimal: f64,
    odds_fractional: Option<String>,
}

/// The last prices of a reader, by race, horse and bookmaker, each with its text.
type LastPrices = HashMap<(String, String, String), (f64, String)>;

/// Requests the racecard over HTTP like any other reader, and prints its price moves.
async fn print_reads(address: SocketAddr, bus: EventBus, clock: Clock, stop: CancellationToken) {
    let url = format!("http://{address}/v1/races/by-stage");
    let Ok(client) = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
    else {
        return;
    };
    tokio::select! {
        () = first_cycle(&bus) => {}
        () = stop.cancelled() => return,
    }
    let mut last = LastPrices::new();
    loop {
        let started = Instant::now();
        if let Ok((status, answer)) = request(&client, &url).await {
            let took = started.elapsed().as_secs_f64() * 1000.0;
            let at = clock.now().with_timezone(&London).format("%H:%M:%S");
            let served = if status == "MISS" {
                "MISS -> refilled"
            } else {
                &status
            };
            let moves = match describe_moves(&mut last, answer).as_slice() {
                [] => "nothing new".to_owned(),
                [only] => only.clone(),
                [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
            };
            out!("{at}  reader   {served} in {took:.0} ms: {moves}");
        }
        tokio::select! {
            () = tokio::time::sleep(READ_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn first_cycle(bus: &EventBus) {
    let mut subscriber = bus.subscribe();
    while let Ok(published) = subscriber.recv().await {
        if let DaemonEvent::CycleComplete { .. } = published.event {
            return;
        }
    }
}

async fn request(client: &reqwest::Client, url: &str) -> reqwest::Result<(String, DemoAnswer)> {
    let answer = client.get(url).send().await?;
    let status = answer.headers().get("x-cache-status");
    let status = status.and_then(|value| value.to_str().ok()).unwrap_or("?");
    Ok((status.to_owned(), answer.json().await?))
}

/// Describes the prices that differ from the last answer; for the first answer only their number.
fn describe_moves(last: &mut LastPrices, answer: DemoAnswer) -> Vec<String> {
    let mut moves = Vec::new();
    let is_first = last.is_empty();
    for race in answer.stages.into_values().flatten() {
        for runner in race.runners_data {
            for odds in runner.all_odds {
                let text = match odds.odds_fractional {
                    Some(fractional) => format!("{} ({fractional})", odds.odds_decimal),
                    None => odds.odds_decimal.to_string(),
                };
                let bookmaker = sanitize_text(&odds.bookmaker, 40);
                let (race_id, horse_id) = (race.race_id.clone(), runner.horse_id.clone());
                let key = (race_id, horse_id, odds.bookmaker);
                let now = (odds.odds_decimal, text.clone());
                let Some((before, before_text)) = last.insert(key, now) else {
                    continue;
                };
                if before != odds.odds_decimal {
                    let direction = match odds.odds_decimal < before {
                        true => "shortens",
                        false => "drifts",
                    };
                    moves.push(format!(
                        "{} ({} {}) {direction} {before_text} -> {text} at {bookmaker}",
                        sanitize_text(&runner.horse_name, 40),
                        sanitize_text(&race.course, 30),
                        race.race_time.as_deref().unwrap_or("?"),
                    ));
                }
            }
        }
    }
    if is_first && !last.is_empty() {
        moves.push(format!("{} prices", last.len()));
    }
    moves
}
