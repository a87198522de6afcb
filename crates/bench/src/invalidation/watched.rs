//! Measures the cost of a watch for the writers of a table: the same writes into equal tables, with and without a
//! watch, in turns. It verifies the reports of the writes. It is a section of `oddsd-bench invalidation`.

use std::time::Duration;

use anyhow::ensure;

use super::application_table::ApplicationTable;
use super::sizes::InvalidationSizes;
use crate::database::Database;
use crate::report::{Measure, Target, median, millis};
use oddsd_store::{Store, WatchRequest};

pub const MEASURES: [&str; 7] = [
    "watched_insert",
    "watched_insert_quiet",
    "watched_insert_table",
    "watched_bulk_insert",
    "watched_bulk_insert_table",
    "watched_bulk_update",
    "watched_bulk_update_table",
];
const SINGLE: Target = Target::AtMostTimes(1.15);
const BULK: Target = Target::AtMostTimes(1.05);

#[derive(Clone, Copy, PartialEq)]
enum WatchMode {
    Unwatched,
    Columns,
    Quiet,
    Table,
}

impl WatchMode {
    async fn watch(self, store: &Store, table: &ApplicationTable) -> anyhow::Result<()> {
        let columns = match self {
            Self::Unwatched => return Ok(()),
            Self::Columns | Self::Quiet => vec!["id".to_owned()],
            Self::Table => Vec::new(),
        };
        let request = WatchRequest {
            table: table.name().to_owned(),
            columns,
            bulk: 1_000,
            quiet: self == Self::Quiet,
        };
        store.watch(&request, false).await?;
        Ok(())
    }
}

pub async fn measure(db: &Database, sizes: &InvalidationSizes) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let mut measures = singles(db, &store, sizes).await?;
    measures.extend(bulks(db, &store, sizes).await?);
    store.close().await;
    Ok(measures)
}

async fn singles(
    db: &Database,
    store: &Store,
    sizes: &InvalidationSizes,
) -> anyhow::Result<Vec<Measure>> {
    let modes = [
        WatchMode::Unwatched,
        WatchMode::Columns,
        WatchMode::Quiet,
        WatchMode::Table,
    ];
    let mut tables = Vec::new();
    for (n, mode) in modes.into_iter().enumerate() {
        let table = ApplicationTable::create(db, &format!("single_{n}")).await?;
        mode.watch(store, &table).await?;
        tables.push(table);
    }
    let mut times = vec![Vec::new(); modes.len()];
    for block in 0..=sizes.blocks {
        for turn in 0..modes.len() {
            // The order rotates, so that no table always follows the same other one.
            let at = (turn + block) % modes.len();
            for _ in 0..sizes.block {
                let one = micros(tables[at].insert().await?);
                // The first block warms up.
                if block > 0 {
                    times[at].push(one);
                }
            }
            let expected = if modes[at] == WatchMode::Unwatched {
                0
            } else {
                sizes.block
            };
            let (reports, last) = tables[at].take_reports().await?;
            ensure!(
                reports == expected as i64,
                "{reports} of {expected} inserts were reported, the last as {last:?}"
            );
        }
    }
    for table in tables {
        table.drop().await?;
    }
    let without = median(&times[0]);
    let measure = |name, at: usize, target, note: &str| {
        Measure::new(name, "µs", median(&times[at]), target)
            .against(without)
            .note(format!(
                "{} inserts of one row, each a transaction, two indexes beside the primary key; {note}",
                times[at].len()
            ))
    };
    Ok(vec![
        measure(
            "watched_insert",
            1,
            SINGLE,
            "--columns id, against no watch",
        ),
        measure(
            "watched_insert_quiet",
            2,
            Target::None,
            "--columns id --quiet, against no watch",
        ),
        measure(
            "watched_insert_table",
            3,
            SINGLE,
            "the table alone, against no watch",
        ),
    ])
}

async fn bulks(
    db: &Database,
    store: &Store,
    sizes: &InvalidationSizes,
) -> anyhow::Result<Vec<Measure>> {
    let modes = [WatchMode::Unwatched, WatchMode::Columns, WatchMode::Table];
    let mut inserts = vec![Vec::new(); modes.len()];
    let mut updates = inserts.clone();
    for turn in 0..sizes.turns {
        for n in 0..modes.len() {
            let at = (turn + n) % modes.len();
            let mut table = ApplicationTable::create(db, "bulk").await?;
            modes[at].watch(store, &table).await?;
            inserts[at].push(millis(table.insert_all(sizes.bulk).await?));
            updates[at].push(millis(table.update_all(sizes.bulk).await?));
            let (reports, last) = table.take_reports().await?;
            let expected = if modes[at] == WatchMode::Unwatched {
                0
            } else {
                2
            };
            ensure!(
                reports == expected,
                "{reports} of {expected} statements were reported, the last as {last:?}"
            );
            if modes[at] == WatchMode::Columns {
                let rows = format!("\"rows\":{}", sizes.bulk);
                ensure!(
                    last.contains(&rows),
                    "a bulk update was reported as {last:?}"
                );
            }
            table.drop().await?;
        }
    }
    let measure = |name, times: &[Vec<f64>], at: usize, how: &str| {
        Measure::new(name, "ms", median(&times[at]), BULK)
            .against(median(&times[0]))
            .note(format!(
                "one statement of {} rows; {how}, against no watch",
                sizes.bulk
            ))
    };
    Ok(vec![
        measure("watched_bulk_insert", &inserts, 1, "--columns id"),
        measure("watched_bulk_insert_table", &inserts, 2, "the table alone"),
        measure("watched_bulk_update", &updates, 1, "--columns id"),
        measure("watched_bulk_update_table", &updates, 2, "the table alone"),
    ])
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
