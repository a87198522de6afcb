//! The rows of the read API, and the daemon's status: one statement each for both backends.
//! The HTTP API, the auditor and the CLI call these methods of `Store`.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;

use super::dialect::{DbConnection, args, split_snapshot, with_snapshot};
use super::rows::{self, EVENT, OFFER, SELECTION, StoredRow};
use super::{LEASE, Result, Store};
use oddsd_core::model::{CycleCounts, DbSnapshot, Event, EventId, Offer, PriceStatus, Selection};

/// One cycle that changed something, as recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CycleRow {
    pub id: i64,
    pub feed: String,
    pub as_of: DateTime<Utc>,
    pub committed_at: DateTime<Utc>,
    pub races: i64,
    pub horses: i64,
    pub bookmakers: i64,
    #[serde(flatten)]
    pub counts: CycleCounts,
    pub fetch_ms: i64,
    pub diff_ms: i64,
}

/// A value and the database snapshot that it was read with. The value holds everything that the snapshot
/// includes; it may hold more, where a later statement of the same load saw a later commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshotted<T> {
    pub snapshot: DbSnapshot,
    pub value: T,
}

/// One selection of one listed race with its open prices: a row of the by-stage answer.
#[derive(Clone, Debug)]
pub struct Runner {
    pub event: Event,
    /// The newest write to the event, its selections or its prices.
    pub updated_at: DateTime<Utc>,
    pub selection: Selection,
    pub prices: Vec<RunnerPrice>,
}

/// The price of one bookmaker for a [`Runner`].
#[derive(Clone, Debug, PartialEq)]
pub struct RunnerPrice {
    pub bookmaker: String,
    pub decimal: Decimal,
    pub fractional: Option<String>,
}

/// Every price of one event, with its range since it opened.
#[derive(Clone, Debug)]
pub struct EventPrices {
    pub event: Event,
    pub checked_at: DateTime<Utc>,
    pub selections: Vec<Selection>,
    pub prices: Vec<PriceRow>,
}

/// One stored price of an [`EventPrices`].
#[derive(Clone, Debug, PartialEq)]
pub struct PriceRow {
    pub selection: String,
    pub market: String,
    pub bookmaker: String,
    pub bookmaker_name: String,
    pub offer: Offer,
    pub status: PriceStatus,
    pub observed_at: DateTime<Utc>,
    /// First, highest and lowest decimal odds in the kept history.
    pub opening: Decimal,
    pub high: Decimal,
    pub low: Decimal,
}

/// The state of the daemon as the database has it, for `oddsd status` on any machine.
#[derive(Clone, Debug, Serialize)]
pub struct StoreStatus {
    pub holder: Option<String>,
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// The JSON that the holder stored with its last renewal.
    pub state: serde_json::Value,
    pub last_cycle: Option<CycleRow>,
    /// Rows that wait, and the age of the oldest. A second removal before its time and a canary do not
    /// count: no reader gets an old answer because of them.
    pub outbox_pending: i64,
    pub outbox_oldest_seconds: f64,
    pub outbox_last_error: Option<String>,
    pub events: i64,
    pub open_prices: i64,
}

/// Where the history of an event `e` begins on Postgres, so that the partitions before it are not read. Both times are
/// of a daemon's clock, which may have been wrong: by up to a day nothing is hidden.
pub(super) const HISTORY_BEGINS: &str = "least(e.first_seen, now()) - interval '1 day'";

/// The range of a price. On Postgres a history row holds the prices of one event side by side.
const POSTGRES_RANGE: &str = "CAST(coalesce(h.opening, p.decimal) AS text) AS opening,
     CAST(coalesce(h.high, p.decimal) AS text) AS high, CAST(coalesce(h.low, p.decimal) AS text) AS low";
fn postgres_history() -> String {
    format!(
        "LEFT JOIN (
             SELECT q.id, (array_agg(q.decimal ORDER BY h.cycle_id))[1] AS opening, max(q.decimal) AS high, min(q.decimal) AS low
             FROM oddsd.history h, unnest(h.price_ids, h.decimals) AS q (id, decimal)
             WHERE h.event_id = $1 AND h.as_of >= (SELECT {HISTORY_BEGINS} FROM oddsd.events e WHERE e.id = $1)
             GROUP BY q.id) h ON h.id = p.id"
    )
}
/// The same on SQLite. REAL only orders here: the exact text is returned.
const SQLITE_RANGE: &str = "
     coalesce((SELECT decimal FROM price_history WHERE price_id = p.id ORDER BY cycle_id LIMIT 1), p.decimal) AS opening,
     coalesce((SELECT decimal FROM price_history WHERE price_id = p.id ORDER BY CAST(decimal AS REAL) DESC LIMIT 1), p.decimal) AS high,
     coalesce((SELECT decimal FROM price_history WHERE price_id = p.id ORDER BY CAST(decimal AS REAL) LIMIT 1), p.decimal) AS low";

impl Store {
    /// Runners of the listed races that start in `[from, to)`, with their open prices.
    pub async fn runners(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Snapshotted<Vec<Runner>>> {
        let select = format!(
            "SELECT {EVENT}, {SELECTION},
                    greatest(e.updated_at, s.updated_at, coalesce(max(p.updated_at), s.updated_at)) AS updated_at,
                    CAST(coalesce(json_agg(json_build_array(b.name, CAST(p.decimal AS text), p.fractional))
                                  FILTER (WHERE p.status = 'open'), '[]') AS text) AS odds
             FROM oddsd.events e
             JOIN oddsd.selections s ON s.event_id = e.id
             LEFT JOIN oddsd.prices p ON p.event_id = e.id AND p.selection_id = s.id AND p.market = 'win'
             LEFT JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id
             WHERE e.starts_at >= $1 AND e.starts_at < $2 AND e.listed
             GROUP BY e.id, s.id"
        );
        let found = self.read(with_snapshot(&select, ""), args![from, to]);
        let (snapshot, rows) = split_snapshot(found.await?, "key")?;
        let value = rows.map(|row| runner(&row)).collect::<Result<_>>()?;
        Ok(Snapshotted { snapshot, value })
    }

    /// `None` for an event that is not stored.
    pub async fn event_prices(&self, event: &EventId) -> Result<Snapshotted<Option<EventPrices>>> {
        match self {
            Self::Postgres(db) => {
                let read = async {
                    let mut connection = db.connection().await?;
                    read_event(DbConnection::Postgres(&mut connection), event).await
                };
                db.within_deadline(read).await
            }
            Self::Sqlite(db) => {
                let mut connection = db.reader().await?;
                read_event(DbConnection::Sqlite(&mut connection), event).await
            }
        }
    }

    /// The snapshot of a reader that begins now.
    pub async fn current_snapshot(&self) -> Result<DbSnapshot> {
        let sql = "SELECT CAST(pg_current_snapshot() AS text) AS snapshot";
        rows::snapshot(&self.read_one(sql, args![]).await?)
    }

    /// Cycles after this id, oldest first; `after` = -1 gives the newest `limit` ones. Status changes
    /// that the clock made are left out: no feed was polled for them.
    pub async fn cycles(&self, after: i64, limit: i64) -> Result<Vec<CycleRow>> {
        let order = if after < 0 { "DESC" } else { "" };
        let sql = format!(
            "SELECT id, feed, as_of, committed_at, CAST(races AS bigint) AS races, CAST(horses AS bigint) AS horses,
                    CAST(cardinality(bookmakers) AS bigint) AS bookmakers, seen, inserted, reopened, changed, withdrawn,
                    unchanged, stale, rejected, no_price, fetch_ms, diff_ms
             FROM oddsd.cycles WHERE id > $1 AND feed <> 'clock' ORDER BY id {order} LIMIT $2"
        );
        let found = self.read(sql, args![after, limit]).await?;
        let mut cycles = found.iter().map(cycle).collect::<Result<Vec<_>>>()?;
        if after < 0 {
            cycles.reverse();
        }
        Ok(cycles)
    }

    pub async fn status(&self) -> Result<StoreStatus> {
        let sql = "SELECT l.holder, l.expires_at, CAST(coalesce(l.state, '{}') AS text) AS state,
                    waiting.rows AS pending, waiting.oldest, now() AS now,
                    (SELECT last_error FROM oddsd.outbox WHERE last_error IS NOT NULL ORDER BY due_at DESC LIMIT 1) AS last_error,
                    (SELECT count(*) FROM oddsd.events WHERE listed) AS events,
                    coalesce((SELECT open_prices FROM oddsd.cycles ORDER BY id DESC LIMIT 1),
                             (SELECT count(*) FROM oddsd.prices WHERE status <> 'withdrawn')) AS open_prices
             FROM (SELECT count(*) AS rows, min(created_at) AS oldest FROM oddsd.outbox
                   WHERE kinds <> 'canary' AND (kinds <> 'again' OR attempts > 0 OR due_at <= now())) waiting
             LEFT JOIN oddsd.leases l ON l.name = $1";
        let row = self.read_one(sql, args![LEASE]).await?;
        let now = row.time("now")?;
        let age = now - row.maybe_time("oldest")?.unwrap_or(now);
        Ok(StoreStatus {
            holder: row.get("holder")?,
            lease_expires_at: row.maybe_time("expires_at")?,
            state: row.json("state")?,
            last_cycle: self.cycles(-1, 1).await?.pop(),
            outbox_pending: row.int("pending")?,
            outbox_oldest_seconds: age.to_std().unwrap_or_default().as_secs_f64(),
            outbox_last_error: row.get("last_error")?,
            events: row.int("events")?,
            open_prices: row.int("open_prices")?,
        })
    }

    /// The database's own clock, for the check of ours.
    pub async fn server_time(&self) -> Result<DateTime<Utc>> {
        self.read_one("SELECT now() AS now", args![])
            .await?
            .time("now")
    }
}

/// The snapshot is that of the first statement: the next ones see that much, or more.
async fn read_event(
    mut connection: DbConnection<'_>,
    event: &EventId,
) -> Result<Snapshotted<Option<EventPrices>>> {
    let head = format!(
        "SELECT e.id, {EVENT}, coalesce(c.checked_at, e.updated_at) AS checked_at
         FROM oddsd.events e LEFT JOIN oddsd.checks c ON c.event_id = e.id WHERE e.key = $1"
    );
    let key = args![event.as_str()];
    let head = connection.fetch(with_snapshot(&head, ""), &key).await?;
    let (snapshot, mut known) = split_snapshot(head, "key")?;
    let Some(head) = known.next() else {
        let value = None;
        return Ok(Snapshotted { snapshot, value });
    };
    let id = args![head.int("id")?];
    let selections =
        format!("SELECT {SELECTION} FROM oddsd.selections s WHERE s.event_id = $1 ORDER BY s.id");
    let selections = connection.fetch(selections, &id).await?;
    let (range, history) = match connection {
        DbConnection::Postgres(_) => (POSTGRES_RANGE, postgres_history()),
        DbConnection::Sqlite(_) => (SQLITE_RANGE, String::new()),
    };
    let prices = format!(
        "SELECT s.key AS selection_key, p.market, b.key AS bookmaker_key, b.name AS bookmaker_name, {OFFER}, {range}
         FROM oddsd.prices p
         JOIN oddsd.selections s ON s.id = p.selection_id
         JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id {history}
         WHERE p.event_id = $1 ORDER BY s.id, p.market, b.key"
    );
    let prices = connection.fetch(prices, &id).await?;
    let selections = selections.iter().map(rows::selection);
    let value = Some(EventPrices {
        event: rows::event(&head)?,
        checked_at: head.time("checked_at")?,
        selections: selections.collect::<Result<_>>()?,
        prices: prices.iter().map(price_row).collect::<Result<_>>()?,
    });
    Ok(Snapshotted { snapshot, value })
}

/// An event, a selection, `updated_at`, and `odds`: a JSON array of `[bookmaker, decimal, fractional]`.
fn runner(row: &StoredRow) -> Result<Runner> {
    let odds: Vec<(String, String, Option<String>)> = row.json("odds")?;
    let prices = odds.into_iter().map(|(bookmaker, text, fractional)| {
        Ok(RunnerPrice {
            bookmaker,
            decimal: rows::decimal(&text, "odds")?,
            fractional,
        })
    });
    Ok(Runner {
        event: rows::event(row)?,
        updated_at: row.time("updated_at")?,
        selection: rows::selection(row)?,
        prices: prices.collect::<Result<_>>()?,
    })
}

fn price_row(row: &StoredRow) -> Result<PriceRow> {
    Ok(PriceRow {
        selection: row.text("selection_key")?.into(),
        market: row.text("market")?.into(),
        bookmaker: row.text("bookmaker_key")?.into(),
        bookmaker_name: row.text("bookmaker_name")?.into(),
        offer: rows::offer(row)?,
        status: rows::price_status(row)?,
        observed_at: row.time("observed_at")?,
        opening: row.decimal("opening")?,
        high: row.decimal("high")?,
        low: row.decimal("low")?,
    })
}

fn cycle(row: &StoredRow) -> Result<CycleRow> {
    let count = |name| row.int(name).map(|n| n as u64);
    Ok(CycleRow {
        id: row.int("id")?,
        feed: row.text("feed")?.into(),
        as_of: row.time("as_of")?,
        committed_at: row.time("committed_at")?,
        races: row.int("races")?,
        horses: row.int("horses")?,
        bookmakers: row.int("bookmakers")?,
        counts: CycleCounts {
            seen: count("seen")?,
            inserted: count("inserted")?,
            reopened: count("reopened")?,
            changed: count("changed")?,
            withdrawn: count("withdrawn")?,
            unchanged: count("unchanged")?,
            stale: count("stale")?,
            rejected: count("rejected")?,
            no_price: count("no_price")?,
        },
        fetch_ms: row.int("fetch_ms")?,
        diff_ms: row.int("diff_ms")?,
    })
}
