//! `bench`: what a look costs, against what the database cannot do without and against what people
//! write instead. Everything that is compared runs in turns within one run, on one machine, on rows
//! that are checked after every turn; what counts are the ratios.

pub mod card;
mod child;
mod course;
mod cycle;
mod folder;
mod freshness;
mod invalidation;
mod large;
mod looks;
mod machine;
mod postgres;
mod process;
mod provider;
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
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::say::{remark, say};
use super::stop_on_signals;
use crate::config::{BadSetting, Settings};
use crate::store::StoreSettings;
use postgres::Database;
use report::{Measure, Report};
use server::Server;

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

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: Option<What>,
    /// Tiny sizes: proves results in a few seconds, says nothing about speed.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Only measures whose name contains one of these.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// Turns that count, after one that warms up.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: Option<u16>,
    /// Be the process that is measured.
    #[arg(long, hide = true)]
    child: bool,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Whether readers can see what is no longer so, while everything fails; beside what others do.
    Freshness(freshness::FreshnessArgs),
    /// What it costs other writers to be watched, and how soon their changes reach the cache.
    Invalidation(invalidation::InvalidationArgs),
}

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

pub async fn bench(settings: &Settings, args: &BenchArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        Some(What::Freshness(args)) => return freshness::freshness(settings, args).await,
        Some(What::Invalidation(args)) => return invalidation::invalidation(settings, args).await,
        None => {}
    }
    if args.child {
        child::run().await?;
        return Ok(ExitCode::SUCCESS);
    }
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
        bail!(BadSetting(format!(
            "--only {} names no measure; there are {}",
            args.only.join(" "),
            names.join(", ")
        )));
    }
    let mut sizes = if args.quick { QUICK } else { FULL };
    sizes.runs = args.runs.map_or(sizes.runs, usize::from);

    let stop = stop_on_signals(None)?;
    let (server, own) = server_of(settings)?;
    let mut machine = machine::told();
    machine["postgres"] = postgres::told(&server).await?;
    machine["private_server"] = json!(own.is_some());
    machine["sizes"] = json!({
        "day": sizes.day, "large": sizes.large, "delay_ms": sizes.delay.as_millis() as u64, "quick": args.quick,
    });
    if cfg!(debug_assertions) && !args.quick {
        remark!("this is a debug build: its figures mean nothing; cargo run --release -- bench");
    }
    let mut measures = Vec::new();
    for (n, section) in sections.iter().enumerate() {
        let began = Instant::now();
        remark!(
            "{}/{}: {}",
            n + 1,
            sections.len(),
            section.measures().join(", ")
        );
        measures.extend(section.run(&server, &sizes, &stop).await?);
        remark!("  {:.1} s", began.elapsed().as_secs_f64());
    }
    measures.retain(|measure| wanted(measure.name));
    let report = Report::new(machine, sizes.runs, measures);
    tell(&report, args.json)
}

/// The server to measure on; and where nobody named one, the one that was started for it.
fn server_of(settings: &Settings) -> anyhow::Result<(StoreSettings, Option<Server>)> {
    let mut server = settings.store();
    // From the command line only: a DATABASE_URL in the environment is where real prices are.
    match given_on_the_command_line() {
        true if is_postgres(&server) => Ok((server, None)),
        true => bail!(BadSetting(
            "--database-url of the bench names a Postgres server, postgres://user@host:5432/name"
                .into()
        )),
        false => {
            remark!("starting a private PostgreSQL (--database-url URL measures yours)");
            let own = Server::start()?;
            server.url = SecretString::from(own.url.clone());
            Ok((server, Some(own)))
        }
    }
}

fn tell(report: &Report, json: bool) -> anyhow::Result<ExitCode> {
    match json {
        true => say!("{}", serde_json::to_string(report)?),
        false => say!(
            "{}\n\n{}",
            serde_json::to_string_pretty(&report.machine)?,
            report.table()
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn is_postgres(server: &StoreSettings) -> bool {
    let url = server.url.expose_secret();
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

fn given_on_the_command_line() -> bool {
    std::env::args_os().any(|word| {
        let word = word.to_string_lossy();
        word == "--database-url" || word.starts_with("--database-url=")
    })
}
