//! The command line: arguments, exit codes, and a module for each command. `main` calls [`main`], and tests
//! read the settings from [`Cli`].

mod check;
mod correct;
#[cfg(feature = "simulator")]
mod demo;
mod invalidate;
mod output;
mod parse;
mod record;
mod replay;
mod rules;
mod run;
mod status;
mod tail;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::config::{InvalidSetting, Settings, filled};
use crate::log::{self, LogGuard, LogOutput};
use oddsd_core::model::{Snapshot, sanitize_text};
use oddsd_feeds::FeedError;
use oddsd_store::{Store, StoreError};
use output::{err, out};

// Exit codes, from sysexits.h where it defines one.
const FAILED: u8 = 1;
const DEPENDENCY_DOWN: u8 = 69;
const HELD_ELSEWHERE: u8 = 75;
const BAD_CONFIGURATION: u8 = 78;

/// Keeps an odds database, and every cache in front of it, as fresh as the feed.
///
/// Exit codes: 0 ok, 1 failed, 2 usage, 69 a dependency is down, 75 the lease is held elsewhere,
/// 78 bad configuration.
#[derive(Debug, Parser)]
#[command(
    name = "oddsd",
    version,
    after_help = if cfg!(feature = "simulator") {
        "Start with `oddsd demo`: no keys, no servers, no network. Every setting: `oddsd --help`."
    } else {
        "Every setting: `oddsd --help`."
    }
)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: poll, diff, commit and invalidate on a schedule, until it is stopped.
    Run(run::RunArgs),
    /// Run one cycle, for an external cron.
    Once,
    /// Show price changes on a simulated race day, from feed to reader. Needs no servers.
    #[cfg(feature = "simulator")]
    Demo(demo::DemoArgs),
    /// Check settings, database, cache, feed and clock; print a fix for each failure.
    Check(check::CheckArgs),
    /// Replay a recording through the production path; writes to DATABASE_URL.
    Replay(replay::ReplayArgs),
    /// Record the feed's answers for `replay`.
    Record(record::RecordArgs),
    /// Migrate the database to this version.
    Migrate(MigrateArgs),
    /// Follow cycles and removals through the database.
    Tail(tail::TailArgs),
    /// Show the daemon's state through the database.
    Status(status::StatusArgs),
    /// Remove cached answers manually.
    Invalidate(invalidate::InvalidateArgs),
    /// Check, test and explain the rules: which changes remove which cached answers.
    Rules(rules::RulesCommand),
    /// Override the status of an event, also of a finished one.
    Correct(correct::CorrectArgs),
    /// Watch tables of other programs, so that their changes also remove cached answers.
    Watch(watch::WatchArgs),
    /// Check whether a running daemon is ready (for images without a shell).
    Healthcheck,
}

#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// Import existing tables that have the names of our views, rename them, and create the views, in
    /// one transaction.
    #[arg(long)]
    adopt: bool,
    /// Print the changes without making them.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command that `args` (the program's name first) give, and returns its exit code. Logs the `warnings` about the
/// environment first.
///
/// Boxed as a trait object, so that the daemon's futures are compiled once, in this crate, and not again in each program
/// that calls it.
pub fn main(args: Vec<OsString>, warnings: Vec<String>) -> Pin<Box<dyn Future<Output = ExitCode>>> {
    Box::pin(run_command(args, warnings))
}

async fn run_command(args: Vec<OsString>, warnings: Vec<String>) -> ExitCode {
    let cli = match parse::parse(args) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let log = match start_logging(&cli) {
        Ok(log) => log,
        Err(why) => {
            err!("oddsd: {why:#}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    for warning in warnings {
        tracing::warn!(event = "settings.doubtful", "{warning}");
    }
    let settings = &cli.settings;
    // Boxed, because these nested futures together exceed the compiler's recursion limit.
    let outcome = match cli.command {
        Command::Run(args) => Box::pin(run::run(settings, &args)).await,
        Command::Once => Box::pin(run::once(settings)).await,
        #[cfg(feature = "simulator")]
        Command::Demo(args) => Box::pin(demo::demo(settings, &args)).await,
        Command::Check(args) => Box::pin(check::check(settings, &args)).await,
        Command::Replay(args) => Box::pin(replay::replay(settings, &args)).await,
        Command::Record(args) => Box::pin(record::record(settings, &args)).await,
        Command::Migrate(args) => Box::pin(migrate(settings, &args)).await,
        Command::Tail(args) => Box::pin(tail::tail(settings, &args)).await,
        Command::Status(args) => Box::pin(status::status(settings, &args)).await,
        Command::Invalidate(args) => Box::pin(invalidate::invalidate(settings, &args)).await,
        Command::Rules(args) => rules::rules(settings, &args),
        Command::Correct(args) => Box::pin(correct::correct(settings, &args)).await,
        Command::Watch(args) => Box::pin(watch::watch(settings, &args)).await,
        Command::Healthcheck => Box::pin(run::healthcheck(settings)).await,
    };
    drop(log);
    outcome.unwrap_or_else(|why| {
        print_error(&why);
        ExitCode::from(exit_code(&why))
    })
}

fn start_logging(cli: &Cli) -> anyhow::Result<LogGuard> {
    let log = &cli.settings.log;
    let is_daemon = matches!(cli.command, Command::Run(_) | Command::Once);
    let output = match is_daemon {
        true => LogOutput::Stdout,
        // Stdout is the answer of the other commands, so the log must not mix with it.
        false => LogOutput::Stderr,
    };
    let level = match log.log_level.as_str() {
        // The other commands print their own progress.
        level if !is_daemon && level.trim().eq_ignore_ascii_case("info") => "warn",
        level => level,
    };
    log::start(log.log_format, level, output)
}

/// Prints an error with the next step. An error of a rules file has a line for each fault.
fn print_error(why: &anyhow::Error) {
    let text = format!("{why:#}");
    let lines = text.lines().map(|line| sanitize_text(line, 2_000));
    let text = lines.collect::<Vec<_>>().join("\n");
    let next = why.downcast_ref::<StoreError>().map_or("", next_step);
    log::write_to_stderr(&format!("oddsd: {text}{next}"));
}

fn exit_code(why: &anyhow::Error) -> u8 {
    for cause in why.chain() {
        if let Some(store) = cause.downcast_ref::<StoreError>() {
            return match store {
                StoreError::Misconfigured(_) | StoreError::Schema(_) => BAD_CONFIGURATION,
                StoreError::Down(_) => DEPENDENCY_DOWN,
                StoreError::Fenced => HELD_ELSEWHERE,
                StoreError::Failed(_) => FAILED,
            };
        }
        if let Some(feed) = cause.downcast_ref::<FeedError>() {
            return feed_code(feed);
        }
        if cause.is::<InvalidSetting>() {
            return BAD_CONFIGURATION;
        }
        if cause.is::<run::HeldElsewhere>() {
            return HELD_ELSEWHERE;
        }
    }
    FAILED
}

/// The next step after a database error whose text does not contain one.
fn next_step(why: &StoreError) -> &'static str {
    match why {
        StoreError::Down(_) => {
            "; check that the server is up and that DATABASE_URL has its host and port, then try again"
        }
        StoreError::Failed(_) => "; `oddsd check` tests rights and tables",
        StoreError::Fenced => "; `oddsd status` shows which daemon holds the lease",
        StoreError::Misconfigured(_) | StoreError::Schema(_) => "",
    }
}

fn feed_code(why: &FeedError) -> u8 {
    match why {
        FeedError::Unauthorized { .. } | FeedError::BadRequest { .. } => BAD_CONFIGURATION,
        FeedError::Ended => FAILED,
        _ => DEPENDENCY_DOWN,
    }
}

async fn migrate(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let store = match args.dry_run {
        true => open_existing(settings).await?,
        false => Store::open(&settings.store()?).await?,
    };
    let steps = match args.dry_run {
        true => store.dry_run_migration(args.adopt).await,
        false => store.migrate(args.adopt).await,
    };
    store.close().await;
    let steps = steps?;
    let would = if args.dry_run { "would have " } else { "" };
    for step in &steps {
        out!("{would}{step}");
    }
    if steps.is_empty() {
        out!("nothing to do: the tables have this version");
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the database for a command that must not create one, as SQLite would.
async fn open_existing(settings: &Settings) -> anyhow::Result<Store> {
    if let Some(file) = missing_file(settings) {
        anyhow::bail!(InvalidSetting(format!(
            "there is no database {}; create it with `oddsd run` or `oddsd migrate`, or correct DATABASE_URL",
            file.display()
        )));
    }
    Ok(Store::open(&settings.store()?).await?)
}

/// The SQLite file in the settings, if it does not exist.
fn missing_file(settings: &Settings) -> Option<PathBuf> {
    let url = filled(&settings.store.database_url)?.expose_secret();
    let path = url.trim().strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split('?').next()?;
    let is_file = !path.contains(":memory:");
    let path = PathBuf::from(path);
    (is_file && !path.exists()).then_some(path)
}

/// Whether a daemon holds the leader lease and so carries out what other commands request.
async fn is_led(store: &Store) -> Result<bool, StoreError> {
    let expires_at = store.status().await?.lease_expires_at;
    Ok(expires_at.is_some_and(|at| at > chrono::Utc::now()))
}

/// Polls a request in the database while it waits for the leading daemon; returns whether it still waits.
async fn wait_for_daemon(
    patience: Duration,
    is_waiting: impl AsyncFn() -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    const POLL_INTERVAL: Duration = Duration::from_millis(100);
    let started = Instant::now();
    while is_waiting().await? {
        if started.elapsed() >= patience {
            return Ok(true);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(false)
}

fn count_prices(snapshot: &Snapshot) -> usize {
    snapshot.events.iter().map(|event| event.prices.len()).sum()
}

/// A token that SIGINT, SIGTERM or the end of `after` cancels. If the process still runs `limit` after the token was
/// cancelled, by whatever, it ends with exit code 1.
///
/// A thread with a runtime of its own waits for both, because the command's runtime may be blocked.
pub fn stop_on_signals(
    after: Option<Duration>,
    limit: Duration,
) -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let (registered, registration) = std::sync::mpsc::channel();
    let wait_for_stop = async move {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let _ = registered.send(());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tokio::time::sleep(after.unwrap_or_default()), if after.is_some() => {}
            () = stopping.cancelled() => {}
        }
        stopping.cancel();
        std::io::Result::Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || {
        if runtime.block_on(wait_for_stop).is_ok() {
            std::thread::sleep(limit);
            end_process();
        }
    })?;
    // Nothing is sent if a signal cannot be handled.
    registration.recv().context("SIGTERM cannot be handled")?;
    Ok(stop)
}

/// Ends the process whatever its other threads do.
fn end_process() {
    tracing::error!(
        event = "daemon.overdue",
        "Ended before all running work was finished; what was committed is safe, and its removals wait in the outbox"
    );
    log::flush();
    std::process::exit(i32::from(FAILED));
}

/// Parses `30s`, `5m`, `2h` or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit {unit:?}; write 30s, 5m or 2h")),
    };
    let Ok(number) = number.trim().parse::<f64>() else {
        return Err("write a duration such as 30s, 5m or 2h".into());
    };
    Duration::try_from_secs_f64(number * seconds)
        .map_err(|_| "a duration cannot be negative or that long".into())
}
