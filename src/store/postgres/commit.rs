//! One cycle is one transaction. Up to [`MOST_IN_ARRAYS`] prices it is one statement, so one round
//! trip, which is what a remote database charges for; a larger one is staged by COPY first.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, Row, SqlSafeStr};

use super::explain::FENCED;
use super::statement::Shape;
use super::wire::array;
use super::{LEASE, Postgres, explain, staging};
use crate::diff::{Changes, EventChange, PriceChange, PriceChangeKind, Told};
use crate::model::{EventId, PriceStatus};
use crate::store::refused::{Refusal, Tried};
use crate::store::rows::{self, Columns};
use crate::store::{Claim, Claimed, Committed, CycleFacts, Lease, Written, facts_text, kinds_text};

/// Above this the memory for the arrays, here and at the server, is worth more than the round trips.
const MOST_IN_ARRAYS: usize = 50_000;
/// From here on grouping by event is cheaper than cutting.
const MOST_RUNS: usize = 128;

/// What a commit needs, kept until it is done.
#[derive(Clone)]
pub(super) struct Cycle {
    pub lease: Lease,
    pub facts: CycleFacts,
    pub changes: Arc<Changes>,
}

impl Postgres {
    pub async fn commit(
        &self,
        lease: &Lease,
        facts: &CycleFacts,
        changes: &Arc<Changes>,
    ) -> std::result::Result<Committed, Refusal> {
        self.transact(lease, facts, changes, End::Commit).await
    }

    /// Would it go through? Nothing stays.
    pub async fn rehearse(
        &self,
        lease: &Lease,
        facts: &CycleFacts,
        changes: &Arc<Changes>,
    ) -> Tried {
        let end = End::Rollback;
        self.transact(lease, facts, changes, end).await.map(drop)
    }

    async fn transact(
        &self,
        lease: &Lease,
        facts: &CycleFacts,
        changes: &Arc<Changes>,
        end: End,
    ) -> std::result::Result<Committed, Refusal> {
        let db = self.clone();
        let cycle = Cycle {
            lease: lease.clone(),
            facts: facts.clone(),
            changes: changes.clone(),
        };
        let write = async move { Ok(db.write(&cycle, end).await) };
        self.to_the_end(write).await?
    }

    async fn write(&self, cycle: &Cycle, end: End) -> std::result::Result<Committed, Refusal> {
        let changes = &cycle.changes;
        let mut connection = self.connection().await?;
        self.make_day_of(&mut connection, changes.as_of).await?;
        if changes.prices.len() > MOST_IN_ARRAYS {
            return staging::write(&mut connection, cycle, end).await;
        }
        let shape = shape(changes);
        if end == End::Commit {
            return cycle.run(&mut connection, shape).await;
        }
        let mut tx = connection.begin().await.map_err(explain)?;
        let written = cycle.run(&mut tx, shape).await?;
        tx.rollback().await.map_err(explain)?;
        Ok(written)
    }
}

fn shape(changes: &Changes) -> Shape {
    let only_moves = changes.events.is_empty()
        && changes.selections.is_empty()
        && changes.bookmakers.is_empty()
        && changes.corrections.is_empty()
        && changes.counts.inserted == 0;
    if !only_moves {
        Shape::Anything
    } else if runs(&changes.prices).nth(MOST_RUNS).is_some() {
        Shape::Moves
    } else {
        Shape::MovesInRuns
    }
}

/// How a transaction ends when all went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
}

/// Values that the database finds fault with are one thing; rows that are there although we do not
/// know them (23505), or a day without its partition, mean that our memory is wrong.
pub(super) fn refusal(error: sqlx::Error) -> Refusal {
    let values = match &error {
        sqlx::Error::Database(refused) => {
            let code = refused.code().unwrap_or_default();
            match &*code {
                FENCED | "23505" => false,
                "23514" => refused.constraint().is_some(),
                code => ["22", "23", "54"]
                    .iter()
                    .any(|class| code.starts_with(class)),
            }
        }
        _ => false,
    };
    let error = explain(error);
    if values {
        Refusal::Values(error)
    } else {
        Refusal::Other(error)
    }
}

type Statement<'q> = Query<'q, sqlx::Postgres, PgArguments>;

impl Cycle {
    /// Sends the statement and checks what the database says it wrote.
    pub async fn run(
        &self,
        connection: &mut PgConnection,
        shape: Shape,
    ) -> std::result::Result<Committed, Refusal> {
        let told = self.changes.by_event();
        let rows: Vec<(&EventId, &Told)> = told.iter().collect();
        let mut query = self.fixed(sqlx::query(shape.sql().into_sql_str()));
        query = query
            .bind(array(&rows, |(event, _)| event.as_str()))
            .bind(array(&rows, |(_, told)| kinds_text(&told.kinds)))
            .bind(array(&rows, |(_, told)| told.before.as_deref()))
            .bind(array(&rows, |(_, told)| told.after.as_deref()))
            .bind(array(&rows, |(_, told)| told.detail.as_deref()));
        if !shape.only_moves() {
            query = self.card(query);
        }
        if shape != Shape::Staged {
            query = self.places(self.prices(query), shape);
        }
        let answer = query.fetch_one(connection).await;
        let answer = answer.map_err(refusal)?;
        let written = written(&answer, shape).checked(&self.changes, told.len())?;
        let told = self.told(&answer, told.into_iter())?;
        Ok(Committed { written, told })
    }

    /// The outbox rows that were just written. The snapshot of the statement is older than its own
    /// commit; together they are what whoever looks after it sees at least.
    fn told(
        &self,
        answer: &PgRow,
        events: impl Iterator<Item = (EventId, Told)>,
    ) -> crate::store::Result<Option<Claim>> {
        let transaction = answer.int("xid")? as u64;
        let Some(view) = rows::view(answer)?.and(transaction) else {
            return Ok(None);
        };
        let ids: Vec<i64> = answer.try_get("told").map_err(explain)?;
        let created_at = answer.try_get("at").map_err(explain)?;
        let rows = ids.into_iter().zip(events);
        let rows = rows.map(|(id, (event, told))| Claimed {
            cycle: Some(self.facts.id),
            event: Some(event),
            kinds: told.kinds,
            before: told.before,
            after: told.after,
            detail: told.detail,
            ..Claimed::written(id, transaction, created_at)
        });
        Ok(Some(Claim {
            view,
            rows: rows.collect(),
        }))
    }

    fn fixed<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let (facts, changes) = (&self.facts, &self.changes);
        let counts = &changes.counts;
        let counts = [
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
        let mut numbers: Vec<i64> = counts.iter().map(|n| *n as i64).collect();
        let next = &changes.next;
        numbers.extend([facts.fetch_ms, facts.diff_ms]);
        numbers.extend([next.event, next.selection, next.bookmaker, next.price]);
        query
            .bind(LEASE)
            .bind(&self.lease.holder)
            .bind(self.lease.epoch)
            .bind(facts.id)
            .bind(&facts.feed)
            .bind(changes.as_of)
            .bind(facts.races as i32)
            .bind(facts.horses as i32)
            .bind(&facts.bookmakers)
            .bind(numbers)
    }

    fn card<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let bookmakers = &*self.changes.bookmakers;
        let events = &*self.changes.events;
        let selections = &*self.changes.selections;
        let moved: Vec<&EventChange> = events.iter().filter(|e| e.transition().is_some()).collect();
        let before = |e: &&EventChange| e.before.as_ref().map(|before| before.status.as_str());
        query
            .bind(array(bookmakers, |b| b.row))
            .bind(array(bookmakers, |b| b.bookmaker.id.as_str()))
            .bind(array(bookmakers, |b| b.bookmaker.name.as_str()))
            .bind(array(bookmakers, |b| b.bookmaker.kind()))
            .bind(array(events, |e| e.row))
            .bind(array(events, |e| e.after.id.as_str()))
            .bind(array(events, |e| &*e.after.source))
            .bind(array(events, |e| e.after.sport.as_str()))
            .bind(array(events, |e| e.after.league.as_str()))
            .bind(array(events, |e| e.after.venue.as_str()))
            .bind(array(events, |e| e.after.name.as_str()))
            .bind(array(events, |e| e.after.starts_at))
            .bind(array(events, |e| e.after.day))
            .bind(array(events, |e| e.after.status.as_str()))
            .bind(array(events, |e| e.after.in_play))
            .bind(array(events, |e| e.after.listed))
            .bind(array(events, |e| facts_text(&e.after.facts)))
            .bind(self.changes.unlooked)
            .bind(array(selections, |s| s.row))
            .bind(array(selections, |s| s.event_row))
            .bind(array(selections, |s| s.after.id.as_str()))
            .bind(array(selections, |s| s.after.name.as_str()))
            .bind(array(selections, |s| s.after.status.as_str()))
            .bind(array(selections, |s| facts_text(&s.after.facts)))
            .bind(array(&moved, |e| e.row))
            .bind(array(&moved, before))
            .bind(array(&moved, |e| e.after.status.as_str()))
            .bind(array(&moved, |e| e.status_by.as_str()))
            .bind(&self.changes.corrections)
    }

    fn prices<'q>(&'q self, query: Statement<'q>) -> Statement<'q> {
        let prices = &*self.changes.prices;
        // What no price has is sent, unpacked and stored as one NULL.
        let fractions = prices.iter().any(|p| p.offer.fractional.is_some());
        let points = prices.iter().any(|p| p.offer.point.is_some());
        let each_ways = prices.iter().any(|p| p.offer.each_way.is_some());
        let statuses = prices.iter().any(|p| sent(p.status).is_some());
        let places = |p: &PriceChange| p.offer.each_way.map(|ew| i32::from(ew.places));
        let denom = |p: &PriceChange| p.offer.each_way.map(|ew| i32::from(ew.denom));
        query
            .bind(array(prices, |p| p.row))
            .bind(array(prices, |p| p.offer.decimal))
            .bind(fractions.then(|| array(prices, |p| p.offer.fractional)))
            .bind(points.then(|| array(prices, |p| p.offer.point)))
            .bind(each_ways.then(|| array(prices, places)))
            .bind(each_ways.then(|| array(prices, denom)))
            .bind(statuses.then(|| array(prices, |p| sent(p.status))))
            .bind(array(prices, |p| p.observed_at))
    }

    /// What the history goes by, and what new prices have besides.
    fn places<'q>(&'q self, query: Statement<'q>, shape: Shape) -> Statement<'q> {
        let prices = &*self.changes.prices;
        if shape == Shape::MovesInRuns {
            let runs: Vec<Run> = runs(prices).collect();
            return query
                .bind(array(&runs, |run| run.event))
                .bind(array(&runs, |run| run.low))
                .bind(array(&runs, |run| run.high));
        }
        let query = query.bind(array(prices, |p| p.event_row));
        if shape == Shape::Moves {
            return query;
        }
        query
            .bind(array(prices, |p| p.selection_row))
            .bind(array(prices, |p| p.bookmaker_row))
            .bind(array(prices, |p| p.market.as_str()))
            .bind(array(prices, |p| p.kind == PriceChangeKind::Inserted))
    }
}

/// Open prices, nearly all, travel and lie in the history without a status.
pub(super) fn sent(status: PriceStatus) -> Option<&'static str> {
    (status != PriceStatus::Open).then(|| status.as_str())
}

/// A stretch of prices that belong to one event, counted from one.
struct Run {
    event: i64,
    low: i32,
    high: i32,
}

fn runs(prices: &[PriceChange]) -> impl Iterator<Item = Run> {
    let mut before = 0;
    let stretches = prices.chunk_by(|one, other| one.event_row == other.event_row);
    stretches.map(move |stretch| {
        let low = before + 1;
        before += stretch.len() as i32;
        Run {
            event: stretch[0].event_row,
            low,
            high: before,
        }
    })
}

/// The database's own counts, in the order in which the statement gives them.
fn written(answer: &PgRow, shape: Shape) -> Written {
    let count = |at: usize| answer.get::<i64, _>(at) as u64;
    let mut written = Written {
        outbox: count(1),
        updated: count(2),
        ..Written::default()
    };
    if !shape.only_moves() {
        (written.inserted, written.events, written.selections) = (count(7), count(8), count(9));
    }
    written
}
