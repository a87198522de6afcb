//! `oddsd-bench`: measures oddsd against the limits of the database and the cache, and against other designs that do
//! the same work. Developers run it; the daemon does not contain it.
//!
//! The compared designs take turns within one run on one machine, and the stored rows are verified after every turn.
//! The ratios are the result, not the absolute times.

mod database;
mod fixture;
mod freshness;
mod invalidation;
mod machine;
mod output;
mod provider;
mod pure;
mod relay_harness;
mod report;
mod session;
mod worker;
mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::err;
use session::BadArgument;
use worker::WorkerKind;

/// Measures oddsd against the limits and against other designs.
#[derive(Debug, Parser)]
#[command(name = "oddsd-bench", version)]
struct BenchCli {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The cost of a poll and of a commit, beside the limit and beside other ways to write.
    Write(write::WriteArgs),
    /// Stale reads while every part fails, beside the usual schemes; and the speed of removals.
    Freshness(freshness::FreshnessArgs),
    /// The cost of watching other writers, and the delay until their changes reach the cache.
    Invalidation(invalidation::InvalidationArgs),
    /// The diff and the parsers alone, without a database.
    Pure,
    /// A measured process that the benchmarks start.
    #[command(hide = true)]
    Worker { kind: WorkerKind },
    /// The daemon, as `oddsd run`.
    #[command(hide = true)]
    Daemon,
}

fn main() -> ExitCode {
    let cli = BenchCli::parse();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        err!("oddsd-bench: a TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(why) => Err(why.into()),
    };
    outcome.unwrap_or_else(|why| {
        err!("oddsd-bench: {why:#}");
        ExitCode::from(if why.is::<BadArgument>() { 2 } else { 1 })
    })
}

async fn run(command: BenchCommand) -> anyhow::Result<ExitCode> {
    match command {
        BenchCommand::Write(args) => Box::pin(write::run(&args)).await?,
        BenchCommand::Freshness(args) => Box::pin(freshness::run(&args)).await?,
        BenchCommand::Invalidation(args) => Box::pin(invalidation::run(&args)).await?,
        BenchCommand::Pure => pure::run()?,
        BenchCommand::Worker { kind } => match kind {
            WorkerKind::Poller => Box::pin(write::run_poll_worker()).await?,
            WorkerKind::Readers => Box::pin(freshness::run_reader_worker()).await?,
            WorkerKind::Relay => Box::pin(freshness::run_relay_worker()).await?,
        },
        BenchCommand::Daemon => {
            return Ok(oddsd::cli::main(vec!["oddsd".into(), "run".into()], Vec::new()).await);
        }
    }
    Ok(ExitCode::SUCCESS)
}
