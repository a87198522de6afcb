//! A day's prices written: ours against the limit and against what people write instead, at 90, 10,
//! 1 and 0 % changed; and what each leaves in the write-ahead log.

use super::Sizes;
use super::course::Course;
use super::postgres::{Database, Narrow, Wide};
use super::report::{Bar, Measure};
use super::samples::Samples;

const PERCENT: [u32; 4] = [90, 10, 1, 0];
/// Above all others, and slow: measured once, where it has a bar.
const MANY: u32 = 90;
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

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let mut course = Course::set(db, sizes.day).await?;
    let mut narrow = Narrow::new(db.connect_closely().await?).await?;
    let mut multirow = Wide::new(db.connect().await?, "multirow").await?;
    let mut single = Wide::new(db.connect().await?, "row_by_row").await?;
    let mut compared = Wide::new(db.connect().await?, "unnest_compare").await?;
    let mut inside = Wide::new(db.connect().await?, "server_side").await?;
    for wide in [&mut multirow, &mut single, &mut compared, &mut inside] {
        wide.multirow(&course.card).await?;
    }
    course.eye.settle().await?;

    let mut samples = Samples::default();
    for _ in 0..=sizes.runs {
        for percent in PERCENT {
            let (observed, moved) = course.next(f64::from(percent) / 100.0)?;
            let look = course.look(&observed, moved.len()).await?;
            samples.time("ours", percent, look.total());
            samples.time("diff", percent, look.diff);
            samples.time("copy", percent, narrow.copy(&course.card, &moved).await?);
            samples.time("multirow", percent, multirow.multirow(&course.card).await?);
            samples.time(
                "unnest_compare",
                percent,
                compared.unnest_compare(&course.card).await?,
            );
            if percent == MANY {
                samples.time(
                    "row_by_row",
                    percent,
                    single.row_by_row(&course.card).await?,
                );
                samples.time(
                    "server_side",
                    percent,
                    inside.server_side(moved.len()).await?,
                );
                course.holds(&single).await?;
            }
            course.holds(&multirow).await?;
            course.holds(&compared).await?;
        }
        samples.warm();
    }
    let mut measures = times(&samples);
    measures.push(wal(&mut course, &mut multirow, sizes.runs).await?);
    Ok(measures)
}

fn times(samples: &Samples) -> Vec<Measure> {
    let against = |name, percent, variant, bar| {
        let ours = samples.median("ours", percent);
        let measure = Measure::new(name, "ms", ours, bar).against(samples.median(variant, percent));
        measure.note(format!(
            "of which diff {:.2} ms",
            samples.median("diff", percent)
        ))
    };
    let [
        copy_90,
        multirow_90,
        single_90,
        inside_90,
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
        against(copy_90, 90, "copy", Bar::AtMostTimes(5.0)),
        against(multirow_90, 90, "multirow", Bar::TimesFaster(3.5)),
        against(single_90, 90, "row_by_row", Bar::TimesFaster(20.0)),
        against(inside_90, 90, "server_side", Bar::None)
            .note("against the same number of wide rows rewritten inside the server, nothing sent"),
        against(unnest_90, 90, "unnest_compare", Bar::None),
        against(copy_10, 10, "copy", Bar::None),
        against(multirow_10, 10, "multirow", Bar::None),
        against(unnest_10, 10, "unnest_compare", Bar::None),
        against(copy_1, 1, "copy", Bar::None),
        against(multirow_1, 1, "multirow", Bar::TimesFaster(20.0)),
        against(unnest_1, 1, "unnest_compare", Bar::None),
        against(multirow_0, 0, "multirow", Bar::None).note("nothing is written by us"),
        against(unnest_0, 0, "unnest_compare", Bar::None).note("nothing is written by us"),
    ]
}

/// After a checkpoint the first touch of each page logs the whole page; a rewrite before the first
/// measured one takes that away from all of them.
async fn wal(course: &mut Course, wide: &mut Wide, runs: usize) -> anyhow::Result<Measure> {
    let checkpointed = course.eye.checkpoint().await;
    let mut samples = Samples::default();
    for _ in 0..=runs.max(3) {
        let (observed, moved) = course.next(f64::from(MANY) / 100.0)?;
        let before = course.eye.wal().await?;
        course.daemon.look(&observed).await?;
        let between = course.eye.wal().await?;
        wide.multirow(&course.card).await?;
        let after = course.eye.wal().await?;
        course.stored().await?;
        course.holds(wide).await?;
        let of = moved.len() as u32;
        samples.value("ours", of, (between - before) / MEGABYTE);
        samples.value("multirow", of, (after - between) / MEGABYTE);
        samples.warm();
    }
    let ours = super::report::median(&samples.all("ours"));
    let theirs = super::report::median(&samples.all("multirow"));
    let measure = Measure::new("wal_10800", "MB", ours, Bar::AtMost(4.2)).against(theirs);
    Ok(measure.note(match checkpointed {
        true => "history included; after a CHECKPOINT and one rewrite; against the multi-row upsert of every row",
        false => "history included; without a CHECKPOINT before (this role may not); against the multi-row upsert of every row",
    }))
}
