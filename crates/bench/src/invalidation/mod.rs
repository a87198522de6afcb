//! `bench invalidation`: how fast rules are evaluated, what it costs other writers to be watched, how soon their commits reach the
//! cache, and how many changes a daemon takes in a second.

mod gone;
mod reported;
mod rules;
mod watched;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::postgres::{self, Database};
use super::report::{Measure, Report};
use super::{BadArgument, CommonArgs, machine, server_of, tell};
use crate::output::err;
use oddsd::cli::stop_on_signals;
use oddsd_store::StoreSettings;

#[derive(Debug, clap::Args)]
pub struct InvalidationArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Only measures whose name contains one of these.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
}

/// How much of everything.
#[derive(Clone, Copy)]
struct Sizes {
    /// Blocks of single inserts of each kind, and inserts of a block.
    blocks: usize,
    block: usize,
    /// Rows of a bulk statement, and statements of each kind.
    bulk: i64,
    turns: usize,
    /// Changes that rules are asked about.
    changes: usize,
    /// How long others commit, and how long they report.
    committing: Duration,
    reporting: Duration,
}

const FULL: Sizes = Sizes {
    blocks: 60,
    block: 200,
    bulk: 1_000_000,
    turns: 5,
    changes: 100_000,
    committing: Duration::from_secs(15),
    reporting: Duration::from_secs(10),
};
const QUICK: Sizes = Sizes {
    blocks: 2,
    block: 20,
    bulk: 3_000,
    turns: 1,
    changes: 500,
    committing: Duration::from_millis(200),
    reporting: Duration::from_millis(200),
};

/// Measures that are taken together, in one database.
#[derive(Clone, Copy, Debug)]
enum Section {
    Rules,
    Watched,
    Gone,
    Reported,
}

impl Section {
    const ALL: [Self; 4] = [Self::Rules, Self::Watched, Self::Gone, Self::Reported];

    fn measures(self) -> &'static [&'static str] {
        match self {
            Self::Rules => &rules::MEASURES,
            Self::Watched => &watched::MEASURES,
            Self::Gone => &gone::MEASURES,
            Self::Reported => &reported::MEASURES,
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
        let measured = async {
            match self {
                Self::Rules => rules::measure(sizes),
                Self::Watched => watched::measure(&db, sizes).await,
                Self::Gone => gone::measure(&db, sizes).await,
                Self::Reported => reported::measure(&db, sizes).await,
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

pub async fn invalidation(args: &InvalidationArgs) -> anyhow::Result<ExitCode> {
    let wanted = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|only| name.contains(only.as_str()))
    };
    let sections = Section::ALL
        .into_iter()
        .filter(|section| section.measures().iter().any(|name| wanted(name)));
    let sections: Vec<Section> = sections.collect();
    if sections.is_empty() {
        let names = Section::ALL
            .iter()
            .flat_map(|section| section.measures())
            .copied();
        bail!(BadArgument(format!(
            "--only {} names no measure; there are {}",
            args.only.join(" "),
            names.collect::<Vec<_>>().join(", ")
        )));
    }
    let sizes = if args.common.quick { QUICK } else { FULL };
    let stop = stop_on_signals(None)?;
    let (server, own) = server_of(&args.common)?;
    let mut machine = machine::told();
    machine["postgres"] = postgres::told(&server).await?;
    machine["private_server"] = json!(own.is_some());
    machine["sizes"] = json!({
        "inserts": sizes.blocks * sizes.block, "bulk": sizes.bulk, "quick": args.common.quick,
    });
    if cfg!(debug_assertions) && !args.common.quick {
        err!(
            "this is a debug build: its speeds mean nothing; cargo run --release -p oddsd-bench -- invalidation"
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
    tell(
        &Report::new(machine, sizes.turns, measures),
        args.common.json,
    )
}
