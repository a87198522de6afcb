//! `demo`: the whole house on an invented race day, so that a person sees a price change travel from
//! the feed to a reader. The feed is simulated; everything behind it is the production path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, NaiveDate, TimeZone, Utc};
use chrono_tz::Europe::London;
use secrecy::SecretString;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::say::say;
use super::{duration, stop_on_signals};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Listen, Settings};
use crate::feed::Feed;
use crate::feed::simulator::{RaceDay, Simulator, Size};
use crate::live::{Activity, Heard, Live};
use crate::poller::Pace;

/// Enough races for a card that fits a screen, enough bookmakers for a market.
const SIZE: Size = Size {
    races: 12,
    bookmakers: 12,
};
/// The demo's day begins four minutes before the first off: it is looked at every ten seconds of
/// its own time, three times a second of ours.
const BEGINS: (u32, u32) = (13, 56);
/// Ports that are tried after the one that was asked for.
const MORE_PORTS: u16 = 20;
/// How often the demo's reader looks.
const READS_EVERY: Duration = Duration::from_millis(400);

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// End by itself after this long, e.g. 30s.
    #[arg(long = "for", value_parser = duration)]
    demo_for: Option<Duration>,
    /// How many times as fast as a real day.
    #[arg(long, default_value = "30", value_parser = clap::value_parser!(u16).range(1..=600))]
    speed: u16,
}

pub async fn demo(settings: &Settings, args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signals(args.demo_for)?;
    let folder = Folder::new()?;
    let mut settings = settings.clone();
    settings.store.database_url =
        SecretString::from(format!("sqlite:{}/demo.db", folder.0.display()));
    settings.cache.redis_url = None;
    settings.cache.upstash_redis_rest_url = None;
    settings.cache.upstash_redis_rest_token = None;
    settings.cache.cache_enabled = true;
    settings.store.auto_migrate = true;
    settings.daemon.listen = free_port(settings.daemon.listen).await?;

    let day = Utc::now().with_timezone(&London).date_naive();
    let clock = Clock::scaled(beginning(day), f64::from(args.speed));
    let day = RaceDay::new(settings.feed.simulator_seed, day, SIZE);
    let feed = Feed::Simulator(Box::new(Simulator::new(day)));
    let app = App::build_with(
        &settings,
        feed,
        clock.clone(),
        Pace::Adaptive(settings.plan()),
    )
    .await?;
    let address = app.address().context("the demo shows itself on a port")?;

    say!(
        "oddsd demo: a SIMULATED race day (seed {}), {} times as fast as a real one. Horses, prices and bookmakers' moves\n\
         are invented; the path is the real one: feed -> diff -> store (SQLite) -> outbox -> cache (in process) -> reader.\n\
         \n  page   http://{address}/\n  JSON   http://{address}/v1/races/by-stage   (header X-Cache-Status: MISS, then HIT, until a price moves)\n  end    Ctrl-C\n",
        settings.feed.simulator_seed,
        args.speed
    );
    let story = tokio::spawn(tell(app.live.clone(), clock.clone(), stop.clone()));
    let reader = tokio::spawn(read(address, app.live.clone(), clock, stop.clone()));
    let live = app.live.clone();
    let outcome = app.run(stop).await;
    let _ = tokio::join!(story, reader);
    let counters = live.counters();
    say!(
        "\n{} cycles ({} of them changed nothing), {} prices looked at, {} written, {} answers removed; reads: {} hits, {} misses",
        counters.cycles,
        counters.quiet_cycles,
        counters.prices.seen,
        counters.prices.written(),
        counters.removed_keys,
        counters.hits,
        counters.misses
    );
    say!("next: oddsd check, then oddsd run (README.md has both in five lines)");
    outcome?;
    Ok(ExitCode::SUCCESS)
}

fn beginning(day: NaiveDate) -> DateTime<Utc> {
    let local = day
        .and_hms_opt(BEGINS.0, BEGINS.1, 0)
        .expect("a time of day");
    London
        .from_local_datetime(&local)
        .earliest()
        .expect("clocks change at night")
        .to_utc()
}

/// The port that was asked for, or the next free one.
async fn free_port(asked: Listen) -> anyhow::Result<Listen> {
    let Listen::At(asked) = asked else {
        return Ok(Listen::At(([127, 0, 0, 1], 0).into()));
    };
    for port in asked.port()..=asked.port().saturating_add(MORE_PORTS) {
        let address = SocketAddr::new(asked.ip(), port);
        if tokio::net::TcpListener::bind(address).await.is_ok() {
            if address != asked {
                say!("port {} is taken; using {port}", asked.port());
            }
            return Ok(Listen::At(address));
        }
    }
    anyhow::bail!("no free port from {asked} on; give another with --listen 127.0.0.1:PORT")
}

/// A folder that goes with the demo.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!(
            "oddsd-demo-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        ));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the daemon says of itself, as a story.
async fn tell(live: Live, clock: Clock, stop: CancellationToken) {
    let mut watcher = live.watch();
    loop {
        let heard = tokio::select! {
            heard = watcher.next() => heard,
            () = stop.cancelled() => return,
        };
        let Some(Heard::Said(said)) = heard else {
            match heard {
                Some(_) => continue,
                None => return,
            }
        };
        let at = clock.now().with_timezone(&London).format("%H:%M:%S");
        match &said.activity {
            Activity::CycleComplete {
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
                say!(
                    "{at}  feed     cycle {cycle}: {} of {} prices changed ({} new, {} withdrawn) | fetch {fetch_ms} ms, diff {diff_ms} ms, write {write_ms} ms",
                    counts.written(),
                    counts.seen,
                    counts.inserted,
                    counts.withdrawn
                );
            }
            Activity::Invalidated { keys, took_ms, .. } => {
                say!(
                    "{at}  cache    removed {} answers in {took_ms} ms: {}",
                    keys.len(),
                    shown(keys)
                );
            }
            Activity::RefusedRemovals { removals, open, .. } => {
                say!(
                    "{at}  feed     {removals} of {open} prices missing at once: not believed until a second look"
                );
            }
            Activity::FetchFailed { error, .. } | Activity::StoreFailed { error, .. } => {
                say!("{at}  failed   {error}");
            }
            _ => {}
        }
    }
}

fn shown(keys: &[crate::key::Key]) -> String {
    let mut names: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    names.sort_unstable_by_key(|name| !name.starts_with("races"));
    match names.as_slice() {
        [first, rest @ ..] if !rest.is_empty() => format!("{first} and {} more", rest.len()),
        names => names.join(""),
    }
}

/// The part of the answer that the demo's reader looks at.
#[derive(Deserialize)]
struct Answer {
    stages: HashMap<String, Vec<Race>>,
}

#[derive(Deserialize)]
struct Race {
    race_id: String,
    race_time: Option<String>,
    course: String,
    runners_data: Vec<Runner>,
}

#[derive(Deserialize)]
struct Runner {
    horse_id: String,
    horse_name: String,
    all_odds: Vec<Odds>,
}

#[derive(Deserialize)]
struct Odds {
    bookmaker: String,
    odds_decimal: f64,
    odds_fractional: Option<String>,
}

/// The prices that this reader saw last: race, horse and bookmaker, with what to show.
type Seen = HashMap<(String, String, String), (f64, String)>;

/// A reader like any other: asks over HTTP, again and again, and says what it sees.
async fn read(address: SocketAddr, live: Live, clock: Clock, stop: CancellationToken) {
    let url = format!("http://{address}/v1/races/by-stage");
    let Ok(client) = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()
    else {
        return;
    };
    let mut seen = Seen::new();
    let mut watcher = live.watch();
    // The first look waits for the first cycle; after that the reader keeps its own time.
    let first = async {
        while !matches!(watcher.next().await, Some(Heard::Said(said)) if matches!(said.activity, Activity::CycleComplete { .. }))
        {
        }
    };
    tokio::select! {
        () = first => {}
        () = stop.cancelled() => return,
    }
    loop {
        let asked = Instant::now();
        if let Ok(answer) = client.get(&url).send().await {
            let status = answer
                .headers()
                .get("x-cache-status")
                .and_then(|value| value.to_str().ok())
                .unwrap_or("?")
                .to_owned();
            if let Ok(answer) = answer.json::<Answer>().await {
                let took = asked.elapsed().as_secs_f64() * 1000.0;
                let at = clock
                    .now()
                    .with_timezone(&London)
                    .format("%H:%M:%S")
                    .to_string();
                let moves = moves(&mut seen, answer);
                let served = if status == "MISS" {
                    "MISS -> refilled"
                } else {
                    status.as_str()
                };
                match moves.first() {
                    Some(first) => say!(
                        "{at}  reader   {served} in {took:.0} ms: {first}{}",
                        if moves.len() > 1 {
                            format!(" (and {} more)", moves.len() - 1)
                        } else {
                            String::new()
                        }
                    ),
                    None => say!("{at}  reader   {served} in {took:.0} ms: nothing new"),
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(READS_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Prices that differ from what this reader saw before, in words.
fn moves(seen: &mut Seen, answer: Answer) -> Vec<String> {
    let mut moves = Vec::new();
    let first_look = seen.is_empty();
    for race in answer.stages.into_values().flatten() {
        for runner in race.runners_data {
            for odds in runner.all_odds {
                let text = match odds.odds_fractional {
                    Some(fractional) => format!("{} ({fractional})", odds.odds_decimal),
                    None => odds.odds_decimal.to_string(),
                };
                let at = crate::model::plain_text(&odds.bookmaker, 40);
                let key = (
                    race.race_id.clone(),
                    runner.horse_id.clone(),
                    odds.bookmaker,
                );
                let Some((before, before_text)) =
                    seen.insert(key, (odds.odds_decimal, text.clone()))
                else {
                    continue;
                };
                if before != odds.odds_decimal {
                    let word = if odds.odds_decimal < before {
                        "shortens"
                    } else {
                        "drifts"
                    };
                    moves.push(format!(
                        "{} ({} {}) {word} {before_text} -> {text} at {at}",
                        crate::model::plain_text(&runner.horse_name, 40),
                        crate::model::plain_text(&race.course, 30),
                        race.race_time.as_deref().unwrap_or("?"),
                    ));
                }
            }
        }
    }
    if first_look && !seen.is_empty() {
        moves.push(format!("{} prices", seen.len()));
    }
    moves
}
