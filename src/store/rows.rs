//! How rows become values. Both backends select the same columns in the same portable types
//! (microseconds, text decimals), so one reading serves both.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{ColumnIndex, Database, Decode, Row, Type};

use super::{
    Backlog, Claimed, CycleRow, EventPrices, Loaded, Moved, Place, PriceRow, Purpose, Removal,
    RemovalStats, Result, Runner, RunnerPrice, StoreError, StoreStatus, Wanted, outbox,
};
use crate::diff::book::NextRows;
use crate::diff::{self, Loading, Orphan};
use crate::model::{
    Bookmaker, BookmakerId, ChangeKind, Counts, EachWay, Event, EventId, EventStatus, Fraction,
    Offer, PriceStatus, Selection, SelectionId, SelectionStatus, View,
};
use crate::rules::Shown;

/// A row of either backend, read by column name in the portable types.
pub trait Columns {
    fn int(&self, name: &str) -> Result<i64>;
    fn maybe_int(&self, name: &str) -> Result<Option<i64>>;
    fn float(&self, name: &str) -> Result<f64>;
    fn flag(&self, name: &str) -> Result<bool>;
    fn text(&self, name: &str) -> Result<&str>;
    fn maybe_text(&self, name: &str) -> Result<Option<&str>>;

    fn time(&self, name: &str) -> Result<DateTime<Utc>> {
        time(self.int(name)?, name)
    }
    fn maybe_time(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        self.maybe_int(name)?
            .map(|micros| time(micros, name))
            .transpose()
    }
    fn decimal(&self, name: &str) -> Result<Decimal> {
        decimal(self.text(name)?, name)
    }
    fn maybe_decimal(&self, name: &str) -> Result<Option<Decimal>> {
        self.maybe_text(name)?
            .map(|text| decimal(text, name))
            .transpose()
    }
    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(self.text(name)?).map_err(|error| odd(name, error))
    }
}

impl<R> Columns for R
where
    R: Row,
    for<'n> &'n str: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> f64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: Decode<'r, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    fn int(&self, name: &str) -> Result<i64> {
        self.try_get(name).map_err(|error| odd(name, error))
    }
    fn maybe_int(&self, name: &str) -> Result<Option<i64>> {
        self.try_get(name).map_err(|error| odd(name, error))
    }
    fn float(&self, name: &str) -> Result<f64> {
        self.try_get(name).map_err(|error| odd(name, error))
    }
    fn flag(&self, name: &str) -> Result<bool> {
        self.try_get(name).map_err(|error| odd(name, error))
    }
    fn text(&self, name: &str) -> Result<&str> {
        self.try_get(name).map_err(|error| odd(name, error))
    }
    fn maybe_text(&self, name: &str) -> Result<Option<&str>> {
        self.try_get(name).map_err(|error| odd(name, error))
    }
}

pub fn odd(name: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!(
        "column {name} holds what oddsd did not write: {why}"
    ))
}

fn time(micros: i64, name: &str) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| odd(name, micros))
}

fn decimal(text: &str, name: &str) -> Result<Decimal> {
    Decimal::from_str_exact(text)
        .map(|d| d.normalize())
        .map_err(|error| odd(name, error))
}

/// Columns `key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts`.
pub fn event(row: &impl Columns) -> Result<Event> {
    let status = row.text("status")?;
    Ok(Event {
        id: EventId::new(row.text("key")?),
        source: row.text("source")?.into(),
        sport: row.text("sport")?.into(),
        league: row.text("league")?.into(),
        venue: row.text("venue")?.into(),
        name: row.text("name")?.into(),
        starts_at: row.maybe_time("starts_at")?,
        day: match row.maybe_text("day")? {
            Some(day) => Some(day.parse().map_err(|error| odd("day", error))?),
            None => None,
        },
        status: EventStatus::parse(status).ok_or_else(|| odd("status", status))?,
        in_play: row.flag("in_play")?,
        listed: row.flag("listed")?,
        facts: row.json("facts")?,
    })
}

/// Columns `selection_key, selection_name, selection_status, selection_facts`.
pub fn selection(row: &impl Columns) -> Result<Selection> {
    let status = row.text("selection_status")?;
    Ok(Selection {
        id: SelectionId::new(row.text("selection_key")?),
        name: row.text("selection_name")?.into(),
        status: SelectionStatus::parse(status).ok_or_else(|| odd("status", status))?,
        facts: row.json("selection_facts")?,
    })
}

/// Columns `decimal, fractional, point, ew_places, ew_denom`.
fn offer(row: &impl Columns) -> Result<Offer> {
    let places = row.maybe_int("ew_places")?;
    let denom = row.maybe_int("ew_denom")?;
    let small = |n: i64| u16::try_from(n).map_err(|error| odd("ew_places", error));
    Ok(Offer {
        decimal: row.decimal("decimal")?,
        // Other people's words ("Evens") are read as none, and put right with the next look.
        fractional: row.maybe_text("fractional")?.and_then(Fraction::parse),
        point: row.maybe_decimal("point")?,
        each_way: match (places, denom) {
            (Some(places), Some(denom)) => Some(EachWay {
                places: small(places)?,
                denom: small(denom)?,
            }),
            _ => None,
        },
    })
}

fn price_status(row: &impl Columns) -> Result<PriceStatus> {
    let status = row.text("price_status")?;
    PriceStatus::parse(status).ok_or_else(|| odd("status", status))
}

/// Fills a book, one row after another, in the order bookmakers, events, selections, prices.
#[derive(Default)]
pub struct Loader(pub Loading);

impl Loader {
    pub fn bookmaker(&mut self, row: &impl Columns) -> Result<()> {
        let bookmaker = Bookmaker {
            id: BookmakerId::new(row.text("key")?),
            name: row.text("name")?.into(),
        };
        self.0.bookmaker(row.int("id")?, bookmaker);
        Ok(())
    }

    pub fn event(&mut self, row: &impl Columns) -> Result<()> {
        let corrected = row.flag("corrected")?;
        self.0.event(
            row.int("id")?,
            event(row)?,
            row.time("checked_at")?,
            corrected,
        );
        Ok(())
    }

    pub fn selection(&mut self, row: &impl Columns) -> Result<()> {
        self.0
            .selection(row.int("id")?, row.int("event_id")?, selection(row)?);
        Ok(())
    }

    pub fn price(&mut self, row: &impl Columns) -> Result<()> {
        let price = diff::PriceRow {
            row: row.int("id")?,
            event: row.int("event_id")?,
            selection: row.int("selection_id")?,
            bookmaker: row.int("bookmaker_id")?,
            market: row.text("market")?,
            offer: offer(row)?,
            status: price_status(row)?,
            observed_at: row.time("observed_at")?,
        };
        self.0.price(&price).map_err(|Orphan| orphan())
    }

    /// Columns `event, selection, bookmaker, price`: the next row of each; `cycle`: the last one.
    pub fn finish(self, row: &impl Columns) -> Result<Loaded> {
        let next = NextRows {
            event: row.int("event")?,
            selection: row.int("selection")?,
            bookmaker: row.int("bookmaker")?,
            price: row.int("price")?,
        };
        Ok(Loaded {
            book: self.0.finish(next),
            next_cycle: row.int("cycle")? + 1,
        })
    }
}

pub fn orphan() -> StoreError {
    StoreError::Failed("a price names a selection or bookmaker that is not stored".into())
}

/// Column `view`, in the text form of Postgres.
pub fn view(row: &impl Columns) -> Result<View> {
    let text = row.text("view")?;
    View::parse(text).ok_or_else(|| odd("view", text))
}

/// In the order in which they came: RETURNING promises none.
pub fn all_claimed<'r, R: Columns + 'r>(rows: impl Iterator<Item = &'r R>) -> Result<Vec<Claimed>> {
    let mut all = rows.map(claimed).collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|claimed| claimed.id);
    Ok(all)
}

/// Columns `id, cycle_id, event_key, kinds, keys, detail, before, after, attempts, xid, created_at`, and of the
/// event, if it is stored, `sport, league, venue, status`.
fn claimed(row: &impl Columns) -> Result<Claimed> {
    let kinds = row.text("kinds")?;
    let text = |name| Ok(row.maybe_text(name)?.map(Into::into));
    let (keys, tags) = outbox::read_targets(row.maybe_text("keys")?.unwrap_or_default());
    Ok(Claimed {
        id: row.int("id")?,
        transaction: row.int("xid")? as u64,
        created_at: row.time("created_at")?,
        purpose: Purpose::of(kinds),
        cycle: row.maybe_int("cycle_id")?,
        event: row.maybe_text("event_key")?.map(EventId::new),
        place: match row.maybe_text("sport")? {
            None => None,
            Some(sport) => Some(Place {
                sport: sport.into(),
                league: row.text("league")?.into(),
                venue: row.text("venue")?.into(),
                status: EventStatus::parse(row.text("status")?),
            }),
        },
        kinds: kinds.split(',').filter_map(ChangeKind::parse).collect(),
        detail: text("detail")?,
        before: text("before")?,
        after: text("after")?,
        keys,
        tags,
        attempts: row.int("attempts")? as i32,
    })
}

pub fn marks<'r, R: Columns + 'r>(
    rows: impl Iterator<Item = &'r R>,
) -> Result<HashMap<String, i64>> {
    rows.map(|row| Ok((row.text("target")?.into(), row.int("cycle_id")?)))
        .collect()
}

/// Rows of history that are looked through for one event. What was before them is not known.
pub const PAST: i64 = 500;

/// Columns `id, bookmaker, market, cycle_id` and of an offer, by id and cycle; cycle 0 is what is stored.
pub fn moved<'r, R: Columns + 'r>(rows: impl Iterator<Item = &'r R>) -> Result<Vec<Moved>> {
    let (mut all, mut last): (Vec<Moved>, _) = (Vec::new(), None);
    for row in rows {
        let (id, cycle) = (row.int("id")?, row.int("cycle_id")?);
        let status = price_status(row)?;
        let shown = Shown {
            decimal: row.decimal("decimal")?,
            fractional: row.maybe_text("fractional")?.and_then(Fraction::parse),
            point: row.maybe_decimal("point")?,
            open: status == PriceStatus::Open,
        };
        match (all.last_mut(), last.replace(id) == Some(id)) {
            (Some(moved), true) => moved.past.push((cycle, shown)),
            // A price that is not stored any more has no present.
            (_, false) if cycle > 0 => last = None,
            _ => all.push(Moved {
                market: row.text("market")?.into(),
                bookmaker: row.text("bookmaker")?.into(),
                withdrawn: status == PriceStatus::Withdrawn,
                now: shown,
                past: Vec::new(),
            }),
        }
    }
    Ok(all)
}

/// One group a row: as `claimed`, with `looked` (how many), `first`, `last` (their ids) and `again`
/// (all ids of rows to remove again).
pub fn backlog<'r, R: Columns + 'r>(
    view: View,
    groups: impl Iterator<Item = &'r R>,
) -> Result<Backlog> {
    let mut backlog = Backlog::empty(view);
    for group in groups {
        backlog.changes.push(claimed(group)?);
        backlog.rows += group.int("looked")? as u64;
        backlog.from = backlog.from.min(group.int("first")?);
        backlog.through = backlog.through.max(group.int("last")?);
        let again = group.maybe_text("again")?.unwrap_or_default();
        for id in again.split_terminator(',') {
            backlog
                .again
                .push(id.parse().map_err(|error| odd("again", error))?);
        }
    }
    Ok(backlog)
}

fn removal(row: &impl Columns) -> Result<Removal> {
    let text = |name| Ok(row.maybe_text(name)?.map(Into::into));
    Ok(Removal {
        id: row.int("id")?,
        at: row.time("at")?,
        cycle: row.maybe_int("cycle_id")?,
        rule: row.text("rule")?.into(),
        reason: row.text("reason")?.into(),
        change: row.text("change")?.into(),
        entity: text("entity")?,
        keys: row.text("keys")?.lines().map(Into::into).collect(),
        existed: row.int("existed")?,
        rules: row.text("rules")?.into(),
        backend: row.text("backend")?.into(),
        attempts: row.int("attempts")? as i32,
        took_ms: row.int("took_ms")?,
        before: text("before")?,
        after: text("after")?,
    })
}

/// A page of the log, whichever way it was asked for, oldest first.
pub fn removals<'r, R: Columns + 'r>(
    rows: impl Iterator<Item = &'r R>,
    wanted: &Wanted,
) -> Result<Vec<Removal>> {
    let mut removals = rows.map(removal).collect::<Result<Vec<_>>>()?;
    if wanted.after.is_none() {
        removals.reverse();
    }
    Ok(removals)
}

/// Columns `reason, removals, keys, lately`: one row a reason.
pub fn removal_stats<'r, R: Columns + 'r>(
    rows: impl Iterator<Item = &'r R>,
) -> Result<RemovalStats> {
    let mut stats = RemovalStats::default();
    for row in rows {
        let removals = row.int("removals")?;
        stats.total_invalidations += removals;
        stats.keys_deleted += row.int("keys")?;
        stats.per_minute += row.int("lately")?;
        stats.by_reason.insert(row.text("reason")?.into(), removals);
    }
    Ok(stats)
}

pub fn cycle(row: &impl Columns) -> Result<CycleRow> {
    let count = |name| row.int(name).map(|n| n as u64);
    Ok(CycleRow {
        id: row.int("id")?,
        feed: row.text("feed")?.into(),
        as_of: row.time("as_of")?,
        committed_at: row.time("committed_at")?,
        races: row.int("races")?,
        horses: row.int("horses")?,
        bookmakers: row.int("bookmakers")?,
        counts: Counts {
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

/// Columns `holder, expires_at, state, pending, oldest, last_error, events, open_prices`.
pub fn status(row: &impl Columns, last_cycle: Option<CycleRow>) -> Result<StoreStatus> {
    Ok(StoreStatus {
        holder: row.maybe_text("holder")?.map(Into::into),
        lease_expires_at: row.maybe_time("expires_at")?,
        state: row.json("state")?,
        last_cycle,
        outbox_pending: row.int("pending")?,
        outbox_oldest_seconds: row.float("oldest")?,
        outbox_last_error: row.maybe_text("last_error")?.map(Into::into),
        events: row.int("events")?,
        open_prices: row.int("open_prices")?,
    })
}

/// An event, a selection, `updated_at`, and `odds`: a JSON array of `[bookmaker, decimal, fractional]`.
pub fn runner(row: &impl Columns) -> Result<Runner> {
    let odds: Vec<(String, String, Option<String>)> = row.json("odds")?;
    let prices = odds.into_iter().map(|(bookmaker, text, fractional)| {
        Ok(RunnerPrice {
            bookmaker,
            decimal: decimal(&text, "odds")?,
            fractional,
        })
    });
    Ok(Runner {
        event: event(row)?,
        updated_at: row.time("updated_at")?,
        selection: selection(row)?,
        prices: prices.collect::<Result<_>>()?,
    })
}

pub fn price_row(row: &impl Columns) -> Result<PriceRow> {
    Ok(PriceRow {
        selection: row.text("selection_key")?.into(),
        market: row.text("market")?.into(),
        bookmaker: row.text("bookmaker_key")?.into(),
        bookmaker_name: row.text("bookmaker_name")?.into(),
        offer: offer(row)?,
        status: price_status(row)?,
        observed_at: row.time("observed_at")?,
        opening: row.decimal("opening")?,
        high: row.decimal("high")?,
        low: row.decimal("low")?,
    })
}

/// One event with `checked_at`, its selections and its prices.
pub fn event_prices<R: Columns>(head: &R, selections: &[R], prices: &[R]) -> Result<EventPrices> {
    Ok(EventPrices {
        event: event(head)?,
        checked_at: head.time("checked_at")?,
        selections: selections.iter().map(selection).collect::<Result<_>>()?,
        prices: prices.iter().map(price_row).collect::<Result<_>>()?,
    })
}
