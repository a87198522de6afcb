//! `oddsd-bench write`: the cost of a poll cycle and of its commit, beside the limit of the database and beside other
//! ways to write. `main` calls it, also in the measured process.

mod baseline_table;
mod commit;
mod copy_baseline;
mod cycle;
mod large;
mod pipeline;
mod poll_worker;
mod process;
mod reader;
mod remote;
mod samples;
mod scenario;
mod sizes;
mod sqlite;

use serde_json::json;

use self::sizes::{FULL, QUICK, WriteSizes};
use crate::database::Database;
use crate::report::Measure;
use crate::session::{CommonArgs, OnlyArgs, Session};

pub use self::poll_worker::run as run_poll_worker;

#[derive(Debug, clap::Args)]
pub struct WriteArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    only: OnlyArgs,
    /// Turns that count, after one that warms up.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: Option<u16>,
}

/// Measures that are taken together in one database.
#[derive(Clone, Copy)]
enum WriteSection {
    Commit,
    Cycle,
    Remote,
    Reader,
    Process,
    Sqlite,
    Large,
}

impl WriteSection {
    const ALL: [Self; 7] = [
        Self::Commit,
        Self::Cycle,
        Self::Remote,
        Self::Reader,
        Self::Process,
        Self::Sqlite,
        Self::Large,
    ];

    fn measures(self) -> &'static [&'static str] {
        match self {
            Self::Commit => &commit::MEASURES,
            Self::Cycle => &cycle::MEASURES,
            Self::Remote => &remote::MEASURES,
            Self::Reader => &reader::MEASURES,
            Self::Process => &process::MEASURES,
            Self::Sqlite => &sqlite::MEASURES,
            Self::Large => &large::MEASURES,
        }
    }

    async fn measure(self, db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
        match self {
            Self::Commit => commit::measure(db, sizes).await,
            Self::Cycle => cycle::measure(db, sizes).await,
            Self::Remote => remote::measure(db, sizes).await,
            Self::Reader => reader::measure(db, sizes).await,
            Self::Process => process::measure(db, sizes).await,
            Self::Sqlite => sqlite::measure(db, sizes).await,
            Self::Large => large::measure(db, sizes).await,
        }
    }
}

pub async fn run(args: &WriteArgs) -> anyhow::Result<()> {
    let sections = args
        .only
        .select(&WriteSection::ALL, WriteSection::measures)?;
    let mut sizes = if args.common.quick { QUICK } else { FULL };
    sizes.runs = args.runs.map_or(sizes.runs, usize::from);
    let described = json!({
        "day": sizes.day, "large": sizes.large, "delay_ms": sizes.delay.as_millis() as u64, "quick": args.common.quick,
    });
    let session = Session::start(&args.common, "write", described).await?;
    let measures = session
        .run_sections(
            &sections,
            &args.only,
            WriteSection::measures,
            async |section, db| section.measure(db, &sizes).await,
        )
        .await?;
    session.finish(sizes.runs, measures)
}
