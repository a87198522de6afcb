//! `oddsd-bench invalidation`: the evaluation of rules, the cost of a watch for other writers, the delay until their
//! commits reach the cache, and the rate of reported changes. `main` calls it.

mod application_table;
mod removal;
mod reported;
mod rules;
mod sizes;
mod watched;

use serde_json::json;

use self::sizes::{FULL, InvalidationSizes, QUICK};
use crate::database::Database;
use crate::report::Measure;
use crate::session::{CommonArgs, OnlyArgs, Session};

#[derive(Debug, clap::Args)]
pub struct InvalidationArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    only: OnlyArgs,
}

/// Measures that are taken together in one database.
#[derive(Clone, Copy)]
enum InvalidationSection {
    Rules,
    Watched,
    Removal,
    Reported,
}

impl InvalidationSection {
    const ALL: [Self; 4] = [Self::Rules, Self::Watched, Self::Removal, Self::Reported];

    fn measures(self) -> &'static [&'static str] {
        match self {
            Self::Rules => &rules::MEASURES,
            Self::Watched => &watched::MEASURES,
            Self::Removal => &removal::MEASURES,
            Self::Reported => &reported::MEASURES,
        }
    }

    async fn measure(
        self,
        db: &Database,
        sizes: &InvalidationSizes,
    ) -> anyhow::Result<Vec<Measure>> {
        match self {
            Self::Rules => rules::measure(sizes),
            Self::Watched => watched::measure(db, sizes).await,
            Self::Removal => removal::measure(db, sizes).await,
            Self::Reported => reported::measure(db, sizes).await,
        }
    }
}

pub async fn run(args: &InvalidationArgs) -> anyhow::Result<()> {
    let sections = args
        .only
        .select(&InvalidationSection::ALL, InvalidationSection::measures)?;
    let sizes = if args.common.quick { QUICK } else { FULL };
    let described = json!({
        "inserts": sizes.blocks * sizes.block, "bulk": sizes.bulk, "quick": args.common.quick,
    });
    let session = Session::start(&args.common, "invalidation", described).await?;
    let measures = session
        .run_sections(
            &sections,
            &args.only,
            InvalidationSection::measures,
            async |section, db| section.measure(db, &sizes).await,
        )
        .await?;
    session.finish(sizes.turns, measures)
}
