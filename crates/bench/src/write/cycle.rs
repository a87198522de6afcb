//! Measures a cycle from the received answer on: answers without changes, small changes, and the parser alone. It is
//! a section of `oddsd-bench write`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{NaiveDate, Utc};

use super::baseline_table::BaselineTable;
use super::pipeline::CyclePipeline;
use super::samples::Samples;
use super::scenario::Scenario;
use super::sizes::WriteSizes;
use crate::database::Database;
use crate::machine::thread_cpu;
use crate::report::{Measure, Target};
use oddsd_feeds::racing_api::parse_cards;

pub const MEASURES: [&str; 5] = [
    "quiet_12k",
    "quiet_body_equal",
    "quiet_restamped",
    "answer_to_commit_12k_1",
    "parse_strict",
];
/// Cycles without changes for one sample of CPU time.
const CYCLES: usize = 10;
/// The system accounts a thread's CPU time when the thread stops running.
const PAUSE: Duration = Duration::from_millis(5);

struct CycleSamples {
    samples: Samples,
    /// Size of an answer.
    megabytes: f64,
    /// Transactions that began on the server during the cycles without changes.
    quiet_writes: i64,
}

/// Runs each kind of cycle once for the warm-up and then `sizes.runs` times.
async fn collect(db: &Database, sizes: &WriteSizes) -> anyhow::Result<CycleSamples> {
    let mut scenario = Scenario::prepare(db, sizes.day).await?;
    let mut baseline = BaselineTable::new(db.connect().await?, "update_changed").await?;
    baseline.multirow(&scenario.fixture).await?;
    scenario.probe.vacuum().await?;

    let day = scenario.fixture.day_of(0);
    let mut samples = Samples::default();
    let mut quiet_writes = 0;
    let mut megabytes = 0.0;
    for _ in 0..=sizes.runs {
        let before = scenario.probe.next_transaction().await?;
        let equal = vec![scenario.fixture.page(0); CYCLES];
        // The same races with another `query` beside them, so that the bytes differ.
        let enveloped = (0..CYCLES)
            .map(|n| equal[0].replace("\"query\":[]", &format!("\"query\":[[\"n\",\"{n}\"]]")));
        let enveloped: Vec<String> = enveloped.collect();
        samples.time(
            "enveloped",
            0,
            unchanged_cpu(&mut scenario.daemon, &enveloped, day)?,
        );
        samples.time(
            "equal",
            0,
            unchanged_cpu(&mut scenario.daemon, &equal, day)?,
        );
        let mut restamped = Vec::with_capacity(CYCLES);
        for _ in 0..CYCLES {
            scenario.fixture = scenario.fixture.with_new_times();
            restamped.push(scenario.fixture.page(0));
        }
        samples.time(
            "restamped",
            0,
            unchanged_cpu(&mut scenario.daemon, &restamped, day)?,
        );
        quiet_writes += scenario.probe.next_transaction().await? - before;

        let changed = scenario.advance(0.01);
        let body = scenario.fixture.page(0);
        let timing = scenario.daemon.process_answer(&body, day).await?;
        samples.time("answer", 1, timing.total());
        samples.time("answer_read", 1, timing.diff);
        ensure!(
            timing.changed == changed.len(),
            "not every change was found"
        );
        scenario.verify().await?;
        let started = Instant::now();
        let parsed = parse_cards(&body, Utc::now())?;
        let parse = started.elapsed();
        black_box(parsed);
        samples.time(
            "usual",
            1,
            parse + baseline.update_changed(&scenario.fixture, &changed).await?,
        );
        scenario.verify_baseline(&baseline).await?;

        megabytes = body.len() as f64 / 1e6;
        samples.value("parse", 0, megabytes / parse.as_secs_f64());
        let started = Instant::now();
        black_box(serde_json::from_str::<serde_json::Value>(&body)?);
        samples.value("value", 0, megabytes / started.elapsed().as_secs_f64());
        samples.end_warmup();
    }
    Ok(CycleSamples {
        samples,
        megabytes,
        quiet_writes,
    })
}

pub async fn measure(db: &Database, sizes: &WriteSizes) -> anyhow::Result<Vec<Measure>> {
    let CycleSamples {
        samples,
        megabytes,
        quiet_writes,
    } = collect(db, sizes).await?;
    let size = format!("{} prices, {megabytes:.2} MB", sizes.day);
    let cpu = |name, variant, target, note: &str| {
        Measure::new(name, "ms CPU", samples.median(variant, 0), target)
            .note(format!("{size}; {note}"))
    };
    let written = match quiet_writes {
        0 => "no transaction began".to_owned(),
        n => format!("{n} transactions on the whole server meanwhile, autovacuum's included"),
    };
    Ok(vec![
        cpu(
            "quiet_12k",
            "enveloped",
            Target::AtMost(5.0),
            &format!("races as before in another envelope; {written}"),
        ),
        cpu(
            "quiet_body_equal",
            "equal",
            Target::AtMost(1.0),
            "the same bytes",
        ),
        cpu(
            "quiet_restamped",
            "restamped",
            Target::None,
            "every price with a newer time, none changed: all of it is parsed",
        ),
        Measure::new(
            "answer_to_commit_12k_1",
            "ms",
            samples.median("answer", 1),
            Target::AtMostOr {
                at_most: 8.0,
                times: 0.6,
            },
        )
        .against(samples.median("usual", 1))
        .note(format!(
            "of which parsing and comparing {:.2} ms; against a full parse + UNNEST update of the changed rows in the wide table",
            samples.median("answer_read", 1)
        )),
        Measure::new(
            "parse_strict",
            "MB/s",
            samples.median("parse", 0),
            Target::None,
        )
        .against(samples.median("value", 0))
        .note("every row parsed and validated; against serde_json into Value"),
    ])
}

/// CPU time of one cycle without changes, on a thread of its own.
fn unchanged_cpu(
    daemon: &mut CyclePipeline,
    bodies: &[String],
    day: NaiveDate,
) -> anyhow::Result<Duration> {
    std::thread::scope(|scope| {
        let cycles = scope.spawn(|| {
            let (cpu, started) = (thread_cpu(), Instant::now());
            for body in bodies {
                daemon.process_unchanged(body, day)?;
            }
            let took = started.elapsed();

            std::thread::sleep(PAUSE);
            let cpu = thread_cpu().zip(cpu).map(|(after, before)| after - before);
            // If the system does not report it: wall time, which is never less.
            anyhow::Ok(cpu.unwrap_or(took) / bodies.len() as u32)
        });
        cycles
            .join()
            .ok()
            .context("the thread of the cycles ended early")?
    })
}
