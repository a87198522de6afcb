//! The compatibility views `ra_odds_live`, `ra_odds_live_latest`, `ra_odds_statistics` and `ra_bookmakers`: their
//! documented columns, their schema and rights, and that they show only current offers.

use super::fixture::{DatabaseBackend, StateWriter, TestDatabase, TestDay, decimal, offer};
use oddsd_core::model::{Offer, SelectionStatus};

async fn columns_of(database: &TestDatabase, view: &str) -> Vec<String> {
    database
        .query(&format!(
            "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
         WHERE attrelid = '{view}'::regclass AND attnum > 0 ORDER BY attnum"
        ))
        .await
}

#[tokio::test]
async fn views_have_the_documented_columns() {
    let database = DatabaseBackend::Postgres.migrated().await;
    assert_eq!(
        columns_of(&database, "ra_odds_live").await,
        [
            "id bigint",
            "race_id text",
            "horse_id text",
            "bookmaker_id text",
            "race_date date",
            "race_time text",
            "off_dt timestamp with time zone",
            "course text",
            "race_name text",
            "race_class text",
            "race_type text",
            "distance text",
            "going text",
            "runners integer",
            "horse_name text",
            "horse_number text",
            "jockey text",
            "trainer text",
            "draw text",
            "weight text",
            "age text",
            "form text",
            "bookmaker_name text",
            "bookmaker_type text",
            "market_type text",
            "odds_decimal numeric(10,3)",
            "odds_fractional text",
            "market_status text",
            "in_play boolean",
            "odds_timestamp timestamp with time zone",
            "fetched_at timestamp with time zone",
            "updated_at timestamp with time zone",
        ]
    );
    assert_eq!(
        columns_of(&database, "ra_odds_live_latest").await,
        [
            "race_id text",
            "race_date date",
            "race_time text",
            "off_dt timestamp with time zone",
            "course text",
            "race_name text",
            "runners integer",
            "horse_name text",
            "horse_number text",
            "odds_decimal numeric(10,3)",
            "odds_fractional text",
            "bookmaker_name text",
            "fetched_at timestamp with time zone",
        ]
    );
    assert_eq!(
        columns_of(&database, "ra_odds_statistics").await,
        [
            "fetch_timestamp timestamp with time zone",
            "race_id text",
            "races_count integer",
            "horses_count integer",
            "bookmakers_found integer",
            "total_odds_fetched integer",
            "bookmaker_list text[]",
            "fetch_duration_ms integer",
            "errors_count integer",
            "created_at timestamp with time zone",
        ]
    );
    assert_eq!(
        columns_of(&database, "ra_bookmakers").await,
        [
            "bookmaker_id text",
            "bookmaker_name text",
            "bookmaker_type text",
            "active boolean",
            "created_at timestamp with time zone",
        ]
    );
}

/// The user of the tests has the name of our schema, which is then first in its search path. The views must still be
/// in `public`, where other users find them.
#[tokio::test]
async fn views_are_created_in_public() {
    let database = DatabaseBackend::Postgres.migrated().await;
    assert_eq!(
        database.query_one("SELECT current_user::text").await,
        "oddsd"
    );
    let schemas = "SELECT DISTINCT schemaname::text FROM pg_views WHERE viewname LIKE 'ra_%'";
    assert_eq!(database.query(schemas).await, ["public"]);
}

#[tokio::test]
async fn views_show_only_current_offers() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut writer = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(3, 2, 2);
    day.set(0, 0, Some(Offer::decimal(decimal("1.952380952"))));
    day.price(0, 1).suspended = true;
    // A field size that is not a number, one that is too large, and odds beyond numeric(10,3): the views show NULL.
    day.races[0].event.attributes.insert("field_size", "NR");
    day.races[1]
        .event
        .attributes
        .insert("field_size", "99999999999");
    day.set(1, 0, Some(Offer::decimal(decimal("123456789012"))));
    writer.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    // Not current: prices of a non-runner, a withdrawn price, a race that left the answer.
    day.races[0].selections[1].status = SelectionStatus::NonRunner;
    day.set(1, 1, None);
    day.races.remove(2);
    writer.commit_snapshot(&day.snapshot()).await;
    for view in ["ra_odds_live", "ra_odds_live_latest"] {
        let rows = format!(
            "SELECT concat_ws(' ', race_id, horse_name, bookmaker_name, odds_decimal, runners) FROM {view} ORDER BY 1"
        );
        assert_eq!(
            database.query(&rows).await,
            [
                "rac_0 Runner 0 Bookie 0 1.952",
                "rac_0 Runner 0 Bookie 1 1.610",
                "rac_1 Runner 0 Bookie 0",
                "rac_1 Runner 1 Bookie 0 1.870",
                "rac_1 Runner 1 Bookie 1 1.980",
            ],
            "{view}"
        );
    }
    let status = "SELECT market_status FROM ra_odds_live WHERE bookmaker_id = 'bookie1' AND race_id = 'rac_0'";
    assert_eq!(database.query(status).await, ["SUSPENDED"]);
    let cycle = "SELECT concat_ws(' ', races_count, horses_count, bookmakers_found, bookmaker_list, fetch_duration_ms)
                 FROM ra_odds_statistics ORDER BY fetch_timestamp LIMIT 1";
    // The constants of `fixture::cycle`.
    assert_eq!(database.query(cycle).await, ["2 9 2 {bet365,betfair} 41"]);
    assert_eq!(
        database
            .query("SELECT bookmaker_id FROM ra_bookmakers ORDER BY 1")
            .await,
        ["bookie0", "bookie1"]
    );
}

#[tokio::test]
async fn views_grant_select_only_when_defaults_grant_all() {
    let database = DatabaseBackend::Postgres.empty().await;
    let role = format!("web_{}", fastrand::u32(..));
    database.write(&format!("CREATE ROLE {role}")).await;
    database
        .write(&format!(
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}"
        ))
        .await;
    database.store.migrate(false).await.expect("migrated");
    let rights = format!(
        "SELECT DISTINCT privilege_type::text FROM information_schema.role_table_grants
         WHERE grantee = '{role}' AND table_name LIKE 'ra\\_%'"
    );
    assert_eq!(database.query(&rights).await, ["SELECT"]);
    database.write(&format!("DROP OWNED BY {role}")).await;
    database.write(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn dropped_view_is_detected_and_migrate_restores_it() {
    let database = DatabaseBackend::Postgres.migrated().await;
    database.write("DROP VIEW ra_bookmakers").await;
    let missing = database
        .store
        .check_schema()
        .await
        .expect_err("a view is missing");
    assert!(
        missing
            .to_string()
            .contains("ra_bookmakers is not the view"),
        "{missing}"
    );
    database.store.migrate(false).await.expect("migrated");
    database.store.check_schema().await.expect("fits");
    let mut writer = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 1, 1);
    day.set(0, 0, Some(offer(200)));
    writer.commit_snapshot(&day.snapshot()).await;
    assert_eq!(
        database
            .query("SELECT bookmaker_id FROM ra_bookmakers")
            .await,
        ["bookie0"]
    );
}

/// The off in UTC, the provider's own text, and the time of day that readers see.
const OFFS: [(Option<&str>, &str, Option<&str>); 8] = [
    (Some("2026-01-11T17:05:00Z"), "5:05", Some("17:05")),
    (Some("2026-07-11T16:05:00Z"), "5:05", Some("17:05")),
    (Some("2026-07-11T10:40:59Z"), "11:40", Some("11:40")),
    // The day of the change of the clocks, before and after it.
    (Some("2026-10-25T00:30:00Z"), "1:30", Some("01:30")),
    (Some("2026-10-25T01:30:00Z"), "1:30", Some("01:30")),
    (Some("2026-07-11T23:30:00Z"), "12:30", Some("00:30")),
    // Without a start only a text of a 24-hour clock tells the time.
    (None, "5:05", None),
    (None, "17:05", Some("17:05")),
];

#[tokio::test]
async fn race_time_is_the_24_hour_time_of_britain() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let mut writer = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(OFFS.len(), 1, 1);
    for (race, (off, text, _)) in day.races.iter_mut().zip(OFFS) {
        race.event.starts_at = off.map(|off| off.parse().expect("a time"));
        race.event.attributes.insert("race_time", text);
    }
    writer.commit_snapshot(&day.snapshot()).await;
    for view in ["ra_odds_live", "ra_odds_live_latest"] {
        let times = format!("SELECT coalesce(race_time, '-') FROM {view} ORDER BY race_id");
        let expected = OFFS.map(|(_, _, time)| time.unwrap_or("-"));
        assert_eq!(database.query(&times).await, expected, "{view}");
    }
    let market = "SELECT DISTINCT concat_ws(' ', market_type, market_status) FROM ra_odds_live";
    assert_eq!(database.query(market).await, ["WIN OPEN"]);
}

#[tokio::test]
async fn migration_replaces_the_definition_of_an_older_view_and_keeps_what_depends_on_it() {
    let database = DatabaseBackend::Postgres.migrated().await;
    let role = format!("web_{}", fastrand::u32(..));
    // As an earlier version made it, for an adopted table whose column was an integer.
    for statement in [
        format!("CREATE ROLE {role}"),
        "DROP VIEW ra_bookmakers".into(),
        "CREATE VIEW public.ra_bookmakers AS SELECT b.key AS bookmaker_id, 'old'::text AS bookmaker_name,
             7::integer AS bookmaker_type, b.active AS active, b.created_at AS created_at FROM oddsd.bookmakers b"
            .into(),
        "COMMENT ON VIEW ra_bookmakers IS 'oddsd: a view over schema oddsd; read only'".into(),
        format!("GRANT SELECT ON ra_bookmakers TO {role}"),
        "CREATE VIEW public.theirs AS SELECT bookmaker_name FROM ra_bookmakers".into(),
    ] {
        database.write(&statement).await;
    }
    assert!(database.store.check_schema().await.is_err());
    let report = database.store.migrate(false).await.expect("migrated");
    assert_eq!(
        report,
        ["replaced the definition of the view ra_bookmakers"]
    );
    database
        .store
        .check_schema()
        .await
        .expect("of this version");
    assert_eq!(database.store.migrate(false).await, Ok(vec![]));

    let mut writer = StateWriter::start(&database.store, "leader").await;
    writer
        .commit_snapshot(&TestDay::with_races(1, 1, 1).snapshot())
        .await;
    assert_eq!(database.query("SELECT * FROM theirs").await, ["Bookie 0"]);
    let granted = format!("SELECT has_table_privilege('{role}', 'ra_bookmakers', 'SELECT')::text");
    assert_eq!(database.query_one(&granted).await, "true");
    let kind = "SELECT pg_typeof(bookmaker_type)::text FROM ra_bookmakers";
    assert_eq!(database.query_one(kind).await, "integer");
    database.write("DROP VIEW theirs").await;
    database.write(&format!("DROP OWNED BY {role}")).await;
    database.write(&format!("DROP ROLE {role}")).await;
}
