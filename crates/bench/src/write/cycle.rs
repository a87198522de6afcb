//! What a look costs this process once the answer is there: quiet ones, small ones, and reading.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{NaiveDate, Utc};

use super::Sizes;
use super::course::Course;
use super::looks::Daemon;
use super::machine::thread_cpu;
use super::postgres::{Database, Wide};
use super::report::{Bar, Measure};
use super::samples::Samples;
use oddsd_feeds::racing_api::parse_cards;

pub const MEASURES: [&str; 6] = [
    "quiet_12k",
    "quiet_body_equal",
    "quiet_restamped",
    "answer_to_commit_12k_1",
    "parse_strict",
    "parse_known",
];
/// Quiet looks for one sample of CPU time.
const LOOKS: usize = 10;
const REST: Duration = Duration::from_millis(5);

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let mut course = Course::set(db, sizes.day).await?;
    let mut wide = Wide::new(db.connect().await?, "update_changed").await?;
    wide.multirow(&course.card).await?;
    course.eye.settle().await?;

    let day = course.card.day_of(0);
    let mut samples = Samples::default();
    let mut quiet_writes = 0;
    let mut megabytes = 0.0;
    for _ in 0..=sizes.runs {
        let before = course.eye.next_transaction().await?;
        let equal = vec![course.card.page(0); LOOKS];
        // Another envelope around the same races.
        let enveloped = (0..LOOKS)
            .map(|n| equal[0].replace("\"query\":[]", &format!("\"query\":[[\"n\",\"{n}\"]]")));
        let enveloped: Vec<String> = enveloped.collect();
        samples.time("enveloped", 0, quiet(&mut course.daemon, &enveloped, day)?);
        let took = quiet(&mut course.daemon, &equal, day)?;
        samples.time("equal", 0, took);
        samples.value("known", 0, equal[0].len() as f64 / 1e6 / took.as_secs_f64());
        let mut restamped = Vec::with_capacity(LOOKS);
        for _ in 0..LOOKS {
            course.card = course.card.restamped();
            restamped.push(course.card.page(0));
        }
        samples.time("restamped", 0, quiet(&mut course.daemon, &restamped, day)?);
        quiet_writes += course.eye.next_transaction().await? - before;

        let moved = course.next_card(0.01);
        let body = course.card.page(0);
        let looked = course.daemon.answer(&body, day).await?;
        samples.time("answer", 1, looked.total());
        samples.time("answer_read", 1, looked.diff);
        ensure!(looked.changed == moved.len(), "not every change was found");
        course.stored().await?;
        let started = Instant::now();
        let parsed = parse_cards(&body, Utc::now())?;
        let parse = started.elapsed();
        black_box(parsed);
        samples.time(
            "usual",
            1,
            parse + wide.update_changed(&course.card, &moved).await?,
        );
        course.holds(&wide).await?;

        megabytes = body.len() as f64 / 1e6;
        samples.value("parse", 0, megabytes / parse.as_secs_f64());
        let started = Instant::now();
        black_box(serde_json::from_str::<serde_json::Value>(&body)?);
        samples.value("value", 0, megabytes / started.elapsed().as_secs_f64());
        samples.warm();
    }
    let size = format!("{} prices, {megabytes:.2} MB", sizes.day);
    let cpu = |name, variant, bar, note: &str| {
        Measure::new(name, "ms CPU", samples.median(variant, 0), bar)
            .note(format!("{size}; {note}"))
    };
    let written = match quiet_writes {
        0 => "no transaction was begun".to_owned(),
        n => format!(
            "{n} transactions on the whole server meanwhile (autovacuum's and others' among them)"
        ),
    };
    Ok(vec![
        cpu(
            "quiet_12k",
            "enveloped",
            Bar::AtMost(5.0),
            &format!("races as before in another envelope; {written}"),
        ),
        cpu(
            "quiet_body_equal",
            "equal",
            Bar::AtMost(1.0),
            "the same bytes",
        ),
        cpu(
            "quiet_restamped",
            "restamped",
            Bar::None,
            "every price with a newer time, none moved: all of it is read",
        ),
        Measure::new(
            "answer_to_commit_12k_1",
            "ms",
            samples.median("answer", 1),
            Bar::AtMostOr {
                at_most: 8.0,
                times: 0.6,
            },
        )
        .against(samples.median("usual", 1))
        .note(format!(
            "of which reading and comparing {:.2} ms; against a full parse + UNNEST update of the changed rows in the wide table",
            samples.median("answer_read", 1)
        )),
        Measure::new(
            "parse_strict",
            "MB/s",
            samples.median("parse", 0),
            Bar::None,
        )
        .against(samples.median("value", 0))
        .note("every row read and checked; against serde_json into Value, unchecked"),
        Measure::new("parse_known", "MB/s", samples.median("known", 0), Bar::None)
            .against(samples.median("parse", 0))
            .note("an answer of known races, compared and done, by CPU time; against reading all of it"),
    ])
}

/// CPU time of one quiet look, on a thread of its own.
fn quiet(daemon: &mut Daemon, bodies: &[String], day: NaiveDate) -> anyhow::Result<Duration> {
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let (cpu, started) = (thread_cpu(), Instant::now());
            for body in bodies {
                daemon.quiet(body, day)?;
            }
            let took = started.elapsed();
            // What a running thread used is only known after it has rested.
            std::thread::sleep(REST);
            let cpu = thread_cpu().zip(cpu).map(|(after, before)| after - before);
            // Where the system does not say, time on the wall is never less.
            anyhow::Ok(cpu.unwrap_or(took) / bodies.len() as u32)
        });
        looks
            .join()
            .ok()
            .context("the looking thread ended early")?
    })
}
