//! The street: commands. Each parses its words, opens the doors it needs, and ends with an exit code
//! that a script can act on.

pub mod bench;
mod check;
mod correct;
mod demo;
mod fresh;
mod invalidate;
mod parse;
mod record;
mod replay;
mod rules;
mod run;
mod say;
mod tail;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::config::{BadSetting, Settings};
use crate::feed::FeedError;
use crate::log::{self, Output};
use crate::store::{Store, StoreError};
use say::{remark, say};

/// Exit codes, as in sysexits.h where it has one.
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
    after_help = "Start with `oddsd demo`: no keys, no servers, no network. Every setting: `oddsd --help`."
)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch, diff, commit and remove on a schedule, until told to stop.
    Run(run::RunArgs),
    /// One cycle, for an external cron.
    Once,
    /// A simulated race day: see a change travel from the feed to a reader. Needs nothing.
    Demo(demo::DemoArgs),
    /// Open every door and say what is wrong, each with its fix.
    Check(check::CheckArgs),
    /// Run a recording through the production path.
    Replay(replay::ReplayArgs),
    /// Write down what the feed says, for `replay`.
    Record(record::RecordArgs),
    /// Measure this machine: what a look costs, against the limit and against other ways to write.
    Bench(bench::BenchArgs),
    /// Bring the database to this version.
    Migrate(MigrateArgs),
    /// Follow cycles and removals, through the database.
    Tail(tail::TailArgs),
    /// What the daemon last did, through the database.
    Status(tail::StatusArgs),
    /// Remove cached answers by hand.
    Invalidate(invalidate::InvalidateArgs),
    /// Check, test and explain rules: which changes remove which answers.
    Rules(rules::RulesCommand),
    /// Say where an event stands, against the feed and the clock.
    Correct(correct::CorrectArgs),
    /// Watch tables that other programs write, so that their changes remove cached answers too.
    Watch(watch::WatchArgs),
    /// Ask a running daemon whether it is ready (for images without a shell).
    Healthcheck,
}

#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// Import tables that stand under the names of our views, rename them aside, and put the views
    /// in their place, in one transaction.
    #[arg(long)]
    adopt: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Parses, does it, and says how it ended.
pub async fn main() -> ExitCode {
    let cli = match parse::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let output = match &cli.command {
        Command::Run(_) | Command::Once => Output::Stdout,
        // What these print is for people or programs; the log must not mix with it.
        _ => Output::Stderr,
    };
    let level = match &cli.command {
        Command::Run(_) | Command::Once => cli.settings.log.log_level.as_str(),
        // It breaks things on purpose: that they were missed is no news.
        Command::Bench(args) if args.what.is_some() => "error",
        // They tell their story themselves.
        _ if cli.settings.log.log_level == "info" => "warn",
        _ => cli.settings.log.log_level.as_str(),
    };
    let started = match cli.settings.log_format() {
        Ok(format) => log::start(format, level, output),
        Err(why) => Err(why),
    };
    if let Err(why) = started {
        remark!("oddsd: {why:#}");
        return ExitCode::from(BAD_CONFIGURATION);
    }
    let settings = &cli.settings;
    // Boxed: each is a deep nest of futures, and together they are one too deep for the compiler.
    let outcome = match cli.command {
        Command::Run(args) => Box::pin(run::run(settings, &args)).await,
        Command::Once => Box::pin(run::once(settings)).await,
        Command::Demo(args) => Box::pin(demo::demo(settings, &args)).await,
        Command::Check(args) => Box::pin(check::check(settings, &args)).await,
        Command::Replay(args) => Box::pin(replay::replay(settings, &args)).await,
        Command::Record(args) => Box::pin(record::record(settings, &args)).await,
        Command::Bench(args) => Box::pin(bench::bench(settings, &args)).await,
        Command::Migrate(args) => Box::pin(migrate(settings, &args)).await,
        Command::Tail(args) => Box::pin(tail::tail(settings, &args)).await,
        Command::Status(args) => Box::pin(tail::status(settings, &args)).await,
        Command::Invalidate(args) => Box::pin(invalidate::invalidate(settings, &args)).await,
        Command::Rules(args) => rules::rules(settings, &args),
        Command::Correct(args) => Box::pin(correct::correct(settings, &args)).await,
        Command::Watch(args) => Box::pin(watch::watch(settings, &args)).await,
        Command::Healthcheck => Box::pin(run::healthcheck(settings)).await,
    };
    match outcome {
        Ok(code) => code,
        Err(why) => {
            // A rules file has many faults, a line each.
            let told = format!("{why:#}");
            let lines = told
                .lines()
                .map(|line| crate::model::plain_text(line, 2_000));
            let told = lines.collect::<Vec<_>>().join("\n");
            match why.downcast_ref::<StoreError>() {
                Some(why) => remark!("oddsd: {told}{}", next_step(why)),
                None => remark!("oddsd: {told}"),
            }
            ExitCode::from(code_of(&why))
        }
    }
}

/// What an error means for whoever started us.
fn code_of(why: &anyhow::Error) -> u8 {
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
        if cause.is::<BadSetting>() {
            return BAD_CONFIGURATION;
        }
    }
    FAILED
}

/// What to do about it, where the error does not say so itself.
fn next_step(why: &StoreError) -> &'static str {
    match why {
        StoreError::Down(_) => {
            "; is the server up, and is it the host and port in DATABASE_URL? Then try again"
        }
        StoreError::Failed(_) => "; `oddsd check` looks at rights and tables",
        StoreError::Fenced => "; `oddsd status` says which",
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
        false => Store::open(&settings.store()).await?,
    };
    let said = match args.dry_run {
        true => store.rehearse_migration(args.adopt).await,
        false => store.migrate(args.adopt).await,
    };
    store.close().await;
    let said = said?;
    let would = if args.dry_run { "would have " } else { "" };
    for line in &said {
        say!("{would}{line}");
    }
    if said.is_empty() {
        say!("nothing to do: the tables are of this version");
    }
    Ok(ExitCode::SUCCESS)
}

/// For commands that look and do not build: SQLite would make a file that is not there.
async fn open_existing(settings: &Settings) -> anyhow::Result<Store> {
    if let Some(file) = missing_file(settings) {
        anyhow::bail!(BadSetting(format!(
            "there is no database {}; `oddsd run` or `oddsd migrate` makes it, or set DATABASE_URL to the one you mean",
            file.display()
        )));
    }
    Ok(Store::open(&settings.store()).await?)
}

/// The SQLite file that the settings name, when it does not exist.
fn missing_file(settings: &Settings) -> Option<PathBuf> {
    let url = settings.store.database_url.expose_secret();
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path
        .split('?')
        .next()
        .filter(|path| !path.contains(":memory:"))?;
    let path = PathBuf::from(path);
    (!path.exists()).then_some(path)
}

/// A token that SIGINT, SIGTERM, or the end of `after` cancels.
fn stop_on_signals(after: Option<Duration>) -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let told = stop.clone();
    tokio::spawn(async move {
        let over = async {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = over => {}
        }
        told.cancel();
    });
    Ok(stop)
}

/// `30s`, `5m`, `2h`, or plain seconds.
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
    let number: f64 = number
        .trim()
        .parse()
        .map_err(|_| "write a duration such as 30s, 5m or 2h".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "a duration is above zero".into())
}
