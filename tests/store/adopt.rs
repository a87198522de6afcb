//! Tests of the adoption of a database that another worker filled: it is all or nothing, and readers keep
//! their columns.

use oddsd_core::model::{Fraction, Offer};
use oddsd_store::StoreError;
use sqlx::{AssertSqlSafe, Executor};

use super::fixture::{DatabaseBackend, StateWriter, TestDatabase, TestDay, decimal};
use oddsd_testkit::postgres;

/// A typical existing table, with `rows` prices of races, runners and bookmakers by their number.
async fn old_table(database: &TestDatabase, id: &str, rows: usize) {
    let mut admin = postgres::connect(&database.url).await;
    let table = format!(
        "CREATE TABLE ra_odds_live (
             id {id}, race_id text NOT NULL, horse_id text NOT NULL, bookmaker_id varchar(50) NOT NULL,
             race_date date, race_time time, off_dt timestamptz, course text, race_name text, race_class text,
             race_type text, distance text, going text, runners integer, horse_name text, horse_number integer,
             jockey text, trainer text, draw integer, weight text, age text, form text, bookmaker_name text,
             bookmaker_type text, market_type text DEFAULT 'win', odds_decimal numeric(10,3), odds_fractional text,
             market_status text, in_play boolean DEFAULT false, odds_timestamp timestamptz, fetched_at timestamptz,
             updated_at timestamptz DEFAULT now(), region text, UNIQUE (race_id, horse_id, bookmaker_id));
         INSERT INTO ra_odds_live (race_id, horse_id, bookmaker_id, race_date, race_time, off_dt, course, race_name,
             going, runners, horse_name, horse_number, draw, bookmaker_name, bookmaker_type, odds_decimal,
             odds_fractional, odds_timestamp, fetched_at)
         SELECT 'rac_' || n / 240, 'hrs_' || n / 240 || '_' || n / 24 % 10, 'bookie' || n % 24, '2027-01-15', '14:05',
             '2027-01-15 14:05+00', 'Ascot', 'The Stakes', 'Good', 10, 'Runner ' || n / 24 % 10, n / 24 % 10 + 1, 4,
             'Bookie ' || n % 24, 'fixed', 1.5 + (n % 900) / 100.0, '5/2', '2027-01-15 07:59+00', '2027-01-15 07:59:30+00'
         FROM generate_series(0, {} - 1) n",
        rows
    );
    admin
        .execute(AssertSqlSafe(table))
        .await
        .expect("the old worker's table");
}

fn shown(outcome: Result<Vec<String>, StoreError>) -> String {
    match outcome {
        Err(StoreError::Schema(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

/// Everything that could have been changed: relations with their kinds and ids, and the rows.
async fn picture(database: &TestDatabase) -> Vec<String> {
    let mut all = database
        .query(
            "SELECT concat_ws(' ', n.nspname, relname, relkind, c.oid, relacl) FROM pg_class c
             JOIN pg_namespace n ON n.oid = relnamespace
             WHERE n.nspname IN ('public', 'oddsd') ORDER BY 1",
        )
        .await;
    all.extend(
        database
            .query("SELECT md5(string_agg(o::text, '|' ORDER BY o::text)) FROM ra_odds_live o")
            .await,
    );
    all
}

#[tokio::test]
async fn existing_table_stops_the_migration_untouched() {
    let database = DatabaseBackend::Postgres.empty().await;
    old_table(&database, "bigserial PRIMARY KEY", 50).await;
    database
        .write("CREATE VIEW ra_odds_live_latest AS SELECT race_id, odds_decimal FROM ra_odds_live")
        .await;
    let before = picture(&database).await;
    let why = shown(database.store.migrate(false).await);
    assert!(
        why.contains("table ra_odds_live, view ra_odds_live_latest"),
        "{why}"
    );
    assert!(
        why.contains("--adopt") && why.contains("nothing was touched"),
        "{why}"
    );
    assert_eq!(
        picture(&database).await,
        before,
        "not even a schema of ours"
    );
    let unfit = database.store.check_schema().await;
    assert!(matches!(unfit, Err(StoreError::Schema(_))), "{unfit:?}");
}

#[tokio::test]
async fn adoption_keeps_rows_types_and_readers() {
    let database = DatabaseBackend::Postgres.empty().await;
    old_table(&database, "bigserial PRIMARY KEY", 480).await;
    let (reader, web) = (
        format!("reader_{}", fastrand::u32(..)),
        format!("web_{}", fastrand::u32(..)),
    );
    let mut admin = postgres::connect(&database.url).await;
    // The server's own vacuum may lock the table just when the roles go, and either would wait for the other.
    let rights = format!(
        "ALTER TABLE ra_odds_live SET (autovacuum_enabled = off);
         CREATE VIEW ra_odds_live_latest AS SELECT race_id, odds_decimal FROM ra_odds_live;
         CREATE ROLE {reader}; CREATE ROLE {web};
         GRANT SELECT ON ra_odds_live, ra_odds_live_latest TO {reader}; GRANT ALL ON ra_odds_live TO {web};
         ALTER TABLE ra_odds_live ENABLE ROW LEVEL SECURITY;
         CREATE POLICY readers ON ra_odds_live FOR SELECT TO {reader} USING (true);
         UPDATE ra_odds_live SET bookmaker_id = 'Betfair Exchange' WHERE bookmaker_id = 'bookie0';
         UPDATE ra_odds_live SET odds_decimal = NULL WHERE bookmaker_id = 'bookie1';
         UPDATE ra_odds_live SET odds_timestamp = 'infinity', off_dt = '-infinity' WHERE race_id = 'rac_1'"
    );
    admin.execute(AssertSqlSafe(rights)).await.expect("rights");
    let types = "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
                 WHERE attrelid = 'ra_odds_live'::regclass AND attnum > 0 AND attname <> 'region' ORDER BY attnum";
    let (before, rows) = (database.query(types).await, live(&database).await);

    let shown = database
        .store
        .migrate(true)
        .await
        .expect("adopted")
        .join("\n");
    for line in [
        "renamed ra_odds_live to ra_odds_live_before_oddsd",
        "imported 2 races, 20 runners and 460 prices from ra_odds_live (20 rows were set aside",
        "ra_odds_live no longer has region",
        &format!("{web} may no longer read ra_odds_live: row security"),
    ] {
        assert!(shown.contains(line), "no {line:?} in:\n{shown}");
    }
    database.store.check_schema().await.expect("fits");
    assert_eq!(database.query(types).await, before);
    let now: Vec<String> = live(&database).await;
    let renamed = rows
        .iter()
        .filter(|row| !row.contains("bookie1 "))
        .map(|row| row.replace("Betfair Exchange", "betfair"));
    let mut kept: Vec<String> = renamed.collect();
    kept.sort();
    assert_eq!(now, kept);
    assert_eq!(
        database
            .query_one("SELECT count(*)::text FROM ra_odds_live_before_oddsd")
            .await,
        "480"
    );
    for (role, may) in [(&reader, true), (&web, false)] {
        let mut eye = postgres::connect(&database.url).await;
        eye.execute(AssertSqlSafe(format!("SET ROLE {role}")))
            .await
            .expect("a role");
        for view in ["ra_odds_live", "ra_odds_live_latest"] {
            let read = eye
                .execute(AssertSqlSafe(format!("SELECT * FROM {view}")))
                .await;
            assert_eq!(read.is_ok(), may, "{role} {view}: {read:?}");
        }
        eye.execute(AssertSqlSafe(format!(
            "RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"
        )))
        .await
        .expect("gone");
    }
    assert_eq!(
        database.store.migrate(false).await.expect("migrated"),
        [""; 0]
    );
    database.store.load().await.expect("the rows load");
}

async fn live(database: &TestDatabase) -> Vec<String> {
    let rows = "SELECT concat_ws(' ', race_id, horse_id, bookmaker_id, odds_decimal, horse_number, draw, race_time, runners)
                FROM ra_odds_live";
    let mut rows = database.query(rows).await;
    rows.sort();
    rows
}

#[tokio::test]
async fn adoption_takes_a_table_with_uuids() {
    let database = DatabaseBackend::Postgres.empty().await;
    old_table(&database, "uuid PRIMARY KEY DEFAULT gen_random_uuid()", 48).await;
    database.store.migrate(true).await.expect("adopted");
    assert_eq!(
        database
            .query_one("SELECT count(DISTINCT id)::text FROM ra_odds_live")
            .await,
        "48"
    );
    assert_eq!(
        database
            .query_one("SELECT DISTINCT pg_typeof(id)::text FROM ra_odds_live")
            .await,
        "uuid"
    );
}

#[tokio::test]
async fn failed_adoption_changes_nothing() {
    for (spoil, reported) in [
        (
            "ALTER TABLE ra_odds_live DROP COLUMN odds_decimal",
            "no column odds_decimal",
        ),
        (
            "CREATE TABLE ra_odds_live_before_oddsd (x int)",
            "ra_odds_live_before_oddsd exists already",
        ),
    ] {
        let database = DatabaseBackend::Postgres.empty().await;
        old_table(&database, "bigserial PRIMARY KEY", 50).await;
        database.write(spoil).await;
        let before = picture(&database).await;
        let why = shown(database.store.migrate(true).await);
        assert!(
            why.contains(reported) && why.contains("nothing was touched"),
            "{why}"
        );
        assert_eq!(picture(&database).await, before);
    }
}

#[tokio::test]
async fn adoption_is_followed_by_a_cycle_without_changes() {
    let database = DatabaseBackend::Postgres.empty().await;
    old_table(&database, "bigserial PRIMARY KEY", 12_000).await;
    let began = std::time::Instant::now();
    database.store.migrate(true).await.expect("adopted");
    println!("adopted 12,000 rows in {:?}", began.elapsed());
    let mut leader = StateWriter::start(&database.store, "leader").await;
    assert_eq!(leader.book.open_prices(), 12_000);
    let mut day = TestDay::with_races(50, 10, 24);
    day.advance(3600);
    for n in 0..12_000 {
        let odds = decimal("1.5") + rust_decimal::Decimal::new((n % 900) as i64, 2);
        day.set(
            n / 240,
            n % 240,
            Some(Offer {
                fractional: Fraction::parse("5/2"),
                ..Offer::decimal(odds)
            }),
        );
    }
    let changes = leader.changes(&day.snapshot());
    assert_eq!(changes.counts.unchanged, 12_000);
    assert_eq!(changes.counts.written(), 0);
    let written = leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("facts that the old table did not have");
    assert_eq!((written.inserted, written.updated), (0, 0));
    day.advance(10);
    assert_eq!(leader.commit_snapshot(&day.snapshot()).await, None);
    // Later cycles continue, with the adopted price as the first of its history.
    day.set(0, 0, Some(Offer::decimal(decimal("3"))));
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a move");
    let found = database.prices_of("rac_0").await;
    assert_eq!(
        (found.prices[0].opening, found.prices[0].offer.decimal),
        (decimal("1.5"), decimal("3"))
    );
}

/// Columns of the adopted table with types that no other test has, the value that the feed has for them, and what
/// readers see: never an error.
#[tokio::test]
async fn value_that_does_not_fit_an_adopted_type_reads_as_null() {
    let database = DatabaseBackend::Postgres.empty().await;
    let mut admin = postgres::connect(&database.url).await;
    let table = "CREATE TYPE surface AS ENUM ('Turf', 'Sand');
         CREATE TABLE ra_odds_live (
             race_id text NOT NULL, horse_id text NOT NULL, bookmaker_id text NOT NULL, race_date timestamp,
             race_time time(0), off_dt timestamp, race_class date, race_type boolean, distance timestamp,
             going surface, runners smallint, horse_name varchar(6), horse_number money, jockey jsonb, trainer inet,
             draw interval, weight timestamptz, age numeric(2), form char(3), odds_decimal numeric(10,3),
             UNIQUE (race_id, horse_id, bookmaker_id))";
    admin.execute(table).await.expect("the old worker's table");
    database.store.migrate(true).await.expect("adopted");
    let mut writer = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 1, 1);
    let fits = [
        ("race_class", "2026-03-31"),
        ("race_type", "true"),
        ("distance", "2026-03-31 10:00"),
        ("going", "Turf"),
    ];
    let fails = [
        ("race_class", "2026-02-30"),
        ("race_type", "Flat"),
        ("distance", "2m"),
        ("going", "Good to Soft"),
    ];
    for (race, facts) in day.races.iter_mut().zip([fits, fails]) {
        race.event.starts_at = Some("2026-07-11T16:05:00Z".parse().expect("a time"));
        for (name, value) in facts {
            race.event.attributes.insert(name, value);
        }
        for name in ["jockey", "trainer", "draw", "weight", "age"] {
            race.selections[0].attributes.insert(name, "no such value");
        }
    }
    writer.commit_snapshot(&day.snapshot()).await;
    let rows = "SELECT concat_ws('|', race_time, off_dt IS NULL, coalesce(race_class::text, '-'), coalesce(race_type::text, '-'),
                    coalesce(distance::text, '-'), coalesce(going::text, '-'), horse_name,
                    num_nulls(jockey, trainer, draw, weight, age))
                FROM ra_odds_live ORDER BY race_id";
    assert_eq!(
        database.query(rows).await,
        [
            "17:05:00|f|2026-03-31|true|2026-03-31 10:00:00|Turf|Runner|5",
            "17:05:00|f|-|-|-|-|Runner|5",
        ]
    );
}
