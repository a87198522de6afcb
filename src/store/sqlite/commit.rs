//! One cycle is one transaction of prepared statements: in process, a row costs no round trip.

use super::{CHECKED, LEASE, Sqlite, explain, now};
use crate::diff::{Changes, PriceChange, PriceChangeKind};
use crate::store::{
    CycleFacts, Lease, Result, StoreError, Written, facts_text, kinds_text, to_the_end,
};

impl Sqlite {
    pub async fn commit(
        &self,
        lease: &Lease,
        cycle: &CycleFacts,
        changes: &Changes,
    ) -> Result<Written> {
        let (db, lease, cycle, changes) =
            (self.clone(), lease.clone(), cycle.clone(), changes.clone());
        to_the_end(async move {
            let mut tx = db.begin().await?;
            let held = sqlx::query("SELECT 1 FROM leases WHERE name = ?1 AND holder = ?2 AND epoch = ?3")
                .bind(LEASE)
                .bind(&lease.holder)
                .bind(lease.epoch)
                .fetch_optional(&mut *tx)
                .await
                .map_err(explain)?;
            held.ok_or(StoreError::Fenced)?;
            let at = now();
            let mut written = Written::default();
            write_cycle(&mut tx, &cycle, &changes, at).await?;
            write_facts(&mut tx, &changes, at, &mut written).await?;
            write_prices(&mut tx, &cycle, &changes, at, &mut written).await?;
            for (event, kinds) in changes.by_event() {
                let told = sqlx::query(
                    "INSERT INTO outbox (cycle_id, event_key, kinds, created_at, due_at) VALUES (?1, ?2, ?3, ?4, ?4)",
                )
                .bind(cycle.id)
                .bind(event.as_str().to_owned())
                .bind(kinds_text(&kinds))
                .bind(at)
                .execute(&mut *tx)
                .await
                .map_err(explain)?;
                written.outbox += told.rows_affected();
            }
            let written = written.checked(&changes)?;
            tx.commit().await.map_err(explain)?;
            Ok(written)
        })
        .await
    }
}

type Tx = sqlx::Transaction<'static, sqlx::Sqlite>;

async fn write_cycle(tx: &mut Tx, cycle: &CycleFacts, changes: &Changes, at: i64) -> Result<()> {
    let counts = &changes.counts;
    sqlx::query(
        "INSERT INTO cycles (id, feed, as_of, committed_at, races, horses, bookmakers, seen, inserted, reopened, changed,
                             withdrawn, unchanged, stale, rejected, no_price, fetch_ms, diff_ms,
                             next_event, next_selection, next_bookmaker, next_price)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
    )
    .bind(cycle.id)
    .bind(&cycle.feed)
    .bind(changes.as_of.timestamp_micros())
    .bind(at)
    .bind(cycle.races)
    .bind(cycle.horses)
    .bind(serde_json::to_string(&cycle.bookmakers).expect("text is JSON"))
    .bind(counts.seen as i64)
    .bind(counts.inserted as i64)
    .bind(counts.reopened as i64)
    .bind(counts.changed as i64)
    .bind(counts.withdrawn as i64)
    .bind(counts.unchanged as i64)
    .bind(counts.stale as i64)
    .bind(counts.rejected as i64)
    .bind(counts.no_price as i64)
    .bind(cycle.fetch_ms)
    .bind(cycle.diff_ms)
    .bind(changes.next.event)
    .bind(changes.next.selection)
    .bind(changes.next.bookmaker)
    .bind(changes.next.price)
    .execute(&mut **tx)
    .await
    .map(drop)
    .map_err(explain)
}

async fn write_facts(tx: &mut Tx, changes: &Changes, at: i64, written: &mut Written) -> Result<()> {
    for change in &changes.bookmakers {
        sqlx::query(
            "INSERT INTO bookmakers (id, key, name, kind, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(change.row)
        .bind(change.bookmaker.id.as_str())
        .bind(&change.bookmaker.name)
        .bind(change.bookmaker.kind())
        .bind(at)
        .execute(&mut **tx)
        .await
        .map_err(explain)?;
    }
    for change in &changes.events {
        let event = &change.after;
        let done = sqlx::query(
            "INSERT INTO events (id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts,
                                 created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14)
             ON CONFLICT (id) DO UPDATE SET source = ?3, sport = ?4, league = ?5, venue = ?6, name = ?7, starts_at = ?8,
                 day = ?9, status = ?10, in_play = ?11, listed = ?12, facts = ?13, updated_at = ?14",
        )
        .bind(change.row)
        .bind(event.id.as_str())
        .bind(&*event.source)
        .bind(&event.sport)
        .bind(&event.league)
        .bind(&event.venue)
        .bind(&event.name)
        .bind(event.starts_at.map(|at| at.timestamp_micros()))
        .bind(event.day.map(|day| day.to_string()))
        .bind(event.status.as_str())
        .bind(event.in_play)
        .bind(event.listed)
        .bind(facts_text(&event.facts))
        .bind(at)
        .execute(&mut **tx)
        .await
        .map_err(explain)?;
        written.events += done.rows_affected();
        sqlx::query(CHECKED)
            .bind(change.row)
            .bind(changes.as_of.timestamp_micros())
            .execute(&mut **tx)
            .await
            .map_err(explain)?;
    }
    for change in &changes.selections {
        let selection = &change.after;
        let done = sqlx::query(
            "INSERT INTO selections (id, event_id, key, name, status, facts, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
             ON CONFLICT (id) DO UPDATE SET name = ?4, status = ?5, facts = ?6, updated_at = ?7",
        )
        .bind(change.row)
        .bind(change.event_row)
        .bind(selection.id.as_str())
        .bind(&selection.name)
        .bind(selection.status.as_str())
        .bind(facts_text(&selection.facts))
        .bind(at)
        .execute(&mut **tx)
        .await
        .map_err(explain)?;
        written.selections += done.rows_affected();
    }
    Ok(())
}

async fn write_prices(
    tx: &mut Tx,
    cycle: &CycleFacts,
    changes: &Changes,
    at: i64,
    written: &mut Written,
) -> Result<()> {
    for change in &changes.prices {
        if change.kind == PriceChangeKind::Inserted {
            let insert = sqlx::query(
                "INSERT INTO prices (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places,
                                     ew_denom, status, observed_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )
            .bind(change.row)
            .bind(change.event_row)
            .bind(change.selection_row)
            .bind(change.bookmaker_row)
            .bind(change.market.as_str());
            let insert = with_offer(insert, change).bind(at);
            let done = insert.execute(&mut **tx).await.map_err(explain)?;
            written.inserted += done.rows_affected();
        } else {
            let update = sqlx::query(
                "UPDATE prices SET decimal = ?2, fractional = ?3, point = ?4, ew_places = ?5, ew_denom = ?6, status = ?7,
                     observed_at = ?8, updated_at = ?9
                 WHERE id = ?1",
            )
            .bind(change.row);
            let update = with_offer(update, change).bind(at);
            let done = update.execute(&mut **tx).await.map_err(explain)?;
            written.updated += done.rows_affected();
        }
        let history = sqlx::query(
            "INSERT INTO price_history (price_id, cycle_id, decimal, fractional, point, ew_places, ew_denom, status, observed_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )
        .bind(change.row)
        .bind(cycle.id);
        let history = with_offer(history, change);
        history.execute(&mut **tx).await.map_err(explain)?;
    }
    Ok(())
}

type Statement<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// The columns `decimal, fractional, point, ew_places, ew_denom, status, observed_at`, in this order.
fn with_offer<'q>(statement: Statement<'q>, change: &'q PriceChange) -> Statement<'q> {
    let offer = &change.offer;
    statement
        .bind(offer.decimal.to_string())
        .bind(offer.fractional.map(|fraction| fraction.to_string()))
        .bind(offer.point.map(|point| point.to_string()))
        .bind(offer.each_way.map(|each_way| i64::from(each_way.places)))
        .bind(offer.each_way.map(|each_way| i64::from(each_way.denom)))
        .bind(change.status.as_str())
        .bind(change.observed_at.timestamp_micros())
}
