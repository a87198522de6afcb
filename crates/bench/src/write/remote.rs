//! A database that is far away: round trips are what it charges for.

use std::time::Duration;

use super::Sizes;
use super::course::Course;
use super::postgres::{Database, Narrow};
use super::report::{Bar, Measure};
use super::samples::Samples;
use super::wire::Wire;

pub const MEASURES: [&str; 2] = ["remote_20ms_12k_10", "remote_round_trips"];
const SHARE: f64 = 0.1;
/// Round trips that a look may cost beside its own work.
const TRIPS: f64 = 2.5;
/// Turns before the first that counts: every pooled connection learns the statement once.
const WARM_UP: usize = 4;
/// The pool tidies up a connection that came back; after so many round trips that is over.
const QUIET_AFTER: u32 = 4;

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let mut course = Course::set(db, sizes.day).await?;
    let wire = Wire::before(db.address().await?, sizes.delay).await?;
    let mut far_settings = db.settings_through(wire.port)?;
    far_settings.max_connections = 2;
    let far = oddsd_store::Store::open(&far_settings).await?;
    let near = course.daemon.store.clone();
    let mut bare = Narrow::through(&far_settings).await?;

    let mut samples = Samples::default();
    for turn in 0..WARM_UP + sizes.runs {
        let (observed, moved) = course.next(SHARE)?;
        samples.time(
            "near",
            10,
            course.look(&observed, moved.len()).await?.total(),
        );

        course.daemon.store = far.clone();
        let (observed, moved) = course.next(SHARE)?;
        tokio::time::sleep(sizes.delay * QUIET_AFTER).await;
        let before = wire.round_trips();
        let look = course.daemon.look(&observed).await?;
        tokio::time::sleep(sizes.delay * QUIET_AFTER).await;
        samples.value("trips", 10, (wire.round_trips() - before) as f64);
        samples.time("far", 10, look.total());
        anyhow::ensure!(look.changed == moved.len(), "not every change was found");
        course.stored().await?;
        course.daemon.store = near.clone();

        samples.time("bare", 10, bare.round_trip().await?);
        if turn + 1 == WARM_UP {
            samples.warm();
        }
    }
    far.close().await;
    let (near, far, bare) = (
        samples.median("near", 10),
        samples.median("far", 10),
        samples.median("bare", 10),
    );
    let delay: Duration = sizes.delay;
    Ok(vec![
        Measure::new("remote_20ms_12k_10", "ms", far, Bar::AtMostTimes(1.0))
            .against(TRIPS * bare + near)
            .note(format!(
                "{delay:?} added to each round trip; against {TRIPS} bare round trips of {bare:.1} ms + the work of {near:.1} ms; took {:.2} round trips beside the work",
                (far - near) / bare
            )),
        Measure::new("remote_round_trips", "trips", samples.median("trips", 10), Bar::AtMost(3.0))
            .note("of a look that changed 10 %; the pool's ROLLBACK and ping follow the commit and are counted"),
    ])
}
