//! `record`: writes the feed's answers unchanged into a file. `replay` reads it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use super::output::{err, out};
use super::{FAILED, count_prices, duration, stop_on_signals};
use crate::app::{self, SHUTDOWN};
use crate::clock::{Clock, SleepResult, WALL_CHECK_INTERVAL};
use crate::config::Settings;
use crate::poller::{classify_failure, track_race};
use oddsd_core::schedule::{Backoff, ClockReading, NextPoll, PollRule, PollScheduler};
use oddsd_feeds::recording::{RecordedFeed, Recorder};
use oddsd_feeds::{Feed, FeedError, FetchRequest};

#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The file to write, compressed if its name ends in .zst. An existing file is never overwritten.
    #[arg(long)]
    out: PathBuf,
    /// Stop after this time, e.g. 2h.
    #[arg(long = "for", value_parser = duration)]
    record_for: Option<Duration>,
}

pub async fn record(settings: &Settings, args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let clock = Clock::Real;
    let mut feed = app::feed(settings, &clock, true)?;
    let kind = match &feed {
        Feed::OddsApi(_) => RecordedFeed::OddsApi,
        // The simulator has the format of The Racing API.
        _ => RecordedFeed::RacingApi,
    };
    let (mut recorder, file) = (Recorder::create(&args.out)?, args.out.display());
    let stop = stop_on_signals(args.record_for, SHUTDOWN)?;
    let mut rule = app::poll_rule(settings)?;
    if let PollRule::Adaptive(plan) = &mut rule {
        // A recording also wants the races that are over.
        plan.whole_card_every = plan.cadence.default_interval();
    }
    let mut scheduler = PollScheduler::new(rule);
    let started = Instant::now();
    let reading = || ClockReading {
        wall: clock.now(),
        elapsed: clock.elapsed_since(started),
    };
    let (mut races, mut recorded_at, mut failures) = (Vec::new(), None, 0);
    loop {
        if let NextPoll::Wait(wait) = scheduler.next(reading(), &races, recorded_at) {
            let wait = wait.min(WALL_CHECK_INTERVAL);
            if clock.sleep(wait, &stop).await == SleepResult::Stopped {
                break;
            }
            continue;
        }
        scheduler.begin_cycle(reading());
        let now = clock.now();
        let time = now.format("%H:%M:%S");
        let fetched = tokio::select! {
            fetched = feed.fetch(&FetchRequest::Everything, now) => fetched,
            () = stop.cancelled() => break,
        };
        match fetched {
            Ok(fetched) => {
                failures = 0;
                let snapshot = &fetched.snapshot;
                let written = recorder.write(kind, now, &snapshot.scope, &fetched.bodies);
                written.with_context(|| format!("cannot write to {file}; is the disk full?"))?;
                let (events, prices) = (&snapshot.events, count_prices(snapshot));
                err!("{time} recorded {} events, {prices} prices", events.len());
                recorded_at = Some(now);
                let events = events.iter().map(|snapshot| &snapshot.event);
                races = events.filter_map(|event| track_race(event, now)).collect();
            }
            Err(FeedError::Ended) => break,
            Err(why) => {
                failures += 1;
                let interval = scheduler.interval(clock.now(), &races);
                let (failure, jitter) = (classify_failure(&why), fastrand::f64());
                let wait = Backoff::FEED.delay_within(interval, failure, failures, jitter);
                let seconds = wait.as_secs();
                err!("{time} not recorded, again in {seconds} s: {why}");
                if !why.is_retryable() && recorder.records() == 0 {
                    remove_empty(&args.out);
                    return Err(why.into());
                }
                scheduler.retry_after(wait, reading());
            }
        }
    }
    let records = recorder.records();
    if records == 0 {
        remove_empty(&args.out);
        err!(
            "oddsd: nothing was recorded; `oddsd check` fetches from the feed once and shows the failure"
        );
        return Ok(ExitCode::from(FAILED));
    }
    let kind = kind.as_str().replace('_', "-");
    out!(
        "{records} answers recorded in {file}; replay them with: oddsd replay {file} --feed {kind}"
    );
    Ok(ExitCode::SUCCESS)
}

/// Removes the file if nothing was written to it, so that the next run can use its name.
fn remove_empty(path: &Path) {
    if let Err(why) = std::fs::remove_file(path) {
        let file = path.display();
        err!("oddsd: the empty {file} could not be removed: {why}");
    }
}
