//! Measures the evaluation of a change with a thousand rules loaded, against a function that formats the keys of one
//! kind of change in code. It is a section of `oddsd-bench invalidation`.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use super::sizes::InvalidationSizes;
use crate::report::{Measure, Target, median};
use oddsd_core::key::Key;
use oddsd_core::model::EventId;
use oddsd_core::rules::{RuleChange, RuleTarget, Rules};

pub const MEASURES: [&str; 1] = ["rule_evaluation"];

/// Of each kind: rules for one task, one table, one league, one event.
const OF_EACH: usize = 250;
const TARGET_US: f64 = 1.0;
const TURNS: usize = 9;

pub fn measure(sizes: &InvalidationSizes) -> anyhow::Result<Vec<Measure>> {
    let rules = Rules::parse("bench", &thousand_rules()).context("the rules of the bench")?;
    let changes = [
        json!({ "change": "price_changed", "event_id": "rac_7", "sport_id": "horse_racing", "league_id": "GB",
                "venue": "Hereford", "current_status": "live" }),
        json!({ "change": "row_changed", "table": "table3", "op": "insert", "row": { "item_id": 7, "user_id": 3 } }),
        json!({ "change": "task_completed", "task": "job77", "run_id": "ab-12" }),
    ];
    let (mut slowest, mut kinds) = (0.0f64, Vec::new());
    for written in &changes {
        let change = RuleChange::parse(written).map_err(anyhow::Error::msg)?;
        let targets: usize = rules
            .match_change(&change, None)
            .iter()
            .map(|hit| hit.targets.len())
            .sum();
        let us = micros_of(sizes.changes, || {
            black_box(rules.match_change(black_box(&change), None));
        });
        kinds.push(format!(
            "{} {:.2} µs for {targets} targets",
            written["change"].as_str().unwrap_or_default(),
            us
        ));
        slowest = slowest.max(us);
    }
    let event = EventId::new("rac_7");
    let by_hand = micros_of(sizes.changes, || {
        black_box(format_keys(black_box(&event)));
    });
    let note = format!(
        "a change with {} rules loaded, the slowest of three kinds ({}); against formatting the four keys of a price in code; \
         median of {TURNS} turns of {}",
        rules.iter().len(),
        kinds.join(", "),
        sizes.changes
    );
    let target = Target::AtMost(TARGET_US);
    Ok(vec![
        Measure::new(MEASURES[0], "µs", slowest, target)
            .against(by_hand)
            .note(note),
    ])
}

/// Microseconds of one call, the median of several turns.
fn micros_of(times: usize, mut work: impl FnMut()) -> f64 {
    let turns: Vec<f64> = (0..TURNS)
        .map(|_| {
            let began = Instant::now();
            (0..times).for_each(|_| work());
            began.elapsed().as_secs_f64() * 1e6 / times as f64
        })
        .collect();
    median(&turns)
}

fn format_keys(event: &EventId) -> Vec<RuleTarget> {
    let status = oddsd_core::model::EventStatus::Live;
    let keys = [
        Key::races_by_stage(),
        Key::event_prices(event),
        Key::odds(status, event),
        Key::movers(),
    ];
    keys.into_iter().map(RuleTarget::Key).collect()
}

fn thousand_rules() -> String {
    let rule = |name: &str, n: usize, on: &str, when: &str, keys: &str| {
        format!(
            "[[rule]]\nname = \"{name}{n}\"\non = [\"{on}\"]\nwhen = {{ {when} }}\nkeys = [{keys}]\n"
        )
    };
    let all = (0..OF_EACH).flat_map(|n| {
        let task = (
            format!("task = \"job{n}\""),
            format!("\"report:{n}:{{run_id}}\", \"controller:{n}\""),
        );
        let table = (
            format!("table = \"table{n}\""),
            format!("\"item{n}:{{item_id}}\", \"user{n}:{{user_id}}\", \"stats{n}\""),
        );
        let league = (
            format!("league = \"league{n}\""),
            format!("\"league{n}:{{event_id}}\""),
        );
        let event = (format!("event = \"event{n}\""), format!("\"pinned{n}\""));
        [
            rule("task", n, "task_completed", &task.0, &task.1),
            rule("table", n, "row_changed", &table.0, &table.1),
            rule("league", n, "price_changed", &league.0, &league.1),
            rule("event", n, "price_changed", &event.0, &event.1),
        ]
    });
    all.collect()
}
