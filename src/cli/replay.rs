//! `replay FILE`: sends a recording through the production path and prints the counts of its prices.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::output::{err, out};
use super::{FAILED, stop_on_signals};
use crate::app::{App, SHUTDOWN, ensure_not_live};
use crate::clock::Clock;
use crate::config::{FeedKind, InvalidSetting, Listen, Settings};
use crate::live::{Counters, DaemonEvent, EventBus, PublishedEvent};
use crate::poller::PollSchedule;
use oddsd_core::model::CycleCounts;
use oddsd_feeds::Feed;
use oddsd_feeds::recording::RecordedFeed;
use oddsd_feeds::replay::Replay;

#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// A recording: JSON lines or one JSON document, plain, .zst, .bz2 or .gz.
    file: PathBuf,
    /// Factor to the recorded speed; without it as fast as possible.
    #[arg(long, value_parser = speed)]
    speed: Option<f64>,
    /// Afterwards read the rows back and compare their counts.
    #[arg(long)]
    verify: bool,
    /// Send it into a database with live odds, too.
    #[arg(long)]
    into_live: bool,
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
struct ReplaySummary {
    snapshots: u64,
    #[serde(flatten)]
    counts: CycleCounts,
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
        FeedKind::Simulator => anyhow::bail!(InvalidSetting(
            "recordings of the simulator have the format of The Racing API; pass --feed racing-api"
                .into()
        )),
    };
    let (file, recorded) = (args.file.display(), replay.feed().as_str());
    if replay.feed() != wanted {
        let (wanted, feed) = (wanted.as_str(), recorded.replace('_', "-"));
        anyhow::bail!(InvalidSetting(format!(
            "{file} is a recording of {recorded}, not of {wanted}; pass --feed {feed}"
        )));
    }
    // The times in a recording are past, so freshness means nothing.
    settings.daemon.audit = false;
    let schedule = PollSchedule::AsRecorded { speed: args.speed };
    let stop = stop_on_signals(None, SHUTDOWN)?;
    let feed = Feed::Replay(Box::new(replay));
    let app = App::build_with(&settings, feed, Clock::Real, schedule).await?;
    ensure_not_live(&app.store, args.into_live).await?;
    let live = app.live.clone();
    let started = Instant::now();
    let progress = tokio::spawn(progress(live.clone()));
    let waits = tokio::spawn(report_waits(live.subscribe()));
    // The end of the recording must not limit what follows.
    let ended = app.run(stop.child_token()).await;
    progress.abort();
    waits.abort();
    ended.with_context(|| format!("{file} was not replayed to its end"))?;

    let counters = live.counters();
    let totals = ReplaySummary {
        snapshots: counters.cycles,
        counts: counters.prices,
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    if args.json {
        out!("{}", serde_json::to_string(&totals)?);
    } else {
        out!("{}", summary(&counters));
        out!("in {} s", totals.seconds);
    }
    if args.verify {
        verify(&settings).await?;
    }
    let is_complete = counters.fetch_failures == 0;
    Ok(ExitCode::from(if is_complete { 0 } else { FAILED }))
}

/// Names the daemon whose lease the replay waits for.
async fn report_waits(mut events: Receiver<Arc<PublishedEvent>>) {
    loop {
        match events.recv().await {
            Ok(published) => {
                if let DaemonEvent::Standby { holder } = &published.event {
                    err!(
                        "oddsd: {holder} holds the lease of this database; the replay begins when that daemon stops (Ctrl-C ends \
                         the wait)"
                    );
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Prints the progress: on a terminal in place, elsewhere as lines.
async fn progress(live: EventBus) {
    const TERMINAL_EVERY: Duration = Duration::from_millis(250);
    const LINE_EVERY: Duration = Duration::from_secs(10);
    let terminal = std::io::stderr().is_terminal();
    loop {
        tokio::time::sleep(if terminal { TERMINAL_EVERY } else { LINE_EVERY }).await;
        let line = summary(&live.counters());
        if terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            err!("{line}");
        }
    }
}

fn summary(counters: &Counters) -> String {
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

/// Loads the stored state and compares it with the counts of the tables.
async fn verify(settings: &Settings) -> anyhow::Result<()> {
    let store = oddsd_store::Store::open(&settings.store()?).await?;
    let loaded = store.load().await?;
    let status = store.status().await?;
    store.close().await;
    let open = loaded.state.open_prices() as i64;
    anyhow::ensure!(
        open == status.open_prices && status.outbox_pending == 0,
        "read back {open} open prices where the tables count {}, with {} removals pending",
        status.open_prices,
        status.outbox_pending
    );
    err!(
        "verified: {open} open prices of {} events read back, no removal pending",
        loaded.state.events.len()
    );
    Ok(())
}
