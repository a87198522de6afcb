//! Measures the same cycles on SQLite, in turns with Postgres. It is a section of `oddsd-bench write`.

use anyhow::ensure;
use secrecy::SecretString;

use super::pipeline::CyclePipeline;
use super::samples::Samples;
use super::scenario::Scenario;
use super::sizes::WriteSizes;
use crate::database::Database;
use crate::report::{Measure, Target};
use oddsd_core::model::Snapshot;
use oddsd_store::{Store, StoreSettings};
use tempfile::TempDir;

pub const MEASURES: [&str; 3] = ["sqlite_12k_90", "sqlite_12k_10", "sqlite_12k_1"];
const PERCENTS: [u32; 3] = [90, 10, 1];

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let folder = tempfile::TempDir::new()?;
    let mut scenario = Scenario::prepare(db, sizes.day).await?;
    let file = open_file(&folder, db).await?;
    file.migrate(false).await?;
    let mut daemon = CyclePipeline::start(file).await?;
    daemon.run_cycle(&scenario.fixture.snapshot()?).await?;

    let mut samples = Samples::default();
    for _ in 0..=sizes.runs {
        for percent in PERCENTS {
            let (snapshot, changed) = scenario.next_snapshot(f64::from(percent) / 100.0)?;
            let postgres = scenario.run_cycle(&snapshot, changed.len()).await?;
            samples.time("postgres", percent, postgres.total());
            let sqlite = daemon.run_cycle(&snapshot).await?;
            ensure!(
                sqlite.changed == changed.len(),
                "not every change was found"
            );
            samples.time("sqlite", percent, sqlite.total());
            verify(&open_file(&folder, db).await?, &snapshot).await?;
        }
        samples.end_warmup();
    }
    daemon.stop().await?;
    Ok(MEASURES
        .into_iter()
        .zip(PERCENTS)
        .map(|(name, percent)| {
            Measure::new(name, "ms", samples.median("sqlite", percent), Target::None)
                .against(samples.median("postgres", percent))
                .note("diff and commit, against the same cycle on Postgres; some commits include a checkpoint of the file")
        })
        .collect())
}

/// Fails unless a comparison of the stored rows with the snapshot finds no change.
async fn verify(store: &Store, snapshot: &Snapshot) -> anyhow::Result<()> {
    let stored = store.load().await?;
    let again = oddsd_core::diff::compute_changes(
        &stored.state,
        stored.next_cycle,
        snapshot,
        &oddsd_core::diff::ShrinkGuard::OFF,
    );
    store.close().await;
    ensure!(
        again.is_empty() && again.counts.stale == 0,
        "the file does not hold the snapshot"
    );
    Ok(())
}

/// A database file in the folder, with the settings of the other database.
async fn open_file(folder: &TempDir, db: &Database) -> anyhow::Result<Store> {
    let url = format!("sqlite:{}", folder.path().join("oddsd.db").display());
    let settings = StoreSettings {
        url: SecretString::from(url),
        ..db.settings()
    };
    Ok(Store::open(&settings).await?)
}
