//! The fixture of the store tests: a migrated database of either kind, and a race day whose snapshots
//! they commit.
//! Other tests that need a bare database use it as well.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use oddsd_core::diff::stored_state::StoredState;
use oddsd_core::diff::{Changes, ShrinkGuard, compute_changes};
use oddsd_core::model::{
    Attributes, Bookmaker, EachWay, Event, EventSnapshot, EventStatus, Fraction, Offer, Price,
    PriceKey, RejectedRows, Scope, Selection, SelectionId, SelectionStatus, Snapshot,
};
use oddsd_store::{
    AcquireResult, ClaimedBatch, CycleMeta, EventPrices, Store, StoreSettings, Tls, WriteCounts,
    WriterLease,
};
use rust_decimal::Decimal;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, Row};

use oddsd_testkit::WAIT_LIMIT;
use oddsd_testkit::postgres;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseBackend {
    Postgres,
    Sqlite,
}

/// A database of its own, open and migrated.
pub struct TestDatabase {
    pub backend: DatabaseBackend,
    pub store: Store,
    pub url: String,
    _folder: Option<tempfile::TempDir>,
}

pub fn settings(url: &str) -> StoreSettings {
    StoreSettings {
        url: SecretString::from(url),
        tls: Tls::VerifyFull,
        max_connections: 5,
        statement_timeout: WAIT_LIMIT,
    }
}

pub async fn open(url: &str) -> Store {
    Store::open(&settings(url))
        .await
        .expect("the database opens")
}

impl DatabaseBackend {
    /// An empty database, not yet migrated.
    pub async fn empty(self) -> TestDatabase {
        let (url, folder) = match self {
            Self::Postgres => (postgres::database().await, None),
            Self::Sqlite => {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let file = folder.path().join("odds.db");
                (format!("sqlite:{}", file.display()), Some(folder))
            }
        };
        let store = open(&url).await;
        TestDatabase {
            backend: self,
            store,
            url,
            _folder: folder,
        }
    }

    pub async fn migrated(self) -> TestDatabase {
        let database = self.empty().await;
        database
            .store
            .migrate(false)
            .await
            .expect("the tables are made");
        database
    }
}

impl TestDatabase {
    /// A second daemon on the same database.
    pub async fn another(&self) -> Store {
        open(&self.url).await
    }

    /// Of an event that is known.
    pub async fn prices_of(&self, event: &str) -> EventPrices {
        let found = self.store.event_prices(&event.into()).await;
        found.expect("prices").value.expect("known")
    }

    /// Claims what is due, up to `max` rows.
    pub async fn claim(&self, max: i64, lease_for: Duration) -> ClaimedBatch {
        let claim = self.store.claim("leader", max, lease_for).await;
        claim.expect("a claim")
    }

    /// Ids of all rows of the outbox, claimed or not, lowest first.
    pub async fn outbox(&self) -> Vec<i64> {
        let rows = self.query("SELECT CAST(id AS TEXT) FROM oddsd.outbox ORDER BY outbox.id");
        let rows = rows.await;
        rows.iter()
            .map(|id| id.parse().expect("a number"))
            .collect()
    }

    /// The first column of each row, as text, read past the store.
    pub async fn query(&self, sql: &str) -> Vec<String> {
        match self.backend {
            DatabaseBackend::Postgres => {
                let mut eye = postgres::connect(&self.url).await;
                let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
                    .fetch_all(&mut eye)
                    .await;
                let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
                rows.iter()
                    .map(|row| row.get::<Option<String>, _>(0).unwrap_or("NULL".into()))
                    .collect()
            }
            DatabaseBackend::Sqlite => {
                let mut eye = sqlx::SqliteConnection::connect(&self.url)
                    .await
                    .expect("the file opens");
                let rows = sqlx::query(AssertSqlSafe(sql.replace("oddsd.", "")))
                    .fetch_all(&mut eye)
                    .await;
                let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
                rows.iter()
                    .map(|row| row.get::<Option<String>, _>(0).unwrap_or("NULL".into()))
                    .collect()
            }
        }
    }

    pub async fn query_one(&self, sql: &str) -> String {
        self.query(sql).await.pop().unwrap_or_default()
    }

    pub async fn count(&self, from: &str) -> i64 {
        let count = self
            .query_one(&format!("SELECT CAST(count(*) AS TEXT) FROM oddsd.{from}"))
            .await;
        count.parse().expect("a number")
    }

    /// Writes past the store.
    pub async fn write(&self, sql: &str) {
        self.query(sql).await;
    }
}

pub const SOON: Duration = Duration::ZERO;
pub const LATER: Duration = Duration::from_secs(3600);
pub const TTL: Duration = Duration::from_secs(60);

pub async fn lease(store: &Store, holder: &str) -> WriterLease {
    match store
        .acquire_lease(holder, TTL)
        .await
        .expect("the lease answers")
    {
        AcquireResult::Granted(lease) => lease,
        held => panic!("the lease is not free: {held:?}"),
    }
}

pub fn cycle(id: i64) -> CycleMeta {
    CycleMeta {
        id,
        feed: "racing_api".into(),
        races: 2,
        horses: 9,
        bookmakers: vec!["bet365".into(), "betfair".into()],
        fetch_ms: 41,
        diff_ms: 3,
    }
}

/// A writer's state in memory beside its store.
pub struct StateWriter {
    pub store: Store,
    pub lease: WriterLease,
    pub book: StoredState,
    pub cycle: i64,
}

impl StateWriter {
    pub async fn start(store: &Store, holder: &str) -> Self {
        let lease = lease(store, holder).await;
        let loaded = store.load().await.expect("the rows load");
        Self {
            store: store.clone(),
            lease,
            book: loaded.state,
            cycle: loaded.next_cycle,
        }
    }

    pub fn changes(&self, snapshot: &Snapshot) -> Changes {
        compute_changes(&self.book, self.cycle, snapshot, &ShrinkGuard::OFF)
    }

    /// Commits one cycle and returns the database's counts, or `None` when nothing changed.
    pub async fn commit_snapshot(&mut self, snapshot: &Snapshot) -> Option<WriteCounts> {
        let mut changes = self.changes(snapshot);
        let written = if changes.is_empty() {
            None
        } else {
            let written = self
                .store
                .commit(&self.lease, &cycle(self.cycle), &mut changes)
                .await;
            self.cycle += 1;
            Some(written.expect("the cycle commits").written)
        };
        self.book.apply(changes);
        written
    }
}

/// Asserts that memory and rows agree, except "last checked", which is written with the lease.
pub fn assert_same_rows(memory: &StoredState, rows: &StoredState) {
    assert_eq!(memory.next, rows.next);
    assert_eq!(memory.events.len(), rows.events.len());
    for (id, event) in &memory.events {
        let stored = rows
            .events
            .get(id)
            .unwrap_or_else(|| panic!("{id} is stored"));
        assert_eq!((event.row, &event.event), (stored.row, &stored.event));
        assert_eq!(event.selections, stored.selections);
        assert_eq!(event.prices.len(), stored.prices.len(), "{id}");
        for prices in memory.prices(event).zip(rows.prices(stored)) {
            assert_eq!(prices.0, prices.1, "{id}");
        }
    }
}

/// Times of a day that is past: stored times in the future would count as wrong.
pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_705_305_600 + seconds, 0).expect("in range")
}

pub fn decimal(text: &str) -> Decimal {
    text.parse().expect("a decimal")
}

/// A race day that tests move forward and take snapshots of.
#[derive(Clone, Debug)]
pub struct TestDay {
    pub now: DateTime<Utc>,
    pub races: Vec<EventSnapshot>,
    pub bookmakers: Vec<Bookmaker>,
}

impl TestDay {
    /// `races` races of `runners` runners, each priced by `bookmakers` bookmakers.
    pub fn with_races(races: usize, runners: usize, bookmakers: usize) -> Self {
        let bookmakers: Vec<Bookmaker> = (0..bookmakers)
            .map(|n| Bookmaker {
                id: format!("bookie{n}").as_str().into(),
                name: format!("Bookie {n}"),
            })
            .collect();
        let races = (0..races).map(|n| race(n, runners, &bookmakers)).collect();
        Self {
            now: at(0),
            races,
            bookmakers,
        }
    }

    pub fn advance(&mut self, seconds: i64) {
        self.now += TimeDelta::seconds(seconds);
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            source: "racing_api".into(),
            as_of: self.now,
            scope: Scope::League("GB".into()),
            events: self.races.clone(),
            in_doubt: Default::default(),
            bookmakers: self.bookmakers.clone(),
            rejected: RejectedRows::default(),
        }
    }

    pub fn price(&mut self, race: usize, nth: usize) -> &mut Price {
        let now = self.now;
        let price = &mut self.races[race].prices[nth];
        price.observed_at = Some(now);
        price
    }

    pub fn set(&mut self, race: usize, nth: usize, offer: Option<Offer>) {
        self.price(race, nth).offer = offer;
    }
}

fn race(n: usize, runners: usize, bookmakers: &[Bookmaker]) -> EventSnapshot {
    let selections: Vec<Selection> = (0..runners).map(|r| runner(n, r)).collect();
    let prices = selections.iter().enumerate().flat_map(|(r, selection)| {
        bookmakers
            .iter()
            .enumerate()
            .map(move |(b, bookmaker)| Price {
                key: PriceKey {
                    market: "win".into(),
                    selection: selection.id.clone(),
                    bookmaker: bookmaker.id.clone(),
                },
                offer: Some(offer(150 + (37 * r + 11 * b) as i64 % 900)),
                suspended: false,
                observed_at: Some(at(0)),
            })
    });
    EventSnapshot {
        event: Event {
            id: format!("rac_{n}").as_str().into(),
            source: "racing_api".into(),
            sport: "horse_racing".into(),
            league: "GB".into(),
            venue: "Ascot".into(),
            name: format!("The {n}th Stakes"),
            starts_at: Some(at(3600 + 600 * n as i64)),
            day: Some(at(0).date_naive()),
            status: EventStatus::Scheduled,
            in_play: false,
            listed: true,
            attributes: Attributes::from([
                ("going", "Good".to_owned()),
                ("field_size", runners.to_string()),
            ]),
        },
        prices: prices.collect(),
        selections,
        complete: true,
        in_doubt: Vec::new(),
    }
}

fn runner(race: usize, n: usize) -> Selection {
    Selection {
        id: SelectionId::new(format!("hrs_{race}_{n}")),
        name: format!("Runner {n}"),
        status: SelectionStatus::Active,
        attributes: Attributes::from([("number", (n + 1).to_string())]),
    }
}

/// Decimal odds in hundredths, with the each-way terms that go with them.
pub fn offer(cents: i64) -> Offer {
    Offer {
        each_way: Some(EachWay {
            places: 3,
            denom: 5,
        }),
        fractional: Fraction::parse("5/2"),
        ..Offer::decimal(Decimal::new(cents, 2))
    }
}
