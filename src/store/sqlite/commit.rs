//! One cycle is one transaction of prepared statements. Each call of the library costs ten times
//! what a row costs, so prices go in by the hundred, and history copies what has just been stored.

use std::sync::{Arc, LazyLock};

use chrono::DateTime;
use sqlx::AssertSqlSafe;

use super::{CHECKED, LEASE, Sqlite, explain, ids, now};
use crate::diff::{Changes, EventChange, PriceChange, PriceChangeKind};
use crate::model::{EventStatus, View};
use crate::store::refused::{Refusal, Tried};
use crate::store::{
    Claim, Claimed, Committed, CycleFacts, Lease, Result, StoreError, Written, facts_text,
    kinds_text, to_the_end,
};

/// Rows in one statement: the largest first, the rest one by one.
const AT_ONCE: [usize; 3] = [256, 16, 1];
/// History is copied by this many rows, so that the list of them stays small.
const COPIED_AT_ONCE: usize = 50_000;

impl Sqlite {
    pub async fn commit(
        &self,
        lease: &Lease,
        cycle: &CycleFacts,
        changes: &Arc<Changes>,
    ) -> std::result::Result<Committed, Refusal> {
        self.transact(lease, cycle, changes, true).await
    }

    /// Would it go through? Nothing stays.
    pub async fn rehearse(
        &self,
        lease: &Lease,
        cycle: &CycleFacts,
        changes: &Arc<Changes>,
    ) -> Tried {
        self.transact(lease, cycle, changes, false).await.map(drop)
    }

    async fn transact(
        &self,
        lease: &Lease,
        cycle: &CycleFacts,
        changes: &Arc<Changes>,
        keep: bool,
    ) -> std::result::Result<Committed, Refusal> {
        let (db, lease, cycle, changes) =
            (self.clone(), lease.clone(), cycle.clone(), changes.clone());
        let transaction = async move {
            let mut tx = db.begin().await?;
            let written = match write(&mut tx, &lease, &cycle, &changes).await {
                Ok(written) => written,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let ended = if keep {
                tx.commit().await
            } else {
                tx.rollback().await
            };
            ended.map_err(explain)?;
            Ok(Ok(written))
        };
        to_the_end(transaction).await?
    }
}

type Tx = sqlx::Transaction<'static, sqlx::Sqlite>;

async fn write(
    tx: &mut Tx,
    lease: &Lease,
    cycle: &CycleFacts,
    changes: &Changes,
) -> std::result::Result<Committed, Refusal> {
    let held = sqlx::query("SELECT 1 FROM leases WHERE name = ?1 AND holder = ?2 AND epoch = ?3")
        .bind(LEASE)
        .bind(&lease.holder)
        .bind(lease.epoch)
        .fetch_optional(&mut **tx)
        .await
        .map_err(explain)?;
    held.ok_or(StoreError::Fenced)?;
    let at = now();
    let mut written = Written::default();
    write_cycle(tx, cycle, changes, at).await?;
    write_facts(tx, changes, at, &mut written).await?;
    if !changes.corrections.is_empty() {
        sqlx::query(
            "UPDATE corrections SET applied_at = ?1 WHERE id IN (SELECT value FROM json_each(?2))",
        )
        .bind(at)
        .bind(ids(&changes.corrections))
        .execute(&mut **tx)
        .await
        .map_err(explain)?;
    }
    write_prices(tx, cycle, changes, at, &mut written).await?;
    let (told, mut rows) = (changes.by_event(), Vec::new());
    for (event, told) in &told {
        let done = sqlx::query(
            "INSERT INTO outbox (cycle_id, event_key, kinds, created_at, due_at, before, after, detail)
             VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7)",
        )
        .bind(cycle.id)
        .bind(event.as_str())
        .bind(kinds_text(&told.kinds))
        .bind(at)
        .bind(&told.before)
        .bind(&told.after)
        .bind(&told.detail)
        .execute(&mut **tx)
        .await
        .map_err(explain)?;
        written.outbox += done.rows_affected();
        rows.push(done.last_insert_rowid());
    }
    let written = written.checked(changes, told.len())?;
    // Writers take turns: the last row is the last commit.
    let view = View::after(rows.last().copied().unwrap_or_default() as u64);
    let created_at = DateTime::from_timestamp_micros(at).unwrap_or_default();
    let rows = rows.into_iter().zip(told);
    let rows = rows.map(|(id, (event, told))| Claimed {
        cycle: Some(cycle.id),
        event: Some(event),
        kinds: told.kinds,
        before: told.before,
        after: told.after,
        detail: told.detail,
        ..Claimed::written(id, id as u64, created_at)
    });
    let rows: Vec<Claimed> = rows.collect();
    // A cycle that tells nobody has no row to be seen by.
    let told = (!rows.is_empty()).then_some(Claim { view, rows });
    Ok(Committed { written, told })
}

async fn write_cycle(tx: &mut Tx, cycle: &CycleFacts, changes: &Changes, at: i64) -> Result<()> {
    let counts = &changes.counts;
    sqlx::query(
        "INSERT INTO cycles (id, feed, as_of, committed_at, races, horses, bookmakers, seen, inserted, reopened, changed,
                             withdrawn, unchanged, stale, rejected, no_price, fetch_ms, diff_ms,
                             next_event, next_selection, next_bookmaker, next_price, open_prices)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
                 coalesce((SELECT open_prices FROM cycles ORDER BY id DESC LIMIT 1),
                          (SELECT count(*) FROM prices WHERE status <> 'withdrawn')) + ?9 + ?10 - ?12)",
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

async fn write_facts(
    tx: &mut Tx,
    changes: &Changes,
    at: i64,
    written: &mut Written,
) -> std::result::Result<(), Refusal> {
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
        .map_err(refusal)?;
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
        .map_err(refusal)?;
        written.events += done.rows_affected();
        write_transition(tx, changes, change, at).await?;
        if changes.unlooked {
            continue;
        }
        sqlx::query(CHECKED)
            .bind(change.row)
            .bind(changes.as_of.timestamp_micros())
            .execute(&mut **tx)
            .await
            .map_err(refusal)?;
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
        .map_err(refusal)?;
        written.selections += done.rows_affected();
    }
    Ok(())
}

async fn write_transition(
    tx: &mut Tx,
    changes: &Changes,
    change: &EventChange,
    at: i64,
) -> std::result::Result<(), Refusal> {
    let Some((before, after)) = change.transition() else {
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO transitions (event_id, at, feed_time, before, after, source) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(change.row)
    .bind(at)
    .bind(changes.as_of.timestamp_micros())
    .bind(before.map(EventStatus::as_str))
    .bind(after.as_str())
    .bind(change.status_by.as_str())
    .execute(&mut **tx)
    .await
    .map(drop)
    .map_err(refusal)
}

async fn write_prices(
    tx: &mut Tx,
    cycle: &CycleFacts,
    changes: &Changes,
    at: i64,
    written: &mut Written,
) -> std::result::Result<(), Refusal> {
    let is_new = |change: &&PriceChange| change.kind == PriceChangeKind::Inserted;
    let (new, known): (Vec<_>, Vec<_>) = changes.prices.iter().partition(is_new);
    written.updated = by_the_hundred(tx, &known, at, &UPDATES).await?;
    written.inserted = by_the_hundred(tx, &new, at, &INSERTS).await?;
    for some in changes.prices.chunks(COPIED_AT_ONCE) {
        let rows: Vec<i64> = some.iter().map(|change| change.row).collect();
        sqlx::query(
            "INSERT INTO price_history (price_id, cycle_id, decimal, fractional, point, ew_places, ew_denom, status, observed_at)
             SELECT p.id, ?1, p.decimal, p.fractional, p.point, p.ew_places, p.ew_denom, p.status, p.observed_at
             FROM json_each(?2) changed CROSS JOIN prices p ON p.id = changed.value",
        )
        .bind(cycle.id)
        .bind(ids(&rows))
        .execute(&mut **tx)
        .await
        .map_err(refusal)?;
    }
    Ok(())
}

/// A statement for each size of [`AT_ONCE`].
type Sizes = LazyLock<[String; AT_ONCE.len()]>;

const COLUMNS: usize = 13;

static UPDATES: Sizes = LazyLock::new(|| {
    AT_ONCE.map(|rows| {
        format!(
            "WITH moved (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places, ew_denom,
                         status, observed_at, updated_at) AS (VALUES {})
             UPDATE prices SET decimal = moved.decimal, fractional = moved.fractional, point = moved.point,
                 ew_places = moved.ew_places, ew_denom = moved.ew_denom, status = moved.status,
                 observed_at = moved.observed_at, updated_at = moved.updated_at
             FROM moved WHERE prices.id = moved.id",
            places(rows)
        )
    })
});
static INSERTS: Sizes = LazyLock::new(|| {
    AT_ONCE.map(|rows| {
        format!(
            "INSERT INTO prices (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places,
                                 ew_denom, status, observed_at, updated_at) VALUES {}",
            places(rows)
        )
    })
});

/// Anonymous parameters for so many rows.
fn places(rows: usize) -> String {
    let row = format!("({})", vec!["?"; COLUMNS].join(", "));
    vec![row; rows].join(", ")
}

async fn by_the_hundred(
    tx: &mut Tx,
    changes: &[&PriceChange],
    at: i64,
    statements: &'static Sizes,
) -> std::result::Result<u64, Refusal> {
    let (mut rest, mut done) = (changes, 0);
    for (size, statement) in AT_ONCE.iter().zip(statements.iter()) {
        while let Some((some, others)) = rest.split_at_checked(*size) {
            let mut query = sqlx::query(AssertSqlSafe(statement.as_str()));
            for change in some {
                query = row(query, change, at);
            }
            let affected = query.execute(&mut **tx).await.map_err(refusal)?;
            done += affected.rows_affected();
            rest = others;
        }
    }
    Ok(done)
}

type Statement<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// All columns of a price, in the order of the statements.
fn row<'q>(statement: Statement<'q>, change: &'q PriceChange, at: i64) -> Statement<'q> {
    let offer = &change.offer;
    statement
        .bind(change.row)
        .bind(change.event_row)
        .bind(change.selection_row)
        .bind(change.bookmaker_row)
        .bind(change.market.as_str())
        .bind(offer.decimal.to_string())
        .bind(offer.fractional.map(|fraction| fraction.to_string()))
        .bind(offer.point.map(|point| point.to_string()))
        .bind(offer.each_way.map(|each_way| i64::from(each_way.places)))
        .bind(offer.each_way.map(|each_way| i64::from(each_way.denom)))
        .bind(change.status.as_str())
        .bind(change.observed_at.timestamp_micros())
        .bind(at)
}

/// A constraint that is not about a row being there already (19 and 18: constraint, too big; 1555
/// and 2067: primary key, unique) is about the values.
fn refusal(error: sqlx::Error) -> Refusal {
    let code = match &error {
        sqlx::Error::Database(refused) => refused.code().and_then(|code| code.parse::<u32>().ok()),
        _ => None,
    };
    let values =
        code.is_some_and(|code| matches!(code & 0xff, 18 | 19) && !matches!(code, 1555 | 2067));
    let error = explain(error);
    if values {
        Refusal::Values(error)
    } else {
        Refusal::Other(error)
    }
}
