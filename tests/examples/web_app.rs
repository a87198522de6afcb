//! Tests of `examples/web_app`: the application writes its tables and nothing else, and exactly the pages
//! that its README names are removed.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::{Pages, file, set, shell_lines, text, words};
use crate::harness::daemon::{DaemonEnv, DaemonProcess};
use crate::harness::program::Program;
use oddsd_testkit::eventually;
use oddsd_testkit::postgres;

const README: &str = "examples/web_app/README.md";
/// The rows: log 41 is user 3's of item 7 with photo 9; log 42 is user 4's of item 8 with photo 10.
const ROWS: &str = "
    INSERT INTO users VALUES (3, 'leader'), (4, 'ben'), (5, 'cid');
    INSERT INTO items VALUES (7, 'kettle'), (8, 'lamp'), (6, 'vase');
    INSERT INTO logs VALUES (41, 7, 3, 'found'), (42, 8, 4, 'seen');
    INSERT INTO photos VALUES (9, 41, 7, 3, 'a'), (10, 42, 8, 4, 'b')";

/// Every page of the application, and a key of another one.
fn pages() -> BTreeSet<String> {
    let mut pages = set(&["stats:site", "session:77", "about"]);
    for (kind, ids) in [
        ("item", &[6, 7, 8, 20][..]),
        ("user", &[3, 4, 5, 20]),
        ("log", &[41, 42, 50]),
        ("photo", &[9, 10, 60]),
    ] {
        pages.extend(ids.iter().map(|id| format!("{kind}:{id}")));
        pages.extend((1..=3).map(|page| format!("{kind}s:list:{page}")));
        pages.insert(format!("{kind}s:feed"));
    }
    pages
}

/// The pattern that a page is put under: its name up to the last part.
fn pattern(page: &str) -> Option<String> {
    let (family, last) = page.rsplit_once(':')?;
    last.parse::<u32>().ok().map(|_| format!("{family}:*"))
}

/// The names of removed keys, with patterns written out.
fn meant(names: &[&str]) -> BTreeSet<String> {
    let hit = |page: &String| {
        let by = |name: &&str| match name.strip_suffix('*') {
            Some(begin) => page.starts_with(begin),
            None => page == name,
        };
        names.iter().any(by)
    };
    pages().into_iter().filter(hit).collect()
}

struct Application {
    database: String,
    client: PgConnection,
    pages: Pages,
    settings: DaemonEnv,
}

impl Application {
    /// The README's steps up to the start of the daemon.
    async fn open() -> Self {
        let database = postgres::database().await;
        let pages = Pages::open().await;
        let mut client = postgres::connect(&database).await;
        // A schema with the role's own name would come first in the search path.
        write(&mut client, "SET search_path = public").await;
        let rules = file("examples/web_app/rules.toml").display().to_string();
        let oddsd = Program::new()
            .with("DATABASE_URL", &database)
            .with("REDIS_URL", pages.server.url())
            .with("RULES_FILE", &rules);
        let mut commands = 0;
        for line in shell_lines(&text(README)) {
            let line = words(&line);
            let (program, rest) = line.split_first().expect("a word");
            let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
            match (program.as_str(), rest.first()) {
                ("psql", _) => write(&mut client, &text("examples/web_app/tables.sql")).await,
                ("oddsd", Some(&("run" | "tail"))) => {}
                ("oddsd", _) => {
                    oddsd.run(&rest).await.expect_code(0);
                    commands += 1;
                }
                _ => {}
            }
        }
        assert_eq!(commands, 8, "test, migrate, four watches, list, explain");
        let settings = DaemonEnv::default()
            .with("FEED", "simulator")
            .with("DATABASE_URL", database.as_str())
            .with("REDIS_URL", pages.server.url())
            .with("RULES_FILE", rules)
            .with("LISTEN", "off")
            .with("AUDIT", "false")
            .with("LOG_FORMAT", "logfmt")
            // A second removal would meet the pages of the next step, and a slow machine is no fault.
            .with("CACHE_REMOVE_AGAIN_MS", "0")
            .with("CACHE_TIMEOUT_MS", "60000");
        write(&mut client, ROWS).await;
        Self {
            database,
            client,
            pages,
            settings,
        }
    }

    fn daemon(&self) -> DaemonProcess {
        DaemonProcess::start(&self.settings, &["run"])
    }

    /// All pages are in the cache.
    async fn fill(&mut self) {
        for page in pages() {
            let patterns: Vec<String> = pattern(&page).into_iter().collect();
            self.pages.put(&page, &patterns).await;
        }
        assert_eq!(self.pages.names().await, pages());
    }

    /// Outbox rows of the application's tables.
    async fn waiting(&mut self) -> i64 {
        let count = "SELECT count(*) FROM oddsd.outbox WHERE kinds = 'row_changed'";
        let count = sqlx::query_scalar(count).fetch_one(&mut self.client).await;
        count.expect("a count")
    }

    /// Lines of the log about the table `logs`.
    async fn logged_for_logs(&self) -> i64 {
        let lines =
            "SELECT count(*) FROM oddsd.removals WHERE entity = 'logs' AND reason = 'ROW_CHANGE'";
        let mut client = postgres::connect(&self.database).await;
        let lines = sqlx::query_scalar(lines).fetch_one(&mut client).await;
        lines.expect("a count")
    }

    /// Waits until every removal is made: a row leaves the outbox only then.
    async fn settled(&mut self) {
        eventually("the outbox is empty", async || match self.waiting().await {
            0 => Ok(()),
            waiting => Err(waiting),
        })
        .await;
    }

    /// Writes, and asserts that exactly these pages are removed.
    async fn removes(&mut self, sql: &str, names: &[&str]) {
        self.fill().await;
        write(&mut self.client, sql).await;
        self.settled().await;
        self.are_gone(sql, names).await;
    }

    async fn are_gone(&mut self, why: &str, names: &[&str]) {
        let left = self.pages.names().await;
        let gone: BTreeSet<String> = pages().difference(&left).cloned().collect();
        assert_eq!(gone, meant(names), "{why}");
        assert!(left.is_subset(&pages()), "{why}");
    }
}

async fn write(client: &mut PgConnection, sql: &str) {
    let done = client.execute(AssertSqlSafe(sql.to_owned())).await;
    done.unwrap_or_else(|why| panic!("{sql}: {why}"));
}

#[tokio::test]
async fn watched_write_removes_exactly_its_pages() {
    let mut app = Application::open().await;
    let daemon = app.daemon();
    app.settled().await;

    for sql in [
        "INSERT INTO items VALUES (20, 'clock')",
        "UPDATE items SET name = 'watch' WHERE id = 20",
        "DELETE FROM items WHERE id = 20",
    ] {
        app.removes(sql, &["stats:site", "item:20", "items:list:*"])
            .await;
    }
    for sql in [
        "INSERT INTO users VALUES (20, 'dee')",
        "UPDATE users SET name = 'eve' WHERE id = 20",
        "DELETE FROM users WHERE id = 20",
    ] {
        app.removes(sql, &["stats:site", "user:20", "users:list:*"])
            .await;
    }
    const LISTS: [&str; 3] = ["stats:site", "items:list:*", "logs:list:*"];
    let log = |own: &[&'static str]| [&LISTS[..], own].concat();
    let mine = log(&["item:7", "user:3", "log:50"]);
    app.removes("INSERT INTO logs VALUES (50, 7, 3, 'found')", &mine)
        .await;
    app.removes("UPDATE logs SET text = 'lost' WHERE id = 50", &mine)
        .await;
    app.removes(
        "UPDATE logs SET item_id = 8, user_id = 4 WHERE id = 50",
        &log(&["item:7", "item:8", "user:3", "user:4", "log:50"]),
    )
    .await;

    const PHOTO: [&str; 6] = [
        "stats:site",
        "photos:list:*",
        "item:8",
        "user:4",
        "log:50",
        "photo:60",
    ];
    for sql in [
        "INSERT INTO photos VALUES (60, 50, 8, 4, 'c')",
        "UPDATE photos SET caption = 'd' WHERE id = 60",
        "DELETE FROM photos WHERE id = 60",
    ] {
        app.removes(sql, &PHOTO).await;
    }
    app.removes(
        "DELETE FROM logs WHERE id = 50",
        &log(&["item:8", "user:4", "log:50"]),
    )
    .await;
    // The photo is deleted by the cascade, and reported as well.
    let both = log(&["item:7", "user:3", "log:41", "photo:9", "photos:list:*"]);
    app.removes("DELETE FROM logs WHERE id = 41", &both).await;
    app.removes(
        "BEGIN; UPDATE items SET views = 1 WHERE id = 7; UPDATE users SET name = 'al' WHERE id = 5; COMMIT",
        &["stats:site", "item:7", "items:list:*", "user:5", "users:list:*"],
    )
    .await;
    app.removes("UPDATE items SET views = 9 WHERE id = 999", &[])
        .await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn rolled_back_write_removes_nothing() {
    let mut app = Application::open().await;
    let daemon = app.daemon();
    app.settled().await;
    app.removes(
        "BEGIN; UPDATE items SET name = 'x'; DELETE FROM photos; DELETE FROM logs; ROLLBACK",
        &[],
    )
    .await;
    // Later commits are removed, and nothing else.
    app.removes(
        "UPDATE users SET name = 'x' WHERE id = 5",
        &["stats:site", "user:5", "users:list:*"],
    )
    .await;
    daemon.stop().await.expect_code(0);
}

#[tokio::test]
async fn bulk_write_waits_as_one_row_for_an_absent_daemon() {
    let mut app = Application::open().await;
    // As a restore does: without checks of references and without triggers.
    let million =
        "SET session_replication_role = replica; INSERT INTO logs SELECT n, 7, 3, 'old' FROM generate_series(1000, 1000999) n;
         SET session_replication_role = origin";
    for part in million.split(';') {
        write(&mut app.client, part).await;
    }
    let update = "UPDATE logs SET text = 'new' WHERE id >= 1000";
    const FAMILIES: [&str; 6] = [
        "stats:site",
        "item:*",
        "user:*",
        "log:*",
        "items:list:*",
        "logs:list:*",
    ];
    let daemon = app.daemon();
    // The rows that the tables begin with.
    app.settled().await;
    let before = app.logged_for_logs().await;
    app.removes(update, &FAMILIES).await;
    app.fill().await;
    daemon.crash().await;

    // No daemon runs.
    write(&mut app.client, update).await;
    assert_eq!(app.waiting().await, 1, "a million rows");
    for n in 0..40 {
        let photo = format!("INSERT INTO photos VALUES ({}, 42, 8, 4, 'x')", 100 + n);
        write(&mut app.client, &photo).await;
    }
    write(&mut app.client, "DELETE FROM photos WHERE id = 9").await;
    assert_eq!(app.waiting().await, 42);
    assert_eq!(app.pages.names().await, pages(), "nothing is removed yet");

    let daemon = app.daemon();
    app.settled().await;
    let all = [&FAMILIES[..], &["photos:list:*", "photo:9"]].concat();
    app.are_gone("all that was written meanwhile", &all).await;
    let reported = app.logged_for_logs().await - before;
    assert_eq!(reported, 2, "one line for each update");
    daemon.stop().await.expect_code(0);
}
