//! `oddsd-bench freshness`: counts stale reads while the cache fails and removals are late, ours beside three common
//! schemes, and measures how fast a change reaches readers. `main` calls `run`, and the two workers in child processes.

mod faults;
mod speed;

use std::time::Duration;

use serde_json::json;

use self::faults::FaultScenario;
use crate::database::Database;
use crate::session::{CommonArgs, Session};
use oddsd_testkit::redis::RedisServer;

pub use self::speed::{run_reader_worker, run_relay_worker};

#[derive(Debug, clap::Args)]
pub struct FreshnessArgs {
    /// The length of the run under faults.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1440))]
    minutes: u16,
    #[command(flatten)]
    common: CommonArgs,
    /// The seed of the faults and delays; the number that a run printed repeats them. Random by default.
    #[arg(long)]
    seed: Option<u64>,
}

pub async fn run(args: &FreshnessArgs) -> anyhow::Result<()> {
    let quick = args.common.quick;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let scenario = match quick {
        true => FaultScenario::quick(seed),
        false => FaultScenario::full(seed, Duration::from_secs(60) * u32::from(args.minutes)),
    };
    let seconds = scenario.lasts.as_secs();
    let described = json!({
        "seconds": seconds, "seed": seed, "stale_after_ms": scenario.allowed.as_millis() as u64, "quick": quick,
    });
    let session = Session::start(&args.common, "freshness", described).await?;
    let title = format!("1/2: faults for {seconds} s, seed {seed}");
    let mut measures = session
        .run_section(&title, async |db: &Database| {
            let redis = RedisServer::try_start().await?;
            faults::measure(db, &redis, scenario).await
        })
        .await?;
    let speed = session
        .run_section("2/2: speed", async |db: &Database| {
            let redis = RedisServer::try_start().await?;
            speed::measure(db, &redis, quick).await
        })
        .await?;
    measures.extend(speed);
    session.finish(1, measures)
}
