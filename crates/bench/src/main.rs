//! `oddsd-bench`: measures oddsd against the limit of the database and the cache, and against the designs that are usually
//! written by hand. Developers run it; the daemon does not contain it.
//!
//! The designs that are compared take turns within one run, on one machine, and the rows are checked after every turn.
//! The ratios are the result, not the absolute times.

// Futures within futures: the compiler works their sizes out by recursion.
#![recursion_limit = "256"]

mod card;
mod child;
mod course;
mod cycle;
mod folder;
mod freshness;
mod invalidation;
mod large;
mod looks;
mod machine;
mod output;
mod postgres;
mod process;
mod provider;
mod pure;
mod reader;
mod redis;
mod remote;
mod report;
mod samples;
mod server;
mod sqlite;
mod wire;
mod write;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Parser, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use oddsd::cli::stop_on_signals;
use oddsd_store::{StoreSettings, Tls};
use output::{err, out};
use postgres::Database;
use report::{Measure, Report};
use server::Server;

/// As the daemon has by default.
const MAX_CONNECTIONS: u32 = 10;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

const FULL: Sizes = Sizes {
    day: 12_000,
    large: 1_000_000,
    runs: 7,
    delay: Duration::from_millis(20),
};
/// A few seconds: proves that everything works and is right, not how fast it is.
const QUICK: Sizes = Sizes {
    day: 600,
    large: 3_000,
    runs: 2,
    delay: Duration::from_millis(2),
};

/// Measures oddsd against the limit and against other designs.
#[derive(Debug, Parser)]
#[command(name = "oddsd-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The cost of a poll and of a commit, beside the limit and beside other ways to write.
    Write(WriteArgs),
    /// Stale reads while every part fails, beside the usual schemes; and the speed of removals.
    Freshness(freshness::FreshnessArgs),
    /// The cost of watching other writers, and the delay until their changes reach the cache.
    Invalidation(invalidation::InvalidationArgs),
    /// The diff and the parsers alone, without a database.
    Pure,
    /// The process that is measured.
    #[command(hide = true)]
    Child,
    /// The daemon, as `oddsd run`.
    #[command(hide = true)]
    Daemon,
}

/// What every measurement takes.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// A Postgres server to measure on, postgres://user@host:5432/name. Without it a private one is started.
    #[arg(long, value_name = "URL")]
    database_url: Option<SecretString>,
    /// Tiny sizes: checks every result in seconds; its times mean nothing.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct WriteArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Only measures whose name contains one of these.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// Turns that count, after one that warms up.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: Option<u16>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
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

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Write(args) => Box::pin(write(&args)).await,
        Command::Freshness(args) => Box::pin(freshness::freshness(&args)).await,
        Command::Invalidation(args) => Box::pin(invalidation::invalidation(&args)).await,
        Command::Pure => {
            pure::measure();
            Ok(ExitCode::SUCCESS)
        }
        Command::Child => Box::pin(child::run()).await.map(|()| ExitCode::SUCCESS),
        Command::Daemon => Ok(oddsd::cli::main(vec!["oddsd".into(), "run".into()]).await),
    }
}

/// The command line is wrong: the text says how.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadArgument(String);

/// How much of everything.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Prices of a real day.
    day: usize,
    /// Prices of the largest book.
    large: usize,
    runs: usize,
    /// Added to a round trip to the far database.
    delay: Duration,
}

/// Measures that are taken together, in one database.
#[derive(Clone, Copy)]
enum Section {
    Write,
    Cycle,
    Remote,
    Reader,
    Process,
    Sqlite,
    Large,
}

impl Section {
    const ALL: [Self; 7] = [
        Self::Write,
        Self::Cycle,
        Self::Remote,
        Self::Reader,
        Self::Process,
        Self::Sqlite,
        Self::Large,
    ];

    fn measures(self) -> &'static [&'static str] {
        match self {
            Self::Write => &write::MEASURES,
            Self::Cycle => &cycle::MEASURES,
            Self::Remote => &remote::MEASURES,
            Self::Reader => &reader::MEASURES,
            Self::Process => &process::MEASURES,
            Self::Sqlite => &sqlite::MEASURES,
            Self::Large => &large::MEASURES,
        }
    }

    async fn measure(self, db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
        match self {
            Self::Write => write::measure(db, sizes).await,
            Self::Cycle => cycle::measure(db, sizes).await,
            Self::Remote => remote::measure(db, sizes).await,
            Self::Reader => reader::measure(db, sizes).await,
            Self::Process => process::measure(db, sizes).await,
            Self::Sqlite => sqlite::measure(db, sizes).await,
            Self::Large => large::measure(db, sizes).await,
        }
    }

    /// In a database of its own, which goes whatever happens.
    async fn run(
        self,
        server: &StoreSettings,
        sizes: &Sizes,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<Measure>> {
        let db = Database::fresh(server).await?;
        let outcome = tokio::select! {
            outcome = self.measure(&db, sizes) => outcome,
            () = stop.cancelled() => Err(anyhow::anyhow!("stopped before the end; nothing is left behind")),
        };
        db.drop().await?;
        outcome.map_err(postgres::plainly)
    }
}

async fn write(args: &WriteArgs) -> anyhow::Result<ExitCode> {
    let wanted = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|only| name.contains(only.as_str()))
    };
    let sections: Vec<Section> = Section::ALL
        .into_iter()
        .filter(|section| section.measures().iter().any(|name| wanted(name)))
        .collect();
    if sections.is_empty() {
        let names: Vec<&str> = Section::ALL
            .iter()
            .flat_map(|s| s.measures())
            .copied()
            .collect();
        bail!(BadArgument(format!(
            "--only {} names no measure; there are {}",
            args.only.join(" "),
            names.join(", ")
        )));
    }
    let mut sizes = if args.common.quick { QUICK } else { FULL };
    sizes.runs = args.runs.map_or(sizes.runs, usize::from);

    let stop = stop_on_signals(None)?;
    let (server, own) = server_of(&args.common)?;
    let mut machine = machine::told();
    machine["postgres"] = postgres::told(&server).await?;
    machine["private_server"] = json!(own.is_some());
    machine["sizes"] = json!({
        "day": sizes.day, "large": sizes.large, "delay_ms": sizes.delay.as_millis() as u64, "quick": args.common.quick,
    });
    if cfg!(debug_assertions) && !args.common.quick {
        err!(
            "this is a debug build: its figures mean nothing; cargo run --release -p oddsd-bench -- write"
        );
    }
    let mut measures = Vec::new();
    for (n, section) in sections.iter().enumerate() {
        let began = Instant::now();
        err!(
            "{}/{}: {}",
            n + 1,
            sections.len(),
            section.measures().join(", ")
        );
        measures.extend(section.run(&server, &sizes, &stop).await?);
        err!("  {:.1} s", began.elapsed().as_secs_f64());
    }
    measures.retain(|measure| wanted(measure.name));
    let report = Report::new(machine, sizes.runs, measures);
    tell(&report, args.common.json)
}

/// The server to measure on, and the one that was started for it when none was named.
fn server_of(args: &CommonArgs) -> anyhow::Result<(StoreSettings, Option<Server>)> {
    let settings = |url: SecretString| StoreSettings {
        url,
        tls: Tls::VerifyFull,
        max_connections: MAX_CONNECTIONS,
        statement_timeout: STATEMENT_TIMEOUT,
    };
    if let Some(url) = &args.database_url {
        let is_postgres = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.expose_secret().starts_with(scheme));
        if !is_postgres {
            bail!(BadArgument(
                "--database-url names a Postgres server, postgres://user@host:5432/name".into()
            ));
        }
        return Ok((settings(url.clone()), None));
    }
    err!("starting a private PostgreSQL (--database-url URL measures yours)");
    let own = Server::start()?;
    Ok((settings(SecretString::from(own.url.clone())), Some(own)))
}

fn tell(report: &Report, json: bool) -> anyhow::Result<ExitCode> {
    match json {
        true => out!("{}", serde_json::to_string(report)?),
        false => out!(
            "{}\n\n{}",
            serde_json::to_string_pretty(&report.machine)?,
            report.table()
        ),
    }
    Ok(ExitCode::SUCCESS)
}
