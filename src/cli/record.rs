//! `record`: what the feed says, word for word, into a file that `replay` reads.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::say::{remark, say};
use super::{FAILED, duration, stop_on_signals};
use crate::app;
use crate::clock::{Clock, Wait};
use crate::config::Settings;
use crate::feed::recording::{RecordedFeed, Recorder};
use crate::feed::{Ask, Feed, FeedError};
use crate::poller::failure;
use crate::schedule::{Backoff, next_poll};

#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The file to write; a name that ends in .zst is compressed. Never overwrites.
    #[arg(long)]
    out: PathBuf,
    /// End by itself after this long, e.g. 2h.
    #[arg(long = "for", value_parser = duration)]
    record_for: Option<Duration>,
}

pub async fn record(settings: &Settings, args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let clock = Clock::Real;
    let mut feed = app::feed_for_recording(settings, &clock)?;
    let kind = match &feed {
        Feed::OddsApi(_) => RecordedFeed::OddsApi,
        // The simulator speaks The Racing API's own format.
        _ => RecordedFeed::RacingApi,
    };
    let mut recorder = Recorder::create(&args.out)?;
    let stop = stop_on_signals(args.record_for)?;
    let plan = settings.plan();
    let mut failures = 0;
    loop {
        let now = clock.now();
        let fetched = tokio::select! {
            fetched = feed.fetch(&Ask::Everything, now) => fetched,
            () = stop.cancelled() => break,
        };
        let wait = match fetched {
            Ok(fetched) => {
                failures = 0;
                recorder
                    .write(kind, now, &fetched.snapshot.scope, &fetched.bodies)
                    .with_context(|| {
                        format!("cannot write to {}; is the disk full?", args.out.display())
                    })?;
                let prices: usize = fetched
                    .snapshot
                    .events
                    .iter()
                    .map(|event| event.prices.len())
                    .sum();
                remark!(
                    "{} recorded {} events, {prices} prices",
                    now.format("%H:%M:%S"),
                    fetched.snapshot.events.len()
                );
                let offs = fetched
                    .snapshot
                    .events
                    .iter()
                    .filter_map(|event| event.event.starts_at);
                next_poll(now, offs.filter(|off| *off > now), &plan.cadence)
            }
            Err(FeedError::Ended) => break,
            Err(why) => {
                failures += 1;
                let wait = Backoff::FEED.delay(failure(&why), failures, fastrand::f64());
                remark!(
                    "{} not recorded, again in {} s: {why}",
                    now.format("%H:%M:%S"),
                    wait.as_secs()
                );
                if !why.is_retryable() && recorder.records() == 0 {
                    remove_empty(&args.out);
                    return Err(why.into());
                }
                wait
            }
        };
        if clock.sleep(wait, &stop).await == Wait::Stopped {
            break;
        }
    }
    let records = recorder.records();
    if records == 0 {
        remove_empty(&args.out);
        remark!(
            "oddsd: nothing was recorded; `oddsd check` asks the feed once and says what is wrong"
        );
        return Ok(ExitCode::from(FAILED));
    }
    say!(
        "{records} answers recorded in {}; replay them with: oddsd replay {} --feed {}",
        args.out.display(),
        args.out.display(),
        kind.as_str().replace('_', "-")
    );
    Ok(ExitCode::SUCCESS)
}

/// The file that we made and put nothing into: the next try may have its name.
fn remove_empty(path: &Path) {
    if let Err(why) = std::fs::remove_file(path) {
        remark!("oddsd: the empty {} stays behind: {why}", path.display());
    }
}
