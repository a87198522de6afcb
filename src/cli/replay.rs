//! `replay FILE`: a recording through the production path, with the counts that prove it.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::say::{remark, say};
use super::{FAILED, stop_on_signals};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{BadSetting, FeedKind, Listen, Settings};
use crate::feed::Feed;
use crate::feed::recording::RecordedFeed;
use crate::feed::replay::Replay;
use crate::live::{Counters, Live};
use crate::model::Counts;
use crate::poller::Pace;

#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// A recording: JSON lines or one JSON document, plain, .zst, .bz2 or .gz.
    file: PathBuf,
    /// Times as fast as it was recorded; without it as fast as possible.
    #[arg(long, value_parser = speed)]
    speed: Option<f64>,
    /// Afterwards read everything back and compare it with what was written.
    #[arg(long)]
    verify: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.trim_end_matches(['x', '×']).parse::<f64>() {
        Ok(speed) if speed > 0.0 && speed.is_finite() => Ok(speed),
        _ => Err("a number above zero, e.g. 30".into()),
    }
}

#[derive(Serialize)]
struct Outcome {
    snapshots: u64,
    #[serde(flatten)]
    counts: Counts,
    seconds: f64,
}

pub async fn replay(settings: &Settings, args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let mut settings = settings.clone();
    settings.daemon.listen = Listen::Off;
    let replay = Replay::open(&args.file)?;
    let wanted = match settings.feed.feed {
        FeedKind::RacingApi => RecordedFeed::RacingApi,
        FeedKind::OddsApi => RecordedFeed::OddsApi,
        FeedKind::Betfair => RecordedFeed::Betfair,
        FeedKind::Simulator => anyhow::bail!(BadSetting(
            "the simulator has no recordings of its own: what `record` writes of it is of --feed racing-api".into()
        )),
    };
    if replay.feed() != wanted {
        anyhow::bail!(BadSetting(format!(
            "{} is a recording of {}, not of {}; say --feed {}",
            args.file.display(),
            replay.feed().as_str(),
            wanted.as_str(),
            replay.feed().as_str().replace('_', "-"),
        )));
    }
    // A recording is not a day: nobody waits for its freshness.
    settings.daemon.audit = false;
    let pace = Pace::AsRecorded { speed: args.speed };
    let stop = stop_on_signals(None)?;
    let app = App::build_with(&settings, Feed::Replay(Box::new(replay)), Clock::Real, pace).await?;
    let live = app.live.clone();
    let started = Instant::now();
    let progress = tokio::spawn(progress(live.clone()));
    let ended = app.run(stop).await;
    progress.abort();
    ended.with_context(|| format!("{} was not replayed to its end", args.file.display()))?;

    let counters = live.counters();
    let outcome = Outcome {
        snapshots: counters.cycles,
        counts: counters.prices,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    if args.json {
        say!("{}", serde_json::to_string(&outcome)?);
    } else {
        say!("{}", said(&counters));
        say!("in {} s", outcome.seconds);
    }
    if args.verify {
        verify(&settings).await?;
    }
    Ok(if counters.fetch_failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

/// Long work says how far it has come: on a terminal in place, elsewhere a line at a time.
async fn progress(live: Live) {
    const TERMINAL_EVERY: Duration = Duration::from_millis(250);
    const LINE_EVERY: Duration = Duration::from_secs(10);
    let terminal = std::io::stderr().is_terminal();
    loop {
        tokio::time::sleep(if terminal { TERMINAL_EVERY } else { LINE_EVERY }).await;
        let said = said(&live.counters());
        if terminal {
            eprint!("\r\x1b[K{said}");
        } else {
            remark!("{said}");
        }
    }
}

fn said(counters: &Counters) -> String {
    let counts = &counters.prices;
    format!(
        "{} snapshots, {} prices seen: {} inserted, {} reopened, {} changed, {} withdrawn, {} unchanged, {} stale, {} rejected",
        counters.cycles,
        counts.seen,
        counts.inserted,
        counts.reopened,
        counts.changed,
        counts.withdrawn,
        counts.unchanged,
        counts.stale,
        counts.rejected
    )
}

/// Reads everything back and counts it two ways.
async fn verify(settings: &Settings) -> anyhow::Result<()> {
    let store = crate::store::Store::open(&settings.store()).await?;
    let loaded = store.load().await?;
    let status = store.status().await?;
    store.close().await;
    let open = loaded.book.open_prices() as i64;
    anyhow::ensure!(
        open == status.open_prices && status.outbox_pending == 0,
        "read back {open} open prices where the tables count {}, with {} removals pending",
        status.open_prices,
        status.outbox_pending
    );
    remark!(
        "verified: {open} open prices of {} events read back, no removal pending",
        loaded.book.events.len()
    );
    Ok(())
}
