//! Very large cycles: the prices go by COPY into a table of this session, in pieces, and the same
//! fenced statement takes them from there. Memory holds one piece, whatever the size of the cycle,
//! and all of it is one transaction.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::commit::{Cycle, End, refusal, sent};
use super::explain;
use super::statement::{STAGING_TABLE, Shape};
use super::wire::{Field, SIGNATURE};
use crate::diff::{PriceChange, PriceChangeKind};
use crate::store::Committed;
use crate::store::refused::Refusal;

const PIECE_BYTES: usize = 512 * 1024;
/// For this transaction alone: a hundred thousand prices are sorted and grouped without files. With
/// more the planner would rather put all stored prices into a hash table than walk to those that moved.
const WORK_MEMORY: &str = "24MB";
const COLUMNS: i16 = 13;
const END: i16 = -1;

pub async fn write(
    connection: &mut PgConnection,
    cycle: &Cycle,
    end: End,
) -> std::result::Result<Committed, Refusal> {
    let begin = format!("BEGIN; SET LOCAL work_mem = '{WORK_MEMORY}'; {STAGING_TABLE}");
    let begun = connection.begin_with(AssertSqlSafe(begin)).await;
    let mut tx = begun.map_err(explain)?;
    copy(&mut tx, &cycle.changes.prices)
        .await
        .map_err(refusal)?;
    let written = cycle.run(&mut tx, Shape::Staged).await?;
    let ended = match end {
        End::Commit => tx.commit().await,
        End::Rollback => tx.rollback().await,
    };
    ended.map_err(explain)?;
    Ok(written)
}

async fn copy(connection: &mut PgConnection, prices: &[PriceChange]) -> sqlx::Result<()> {
    let mut copy = connection
        .copy_in_raw("COPY pg_temp.oddsd_stage FROM STDIN (FORMAT binary)")
        .await?;
    let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8);
    piece.extend(SIGNATURE);
    for price in prices {
        row(price, &mut piece);
        if piece.len() >= PIECE_BYTES {
            copy.send(&*piece).await?;
            piece.clear();
        }
    }
    piece.extend(END.to_be_bytes());
    copy.send(&*piece).await?;
    copy.finish().await.map(drop)
}

/// In the order of the staging table's columns.
fn row(price: &PriceChange, to: &mut Vec<u8>) {
    let offer = &price.offer;
    to.extend(COLUMNS.to_be_bytes());
    price.row.write(to);
    offer.decimal.write(to);
    offer.fractional.write(to);
    offer.point.write(to);
    offer.each_way.map(|ew| i32::from(ew.places)).write(to);
    offer.each_way.map(|ew| i32::from(ew.denom)).write(to);
    sent(price.status).write(to);
    price.observed_at.write(to);
    price.event_row.write(to);
    price.selection_row.write(to);
    price.bookmaker_row.write(to);
    price.market.as_str().write(to);
    (price.kind == PriceChangeKind::Inserted).write(to);
}
