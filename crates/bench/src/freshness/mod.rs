//! `bench freshness`: whether readers can see what is no longer so, while everything around them fails,
//! beside what people do instead; and how fast a change gets to them.

pub mod bars;
mod faults;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::postgres::{self, Database};
use super::redis::RedisServer;
use super::report::{Measure, Report};
use super::{CommonArgs, machine, server_of, tell};
use crate::output::err;
use faults::Course;
use oddsd::cli::stop_on_signals;
use oddsd_store::StoreSettings;

#[derive(Debug, clap::Args)]
pub struct FreshnessArgs {
    /// How long everything fails, again and again.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1440))]
    minutes: u16,
    #[command(flatten)]
    common: CommonArgs,
    /// Which faults, when, and how late: the number that another run printed.
    #[arg(long)]
    seed: Option<u64>,
}

/// What one part measures on, and has for itself: an empty database with the product's tables, and an
/// empty Redis.
pub struct Servers {
    pub store: StoreSettings,
    pub redis: RedisServer,
}

#[derive(Clone, Copy)]
enum Part {
    Faults(Course),
    Bars { quick: bool },
}

impl Part {
    fn told(self) -> String {
        match self {
            Self::Faults(course) => format!(
                "faults for {} s, seed {}",
                course.lasts.as_secs(),
                course.seed
            ),
            Self::Bars { .. } => "how fast".into(),
        }
    }

    /// On servers of its own, which go whatever happens.
    async fn run(
        self,
        server: &StoreSettings,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<Measure>> {
        let db = Database::fresh(server).await?;
        let measured = async {
            let servers = Servers {
                store: db.settings(),
                redis: RedisServer::start().await?,
            };
            match self {
                Self::Faults(course) => faults::measure(&servers, course).await,
                Self::Bars { quick } => bars::measure(&servers, quick, stop).await,
            }
        };
        let outcome = tokio::select! {
            outcome = measured => outcome,
            () = stop.cancelled() => Err(anyhow::anyhow!("stopped before the end; nothing is left behind")),
        };
        db.drop().await?;
        outcome.map_err(postgres::plainly)
    }
}

pub async fn freshness(args: &FreshnessArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signals(None)?;
    let (server, own) = server_of(&args.common)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let course = match args.common.quick {
        true => Course::quick(seed),
        false => Course::full(seed, Duration::from_secs(60) * u32::from(args.minutes)),
    };
    let mut machine = machine::told();
    machine["postgres"] = postgres::told(&server).await?;
    machine["private_server"] = json!(own.is_some());
    machine["sizes"] = json!({
        "seconds": course.lasts.as_secs(), "seed": seed, "stale_after_ms": course.allowed.as_millis() as u64,
        "quick": args.common.quick,
    });
    if cfg!(debug_assertions) && !args.common.quick {
        err!(
            "this is a debug build: its speeds mean nothing; cargo run --release -p oddsd-bench -- freshness"
        );
    }
    let parts = [
        Part::Faults(course),
        Part::Bars {
            quick: args.common.quick,
        },
    ];
    let mut measures = Vec::new();
    for (n, part) in parts.into_iter().enumerate() {
        let began = Instant::now();
        err!("{}/{}: {}", n + 1, parts.len(), part.told());
        measures.extend(part.run(&server, &stop).await?);
        err!("  {:.1} s", began.elapsed().as_secs_f64());
    }
    tell(&Report::new(machine, 1, measures), args.common.json)
}
