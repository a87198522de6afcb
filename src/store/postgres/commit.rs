//! One cycle is one statement: a chain of CTEs that takes its rows as arrays. It is a transaction
//! of its own and one round trip, which is what a remote database charges for.

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;

use super::{LEASE, Postgres, explain};
use crate::diff::{Changes, PriceChangeKind};
use crate::store::{CycleFacts, Lease, Result, Written, facts_text, kinds_text};

/// The fence comes first and guards all the rest: when the lease is no longer ours, dividing by
/// zero ends the statement and nothing is written. FOR SHARE makes a takeover wait for us.
/// Ids are sorted before they get here, so that two writers could never lock crosswise.
const COMMIT: &str = "
WITH fence AS (
    SELECT 1 FROM oddsd.leases WHERE name = $1 AND holder = $2 AND epoch = $3 FOR SHARE
), cycle AS (
    INSERT INTO oddsd.cycles (id, feed, as_of, races, horses, bookmakers, seen, inserted, reopened, changed,
                              withdrawn, unchanged, stale, rejected, no_price, fetch_ms, diff_ms,
                              next_event, next_selection, next_bookmaker, next_price)
    SELECT $4, $5, $6, $7, $8, $9, c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11],
           c[12], c[13], c[14], c[15]
    FROM (SELECT $10::bigint[] AS c) counts
), bookmaker AS (
    INSERT INTO oddsd.bookmakers (id, key, name, kind)
    SELECT * FROM unnest($11::bigint[], $12::text[], $13::text[], $14::text[])
), event AS (
    INSERT INTO oddsd.events (id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts)
    SELECT id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts::jsonb
    FROM unnest($15::bigint[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
                $22::timestamptz[], $23::date[], $24::text[], $25::boolean[], $26::boolean[], $27::text[])
         AS e (id, key, source, sport, league, venue, name, starts_at, day, status, in_play, listed, facts)
    ON CONFLICT (id) DO UPDATE SET source = excluded.source, sport = excluded.sport, league = excluded.league,
        venue = excluded.venue, name = excluded.name, starts_at = excluded.starts_at, day = excluded.day,
        status = excluded.status, in_play = excluded.in_play, listed = excluded.listed, facts = excluded.facts,
        updated_at = now()
    RETURNING 1
), checked AS (
    INSERT INTO oddsd.checks (event_id, checked_at) SELECT id, $6 FROM unnest($15::bigint[]) AS e (id)
    ON CONFLICT (event_id) DO UPDATE SET checked_at = excluded.checked_at WHERE checks.checked_at < excluded.checked_at
), selection AS (
    INSERT INTO oddsd.selections (id, event_id, key, name, status, facts)
    SELECT id, event_id, key, name, status, facts::jsonb
    FROM unnest($28::bigint[], $29::bigint[], $30::text[], $31::text[], $32::text[], $33::text[])
         AS s (id, event_id, key, name, status, facts)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, status = excluded.status, facts = excluded.facts,
        updated_at = now()
    RETURNING 1
), price AS MATERIALIZED (
    SELECT * FROM unnest($34::bigint[], $35::bigint[], $36::bigint[], $37::bigint[], $38::text[], $39::numeric[],
                         $40::text[], $41::numeric[], $42::integer[], $43::integer[], $44::text[],
                         $45::timestamptz[], $46::boolean[])
         AS p (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places, ew_denom,
               status, observed_at, is_new)
), inserted AS (
    INSERT INTO oddsd.prices (id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point,
                              ew_places, ew_denom, status, observed_at)
    SELECT id, event_id, selection_id, bookmaker_id, market, decimal, fractional, point, ew_places, ew_denom,
           status, observed_at
    FROM price WHERE is_new
    RETURNING 1
), updated AS (
    UPDATE oddsd.prices AS stored SET decimal = price.decimal, fractional = price.fractional, point = price.point,
        ew_places = price.ew_places, ew_denom = price.ew_denom, status = price.status,
        observed_at = price.observed_at, updated_at = now()
    FROM price WHERE NOT price.is_new AND stored.id = price.id
    RETURNING 1
), history AS (
    INSERT INTO oddsd.price_history (price_id, cycle_id, observed_at, decimal, fractional, point, ew_places, ew_denom, status)
    SELECT id, $4, observed_at, decimal, fractional, point, ew_places, ew_denom, status FROM price
), outbox AS (
    INSERT INTO oddsd.outbox (cycle_id, event_key, kinds)
    SELECT $4, * FROM unnest($47::text[], $48::text[])
    RETURNING 1
)
SELECT (1 / (SELECT count(*) FROM fence))::bigint,
       (SELECT count(*) FROM inserted), (SELECT count(*) FROM updated), (SELECT count(*) FROM event),
       (SELECT count(*) FROM selection), (SELECT count(*) FROM outbox)";

/// Collects one column. All columns of a table come from the same slice, so their lengths agree:
/// unequal arrays would be padded with NULL by `unnest`, silently.
fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

impl Postgres {
    pub async fn commit(
        &self,
        lease: &Lease,
        cycle: &CycleFacts,
        changes: &Changes,
    ) -> Result<Written> {
        let (db, lease, cycle, changes) =
            (self.clone(), lease.clone(), cycle.clone(), changes.clone());
        self.to_the_end(async move { db.write(&lease, &cycle, &changes).await?.checked(&changes) })
            .await
    }

    async fn write(&self, lease: &Lease, cycle: &CycleFacts, changes: &Changes) -> Result<Written> {
        let counts = &changes.counts;
        let numbers = [
            counts.seen,
            counts.inserted,
            counts.reopened,
            counts.changed,
            counts.withdrawn,
            counts.unchanged,
            counts.stale,
            counts.rejected,
            counts.no_price,
        ];
        let mut numbers: Vec<i64> = numbers.iter().map(|n| *n as i64).collect();
        let next = &changes.next;
        numbers.extend([cycle.fetch_ms, cycle.diff_ms]);
        numbers.extend([next.event, next.selection, next.bookmaker, next.price]);

        let bookmakers = &changes.bookmakers;
        let events = &changes.events;
        let selections = &changes.selections;
        let prices = &changes.prices;
        let (told, kinds): (Vec<String>, Vec<String>) = changes
            .by_event()
            .iter()
            .map(|(event, kinds)| (event.to_string(), kinds_text(kinds)))
            .unzip();

        let query = sqlx::query_as(COMMIT)
            .bind(LEASE)
            .bind(&lease.holder)
            .bind(lease.epoch)
            .bind(cycle.id)
            .bind(&cycle.feed)
            .bind(changes.as_of)
            .bind(cycle.races as i32)
            .bind(cycle.horses as i32)
            .bind(&cycle.bookmakers)
            .bind(numbers)
            .bind(column(bookmakers, |b| b.row))
            .bind(column(bookmakers, |b| b.bookmaker.id.as_str()))
            .bind(column(bookmakers, |b| b.bookmaker.name.as_str()))
            .bind(column(bookmakers, |b| b.bookmaker.kind()))
            .bind(column(events, |e| e.row))
            .bind(column(events, |e| e.after.id.as_str()))
            .bind(column(events, |e| &*e.after.source))
            .bind(column(events, |e| e.after.sport.as_str()))
            .bind(column(events, |e| e.after.league.as_str()))
            .bind(column(events, |e| e.after.venue.as_str()))
            .bind(column(events, |e| e.after.name.as_str()))
            .bind::<Vec<Option<DateTime<Utc>>>>(column(events, |e| e.after.starts_at))
            .bind::<Vec<Option<NaiveDate>>>(column(events, |e| e.after.day))
            .bind(column(events, |e| e.after.status.as_str()))
            .bind(column(events, |e| e.after.in_play))
            .bind(column(events, |e| e.after.listed))
            .bind(column(events, |e| facts_text(&e.after.facts)))
            .bind(column(selections, |s| s.row))
            .bind(column(selections, |s| s.event_row))
            .bind(column(selections, |s| s.after.id.as_str()))
            .bind(column(selections, |s| s.after.name.as_str()))
            .bind(column(selections, |s| s.after.status.as_str()))
            .bind(column(selections, |s| facts_text(&s.after.facts)))
            .bind(column(prices, |p| p.row))
            .bind(column(prices, |p| p.event_row))
            .bind(column(prices, |p| p.selection_row))
            .bind(column(prices, |p| p.bookmaker_row))
            .bind(column(prices, |p| p.market.as_str()))
            .bind::<Vec<Decimal>>(column(prices, |p| p.offer.decimal))
            .bind(column(prices, |p| {
                p.offer.fractional.map(|f| f.to_string())
            }))
            .bind::<Vec<Option<Decimal>>>(column(prices, |p| p.offer.point))
            .bind(column(prices, |p| {
                p.offer.each_way.map(|ew| i32::from(ew.places))
            }))
            .bind(column(prices, |p| {
                p.offer.each_way.map(|ew| i32::from(ew.denom))
            }))
            .bind(column(prices, |p| p.status.as_str()))
            .bind(column(prices, |p| p.observed_at))
            .bind(column(prices, |p| p.kind == PriceChangeKind::Inserted))
            .bind(told)
            .bind(kinds);
        let mut connection = self.connection().await?;
        let (_, inserted, updated, events, selections, outbox): (i64, i64, i64, i64, i64, i64) =
            query.fetch_one(&mut *connection).await.map_err(explain)?;
        Ok(Written {
            inserted: inserted as u64,
            updated: updated as u64,
            events: events as u64,
            selections: selections as u64,
            outbox: outbox as u64,
        })
    }
}
