//! What a watch costs whoever writes: the same writes into equal tables, in turns, with a watch and
//! without. That each of them is reported, and how, is checked as well.

use std::time::Duration;

use anyhow::ensure;

use super::Sizes;
use crate::postgres::{Database, Tlog};
use crate::report::{Bar, Measure, median};
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
const SINGLE: Bar = Bar::AtMostTimes(1.15);
const BULK: Bar = Bar::AtMostTimes(1.05);

/// How a table is watched.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Not,
    Columns,
    Quiet,
    Table,
}

impl How {
    async fn watch(self, store: &Store, table: &Tlog) -> anyhow::Result<()> {
        let columns = match self {
            Self::Not => return Ok(()),
            Self::Columns | Self::Quiet => vec!["id".to_owned()],
            Self::Table => Vec::new(),
        };
        let asked = WatchRequest {
            table: table.name().to_owned(),
            columns,
            bulk: 1_000,
            quiet: self == Self::Quiet,
        };
        store.watch(&asked, false).await?;
        Ok(())
    }
}

pub async fn measure(db: &Database, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let store = db.store().await?;
    let mut measures = singles(db, &store, sizes).await?;
    measures.extend(bulks(db, &store, sizes).await?);
    store.close().await;
    Ok(measures)
}

async fn singles(db: &Database, store: &Store, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let kinds = [How::Not, How::Columns, How::Quiet, How::Table];
    let mut tables = Vec::new();
    for (n, how) in kinds.into_iter().enumerate() {
        let table = Tlog::new(db, &format!("single_{n}")).await?;
        how.watch(store, &table).await?;
        tables.push(table);
    }
    let mut took = vec![Vec::new(); kinds.len()];
    for block in 0..=sizes.blocks {
        for turn in 0..kinds.len() {
            // Nobody is always the one after the same other.
            let at = (turn + block) % kinds.len();
            for _ in 0..sizes.block {
                let one = micros(tables[at].insert().await?);
                // The first block warms up.
                if block > 0 {
                    took[at].push(one);
                }
            }
            let expected = if kinds[at] == How::Not {
                0
            } else {
                sizes.block
            };
            let (told, last) = tables[at].told().await?;
            ensure!(
                told == expected as i64,
                "{told} of {expected} inserts were reported, the last as {last:?}"
            );
        }
    }
    for table in tables {
        table.drop().await?;
    }
    let without = median(&took[0]);
    let of = |name, at: usize, bar, note: &str| {
        Measure::new(name, "µs", median(&took[at]), bar)
            .against(without)
            .note(format!(
                "{} inserts of one row, each a transaction, two indexes beside the primary key; {note}",
                took[at].len()
            ))
    };
    Ok(vec![
        of(
            "watched_insert",
            1,
            SINGLE,
            "--columns id, against no watch",
        ),
        of(
            "watched_insert_quiet",
            2,
            Bar::None,
            "--columns id --quiet, against no watch",
        ),
        of(
            "watched_insert_table",
            3,
            SINGLE,
            "the table alone, against no watch",
        ),
    ])
}

async fn bulks(db: &Database, store: &Store, sizes: &Sizes) -> anyhow::Result<Vec<Measure>> {
    let kinds = [How::Not, How::Columns, How::Table];
    let mut inserts = vec![Vec::new(); kinds.len()];
    let mut updates = inserts.clone();
    for turn in 0..sizes.turns {
        for n in 0..kinds.len() {
            let at = (turn + n) % kinds.len();
            let mut table = Tlog::new(db, "bulk").await?;
            kinds[at].watch(store, &table).await?;
            inserts[at].push(millis(table.insert_all(sizes.bulk).await?));
            updates[at].push(millis(table.update_all(sizes.bulk).await?));
            let (told, last) = table.told().await?;
            let expected = if kinds[at] == How::Not { 0 } else { 2 };
            ensure!(
                told == expected,
                "{told} of {expected} statements were reported, the last as {last:?}"
            );
            if kinds[at] == How::Columns {
                let rows = format!("\"rows\":{}", sizes.bulk);
                ensure!(
                    last.contains(&rows),
                    "a bulk update was reported as {last:?}"
                );
            }
            table.drop().await?;
        }
    }
    let of = |name, took: &[Vec<f64>], at: usize, how: &str| {
        Measure::new(name, "ms", median(&took[at]), BULK)
            .against(median(&took[0]))
            .note(format!(
                "one statement of {} rows; {how}, against no watch",
                sizes.bulk
            ))
    };
    Ok(vec![
        of("watched_bulk_insert", &inserts, 1, "--columns id"),
        of("watched_bulk_insert_table", &inserts, 2, "the table alone"),
        of("watched_bulk_update", &updates, 1, "--columns id"),
        of("watched_bulk_update_table", &updates, 2, "the table alone"),
    ])
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
