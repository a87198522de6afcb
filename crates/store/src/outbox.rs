//! The outbox: rows written in the change's own transaction, claimed for a while, deleted when settled.
//! The relay claims and settles them; the poller, the canary and the CLI write them.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::dialect::{args, only_row, split_snapshot, with_snapshot};
use super::rows::{self, StoredRow, decode_error};
use super::{Removal, Result, Snapshotted, Store, dispatch};
use oddsd_core::diff::{OutboxEntry, Purpose};
use oddsd_core::key::{Key, Tag};
use oddsd_core::model::{
    ChangeKind, DbSnapshot, Event, EventId, EventStatus, Fraction, PriceStatus,
};
use oddsd_core::rules::{DisplayedPrice, RuleChange};

/// Rows of history that are read for one event. Older prices count as unknown.
const MAX_HISTORY: i64 = 500;

/// The rows of one event's history, newest first: on Postgres each holds all prices that one cycle changed.
/// Both statements select a price as it is stored as cycle 0.
const POSTGRES_PRICE_HISTORY: &str = "
    WITH event AS (SELECT id FROM oddsd.events WHERE key = $1),
         page AS MATERIALIZED (
             SELECT h.* FROM oddsd.history h
             WHERE h.event_id = (SELECT id FROM event) ORDER BY h.cycle_id DESC LIMIT $3),
         changed AS MATERIALIZED (SELECT unnest(price_ids) AS price_id FROM page WHERE cycle_id = $2),
         past AS (SELECT q.*, page.cycle_id FROM page,
                      unnest(page.price_ids, page.decimals, page.fractionals, page.points, page.statuses)
                          AS q (price_id, decimal, fractional, point, status)
                  WHERE q.price_id IN (SELECT price_id FROM changed))
    SELECT p.id, b.key AS bookmaker, p.market, 0::bigint AS cycle_id, p.decimal::text AS decimal, p.fractional,
           p.point::text AS point, p.status AS price_status
    FROM oddsd.prices p JOIN oddsd.bookmakers b ON b.id = p.bookmaker_id
    WHERE p.id IN (SELECT price_id FROM changed)
    UNION ALL
    SELECT price_id, '', '', cycle_id, decimal::text, fractional, point::text, coalesce(status, 'open') FROM past
    ORDER BY id, cycle_id";
const SQLITE_PRICE_HISTORY: &str = "
    WITH known AS (SELECT id FROM prices WHERE event_id = (SELECT id FROM events WHERE key = $1)),
         changed AS MATERIALIZED (
             SELECT price_id FROM price_history WHERE cycle_id = $2 AND price_id IN (SELECT id FROM known)),
         recent AS (SELECT DISTINCT cycle_id FROM price_history WHERE price_id IN (SELECT price_id FROM changed)
                    ORDER BY cycle_id DESC LIMIT $3)
    SELECT p.id, b.key AS bookmaker, p.market, 0 AS cycle_id, p.decimal, p.fractional, p.point, p.status AS price_status
    FROM prices p JOIN bookmakers b ON b.id = p.bookmaker_id WHERE p.id IN (SELECT price_id FROM changed)
    UNION ALL
    SELECT price_id, '', '', cycle_id, decimal, fractional, point, status FROM price_history
    WHERE price_id IN (SELECT price_id FROM changed) AND cycle_id >= (SELECT min(cycle_id) FROM recent)
    ORDER BY 1, 4";

/// Groups the oldest rows. Two steps, because the first one needs no sorting: few texts of kinds differ.
const BACKLOG: &str = "
    SELECT g.*, e.sport, e.league, e.venue, e.status FROM (
        SELECT CAST(0 AS bigint) AS id, max(cycle_id) AS cycle_id, event_key, string_agg(kinds, ',') AS kinds, keys, detail,
               CAST(NULL AS text) AS before, CAST(NULL AS text) AS after, CAST(max(attempts) AS bigint) AS attempts,
               max(xid) AS xid, min(created_at) AS created_at, CAST(sum(row_count) AS bigint) AS row_count,
               min(first) AS first, max(last) AS last, string_agg(again, ',') AS again
        FROM (SELECT max(cycle_id) AS cycle_id, event_key, kinds, keys, detail, max(attempts) AS attempts,
                     max(xid::text::bigint) AS xid, min(created_at) AS created_at, count(*) AS row_count,
                     min(id) AS first, max(id) AS last,
                     string_agg(CAST(id AS text), ',') FILTER (WHERE kinds = 'again') AS again
              FROM (SELECT * FROM oddsd.outbox WHERE kinds <> 'again' OR due_at <= now() ORDER BY id LIMIT $1) page
              GROUP BY event_key, keys, kinds, detail) by_kinds
        GROUP BY event_key, keys, detail, CASE WHEN kinds IN ('again', 'canary') THEN kinds END) g
    LEFT JOIN oddsd.events e ON e.key = g.event_key";

/// Purposes in the column `kinds`.
const SECOND_REMOVAL: &str = "again";
const CANARY: &str = "canary";

/// One price that a cycle changed.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceHistory {
    pub market: String,
    pub bookmaker: String,
    pub withdrawn: bool,
    /// Its stored value.
    pub current: DisplayedPrice,
    /// Its earlier values, oldest first, each with the cycle that stored it.
    pub earlier: Vec<(i64, DisplayedPrice)>,
}

/// One outbox row, claimed for a while; or many of one event, keys and purpose, of a `Backlog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// 0 in a backlog.
    pub id: i64,
    /// The transaction that wrote the row, by the numbers of a `DbSnapshot`. In a backlog, the highest.
    pub transaction: u64,
    pub created_at: DateTime<Utc>,
    /// The event's current context; `None` when it is not stored.
    pub context: Option<EventContext>,
    pub entry: OutboxEntry,
}

impl OutboxRow {
    /// A row that this process has just written, as if claimed for the first time.
    pub fn new(id: i64, transaction: u64, created_at: DateTime<Utc>, entry: OutboxEntry) -> Self {
        Self {
            id,
            transaction,
            created_at,
            context: None,
            entry: OutboxEntry {
                attempts: 1,
                ..entry
            },
        }
    }

    /// The change with the fields that rules match.
    pub fn change(&self) -> RuleChange {
        let (entry, kinds) = (&self.entry, self.entry.kinds.clone());
        let mut change = match &entry.event {
            Some(event) => RuleChange::for_event(kinds, event),
            None => RuleChange {
                kinds,
                ..RuleChange::default()
            },
        };
        if let Some(context) = &self.context {
            context.add_to(&mut change);
        }
        match &entry.detail {
            Some(detail) => change.with_detail(detail),
            None => change,
        }
    }
}

/// The fields of an event that rules match beside its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventContext {
    pub sport: String,
    pub league: String,
    pub venue: String,
    pub status: Option<EventStatus>,
}

impl EventContext {
    pub fn from_event(event: &Event) -> Self {
        Self {
            sport: event.sport.clone(),
            league: event.league.clone(),
            venue: event.venue.clone(),
            status: Some(event.status),
        }
    }

    /// Adds its fields to the change.
    pub fn add_to(&self, change: &mut RuleChange) {
        change.fields.add("sport_id", self.sport.as_str());
        change.fields.add("league_id", self.league.as_str());
        change.fields.add("venue", self.venue.as_str());
        if let Some(status) = self.status {
            change.fields.add("current_status", status.as_str());
        }
    }
}

/// The outcome of a batch of rows, to be stored as they leave the outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchOutcome {
    /// Lines of the log.
    pub removals: Vec<Removal>,
    pub second_removal: Option<RetryEntry>,
    /// Targets that the cache did not confirm, of changes whose other targets it did.
    pub retries: Vec<RetryEntry>,
    /// Targets of movement rules that were kept: their answers may be as old as this cycle.
    pub kept_targets: Vec<(String, i64)>,
    /// Targets that were removed, so that no old answer is kept under them.
    pub removed_targets: Vec<String>,
    /// How many targets the cache was asked to remove.
    pub target_count: usize,
}

impl BatchOutcome {
    /// Merges the outcome of a later batch into this one.
    pub fn merge(&mut self, next: Self) {
        self.removals.extend(next.removals);
        self.retries.extend(next.retries);
        match (&mut self.second_removal, next.second_removal) {
            (Some(second), Some(next)) => {
                let keys = &mut second.entry.keys;
                keys.extend(next.entry.keys);
                keys.sort();
                keys.dedup();
            }
            (second, next) => *second = second.take().or(next),
        }
        // The later batch decides whether a target was removed or kept.
        self.kept_targets
            .retain(|(target, _)| !next.removed_targets.contains(target));
        self.kept_targets.extend(next.kept_targets);
        self.removed_targets.extend(next.removed_targets);
        self.removed_targets
            .retain(|target| !self.kept_targets.iter().any(|(kept, _)| kept == target));
        self.target_count += next.target_count;
    }

    pub(super) fn removals_json(&self) -> serde_json::Value {
        self.removals.iter().map(Removal::to_json).collect()
    }

    /// The rows to insert: retries and the second removal, if it has keys.
    pub(super) fn retries_json(&self) -> serde_json::Value {
        let second = self.second_removal.iter();
        let second = second.filter(|retry| !retry.entry.keys.is_empty());
        let retries = self.retries.iter().chain(second);
        retries.map(RetryEntry::to_json).collect()
    }

    pub(super) fn kept_json(&self) -> serde_json::Value {
        let kept = self.kept_targets.iter();
        kept.map(|(target, cycle)| serde_json::json!({ "target": target, "cycle_id": cycle }))
            .collect()
    }
}

/// Targets that are removed later, in an outbox row of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryEntry {
    pub entry: OutboxEntry,
    pub wait: Duration,
    /// Why the first attempt failed; `None` for a second removal.
    pub error: Option<String>,
}

impl RetryEntry {
    /// Removes the keys a second time after `wait`.
    pub fn second_removal(keys: Vec<Key>, wait: Duration) -> Self {
        let entry = OutboxEntry {
            purpose: Purpose::SecondRemoval,
            keys,
            ..OutboxEntry::default()
        };
        Self {
            entry,
            wait,
            error: None,
        }
    }

    /// The JSON that the settling statements read.
    fn to_json(&self) -> serde_json::Value {
        let entry = &self.entry;
        serde_json::json!({
            "cycle_id": entry.cycle, "event_key": entry.event, "kinds": kinds_text(entry),
            "keys": targets_text(&entry.keys, &entry.tags), "detail": entry.detail, "before": entry.before,
            "after": entry.after, "attempts": entry.attempts, "wait": self.wait.as_secs_f64(), "error": self.error,
        })
    }
}

/// Rows that were due, and the snapshot of the claim: it includes the transaction of each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedBatch {
    pub snapshot: DbSnapshot,
    pub rows: Vec<OutboxRow>,
}

/// The oldest rows, claimed or not, coalesced by event, keys and purpose. The snapshot includes the
/// transaction of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub snapshot: DbSnapshot,
    /// The highest row that was read; 0 when there is none.
    pub through: i64,
    /// How many rows were read.
    pub rows: u64,
    pub changes: Vec<OutboxRow>,
    /// The lowest row that was read.
    pub(super) from: i64,
    /// The rows of second removals among them: which of them were due cannot be asked later.
    pub(super) again: Vec<i64>,
}

/// One write of the canary, and its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryWrite {
    pub beat: i64,
    pub transaction: u64,
    /// Its outbox row, as if it had just been claimed; `None` where it has to be claimed.
    pub outbox: Option<ClaimedBatch>,
}

impl ClaimedBatch {
    /// The row of a canary that was just written, with the snapshot of its statement.
    pub(super) fn of_canary(
        id: i64,
        transaction: u64,
        key: &Key,
        snapshot: &DbSnapshot,
    ) -> Option<Self> {
        let entry = OutboxEntry {
            purpose: Purpose::Canary,
            keys: vec![key.clone()],
            ..OutboxEntry::default()
        };
        Some(Self {
            snapshot: snapshot.with_tx(transaction)?,
            rows: vec![OutboxRow::new(id, transaction, Utc::now(), entry)],
        })
    }
}

impl Store {
    /// Takes up to `max` due outbox rows; they are due again after `lease_for` unless settled.
    pub async fn claim(&self, who: &str, max: i64, lease_for: Duration) -> Result<ClaimedBatch> {
        dispatch!(self, db => db.claim(who, max, lease_for).await)
    }

    /// Deletes the rows, logs the removals and inserts rows for the targets that are left, in one
    /// transaction. Returns the number of removals in the last minute, by all daemons.
    pub async fn settle(&self, rows: &[i64], done: BatchOutcome) -> Result<u64> {
        dispatch!(self, db => db.settle(rows, done).await)
    }

    /// Makes the rows due again after `delay`.
    pub async fn postpone(&self, rows: &[i64], delay: Duration, error: &str) -> Result<()> {
        let sql = "UPDATE oddsd.outbox SET due_at = now() + $2 * interval '1 second', last_error = $3 WHERE id = ANY($1)";
        self.write(sql, args![rows, delay, error]).await.map(drop)
    }

    /// Reads the oldest `max_rows` rows, due or not, and claims none. A second removal before its
    /// time is left out.
    pub async fn read_backlog(&self, max_rows: i64) -> Result<Backlog> {
        let sql = with_snapshot(BACKLOG, "ORDER BY r.first");
        let found = self.read(sql, args![max_rows]).await?;
        let (snapshot, groups) = split_snapshot(found, "id")?;
        let mut backlog = Backlog {
            snapshot,
            through: 0,
            rows: 0,
            changes: Vec::new(),
            from: i64::MAX,
            again: Vec::new(),
        };
        for group in groups {
            backlog.add(&group)?;
        }
        Ok(backlog)
    }

    /// Settles the rows that were read and no other: a row that was committed since stays, also with a
    /// lower number. Returns how many were deleted, and the removals of the last minute.
    pub async fn settle_backlog(
        &self,
        backlog: &Backlog,
        done: BatchOutcome,
    ) -> Result<(u64, u64)> {
        dispatch!(self, db => db.settle_backlog(backlog, done).await)
    }

    /// Puts targets that an operator named into the outbox; returns the row. `detail` is a JSON object.
    pub async fn request_removal(
        &self,
        keys: &[Key],
        tags: &[Tag],
        detail: Option<&str>,
    ) -> Result<i64> {
        let sql = "INSERT INTO oddsd.outbox (kinds, keys, detail, created_at, due_at) VALUES ('manual', $1, $2, now(), now())
             RETURNING id, (SELECT pg_notify('oddsd_outbox', ''))";
        let stored = self.write(sql, args![targets_text(keys, tags), detail]);
        only_row(stored.await?)?.int("id")
    }

    /// The cycle that the answers under these targets may be as old as, where movements were left.
    pub async fn last_shown(&self, targets: &[String]) -> Result<HashMap<String, i64>> {
        let sql = "SELECT target, cycle_id FROM oddsd.marks WHERE target = ANY($1)";
        let found = self.read(sql, args![targets]).await?;
        let marks = found.iter();
        marks
            .map(|row| Ok((row.text("target")?.into(), row.int("cycle_id")?)))
            .collect()
    }

    /// The prices of one event that a cycle changed, with their history.
    pub async fn price_histories_of(
        &self,
        event: &EventId,
        cycle: i64,
    ) -> Result<Vec<PriceHistory>> {
        let sql = match self {
            Self::Postgres(_) => POSTGRES_PRICE_HISTORY,
            Self::Sqlite(_) => SQLITE_PRICE_HISTORY,
        };
        let args = args![event.as_str(), cycle, MAX_HISTORY];
        price_histories(&self.read(sql, args).await?)
    }

    /// False once the row has been settled.
    pub async fn is_pending(&self, row: i64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM oddsd.outbox WHERE id = $1) AS pending";
        self.read_one(sql, args![row]).await?.get("pending")
    }

    /// Writes the canary's next beat, with the outbox row that removes `key`.
    pub async fn write_canary(&self, key: &Key) -> Result<CanaryWrite> {
        dispatch!(self, db => db.touch_canary(key).await)
    }

    /// The canary's last beat; 0 before the first.
    pub async fn last_canary(&self) -> Result<Snapshotted<i64>> {
        let sql = with_snapshot("SELECT beat FROM oddsd.canary WHERE id = 1", "");
        let row = self.read_one(sql, args![]).await?;
        Ok(Snapshotted {
            snapshot: rows::snapshot(&row)?,
            value: row.int("beat")?,
        })
    }
}

impl Backlog {
    /// One group a row: as [`outbox_row`], with `row_count`, `first`, `last` (their ids) and
    /// `again` (the ids of second removals).
    fn add(&mut self, group: &StoredRow) -> Result<()> {
        self.changes.push(outbox_row(group)?);
        self.rows += group.int("row_count")? as u64;
        self.from = self.from.min(group.int("first")?);
        self.through = self.through.max(group.int("last")?);
        let again = group.maybe_text("again")?.unwrap_or_default();
        for id in again.split_terminator(',') {
            let id = id.parse().map_err(|error| decode_error("again", error))?;
            self.again.push(id);
        }
        Ok(())
    }
}

/// Sorts by id: RETURNING promises no order.
pub(super) fn outbox_rows(rows: impl Iterator<Item = StoredRow>) -> Result<Vec<OutboxRow>> {
    let all = rows.map(|row| outbox_row(&row));
    let mut all = all.collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|row| row.id);
    Ok(all)
}

/// Columns `id, cycle_id, event_key, kinds, keys, detail, before, after, attempts, xid, created_at`, and of the
/// event, if it is stored, `sport, league, venue, status`.
fn outbox_row(row: &StoredRow) -> Result<OutboxRow> {
    let kinds = row.text("kinds")?;
    let (keys, tags) = read_targets(row.maybe_text("keys")?.unwrap_or_default());
    Ok(OutboxRow {
        id: row.int("id")?,
        transaction: row.int("xid")? as u64,
        created_at: row.time("created_at")?,
        context: match row.maybe_text("sport")? {
            None => None,
            Some(sport) => Some(EventContext {
                sport: sport.into(),
                league: row.text("league")?.into(),
                venue: row.text("venue")?.into(),
                status: EventStatus::parse(row.text("status")?),
            }),
        },
        entry: OutboxEntry {
            purpose: match kinds {
                SECOND_REMOVAL => Purpose::SecondRemoval,
                CANARY => Purpose::Canary,
                _ => Purpose::Change,
            },
            cycle: row.get("cycle_id")?,
            event: row.maybe_text("event_key")?.map(EventId::new),
            kinds: kinds.split(',').filter_map(ChangeKind::parse).collect(),
            detail: row.get("detail")?,
            before: row.get("before")?,
            after: row.get("after")?,
            keys,
            tags,
            attempts: row.int("attempts")? as i32,
        },
    })
}

/// Columns `id, bookmaker, market, cycle_id` and of an offer, by id and cycle; cycle 0 is the stored value.
fn price_histories(rows: &[StoredRow]) -> Result<Vec<PriceHistory>> {
    let (mut all, mut last): (Vec<PriceHistory>, _) = (Vec::new(), None);
    for row in rows {
        let (id, cycle) = (row.int("id")?, row.int("cycle_id")?);
        let status = rows::price_status(row)?;
        let shown = DisplayedPrice {
            decimal: row.decimal("decimal")?,
            fractional: row.maybe_text("fractional")?.and_then(Fraction::parse),
            point: row.maybe_decimal("point")?,
            open: status == PriceStatus::Open,
        };
        match (all.last_mut(), last.replace(id) == Some(id)) {
            (Some(moved), true) => moved.earlier.push((cycle, shown)),
            // The price is no longer stored.
            (_, false) if cycle > 0 => last = None,
            _ => all.push(PriceHistory {
                market: row.text("market")?.into(),
                bookmaker: row.text("bookmaker")?.into(),
                withdrawn: status == PriceStatus::Withdrawn,
                current: shown,
                earlier: Vec::new(),
            }),
        }
    }
    Ok(all)
}

/// The column `kinds`: change kinds, or one of the other two purposes.
pub(super) fn kinds_text(entry: &OutboxEntry) -> String {
    match entry.purpose {
        Purpose::SecondRemoval => SECOND_REMOVAL.into(),
        Purpose::Canary => CANARY.into(),
        Purpose::Change => {
            let kinds: Vec<&str> = entry.kinds.iter().map(|kind| kind.as_str()).collect();
            kinds.join(",")
        }
    }
}

/// Targets in the outbox's text form: one a line, a tag after a tab, which no key holds.
pub(super) fn targets_text(keys: &[Key], tags: &[Tag]) -> String {
    let keys = keys.iter().map(ToString::to_string);
    let tags = tags.iter().map(|tag| format!("\t{tag}"));
    keys.chain(tags).collect::<Vec<_>>().join("\n")
}

fn read_targets(text: &str) -> (Vec<Key>, Vec<Tag>) {
    let (mut keys, mut tags) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.strip_prefix('\t') {
            Some(tag) => tags.push(Tag::from_stored(tag)),
            None => keys.extend(Key::from_user_input(line)),
        }
    }
    (keys, tags)
}
