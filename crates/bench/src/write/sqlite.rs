//! The same looks on SQLite, in a file of its own, in turns with Postgres.

use anyhow::ensure;
use secrecy::SecretString;

use super::Sizes;
use super::course::Course;
use super::folder::Folder;
use super::looks::{Daemon, observed};
use super::postgres::Database;
use super::report::{Bar, Measure};
use super::samples::Samples;
use oddsd_core::model::Snapshot;
use oddsd_store::{Store, StoreSettings};

pub const MEASURES: [&str; 3] = ["sqlite_12k_90", "sqlite_12k_10", "sqlite_12k_1"];
const PERCENTS: [u32; 3] = [90, 10, 1];

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let folder = Folder::new()?;
    let mut course = Course::set(db, sizes.day).await?;
    let file = store(&folder, db).await?;
    file.migrate(false).await?;
    let mut daemon = Daemon::start(file).await?;
    daemon.look(&observed(&course.card)?).await?;

    let mut samples = Samples::default();
    for _ in 0..=sizes.runs {
        for percent in PERCENTS {
            let (observed, moved) = course.next(f64::from(percent) / 100.0)?;
            let postgres = course.look(&observed, moved.len()).await?;
            samples.time("postgres", percent, postgres.total());
            let sqlite = daemon.look(&observed).await?;
            ensure!(sqlite.changed == moved.len(), "not every change was found");
            samples.time("sqlite", percent, sqlite.total());
            holds(&store(&folder, db).await?, &observed).await?;
        }
        samples.warm();
    }
    daemon.leave().await?;
    Ok(MEASURES
        .into_iter()
        .zip(PERCENTS)
        .map(|(name, percent)| {
            Measure::new(name, "ms", samples.median("sqlite", percent), Bar::None)
                .against(samples.median("postgres", percent))
                .note("diff and commit, against the same look on Postgres; some commits pay for a checkpoint of the file")
        })
        .collect())
}

/// What is stored is what was observed: looking at it once more finds nothing to do.
async fn holds(store: &Store, observed: &Snapshot) -> anyhow::Result<()> {
    let stored = store.load().await?;
    let again = oddsd_core::diff::compute_changes(
        &stored.state,
        observed,
        &oddsd_core::diff::ShrinkGuard::OFF,
    );
    store.close().await;
    ensure!(
        again.is_empty() && again.counts.stale == 0,
        "the file does not hold what was observed"
    );
    Ok(())
}

/// A file in it, with the settings that the other database has.
async fn store(folder: &Folder, db: &Database) -> anyhow::Result<Store> {
    let url = format!("sqlite:{}", folder.path().join("oddsd.db").display());
    let settings = StoreSettings {
        url: SecretString::from(url),
        ..db.settings()
    };
    Ok(Store::open(&settings).await?)
}
