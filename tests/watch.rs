//! Tables that other programs write are watched: what they commit is in the outbox, with the writer's
//! own transaction, and nothing else of theirs changes.

use std::sync::Arc;

use oddsd_core::key::Key;
use oddsd_core::model::{ChangeKind, ExternalChange};
use oddsd_store::{StoreError, WatchPlan, WatchRequest};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::harness::daemon::{DaemonEnv, DaemonProcess};
use crate::harness::program::Program;
use crate::store::fixture::{DatabaseBackend, TestDatabase};
use oddsd_testkit::postgres::{self, PostgresServer};
use oddsd_testkit::{eventually, within};

const TLOG: &str = "CREATE TABLE tlog (id bigint PRIMARY KEY, user_id int, name text, seen boolean, amount numeric)";

/// A database with an application's table, a connection that writes into it, under any role, and one that looks.
struct WatchTest {
    database: TestDatabase,
    writer: PgConnection,
    observer: PgConnection,
}

impl WatchTest {
    async fn with(table: &str) -> Self {
        let database = DatabaseBackend::Postgres.migrated().await;
        let mut test = Self {
            writer: postgres::connect(&database.url).await,
            observer: postgres::connect(&database.url).await,
            database,
        };
        // A schema with the role's own name comes first in the search path.
        test.run("SET search_path = public").await;
        test.run(table).await;
        test
    }

    async fn run(&mut self, sql: &str) {
        let shown = self.writer.execute(AssertSqlSafe(sql.to_owned())).await;
        shown.unwrap_or_else(|why| panic!("{sql}: {why}"));
    }

    async fn watch(&self, table: &str, columns: &[&str]) -> WatchPlan {
        let done = self
            .database
            .store
            .watch(&asked(table, columns), false)
            .await;
        done.unwrap_or_else(|why| panic!("{table}: {why}"))
    }

    /// Why it is not watched.
    async fn refuses(&self, table: &str, columns: &[&str]) -> String {
        match self
            .database
            .store
            .watch(&asked(table, columns), false)
            .await
        {
            Err(StoreError::Misconfigured(why)) => why,
            other => panic!("{table}: {other:?}"),
        }
    }

    /// Takes the waiting outbox rows, as they were written.
    async fn reported(&mut self) -> Vec<Value> {
        let rows = sqlx::query(
            "WITH gone AS (DELETE FROM oddsd.outbox RETURNING id, kinds, detail)
             SELECT kinds, detail FROM gone ORDER BY id",
        );
        let rows = rows.fetch_all(&mut self.observer).await.expect("rows");
        let read = |row: &sqlx::postgres::PgRow| {
            assert_eq!(row.get::<&str, _>("kinds"), "row_changed");
            serde_json::from_str(row.get("detail")).expect("JSON")
        };
        rows.iter().map(read).collect()
    }

    /// The partitions of the one watched table: how many have a trigger, and the names of the others.
    async fn partitions(&self) -> (usize, Vec<String>) {
        let listed = self.database.store.list_watches().await.expect("a list");
        assert_eq!(listed.len(), 1, "{listed:?}");
        (listed[0].partitions, listed[0].not_covered.clone())
    }

    /// As `reported`, sorted.
    async fn reported_sorted(&mut self) -> Vec<Value> {
        let mut reported = self.reported().await;
        reported.sort_by_key(Value::to_string);
        reported
    }
}

fn asked(table: &str, columns: &[&str]) -> WatchRequest {
    WatchRequest {
        table: table.into(),
        columns: columns.iter().map(|column| column.to_string()).collect(),
        bulk: 1_000,
        quiet: false,
    }
}

fn row(op: &str, row: Value) -> Value {
    json!({ "table": "tlog", "op": op, "row": row })
}

#[tokio::test]
async fn watched_statement_reports_its_rows() {
    let mut test = WatchTest::with(TLOG).await;
    test.watch("tlog", &["id", "user_id"]).await;
    let of = |op: &str, id: i64, user: i64| row(op, json!({ "id": id, "user_id": user }));

    test.run("INSERT INTO tlog VALUES (1, 10), (2, 20)").await;
    assert_eq!(
        test.reported_sorted().await,
        [of("insert", 1, 10), of("insert", 2, 20)]
    );
    test.run("UPDATE tlog SET name = 'x' WHERE id = 1").await;
    assert_eq!(test.reported().await, [of("update", 1, 10)]);
    test.run("UPDATE tlog SET user_id = 11 WHERE id = 1").await;
    assert_eq!(
        test.reported_sorted().await,
        [of("update", 1, 10), of("update", 1, 11)]
    );
    test
        .run("INSERT INTO tlog VALUES (2, 21), (3, 30) ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id")
        .await;
    assert_eq!(
        test.reported_sorted().await,
        [
            of("insert", 3, 30),
            of("update", 2, 20),
            of("update", 2, 21)
        ]
    );
    test.run("INSERT INTO tlog VALUES (2, 99) ON CONFLICT DO NOTHING")
        .await;
    test.run("UPDATE tlog SET name = 'y' WHERE id = 77").await;
    test.run("DELETE FROM tlog WHERE id = 77").await;
    assert_eq!(
        test.reported().await,
        [json!(null); 0],
        "nothing was changed"
    );

    test.run("BEGIN; INSERT INTO tlog VALUES (9, 9); DELETE FROM tlog WHERE id = 1; ROLLBACK")
        .await;
    assert_eq!(test.reported().await, [json!(null); 0], "it was taken back");

    let mut copy = test
        .writer
        .copy_in_raw("COPY tlog (id, user_id) FROM STDIN")
        .await
        .expect("a copy");
    copy.send(&b"4\t40\n5\t\\N\n"[..]).await.expect("rows");
    copy.finish().await.expect("a copy");
    assert_eq!(
        test.reported_sorted().await,
        [of("insert", 4, 40), row("insert", json!({ "id": 5 }))],
        "what is NULL is left out"
    );
    test.run("DELETE FROM tlog WHERE id = 3").await;
    assert_eq!(test.reported().await, [of("delete", 3, 30)]);
    test.run("TRUNCATE tlog").await;
    assert_eq!(
        test.reported().await,
        [json!({ "table": "tlog", "op": "truncate" })]
    );
}

#[tokio::test]
async fn watched_values_keep_their_types() {
    let table = "CREATE TABLE tlog (n numeric, f float8, yes boolean, t text, v varchar(9), u uuid, d date, c text COLLATE \"C\")";
    let mut test = WatchTest::with(table).await;
    test.watch("tlog", &["n", "f", "yes", "t", "v", "u", "d", "c"])
        .await;
    test.run(
        r#"INSERT INTO tlog VALUES (12345678901234567890123, 0.5, true, E'it''s "q" \\ \n 🐎', '',
               '6f9619ff-8b86-d011-b42d-00c04fc964ff', '2026-11-21', '}')"#,
    )
    .await;
    let reported = test.reported().await;
    let shown = &reported[0]["row"];
    assert_eq!(shown["t"], "it's \"q\" \\ \n 🐎");
    assert_eq!((&shown["v"], &shown["c"]), (&json!(""), &json!("}")));
    assert_eq!((&shown["f"], &shown["yes"]), (&json!("0.5"), &json!(true)));
    assert_eq!(shown["u"], "6f9619ff-8b86-d011-b42d-00c04fc964ff");
    assert_eq!(shown["d"], "2026-11-21");
    assert_eq!(shown["n"], "12345678901234567890123");

    test.run("INSERT INTO tlog VALUES ('NaN', 'Infinity')")
        .await;
    assert_eq!(
        test.reported().await[0]["row"],
        json!({ "n": "NaN", "f": "Infinity" })
    );
    test.run("INSERT INTO tlog DEFAULT VALUES").await;
    assert_eq!(test.reported().await[0]["row"], json!({}));
}

/// Type, value, and the text that a program spells into its keys, in a session with settings of its own.
#[tokio::test]
async fn watched_value_is_the_text_of_the_database_in_any_session() {
    let mut test = WatchTest::with("CREATE DOMAIN cents AS numeric(10,2)").await;
    test.run("CREATE DOMAIN price AS cents").await;
    test.run("CREATE DOMAIN moment AS timestamptz").await;
    for (n, (kind, value, text)) in [
        (
            "bigint",
            "9007199254740993",
            json!(9_007_199_254_740_993_i64),
        ),
        ("numeric", "9007199254740993", json!("9007199254740993")),
        ("numeric(10,2)", "1.50", json!("1.50")),
        ("numeric(10,2)", "-0.50", json!("-0.50")),
        ("price", "7.10", json!("7.10")),
        ("char(5)", "'ab'", json!("ab")),
        (
            "timestamptz",
            "'2026-11-21 10:00:00.5+02'",
            json!("2026-11-21T08:00:00.5+00:00"),
        ),
        (
            "moment",
            "'2026-07-21 10:00:00+00'",
            json!("2026-07-21T10:00:00+00:00"),
        ),
        (
            "timestamp",
            "'2026-11-21 10:00'",
            json!("2026-11-21T10:00:00"),
        ),
        ("date", "'2026-11-21'", json!("2026-11-21")),
        ("float8", "0.1", json!("0.1")),
        ("float8", "1e300", json!("1e+300")),
        ("float4", "0.1", json!("0.1")),
        ("interval", "'1 day 2 hours'", json!("1 day 02:00:00")),
        ("inet", "'10.0.0.1'", json!("10.0.0.1")),
        ("boolean", "true", json!(true)),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{n}");
        test.run(&format!("CREATE TABLE {table} (v {kind})")).await;
        test.watch(&table, &["v"]).await;
        test.run("SET timezone = 'America/New_York'; SET datestyle = 'SQL, DMY'; SET extra_float_digits = -3; \
                  SET intervalstyle = 'iso_8601'")
            .await;
        test.run(&format!("INSERT INTO {table} VALUES ({value})"))
            .await;
        assert_eq!(test.reported().await[0]["row"]["v"], text, "{kind} {value}");
    }
}

#[tokio::test]
async fn watch_on_a_server_with_two_phase_commits_lets_them_succeed() {
    let server = PostgresServer::with("-c max_prepared_transactions=4").expect("a server");
    let store = crate::store::fixture::open(&server.url).await;
    store.migrate(false).await.expect("migrated");
    let mut writer = postgres::connect(&server.url).await;
    writer
        .execute("CREATE TABLE public.item (id int)")
        .await
        .expect("a table");
    let plan = store.watch(&asked("public.item", &["id"]), false).await;
    assert!(plan.expect("watched").quiet_for_two_phase);
    for statement in [
        "BEGIN",
        "INSERT INTO public.item VALUES (7)",
        "PREPARE TRANSACTION 'p'",
        "COMMIT PREPARED 'p'",
    ] {
        let done = writer.execute(statement).await;
        done.unwrap_or_else(|why| panic!("{statement}: {why}"));
    }
    let rows = sqlx::query("SELECT detail FROM oddsd.outbox")
        .fetch_all(&mut writer)
        .await;
    let rows = rows.expect("rows");
    assert!(
        rows[0]
            .get::<&str, _>("detail")
            .contains(r#""row":{"id":7}"#)
    );
    store.close().await;
}

#[tokio::test]
async fn watched_bulk_statement_reports_a_count() {
    let mut test = WatchTest::with(TLOG).await;
    test.watch("tlog", &["id"]).await;
    let many = |op: &str, rows: u64| [json!({ "table": "tlog", "op": op, "rows": rows })];
    test.run("INSERT INTO tlog SELECT n, n % 5 FROM generate_series(1, 1000000) n")
        .await;
    assert_eq!(test.reported().await, many("insert", 1_000_000));
    test.run("UPDATE tlog SET seen = true WHERE id <= 1000")
        .await;
    assert_eq!(test.reported().await.len(), 1_000);
    test.run("UPDATE tlog SET seen = true WHERE id <= 1001")
        .await;
    assert_eq!(test.reported().await, many("update", 1_001));
    // A thousand rows that move are two thousand tuples.
    test.run("UPDATE tlog SET id = -id WHERE id <= 1000").await;
    assert_eq!(test.reported().await, many("update", 1_000));

    // Few users, whose rows are many.
    let replaced = test.watch("tlog", &["user_id"]).await.replaced;
    assert!(replaced);
    test.run("DELETE FROM tlog WHERE id > 500000").await;
    let reported = test.reported_sorted().await;
    let users: Vec<Value> = (0..5)
        .map(|user| row("delete", json!({ "user_id": user })))
        .collect();
    assert_eq!(reported, users);
}

#[tokio::test]
async fn watched_table_without_columns_reports_statements() {
    let mut test = WatchTest::with(TLOG).await;
    test.watch("public.tlog", &[]).await;
    let mut expected = Vec::new();
    for (op, sql) in [
        (
            "insert",
            "INSERT INTO tlog SELECT n FROM generate_series(1, 5000) n",
        ),
        ("update", "UPDATE tlog SET seen = false"),
        ("delete", "DELETE FROM tlog WHERE id < 9"),
        ("truncate", "TRUNCATE tlog"),
    ] {
        test.run(sql).await;
        expected.push(json!({ "table": "tlog", "op": op }));
    }
    assert_eq!(test.reported().await, expected);
}

/// The application's role has rights on its own table and on nothing of oddsd.
#[tokio::test]
async fn watched_table_needs_no_further_rights_of_writers() {
    let mut test = WatchTest::with(TLOG).await;
    test.watch("tlog", &["id"]).await;
    let role = format!("writer_{}", std::process::id());
    test.run(&format!("CREATE ROLE {role}")).await;
    test.run(&format!("GRANT INSERT, UPDATE, SELECT ON tlog TO {role}"))
        .await;
    test.run(&format!("SET ROLE {role}")).await;
    let ours = test.writer.execute("SELECT FROM oddsd.outbox").await;
    assert!(ours.is_err(), "the outbox is nobody's business");
    // Nor can it put its own things before the server's.
    test.run("SET search_path = pg_temp, public").await;
    test.run("INSERT INTO tlog VALUES (1)").await;
    test.run("UPDATE tlog SET seen = true").await;
    test.run("RESET ROLE; SET search_path = public").await;
    let reported = [
        row("insert", json!({ "id": 1 })),
        row("update", json!({ "id": 1 })),
    ];
    assert_eq!(test.reported().await, reported);
    test.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test]
async fn watched_names_may_be_any_text() {
    let table = r#""T ""x"" $oddsd$ \ 'q'""#;
    let mut test = WatchTest::with(&format!(
        r#"CREATE SCHEMA "App.1"; CREATE TABLE "App.1".{table} (told int, changed int, "oddsd_told" int, "user""ID" int, "a.b" int,
           "Größe" int, twice int GENERATED ALWAYS AS (told * 2) STORED)"#
    ))
    .await;
    let columns = [
        "told",
        "changed",
        "oddsd_told",
        r#""user""ID""#,
        "a.b",
        "Größe",
        "TWICE",
    ];
    let done = test.watch(&format!(r#""App.1".{table}"#), &columns).await;
    let named = r#"App.1.T "x" $oddsd$ \ 'q'"#;
    assert_eq!(done.table, named);
    for strings in ["on", "off"] {
        test.run(&format!("SET standard_conforming_strings = {strings}"))
            .await;
        test.run(&format!(
            r#"INSERT INTO "App.1".{table} VALUES (1, 2, 3, 4, 5, 6)"#
        ))
        .await;
    }
    let shown = json!({ "table": named, "op": "insert", "row": {
        "told": 1, "changed": 2, "oddsd_told": 3, "user\"ID": 4, "a.b": 5, "Größe": 6, "twice": 2
    }});
    assert_eq!(test.reported().await, [shown.clone(), shown]);
    let listed = test.database.store.list_watches().await.expect("a list");
    assert_eq!(listed[0].table, named);
    assert_eq!(listed[0].columns[3], "user\"ID");
    test.database
        .store
        .unwatch(named, false)
        .await
        .expect("by the name that it is listed by");
}

/// Writers of the table go on after any change of it.
#[tokio::test]
async fn dropped_column_breaks_no_write() {
    let mut test = WatchTest::with(TLOG).await;
    test.watch("tlog", &["id", "user_id"]).await;
    test.run("INSERT INTO tlog VALUES (1, 1)").await;
    test.reported().await;

    let any = |op: &str| json!({ "table": "tlog", "op": op });
    test.run("ALTER TABLE tlog ALTER user_id TYPE text USING 'u' || user_id")
        .await;
    test.run("UPDATE tlog SET seen = true").await;
    assert_eq!(
        test.reported().await,
        [
            any("alter"),
            row("update", json!({ "id": 1, "user_id": "u1" }))
        ]
    );
    test.run("ALTER TABLE tlog ADD extra int DEFAULT 3").await;
    test.run("ALTER TABLE tlog RENAME user_id TO owner").await;
    assert_eq!(test.reported().await, [any("alter"), any("alter")]);
    test.run("UPDATE tlog SET seen = false").await;
    test.run("ALTER TABLE tlog DROP owner").await;
    test.run("INSERT INTO tlog (id) VALUES (2), (3)").await;
    test.run("DELETE FROM tlog WHERE id = 2").await;
    assert_eq!(
        test.reported().await,
        [any("update"), any("alter"), any("insert"), any("delete")]
    );
    let listed = test.database.store.list_watches().await.expect("a list");
    assert_eq!(listed[0].missing, ["user_id"]);

    test.run("ALTER TABLE tlog RENAME TO trips").await;
    test.run("UPDATE trips SET id = 4 WHERE id = 3").await;
    assert_eq!(
        test.reported().await,
        [any("alter"), any("update")],
        "rules know it by this name"
    );
    let listed = test.database.store.list_watches().await.expect("a list");
    assert_eq!(
        (listed[0].table.as_str(), listed[0].told_as.as_str()),
        ("trips", "tlog")
    );
    test.watch("trips", &["id"]).await;
    test.run("DELETE FROM trips WHERE id = 4").await;
    assert_eq!(
        test.reported().await,
        [json!({ "table": "trips", "op": "delete", "row": { "id": 4 } })]
    );
    test.run("DROP TABLE trips").await;
    assert_eq!(
        test.reported().await,
        [json!({ "table": "trips", "op": "drop" })]
    );
    assert_eq!(
        test.database.store.list_watches().await.expect("a list"),
        []
    );
    test.run("CREATE TABLE other (id int)").await;
    test.watch("other", &["id"]).await;
    test.database
        .store
        .unwatch("other", false)
        .await
        .expect("removed");
    assert_eq!(leftovers(&mut test).await, (0, 0), "those of trips too");
}

#[tokio::test]
async fn partitions_are_watched_with_their_table() {
    let mut test = WatchTest::with(
        "CREATE TABLE tlog (id int, day int) PARTITION BY RANGE (day);
         CREATE TABLE tlog_1 PARTITION OF tlog FOR VALUES FROM (0) TO (10);
         CREATE TABLE tlog_2 PARTITION OF tlog FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
         CREATE TABLE tlog_2a PARTITION OF tlog_2 FOR VALUES IN (5)",
    )
    .await;
    assert_eq!(test.watch("tlog", &["id"]).await.partitions, 3);
    assert!(test.refuses("tlog_1", &["id"]).await.contains("partition"));
    test.run("INSERT INTO tlog VALUES (1, 1), (5, 11)").await;
    test.run("INSERT INTO tlog_1 VALUES (2, 2)").await;
    test.run("INSERT INTO tlog_2a VALUES (5, 12)").await;
    test.run("UPDATE tlog SET id = 3 WHERE id = 2").await;
    let reported = test.reported_sorted().await;
    let of = |op: &str, id: i64| row(op, json!({ "id": id }));
    let expected = [
        of("insert", 1),
        of("insert", 2),
        of("insert", 5),
        of("insert", 5),
        of("update", 2),
        of("update", 3),
    ];
    assert_eq!(reported, expected);
    test.run("CREATE TABLE tlog_3 PARTITION OF tlog FOR VALUES FROM (20) TO (30)")
        .await;
    test.run("INSERT INTO tlog VALUES (7, 21)").await;
    assert_eq!(test.reported().await, [of("insert", 7)]);
    assert_eq!(test.partitions().await, (4, vec![]));
    let again = test.watch("tlog", &["id"]).await;
    assert_eq!((again.replaced, again.partitions), (true, 4));
    test.database
        .store
        .unwatch("tlog", false)
        .await
        .expect("removed");
    assert_eq!(leftovers(&mut test).await, (0, 0));
    test.run("DROP TABLE tlog_3").await;
    assert_eq!(test.reported().await, [json!(null); 0]);
}

/// The DDL is run by a role without any right on oddsd's tables.
#[tokio::test]
async fn partition_that_comes_or_goes_is_a_change_of_any_row() {
    let mut test = WatchTest::with(
        "CREATE ROLE watch_ddl; GRANT ALL ON SCHEMA public TO watch_ddl; SET ROLE watch_ddl;
         CREATE TABLE \"%l'og\" (id int, day int) PARTITION BY RANGE (day);
         CREATE TABLE log_1 PARTITION OF \"%l'og\" FOR VALUES FROM (0) TO (10);
         CREATE TABLE log_2 PARTITION OF \"%l'og\" FOR VALUES FROM (10) TO (20);
         CREATE TABLE \"Lo'g%3\" PARTITION OF \"%l'og\" FOR VALUES FROM (20) TO (30) PARTITION BY LIST (id);
         CREATE TABLE log_3a PARTITION OF \"Lo'g%3\" FOR VALUES IN (1);
         CREATE TABLE log_9 (id int, day int); INSERT INTO log_9 VALUES (9, 91)",
    )
    .await;
    let named = "%l'og";
    assert!(test.watch("\"%l'og\"", &["id"]).await.reports_ddl);
    let any = |op: &str| vec![json!({ "table": named, "op": op })];
    let one =
        |op: &str, id: i64| vec![json!({ "table": named, "op": op, "row": json!({ "id": id }) })];
    let no_change = || Vec::new();
    for (sql, reported, partitions) in [
        (
            "ALTER TABLE \"%l'og\" DETACH PARTITION log_1",
            any("alter"),
            3,
        ),
        ("INSERT INTO log_1 VALUES (1, 1)", no_change(), 3),
        ("DROP TABLE log_1", no_change(), 3),
        (
            "ALTER TABLE \"%l'og\" DETACH PARTITION log_2 CONCURRENTLY",
            any("alter"),
            2,
        ),
        ("DELETE FROM log_2", no_change(), 2),
        (
            "ALTER TABLE \"%l'og\" ATTACH PARTITION log_9 FOR VALUES FROM (90) TO (100)",
            any("alter"),
            3,
        ),
        ("UPDATE log_9 SET day = 92", one("update", 9), 3),
        ("DROP TABLE log_9", any("drop"), 2),
        (
            "ALTER TABLE \"%l'og\" DETACH PARTITION \"Lo'g%3\"",
            any("alter"),
            0,
        ),
        ("INSERT INTO log_3a VALUES (1, 21)", no_change(), 0),
        (
            "ALTER TABLE \"%l'og\" ATTACH PARTITION \"Lo'g%3\" FOR VALUES FROM (20) TO (30)",
            any("alter"),
            2,
        ),
        ("INSERT INTO log_3a VALUES (1, 22)", one("insert", 1), 2),
        (
            "CREATE TABLE log_4 PARTITION OF \"%l'og\" FOR VALUES FROM (40) TO (50)",
            no_change(),
            3,
        ),
        ("INSERT INTO log_4 VALUES (4, 41)", one("insert", 4), 3),
        ("BEGIN; DROP TABLE log_4; ROLLBACK", no_change(), 3),
        ("ALTER TABLE log_4 ADD CHECK (id < 5)", any("alter"), 3),
        (
            "CREATE TABLE other (id int); ALTER TABLE other ADD name text; DROP TABLE other",
            no_change(),
            3,
        ),
    ] {
        test.run(sql).await;
        assert_eq!(test.reported().await, reported, "{sql}");
        assert_eq!(test.partitions().await, (partitions, vec![]), "{sql}");
    }

    test.run("RESET ROLE; CREATE FOREIGN DATA WRAPPER away; CREATE SERVER away FOREIGN DATA WRAPPER away")
        .await;
    test.run("CREATE FOREIGN TABLE log_5 PARTITION OF \"%l'og\" FOR VALUES FROM (50) TO (60) SERVER away")
        .await;
    assert_eq!(test.reported().await, any("alter"), "it brings its rows");
    assert_eq!(test.partitions().await, (3, vec!["log_5".to_owned()]));
    test.run("DROP TABLE \"%l'og\"").await;
    let dropped = test.reported().await;
    assert_eq!(dropped, any("drop"));
    // The last watch has gone with its table; what is left of it goes with the next one.
    test.run("CREATE TABLE tlog (id int)").await;
    test.watch("tlog", &[]).await;
    assert_eq!(leftovers(&mut test).await, (3, 2));
    test.run("DROP SCHEMA oddsd CASCADE; ALTER TABLE tlog ADD a int; DROP TABLE tlog")
        .await;
}

/// Event triggers are a superuser's; a watch works without them, and says what it does not report.
#[tokio::test]
async fn watch_of_a_plain_role_says_that_it_reports_no_ddl() {
    let mut test = WatchTest::with(
        "CREATE ROLE watch_plain LOGIN; ALTER SCHEMA oddsd OWNER TO watch_plain;
         GRANT ALL ON ALL TABLES IN SCHEMA oddsd TO watch_plain; GRANT ALL ON ALL SEQUENCES IN SCHEMA oddsd TO watch_plain;
         GRANT ALL ON SCHEMA public TO watch_plain; SET ROLE watch_plain;
         CREATE TABLE tlog (id int, day int) PARTITION BY RANGE (day);
         CREATE TABLE tlog_1 PARTITION OF tlog FOR VALUES FROM (0) TO (10);
         RESET ROLE",
    )
    .await;
    let (_, server) = test.database.url.split_once('@').expect("a user");
    let oddsd = Program::new().with("DATABASE_URL", format!("postgres://watch_plain@{server}"));
    let warned = ["not reported: partitions", "superuser"];
    let add = ["watch", "add", "tlog", "--columns", "id"];
    let added = oddsd.run(&add).await;
    added.expect_code(0).expect_texts(&warned);
    let listed = oddsd.run(&["watch", "list"]).await;
    listed.expect_code(0).expect_texts(&warned);
    assert_eq!(leftovers(&mut test).await, (8, 1));
    test.run("INSERT INTO tlog VALUES (1, 1); ALTER TABLE tlog DETACH PARTITION tlog_1")
        .await;
    assert_eq!(
        test.reported().await,
        [row("insert", json!({ "id": 1 }))],
        "and breaks no statement"
    );
    // A superuser's watch replaces it.
    assert!(test.watch("tlog", &["id"]).await.reports_ddl);
    let removed = oddsd.run(&["watch", "remove", "tlog"]).await;
    removed.expect_code(0);
    assert_eq!(leftovers(&mut test).await, (0, 0));
}

/// The number of oddsd's triggers and functions.
async fn leftovers(test: &mut WatchTest) -> (i64, i64) {
    let count = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'oddsd%')
                 + (SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'oddsd%'),
                (SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch\\_%')",
    );
    count.fetch_one(&mut test.observer).await.expect("counts")
}

#[tokio::test]
async fn second_watch_replaces_the_first() {
    let mut test = WatchTest::with(TLOG).await;
    let first = test.watch("tlog", &["id"]).await;
    assert!(!first.replaced);
    let second = test.watch("TLOG", &["user_id", "USER_ID"]).await;
    assert!(second.replaced);
    assert_eq!(second.columns, ["user_id"]);
    test.run("INSERT INTO tlog VALUES (1, 2)").await;
    assert_eq!(
        test.reported().await,
        [row("insert", json!({ "user_id": 2 }))]
    );
    assert_eq!(leftovers(&mut test).await, (6, 2));

    let would = test
        .database
        .store
        .unwatch("tlog", true)
        .await
        .expect("a rehearsal");
    assert_eq!(leftovers(&mut test).await, (6, 2));
    let did = test
        .database
        .store
        .unwatch("tlog", false)
        .await
        .expect("removed");
    assert_eq!(would, did);
    assert_eq!(leftovers(&mut test).await, (0, 0));
    test.run("INSERT INTO tlog VALUES (2, 2)").await;
    assert_eq!(test.reported().await, [json!(null); 0]);
    let why = test
        .database
        .store
        .unwatch("tlog", false)
        .await
        .expect_err("not watched");
    assert!(why.to_string().contains("not watched"), "{why}");
}

#[tokio::test]
async fn unwatchable_relation_is_refused_with_the_reason() {
    let mut test = WatchTest::with(TLOG).await;
    test
        .run("CREATE VIEW seen AS SELECT * FROM tlog; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS a; CREATE TABLE odd (j jsonb, a int[])")
        .await;
    for (table, columns, words) in [
        ("seen", &[][..], &["view", "tables that it reads"][..]),
        ("kept", &[], &["materialized"]),
        (
            "tlgo",
            &[],
            &["there is no table tlgo", "did you mean tlog?"],
        ),
        ("zzzzzz", &[], &["there is no table zzzzzz"]),
        ("oddsd.outbox", &[], &["oddsd itself"]),
        ("pg_class", &[], &["server's own"]),
        ("a.b.c", &[], &["schema.name"]),
        (
            "tlog",
            &["usr_id"],
            &["no column usr_id", "did you mean user_id?"],
        ),
        ("odd", &["j"], &["jsonb", "no single value"]),
        ("odd", &["a"], &["integer[]"]),
    ] {
        let why = test.refuses(table, columns).await;
        for word in words {
            assert!(why.contains(word), "{table}: {word:?} is missing in {why}");
        }
    }
    assert_eq!(leftovers(&mut test).await, (0, 0));
    let sqlite = DatabaseBackend::Sqlite.migrated().await;
    let why = sqlite
        .store
        .watch(&asked("tlog", &[]), false)
        .await
        .expect_err("SQLite");
    assert!(why.to_string().contains("POST /v1/changes"), "{why}");
}

/// A watch waits for no lock of other writers.
#[tokio::test]
async fn locked_table_is_left_alone() {
    let mut test = WatchTest::with(TLOG).await;
    test.run("SET application_name = 'nightly'; BEGIN; INSERT INTO tlog VALUES (1)")
        .await;
    let refused = test
        .database
        .store
        .watch(&asked("tlog", &["id"]), false)
        .await;
    let why = refused.expect_err("it is locked").to_string();
    for word in ["tlog could not be locked", "nightly", "try again"] {
        assert!(why.contains(word), "{word:?} is missing in {why}");
    }
    test.run("COMMIT").await;
    assert_eq!(leftovers(&mut test).await, (0, 0));
    test.watch("tlog", &["id"]).await;
}

/// Waits for a notification.
#[track_caller]
fn notified(bell: &Notify) -> impl Future<Output = ()> {
    within("a notification", bell.notified())
}

#[tokio::test]
async fn commit_of_another_writer_notifies() {
    let mut test = WatchTest::with(TLOG).await;
    test.watch("tlog", &["id"]).await;
    let (bell, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let listening = tokio::spawn({
        let (store, bell, stop) = (test.database.store.clone(), Arc::clone(&bell), stop.clone());
        async move { store.listen(bell, stop).await }
    });
    // Commits before it listened are not notified: it has to read the outbox.
    notified(&bell).await;
    test.run("INSERT INTO tlog VALUES (1)").await;
    notified(&bell).await;
    test.watch("tlog", &[]).await;
    test.run("DELETE FROM tlog").await;
    notified(&bell).await;
    let store = test.database.store.clone();
    store
        .request_removal(&[Key::races_by_stage()], &[], None)
        .await
        .expect("a row");
    notified(&bell).await;
    let reported = ExternalChange {
        kind: ChangeKind::TaskCompleted,
        event: None,
        detail: r#"{"task":"build_climate"}"#.into(),
    };
    store.report_changes(&[reported]).await.expect("a row");
    notified(&bell).await;

    // It is cut off, and listens again.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')";
    let cut: i64 = sqlx::query_scalar(cut)
        .fetch_one(&mut test.writer)
        .await
        .expect("a count");
    assert_eq!(cut, 1);
    notified(&bell).await;
    test.run("INSERT INTO tlog VALUES (2)").await;
    notified(&bell).await;

    let quiet = WatchRequest {
        quiet: true,
        ..asked("tlog", &["id"])
    };
    let installed = test
        .database
        .store
        .watch(&quiet, true)
        .await
        .expect("a rehearsal");
    assert!(!installed.statements.join(";").contains("notify"));
    stop.cancel();
    within("the listener's end", listening)
        .await
        .expect("without a panic");
}

#[tokio::test]
async fn rows_wait_for_an_absent_daemon() {
    let mut test = WatchTest::with(TLOG).await;
    test.watch("tlog", &["id"]).await;
    test.run("INSERT INTO tlog VALUES (1), (2)").await;
    let settings = DaemonEnv::default()
        .with("FEED", "simulator")
        .with("DATABASE_URL", test.database.url.as_str())
        .with("LISTEN", "off")
        .with("LOG_FORMAT", "logfmt")
        .with("AUDIT", "false");
    let daemon = DaemonProcess::start(&settings, &["run"]);
    for n in 3..10 {
        test.run(&format!("INSERT INTO tlog VALUES ({n})")).await;
    }
    eventually("every row is settled", async || {
        let waiting = "SELECT count(*) FROM oddsd.outbox WHERE kinds = 'row_changed'";
        let waiting = sqlx::query_scalar(waiting).fetch_one(&mut test.writer);
        match waiting.await.expect("a count") {
            0 => Ok(()),
            waiting => Err::<(), i64>(waiting),
        }
    })
    .await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn watch_command_reports_its_actions() {
    let test = WatchTest::with(TLOG).await;
    let oddsd = Program::new().with("DATABASE_URL", &test.database.url);
    oddsd
        .run(&["watch", "list"])
        .await
        .expect_code(0)
        .expect_texts(&["no table is watched"]);
    oddsd
        .run(&[
            "watch",
            "add",
            "tlog",
            "--columns",
            "id,user_id",
            "--dry-run",
        ])
        .await
        .expect_code(0)
        .expect_texts(&[
            "would watch tlog",
            "CREATE TRIGGER oddsd_watch_update",
            "SECURITY DEFINER",
        ]);
    oddsd
        .run(&["watch", "list"])
        .await
        .expect_code(0)
        .expect_texts(&["no table is watched"]);
    let added = oddsd
        .run(&[
            "watch",
            "add",
            "tlog",
            "--columns",
            "id,user_id",
            "--bulk",
            "50",
            "--quiet",
            "--json",
        ])
        .await
        .expect_code(0)
        .json();
    assert_eq!(added["columns"], json!(["id", "user_id"]));
    assert_eq!(
        (&added["replaced"], &added["dry_run"]),
        (&json!(false), &json!(false))
    );
    let listed = oddsd
        .run(&["watch", "list", "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(listed["watched"][0]["table"], "tlog");
    assert_eq!(listed["watched"][0]["bulk"], 50);
    assert_eq!(listed["watched"][0]["quiet"], true);
    oddsd
        .run(&["watch", "add", "tlog"])
        .await
        .expect_code(0)
        .expect_texts(&["watching tlog", "watched before"]);
    oddsd
        .run(&["watch", "list"])
        .await
        .expect_code(0)
        .expect_texts(&["tlog: the table alone"]);
    oddsd
        .run(&["watch", "add", "tlgo"])
        .await
        .expect_code(78)
        .expect_texts(&["did you mean tlog?"]);
    oddsd
        .run(&["watch", "remove", "tlog", "--dry-run"])
        .await
        .expect_code(0)
        .expect_texts(&["would no longer"]);
    oddsd
        .run(&["watch", "remove", "tlog"])
        .await
        .expect_code(0)
        .expect_texts(&["no longer watching tlog"]);
    oddsd
        .run(&["watch", "remove", "tlog"])
        .await
        .expect_code(78)
        .expect_texts(&["not watched"]);
    let sqlite = Program::new();
    sqlite.run(&["migrate"]).await.expect_code(0);
    sqlite
        .run(&["watch", "list"])
        .await
        .expect_code(78)
        .expect_texts(&["only tables of Postgres"]);
}
