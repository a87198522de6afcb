//! Measures the commit of a day's prices with 90, 10, 1 and 0 % changed, against a `COPY` of the changed rows, which is the
//! limit, and against the usual ways to write; and the write-ahead log of a commit. It is a section of `oddsd-bench write`.

use anyhow::ensure;

use super::baseline_table::BaselineTable;
use super::copy_baseline::CopyBaseline;
use super::samples::Samples;
use super::scenario::Scenario;
use super::sizes::WriteSizes;
use crate::database::Database;
use crate::report::{Measure, Target, median};

const CHANGED_PERCENTS: [u32; 4] = [90, 10, 1, 0];
/// The share at which the slow baselines and the write-ahead log are measured.
const REWRITE_PERCENT: u32 = 90;
const MEGABYTE: f64 = 1e6;

pub const MEASURES: [&str; 14] = [
    "write_12k_90_vs_copy",
    "write_12k_90_vs_multirow",
    "write_12k_90_vs_row_by_row",
    "write_12k_90_vs_server_side",
    "write_12k_90_vs_unnest_compare",
    "write_12k_10_vs_copy",
    "write_12k_10_vs_multirow",
    "write_12k_10_vs_unnest_compare",
    "write_12k_1_vs_copy",
    "write_12k_1_vs_multirow",
    "write_12k_1_vs_unnest_compare",
    "write_12k_0_vs_multirow",
    "write_12k_0_vs_unnest_compare",
    "wal_10800",
];

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let mut scenario = Scenario::prepare(db, sizes.day).await?;
    let mut copy = CopyBaseline::new(db.connect_by_socket().await?).await?;
    let mut multirow = BaselineTable::new(db.connect().await?, "multirow").await?;
    let mut row_by_row = BaselineTable::new(db.connect().await?, "row_by_row").await?;
    let mut unnest = BaselineTable::new(db.connect().await?, "unnest_compare").await?;
    let mut server_side = BaselineTable::new(db.connect().await?, "server_side").await?;
    for baseline in [
        &mut multirow,
        &mut row_by_row,
        &mut unnest,
        &mut server_side,
    ] {
        baseline.multirow(&scenario.fixture).await?;
    }
    scenario.probe.vacuum().await?;

    let mut samples = Samples::default();
    for _ in 0..=sizes.runs {
        for percent in CHANGED_PERCENTS {
            let (snapshot, changed) = scenario.next_snapshot(f64::from(percent) / 100.0)?;
            let timing = scenario.run_cycle(&snapshot, changed.len()).await?;
            samples.time("ours", percent, timing.total());
            samples.time("diff", percent, timing.diff);
            samples.time(
                "copy",
                percent,
                copy.copy(&scenario.fixture, &changed).await?,
            );
            samples.time(
                "multirow",
                percent,
                multirow.multirow(&scenario.fixture).await?,
            );
            samples.time(
                "unnest_compare",
                percent,
                unnest.unnest_compare(&scenario.fixture).await?,
            );
            if percent == REWRITE_PERCENT {
                samples.time(
                    "row_by_row",
                    percent,
                    row_by_row.row_by_row(&scenario.fixture).await?,
                );
                samples.time(
                    "server_side",
                    percent,
                    server_side.server_side(changed.len()).await?,
                );
                scenario.verify_baseline(&row_by_row).await?;
            }
            scenario.verify_baseline(&multirow).await?;
            scenario.verify_baseline(&unnest).await?;
        }
        samples.end_warmup();
    }
    let mut measures = ratios(&samples);
    measures.push(measure_wal(&mut scenario, &mut multirow, sizes.runs).await?);
    Ok(measures)
}

fn ratios(samples: &Samples) -> Vec<Measure> {
    let against = |name, percent, baseline, target| {
        let ours = samples.median("ours", percent);
        let diff = samples.median("diff", percent);
        let of_baseline = match (baseline, percent) {
            ("server_side", _) => {
                "; against the same number of its rows rewritten inside the server, nothing sent"
            }
            (_, 0) => "; nothing is written by us",
            _ => "",
        };
        Measure::new(name, "ms", ours, target)
            .against(samples.median(baseline, percent))
            .note(format!("of which diff {diff:.2} ms{of_baseline}"))
    };
    let [
        copy_90,
        multirow_90,
        row_by_row_90,
        server_side_90,
        unnest_90,
        copy_10,
        multirow_10,
        unnest_10,
        copy_1,
        multirow_1,
        unnest_1,
        multirow_0,
        unnest_0,
        _,
    ] = MEASURES;
    vec![
        against(copy_90, 90, "copy", Target::AtMostTimes(5.0)),
        against(multirow_90, 90, "multirow", Target::TimesFaster(3.5)),
        against(row_by_row_90, 90, "row_by_row", Target::TimesFaster(20.0)),
        against(server_side_90, 90, "server_side", Target::None),
        against(unnest_90, 90, "unnest_compare", Target::None),
        against(copy_10, 10, "copy", Target::None),
        against(multirow_10, 10, "multirow", Target::None),
        against(unnest_10, 10, "unnest_compare", Target::None),
        against(copy_1, 1, "copy", Target::None),
        against(multirow_1, 1, "multirow", Target::TimesFaster(20.0)),
        against(unnest_1, 1, "unnest_compare", Target::None),
        against(multirow_0, 0, "multirow", Target::None),
        against(unnest_0, 0, "unnest_compare", Target::None),
    ]
}

/// Measures the write-ahead log of one rewrite, ours and that of the multi-row upsert. A `CHECKPOINT` comes first, if the
/// role may. After it the first change of each page logs the whole page, so the first turn does not count.
async fn measure_wal(
    scenario: &mut Scenario,
    baseline: &mut BaselineTable,
    runs: usize,
) -> anyhow::Result<Measure> {
    let checkpointed = scenario.probe.checkpoint().await;
    let mut samples = Samples::default();
    for _ in 0..=runs.max(3) {
        let (snapshot, changed) = scenario.next_snapshot(f64::from(REWRITE_PERCENT) / 100.0)?;
        let before = scenario.probe.wal().await?;
        // Not `scenario.run_cycle`, whose check would read between the two positions.
        let timing = scenario.daemon.run_cycle(&snapshot).await?;
        let between = scenario.probe.wal().await?;
        baseline.multirow(&scenario.fixture).await?;
        let after = scenario.probe.wal().await?;
        scenario.verify().await?;
        scenario.verify_baseline(baseline).await?;
        ensure!(timing.changed == changed.len(), "a rewrite missed changes");
        samples.value("ours", REWRITE_PERCENT, (between - before) / MEGABYTE);
        samples.value("multirow", REWRITE_PERCENT, (after - between) / MEGABYTE);
        samples.end_warmup();
    }
    let ours = median(&samples.all_values("ours"));
    let theirs = median(&samples.all_values("multirow"));
    let measure = Measure::new("wal_10800", "MB", ours, Target::AtMost(4.2)).against(theirs);
    Ok(measure.note(match checkpointed {
        true => "history included; after a CHECKPOINT and one rewrite; against the multi-row upsert of every row",
        false => "history included; without a CHECKPOINT before, which this role may not run; against the multi-row upsert of every row",
    }))
}
