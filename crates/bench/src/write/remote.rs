//! Measures a cycle on a database behind a slow network, and its round trips. It is a section of `oddsd-bench write`.

use std::time::Duration;

use super::copy_baseline::CopyBaseline;
use super::samples::Samples;
use super::scenario::Scenario;
use super::sizes::WriteSizes;
use crate::database::Database;
use crate::report::{Measure, Target};
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};

pub const MEASURES: [&str; 2] = ["remote_20ms_12k_10", "remote_round_trips"];
const SHARE: f64 = 0.1;
/// Round trips that a cycle may take beside its own work.
const TRIPS: f64 = 2.5;
/// Turns before the first that counts: each pooled connection prepares the statement once.
const WARM_UP: usize = 4;
/// The pool checks a returned connection; its traffic has ended after so many round trips.
const POOL_TRIPS: u32 = 4;

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let mut scenario = Scenario::prepare(db, sizes.day).await?;
    let proxy = FaultProxy::in_front_of(db.address().await?).await;
    proxy.set(ProxyMode::Slow(sizes.delay));
    let mut far_settings = db.settings_through(proxy.port())?;
    far_settings.max_connections = 2;
    let far = oddsd_store::Store::open(&far_settings).await?;
    let near = scenario.daemon.store.clone();
    let mut bare = CopyBaseline::through(&far_settings).await?;

    let mut samples = Samples::default();
    for turn in 0..WARM_UP + sizes.runs {
        let (snapshot, changed) = scenario.next_snapshot(SHARE)?;
        samples.time(
            "near",
            10,
            scenario.run_cycle(&snapshot, changed.len()).await?.total(),
        );

        scenario.daemon.store = far.clone();
        let (snapshot, changed) = scenario.next_snapshot(SHARE)?;
        tokio::time::sleep(sizes.delay * POOL_TRIPS).await;
        let before = proxy.round_trips();
        let timing = scenario.daemon.run_cycle(&snapshot).await?;
        tokio::time::sleep(sizes.delay * POOL_TRIPS).await;
        samples.value("trips", 10, (proxy.round_trips() - before) as f64);
        samples.time("far", 10, timing.total());
        anyhow::ensure!(
            timing.changed == changed.len(),
            "not every change was found"
        );
        scenario.verify().await?;
        scenario.daemon.store = near.clone();

        samples.time("bare", 10, bare.round_trip().await?);
        if turn + 1 == WARM_UP {
            samples.end_warmup();
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
        Measure::new("remote_20ms_12k_10", "ms", far, Target::AtMostTimes(1.0))
            .against(TRIPS * bare + near)
            .note(format!(
                "{delay:?} added to each round trip; against {TRIPS} bare round trips of {bare:.1} ms + the work of {near:.1} ms; took {:.2} round trips beside the work",
                (far - near) / bare
            )),
        Measure::new("remote_round_trips", "trips", samples.median("trips", 10), Target::AtMost(3.0))
            .note("of a cycle that changed 10 %; the pool's ROLLBACK and ping follow the commit and are counted"),
    ])
}
