//! Measures a million prices: commits, the diff, a cold start and memory. It is a section of `oddsd-bench write`.

use std::hint::black_box;
use std::time::Instant;

use super::baseline_table::BaselineTable;
use super::copy_baseline::CopyBaseline;
use super::pipeline::CyclePipeline;
use super::process::ProcessFigures;
use super::samples::Samples;
use super::scenario::Scenario;
use super::sizes::WriteSizes;
use crate::database::Database;
use crate::output::err;
use crate::report::{Measure, Target, median};

pub const MEASURES: [&str; 9] = [
    "write_1m_10_vs_copy",
    "write_1m_10_vs_unnest_compare",
    "write_1m_1_vs_copy",
    "write_1m_90_vs_copy",
    "diff_1m",
    "diff_1m_quiet",
    "cold_start_1m",
    "rss_1m",
    "rss_1m_all_gone",
];
const SHARE: f64 = 0.1;
/// Measured against the limit alone, because the other design takes ten seconds for each.
const OTHER_PERCENTS: [u32; 2] = [1, 90];
/// A turn takes half a minute.
const MOST_TURNS: usize = 3;

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let turns = sizes.runs.min(MOST_TURNS);
    let mut scenario = Scenario::prepare(db, sizes.large).await?;
    err!("  {} prices are stored", sizes.large);
    let mut copy = CopyBaseline::new(db.connect_by_socket().await?).await?;
    let mut unnest = BaselineTable::new(db.connect().await?, "unnest_compare").await?;
    unnest.unnest_compare(&scenario.fixture).await?;
    scenario.probe.vacuum().await?;
    err!("  and in the wide table");

    let mut samples = Samples::default();
    for _ in 0..=turns {
        let quiet = scenario.fixture.snapshot()?;
        let started = Instant::now();
        black_box(scenario.daemon.compare(&quiet));
        samples.time("quiet", 0, started.elapsed());
        drop(quiet);
        let (snapshot, changed) = scenario.next_snapshot(SHARE)?;
        let timing = scenario.run_cycle(&snapshot, changed.len()).await?;
        drop(snapshot);
        samples.time("ours", 10, timing.total());
        samples.time("diff", 10, timing.diff);
        samples.time("copy", 10, copy.copy(&scenario.fixture, &changed).await?);
        samples.time(
            "unnest_compare",
            10,
            unnest.unnest_compare(&scenario.fixture).await?,
        );
        scenario.verify_baseline(&unnest).await?;
        // Otherwise autovacuum runs during the turn of another variant.
        scenario.probe.vacuum().await?;
        samples.end_warmup();
        err!("  a turn is done");
    }
    measure_other_percents(&mut scenario, &mut copy, &mut samples, turns).await?;
    let Scenario {
        daemon, fixture, ..
    } = scenario;
    daemon.stop().await?;

    let mut cold = Vec::new();
    for _ in 0..turns {
        let started = Instant::now();
        let daemon = CyclePipeline::start(db.store().await?).await?;
        cold.push(started.elapsed().as_secs_f64());
        daemon.stop().await?;
    }
    let figures = ProcessFigures::measure(db, fixture, 1).await?;

    let speed = |variant, percent| sizes.large as f64 / samples.median(variant, percent) / 1000.0;
    let (ours, copy) = (samples.median("ours", 10), samples.median("copy", 10));
    let compare = samples.median("unnest_compare", 10);
    let diff = samples.median("diff", 10);
    let note = format!("of which diff {diff:.1} ms");
    Ok(vec![
        Measure::new("write_1m_10_vs_copy", "ms", ours, Target::AtMostTimes(15.0))
            .against(copy)
            .note(note.clone()),
        Measure::new(
            "write_1m_10_vs_unnest_compare",
            "ms",
            ours,
            Target::TimesFaster(8.0),
        )
        .against(compare)
        .note(note),
        against_copy("write_1m_1_vs_copy", &samples, 1),
        against_copy("write_1m_90_vs_copy", &samples, 90),
        Measure::new(
            "diff_1m",
            "M prices/s",
            speed("diff", 10),
            Target::AtLeast(10.0),
        )
        .note("10 % changed, one thread"),
        Measure::new(
            "diff_1m_quiet",
            "M prices/s",
            speed("quiet", 0),
            Target::None,
        )
        .note("nothing changed, one thread"),
        Measure::new("cold_start_1m", "s", median(&cold), Target::AtMost(3.0))
            .note("connect, take the lease, load every price"),
        figures.memory("rss_1m", 300.0),
        figures.memory_all_gone("rss_1m_all_gone"),
    ])
}

async fn measure_other_percents(
    scenario: &mut Scenario,
    copy: &mut CopyBaseline,
    samples: &mut Samples,
    turns: usize,
) -> anyhow::Result<()> {
    for _ in 0..turns {
        for percent in OTHER_PERCENTS {
            let (snapshot, changed) = scenario.next_snapshot(f64::from(percent) / 100.0)?;
            let timing = scenario.run_cycle(&snapshot, changed.len()).await?;
            drop(snapshot);
            samples.time("ours", percent, timing.total());
            let copied = copy.copy(&scenario.fixture, &changed).await?;
            samples.time("copy", percent, copied);
            scenario.probe.vacuum().await?;
        }
    }
    err!("  and with {OTHER_PERCENTS:?} % changed");
    Ok(())
}

fn against_copy(name: &'static str, samples: &Samples, percent: u32) -> Measure {
    Measure::new(name, "ms", samples.median("ours", percent), Target::None)
        .against(samples.median("copy", percent))
}
