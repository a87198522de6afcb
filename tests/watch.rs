//! Tables that other programs write are watched: what they commit is in the outbox, with the writer's
//! own transaction, and nothing else of theirs changes.

use std::sync::Arc;

use oddsd::key::Key;
use oddsd::model::{ChangeKind, Reported};
use oddsd::store::{Asked, Installed, StoreError};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::harness::daemon::{Daemon, Settings};
use crate::harness::program::Oddsd;
use crate::store::fixture::{Backend, Home};
use oddsd_testkit::WAIT_LIMIT as PATIENCE;
use oddsd_testkit::postgres;

const TLOG: &str = "CREATE TABLE tlog (id bigint PRIMARY KEY, user_id int, name text, seen boolean, amount numeric)";

/// A database with a table of somebody else's, and somebody who writes into it.
struct Place {
    home: Home,
    writer: PgConnection,
}

impl Place {
    async fn with(table: &str) -> Self {
        let home = Backend::Postgres.fresh().await;
        let mut place = Self {
            writer: postgres::connect(&home.url).await,
            home,
        };
        // Its own schema comes first for a role that is called like ours.
        place.says("SET search_path = public").await;
        place.says(table).await;
        place
    }

    async fn says(&mut self, sql: &str) {
        let said = self.writer.execute(AssertSqlSafe(sql.to_owned())).await;
        said.unwrap_or_else(|why| panic!("{sql}: {why}"));
    }

    async fn watch(&self, table: &str, columns: &[&str]) -> Installed {
        let done = self.home.store.watch(&asked(table, columns), false).await;
        done.unwrap_or_else(|why| panic!("{table}: {why}"))
    }

    /// Why it is not watched.
    async fn refuses(&self, table: &str, columns: &[&str]) -> String {
        match self.home.store.watch(&asked(table, columns), false).await {
            Err(StoreError::Misconfigured(why)) => why,
            other => panic!("{table}: {other:?}"),
        }
    }

    /// What waits in the outbox, as it was written; it does not wait any more.
    async fn told(&mut self) -> Vec<Value> {
        let rows = sqlx::query(
            "WITH gone AS (DELETE FROM oddsd.outbox RETURNING id, kinds, detail)
             SELECT kinds, detail FROM gone ORDER BY id",
        );
        let rows = rows.fetch_all(&mut self.writer).await.expect("rows");
        let read = |row: &sqlx::postgres::PgRow| {
            assert_eq!(row.get::<&str, _>("kinds"), "row_changed");
            serde_json::from_str(row.get("detail")).expect("JSON")
        };
        rows.iter().map(read).collect()
    }

    /// As `told`, in an order of their own.
    async fn told_sorted(&mut self) -> Vec<Value> {
        let mut told = self.told().await;
        told.sort_by_key(Value::to_string);
        told
    }
}

fn asked(table: &str, columns: &[&str]) -> Asked {
    Asked {
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
async fn each_statement_says_which_rows_it_changed() {
    let mut place = Place::with(TLOG).await;
    place.watch("tlog", &["id", "user_id"]).await;
    let of = |op: &str, id: i64, user: i64| row(op, json!({ "id": id, "user_id": user }));

    place.says("INSERT INTO tlog VALUES (1, 10), (2, 20)").await;
    assert_eq!(
        place.told_sorted().await,
        [of("insert", 1, 10), of("insert", 2, 20)]
    );
    place.says("UPDATE tlog SET name = 'x' WHERE id = 1").await;
    assert_eq!(place.told().await, [of("update", 1, 10)]);
    place
        .says("UPDATE tlog SET user_id = 11 WHERE id = 1")
        .await;
    assert_eq!(
        place.told_sorted().await,
        [of("update", 1, 10), of("update", 1, 11)]
    );
    place
        .says("INSERT INTO tlog VALUES (2, 21), (3, 30) ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id")
        .await;
    assert_eq!(
        place.told_sorted().await,
        [
            of("insert", 3, 30),
            of("update", 2, 20),
            of("update", 2, 21)
        ]
    );
    place
        .says("INSERT INTO tlog VALUES (2, 99) ON CONFLICT DO NOTHING")
        .await;
    place.says("UPDATE tlog SET name = 'y' WHERE id = 77").await;
    place.says("DELETE FROM tlog WHERE id = 77").await;
    assert_eq!(place.told().await, [json!(null); 0], "nothing was changed");

    place
        .says("BEGIN; INSERT INTO tlog VALUES (9, 9); DELETE FROM tlog WHERE id = 1; ROLLBACK")
        .await;
    assert_eq!(place.told().await, [json!(null); 0], "it was taken back");

    let mut copy = place
        .writer
        .copy_in_raw("COPY tlog (id, user_id) FROM STDIN")
        .await
        .expect("a copy");
    copy.send(&b"4\t40\n5\t\\N\n"[..]).await.expect("rows");
    copy.finish().await.expect("a copy");
    assert_eq!(
        place.told_sorted().await,
        [of("insert", 4, 40), row("insert", json!({ "id": 5 }))],
        "what is NULL is left out"
    );
    place.says("DELETE FROM tlog WHERE id = 3").await;
    assert_eq!(place.told().await, [of("delete", 3, 30)]);
    place.says("TRUNCATE tlog").await;
    assert_eq!(
        place.told().await,
        [json!({ "table": "tlog", "op": "truncate" })]
    );
}

#[tokio::test]
async fn values_are_told_as_what_they_are() {
    let table = "CREATE TABLE tlog (n numeric, f float8, yes boolean, t text, v varchar(9), u uuid, d date, c text COLLATE \"C\")";
    let mut place = Place::with(table).await;
    place
        .watch("tlog", &["n", "f", "yes", "t", "v", "u", "d", "c"])
        .await;
    place
        .says(
            r#"INSERT INTO tlog VALUES (12345678901234567890123, 0.5, true, E'it''s "q" \\ \n 🐎', '',
               '6f9619ff-8b86-d011-b42d-00c04fc964ff', '2026-11-21', '}')"#,
        )
        .await;
    let told = place.told().await;
    let said = &told[0]["row"];
    assert_eq!(said["t"], "it's \"q\" \\ \n 🐎");
    assert_eq!((&said["v"], &said["c"]), (&json!(""), &json!("}")));
    assert_eq!((&said["f"], &said["yes"]), (&json!(0.5), &json!(true)));
    assert_eq!(said["u"], "6f9619ff-8b86-d011-b42d-00c04fc964ff");
    assert_eq!(said["d"], "2026-11-21");
    assert!(said["n"].is_number());

    place
        .says("INSERT INTO tlog VALUES ('NaN', 'Infinity')")
        .await;
    assert_eq!(
        place.told().await[0]["row"],
        json!({ "n": "NaN", "f": "Infinity" })
    );
    place.says("INSERT INTO tlog DEFAULT VALUES").await;
    assert_eq!(place.told().await[0]["row"], json!({}));
}

#[tokio::test]
async fn a_statement_that_changes_very_many_rows_says_how_many() {
    let mut place = Place::with(TLOG).await;
    place.watch("tlog", &["id"]).await;
    let many = |op: &str, rows: u64| [json!({ "table": "tlog", "op": op, "rows": rows })];
    place
        .says("INSERT INTO tlog SELECT n, n % 5 FROM generate_series(1, 1000000) n")
        .await;
    assert_eq!(place.told().await, many("insert", 1_000_000));
    place
        .says("UPDATE tlog SET seen = true WHERE id <= 1000")
        .await;
    assert_eq!(place.told().await.len(), 1_000);
    place
        .says("UPDATE tlog SET seen = true WHERE id <= 1001")
        .await;
    assert_eq!(place.told().await, many("update", 1_001));
    // A thousand rows that move are two thousand tuples.
    place
        .says("UPDATE tlog SET id = -id WHERE id <= 1000")
        .await;
    assert_eq!(place.told().await, many("update", 1_000));

    // Few users, whose rows are many.
    let replaced = place.watch("tlog", &["user_id"]).await.replaced;
    assert!(replaced);
    place.says("DELETE FROM tlog WHERE id > 500000").await;
    let told = place.told_sorted().await;
    let users: Vec<Value> = (0..5)
        .map(|user| row("delete", json!({ "user_id": user })))
        .collect();
    assert_eq!(told, users);
}

#[tokio::test]
async fn without_columns_a_statement_says_that_it_was_one() {
    let mut place = Place::with(TLOG).await;
    place.watch("public.tlog", &[]).await;
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
        place.says(sql).await;
        expected.push(json!({ "table": "tlog", "op": op }));
    }
    assert_eq!(place.told().await, expected);
}

/// The application's role has rights on its own table and on nothing of ours.
#[tokio::test]
async fn whoever_writes_needs_no_right_of_ours() {
    let mut place = Place::with(TLOG).await;
    place.watch("tlog", &["id"]).await;
    let role = format!("writer_{}", std::process::id());
    place.says(&format!("CREATE ROLE {role}")).await;
    place
        .says(&format!("GRANT INSERT, UPDATE, SELECT ON tlog TO {role}"))
        .await;
    place.says(&format!("SET ROLE {role}")).await;
    let ours = place.writer.execute("SELECT FROM oddsd.outbox").await;
    assert!(ours.is_err(), "the outbox is nobody's business");
    // Nor can it put its own things before the server's.
    place.says("SET search_path = pg_temp, public").await;
    place.says("INSERT INTO tlog VALUES (1)").await;
    place.says("UPDATE tlog SET seen = true").await;
    place.says("RESET ROLE; SET search_path = public").await;
    let told = [
        row("insert", json!({ "id": 1 })),
        row("update", json!({ "id": 1 })),
    ];
    assert_eq!(place.told().await, told);
    place
        .says(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test]
async fn names_may_be_anything() {
    let table = r#""T ""x"" $oddsd$ \ 'q'""#;
    let mut place = Place::with(&format!(
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
    let done = place.watch(&format!(r#""App.1".{table}"#), &columns).await;
    let named = r#"App.1.T "x" $oddsd$ \ 'q'"#;
    assert_eq!(done.table, named);
    for strings in ["on", "off"] {
        place
            .says(&format!("SET standard_conforming_strings = {strings}"))
            .await;
        place
            .says(&format!(
                r#"INSERT INTO "App.1".{table} VALUES (1, 2, 3, 4, 5, 6)"#
            ))
            .await;
    }
    let said = json!({ "table": named, "op": "insert", "row": {
        "told": 1, "changed": 2, "oddsd_told": 3, "user\"ID": 4, "a.b": 5, "Größe": 6, "twice": 2
    }});
    assert_eq!(place.told().await, [said.clone(), said]);
    let listed = place.home.store.watched().await.expect("a list");
    assert_eq!(listed[0].table, named);
    assert_eq!(listed[0].columns[3], "user\"ID");
    place
        .home
        .store
        .unwatch(named, false)
        .await
        .expect("by the name that it is listed by");
}

/// Whatever becomes of the table, its writers go on.
#[tokio::test]
async fn a_column_that_goes_breaks_no_write() {
    let mut place = Place::with(TLOG).await;
    place.watch("tlog", &["id", "user_id"]).await;
    place.says("INSERT INTO tlog VALUES (1, 1)").await;
    place.told().await;

    place
        .says("ALTER TABLE tlog ALTER user_id TYPE text USING 'u' || user_id")
        .await;
    place.says("UPDATE tlog SET seen = true").await;
    assert_eq!(
        place.told().await,
        [row("update", json!({ "id": 1, "user_id": "u1" }))]
    );
    place.says("ALTER TABLE tlog ADD extra int DEFAULT 3").await;
    place.says("ALTER TABLE tlog RENAME user_id TO owner").await;
    let any = |op: &str| json!({ "table": "tlog", "op": op });
    place.says("UPDATE tlog SET seen = false").await;
    place.says("ALTER TABLE tlog DROP owner").await;
    place.says("INSERT INTO tlog (id) VALUES (2), (3)").await;
    place.says("DELETE FROM tlog WHERE id = 2").await;
    assert_eq!(
        place.told().await,
        [any("update"), any("insert"), any("delete")]
    );
    let listed = place.home.store.watched().await.expect("a list");
    assert_eq!(listed[0].missing, ["user_id"]);

    place.says("ALTER TABLE tlog RENAME TO trips").await;
    place.says("UPDATE trips SET id = 4 WHERE id = 3").await;
    assert_eq!(
        place.told().await,
        [any("update")],
        "rules know it by this name"
    );
    let listed = place.home.store.watched().await.expect("a list");
    assert_eq!(
        (listed[0].table.as_str(), listed[0].told_as.as_str()),
        ("trips", "tlog")
    );
    place.watch("trips", &["id"]).await;
    place.says("DELETE FROM trips WHERE id = 4").await;
    assert_eq!(
        place.told().await,
        [json!({ "table": "trips", "op": "delete", "row": { "id": 4 } })]
    );
    place.says("DROP TABLE trips").await;
    assert_eq!(place.home.store.watched().await.expect("a list"), []);
}

#[tokio::test]
async fn partitions_are_watched_with_their_table() {
    let mut place = Place::with(
        "CREATE TABLE tlog (id int, day int) PARTITION BY RANGE (day);
         CREATE TABLE tlog_1 PARTITION OF tlog FOR VALUES FROM (0) TO (10);
         CREATE TABLE tlog_2 PARTITION OF tlog FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
         CREATE TABLE tlog_2a PARTITION OF tlog_2 FOR VALUES IN (5)",
    )
    .await;
    assert_eq!(place.watch("tlog", &["id"]).await.partitions, 3);
    assert!(place.refuses("tlog_1", &["id"]).await.contains("partition"));
    place.says("INSERT INTO tlog VALUES (1, 1), (5, 11)").await;
    place.says("INSERT INTO tlog_1 VALUES (2, 2)").await;
    place.says("INSERT INTO tlog_2a VALUES (5, 12)").await;
    place.says("UPDATE tlog SET id = 3 WHERE id = 2").await;
    let told = place.told_sorted().await;
    let of = |op: &str, id: i64| row(op, json!({ "id": id }));
    let expected = [
        of("insert", 1),
        of("insert", 2),
        of("insert", 5),
        of("insert", 5),
        of("update", 2),
        of("update", 3),
    ];
    assert_eq!(told, expected);
    place
        .says("CREATE TABLE tlog_3 PARTITION OF tlog FOR VALUES FROM (20) TO (30)")
        .await;
    place.says("INSERT INTO tlog VALUES (7, 21)").await;
    assert_eq!(place.told().await, [of("insert", 7)]);
    let listed = place.home.store.watched().await.expect("a list");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (listed[0].partitions, &listed[0].not_covered[..]),
        (3, &["tlog_3".to_owned()][..])
    );
    let again = place.watch("tlog", &["id"]).await;
    assert_eq!((again.replaced, again.partitions), (true, 4));
    place
        .home
        .store
        .unwatch("tlog", false)
        .await
        .expect("removed");
    assert_eq!(leftovers(&mut place).await, (0, 0));
}

/// Triggers and functions of ours.
async fn leftovers(place: &mut Place) -> (i64, i64) {
    let count = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'oddsd%'),
                (SELECT count(*) FROM pg_proc WHERE proname LIKE 'watch\\_%')",
    );
    count.fetch_one(&mut place.writer).await.expect("counts")
}

#[tokio::test]
async fn a_second_watch_takes_the_place_of_the_first() {
    let mut place = Place::with(TLOG).await;
    let first = place.watch("tlog", &["id"]).await;
    assert!(!first.replaced);
    let second = place.watch("TLOG", &["user_id", "USER_ID"]).await;
    assert!(second.replaced);
    assert_eq!(second.columns, ["user_id"]);
    place.says("INSERT INTO tlog VALUES (1, 2)").await;
    assert_eq!(place.told().await, [row("insert", json!({ "user_id": 2 }))]);
    assert_eq!(leftovers(&mut place).await, (4, 1));

    let would = place
        .home
        .store
        .unwatch("tlog", true)
        .await
        .expect("a rehearsal");
    assert_eq!(leftovers(&mut place).await, (4, 1));
    let did = place
        .home
        .store
        .unwatch("tlog", false)
        .await
        .expect("removed");
    assert_eq!(would, did);
    assert_eq!(leftovers(&mut place).await, (0, 0));
    place.says("INSERT INTO tlog VALUES (2, 2)").await;
    assert_eq!(place.told().await, [json!(null); 0]);
    let why = place
        .home
        .store
        .unwatch("tlog", false)
        .await
        .expect_err("not watched");
    assert!(why.to_string().contains("not watched"), "{why}");
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused_with_the_reason() {
    let mut place = Place::with(TLOG).await;
    place
        .says("CREATE VIEW seen AS SELECT * FROM tlog; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS a; CREATE TABLE odd (j jsonb, a int[])")
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
        let why = place.refuses(table, columns).await;
        for word in words {
            assert!(why.contains(word), "{table}: {word:?} is missing in {why}");
        }
    }
    assert_eq!(leftovers(&mut place).await, (0, 0));
    let sqlite = Backend::Sqlite.fresh().await;
    let why = sqlite
        .store
        .watch(&asked("tlog", &[]), false)
        .await
        .expect_err("SQLite");
    assert!(why.to_string().contains("POST /v1/changes"), "{why}");
}

/// Nobody's writes are held up for a watch.
#[tokio::test]
async fn a_table_that_is_locked_is_left_alone() {
    let mut place = Place::with(TLOG).await;
    place
        .says("SET application_name = 'nightly'; BEGIN; INSERT INTO tlog VALUES (1)")
        .await;
    let refused = place.home.store.watch(&asked("tlog", &["id"]), false).await;
    let why = refused.expect_err("it is locked").to_string();
    for word in ["tlog could not be locked", "nightly", "try again"] {
        assert!(why.contains(word), "{word:?} is missing in {why}");
    }
    place.says("COMMIT").await;
    assert_eq!(leftovers(&mut place).await, (0, 0));
    place.watch("tlog", &["id"]).await;
}

/// Waits until somebody rang.
async fn rung(bell: &Notify) {
    let rung = tokio::time::timeout(PATIENCE, bell.notified()).await;
    rung.expect("the bell rings");
}

#[tokio::test]
async fn a_commit_of_another_writer_rings_the_bell() {
    let mut place = Place::with(TLOG).await;
    place.watch("tlog", &["id"]).await;
    let (bell, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let listening = tokio::spawn({
        let (store, bell, stop) = (place.home.store.clone(), Arc::clone(&bell), stop.clone());
        async move { store.listen(bell, stop).await }
    });
    // What was committed before it listened is not told: it has to look.
    rung(&bell).await;
    place.says("INSERT INTO tlog VALUES (1)").await;
    rung(&bell).await;
    place.watch("tlog", &[]).await;
    place.says("DELETE FROM tlog").await;
    rung(&bell).await;
    let store = place.home.store.clone();
    store
        .request_removal(&[Key::races_by_stage()], &[], None)
        .await
        .expect("a row");
    rung(&bell).await;
    let reported = Reported {
        kind: ChangeKind::TaskCompleted,
        event: None,
        detail: r#"{"task":"build_climate"}"#.into(),
    };
    store.report(&[reported]).await.expect("a row");
    rung(&bell).await;

    // It is cut off, and listens again.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')";
    let cut: i64 = sqlx::query_scalar(cut)
        .fetch_one(&mut place.writer)
        .await
        .expect("a count");
    assert_eq!(cut, 1);
    rung(&bell).await;
    place.says("INSERT INTO tlog VALUES (2)").await;
    rung(&bell).await;

    let quiet = Asked {
        quiet: true,
        ..asked("tlog", &["id"])
    };
    let installed = place
        .home
        .store
        .watch(&quiet, true)
        .await
        .expect("a rehearsal");
    assert!(!installed.statements.join(";").contains("notify"));
    stop.cancel();
    tokio::time::timeout(PATIENCE, listening)
        .await
        .expect("it ends")
        .expect("without a panic");
}

#[tokio::test]
async fn nothing_is_lost_while_no_daemon_is_there() {
    let mut place = Place::with(TLOG).await;
    place.watch("tlog", &["id"]).await;
    place.says("INSERT INTO tlog VALUES (1), (2)").await;
    let settings = Settings::default()
        .with("FEED", "simulator")
        .with("DATABASE_URL", place.home.url.as_str())
        .with("LISTEN", "off")
        .with("LOG_FORMAT", "logfmt")
        .with("AUDIT", "false");
    let daemon = Daemon::start(&settings, &["run"]);
    let empty = async {
        for n in 3.. {
            let waits = "SELECT count(*) FROM oddsd.outbox WHERE kinds = 'row_changed'";
            let waits: i64 = sqlx::query_scalar(waits)
                .fetch_one(&mut place.writer)
                .await
                .expect("a count");
            if waits == 0 && n > 10 {
                return;
            }
            if n < 10 {
                place.says(&format!("INSERT INTO tlog VALUES ({n})")).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, empty)
        .await
        .expect("all are settled");
    daemon.stop().await.expect(0);
}

#[tokio::test]
async fn the_command_says_what_it_does() {
    let place = Place::with(TLOG).await;
    let oddsd = Oddsd::new().with("DATABASE_URL", &place.home.url);
    oddsd
        .run(&["watch", "list"])
        .await
        .is(0)
        .says(&["no table is watched"]);
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
        .is(0)
        .says(&[
            "would watch tlog",
            "CREATE TRIGGER oddsd_watch_update",
            "SECURITY DEFINER",
        ]);
    oddsd
        .run(&["watch", "list"])
        .await
        .is(0)
        .says(&["no table is watched"]);
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
        .is(0)
        .json();
    assert_eq!(added["columns"], json!(["id", "user_id"]));
    assert_eq!(
        (&added["replaced"], &added["dry_run"]),
        (&json!(false), &json!(false))
    );
    let listed = oddsd.run(&["watch", "list", "--json"]).await.is(0).json();
    assert_eq!(listed["watched"][0]["table"], "tlog");
    assert_eq!(listed["watched"][0]["bulk"], 50);
    assert_eq!(listed["watched"][0]["quiet"], true);
    oddsd
        .run(&["watch", "add", "tlog"])
        .await
        .is(0)
        .says(&["watching tlog", "watched before"]);
    oddsd
        .run(&["watch", "list"])
        .await
        .is(0)
        .says(&["tlog: the table alone"]);
    oddsd
        .run(&["watch", "add", "tlgo"])
        .await
        .is(78)
        .says(&["did you mean tlog?"]);
    oddsd
        .run(&["watch", "remove", "tlog", "--dry-run"])
        .await
        .is(0)
        .says(&["would no longer"]);
    oddsd
        .run(&["watch", "remove", "tlog"])
        .await
        .is(0)
        .says(&["no longer watching tlog"]);
    oddsd
        .run(&["watch", "remove", "tlog"])
        .await
        .is(78)
        .says(&["not watched"]);
    let sqlite = Oddsd::new();
    sqlite.run(&["migrate"]).await.is(0);
    sqlite
        .run(&["watch", "list"])
        .await
        .is(78)
        .says(&["only tables of Postgres"]);
}
