//! A million prices: the same path where everything is eighty times as much.

use std::hint::black_box;
use std::time::Instant;

use super::Sizes;
use super::course::Course;
use super::looks::{Daemon, observed};
use super::postgres::{Database, Narrow, Wide};
use super::process::Watched;
use super::report::{Bar, Measure, median};
use super::samples::Samples;
use crate::output::err;

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
/// Against the limit alone: the other design takes ten seconds for each.
const OTHER_PERCENTS: [u32; 2] = [1, 90];
/// A turn takes half a minute: the median of three has to do.
const MOST_TURNS: usize = 3;

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let turns = sizes.runs.min(MOST_TURNS);
    let mut course = Course::set(db, sizes.large).await?;
    err!("  {} prices are stored", sizes.large);
    let mut narrow = Narrow::new(db.connect_closely().await?).await?;
    let mut compared = Wide::new(db.connect().await?, "unnest_compare").await?;
    compared.unnest_compare(&course.card).await?;
    course.eye.settle().await?;
    err!("  and in the wide table");

    let mut samples = Samples::default();
    for _ in 0..=turns {
        let quiet = observed(&course.card)?;
        let started = Instant::now();
        black_box(course.daemon.compare(&quiet));
        samples.time("quiet", 0, started.elapsed());
        drop(quiet);
        let (observed, moved) = course.next(SHARE)?;
        let look = course.look(&observed, moved.len()).await?;
        drop(observed);
        samples.time("ours", 10, look.total());
        samples.time("diff", 10, look.diff);
        samples.time("copy", 10, narrow.copy(&course.card, &moved).await?);
        samples.time(
            "unnest_compare",
            10,
            compared.unnest_compare(&course.card).await?,
        );
        course.holds(&compared).await?;
        // Else autovacuum comes while another variant has its turn.
        course.eye.settle().await?;
        samples.warm();
        err!("  a turn is done");
    }
    others(&mut course, &mut narrow, &mut samples, turns).await?;
    let Course { daemon, card, .. } = course;
    daemon.leave().await?;

    let mut cold = Vec::new();
    for _ in 0..turns {
        let started = Instant::now();
        let daemon = Daemon::start(db.store().await?).await?;
        cold.push(started.elapsed().as_secs_f64());
        daemon.leave().await?;
    }
    let watched = Watched::run(db, card, 1).await?;

    let speed = |variant, percent| sizes.large as f64 / samples.median(variant, percent) / 1000.0;
    let (ours, copy) = (samples.median("ours", 10), samples.median("copy", 10));
    let compare = samples.median("unnest_compare", 10);
    let diff = samples.median("diff", 10);
    let note = format!("of which diff {diff:.1} ms");
    Ok(vec![
        Measure::new("write_1m_10_vs_copy", "ms", ours, Bar::AtMostTimes(15.0))
            .against(copy)
            .note(note.clone()),
        Measure::new(
            "write_1m_10_vs_unnest_compare",
            "ms",
            ours,
            Bar::TimesFaster(8.0),
        )
        .against(compare)
        .note(note),
        against_copy("write_1m_1_vs_copy", &samples, 1),
        against_copy("write_1m_90_vs_copy", &samples, 90),
        Measure::new(
            "diff_1m",
            "M prices/s",
            speed("diff", 10),
            Bar::AtLeast(10.0),
        )
        .note("10 % changed, one thread"),
        Measure::new("diff_1m_quiet", "M prices/s", speed("quiet", 0), Bar::None)
            .note("nothing changed, one thread"),
        Measure::new("cold_start_1m", "s", median(&cold), Bar::AtMost(3.0))
            .note("connect, take the lease, load every price"),
        watched.memory("rss_1m", 220.0),
        watched.memory_all_gone("rss_1m_all_gone"),
    ])
}

async fn others(
    course: &mut Course,
    narrow: &mut Narrow,
    samples: &mut Samples,
    turns: usize,
) -> anyhow::Result<()> {
    for _ in 0..turns {
        for percent in OTHER_PERCENTS {
            let (observed, moved) = course.next(f64::from(percent) / 100.0)?;
            let look = course.look(&observed, moved.len()).await?;
            drop(observed);
            samples.time("ours", percent, look.total());
            let copied = narrow.copy(&course.card, &moved).await?;
            samples.time("copy", percent, copied);
            course.eye.settle().await?;
        }
    }
    err!("  and with {OTHER_PERCENTS:?} % changed");
    Ok(())
}

fn against_copy(name: &'static str, samples: &Samples, percent: u32) -> Measure {
    Measure::new(name, "ms", samples.median("ours", percent), Bar::None)
        .against(samples.median("copy", percent))
}
