//! `migrate`: dry run, migration, repetition, and the adoption of existing tables.

use sqlx::Executor;

use super::{on_postgres, simulated};
use crate::harness::program::Program;
use oddsd_testkit::postgres;

#[tokio::test]
async fn dry_run_prints_the_steps_and_changes_nothing() {
    let oddsd = on_postgres().await;
    let output = oddsd.run(&["migrate", "--dry-run"]).await.expect_code(0);
    output.expect_texts(&["would have "]);
    oddsd
        .run(&["status"])
        .await
        .expect_code(78)
        .expect_texts(&["oddsd migrate"]);
    oddsd
        .run(&["migrate"])
        .await
        .expect_code(0)
        .expect_none_of(&["would have"]);
    oddsd
        .run(&["migrate"])
        .await
        .expect_code(0)
        .expect_texts(&["nothing to do"]);
    oddsd.run(&["status"]).await.expect_code(0);
}

#[tokio::test]
async fn dry_run_creates_no_database_file() {
    let oddsd = simulated();
    let output = oddsd.run(&["migrate", "--dry-run"]).await.expect_code(78);
    output.expect_texts(&["there is no database oddsd.db", "oddsd migrate"]);
    assert!(!oddsd.folder().join("oddsd.db").exists());
    oddsd.run(&["migrate"]).await.expect_code(0);
    oddsd
        .run(&["migrate"])
        .await
        .expect_code(0)
        .expect_texts(&["nothing to do"]);
}

#[tokio::test]
async fn existing_tables_are_refused_without_adopt() {
    let url = postgres::database().await;
    let mut db = postgres::connect(&url).await;
    let theirs = "CREATE TABLE ra_bookmakers (bookmaker_id text PRIMARY KEY, bookmaker_name text, bookmaker_type text,
                  active boolean, created_at timestamptz); INSERT INTO ra_bookmakers VALUES ('bet365', 'Bet365', 'fixed', true, now())";
    db.execute(theirs).await.expect("their table");
    let oddsd = Program::new().with("DATABASE_URL", &url);
    let output = oddsd.run(&["migrate"]).await.expect_code(78);
    output.expect_texts(&["ra_bookmakers", "oddsd migrate --adopt"]);
    let output = oddsd
        .run(&["migrate", "--adopt", "--dry-run"])
        .await
        .expect_code(0);
    output.expect_texts(&["would have ", "ra_bookmakers"]);
    // The dry run keeps the table.
    let kind = "SELECT relkind::text FROM pg_class WHERE relname = 'ra_bookmakers'";
    let before: String = sqlx::query_scalar(kind)
        .fetch_one(&mut db)
        .await
        .expect("it");
    assert_eq!(before, "r");
    oddsd.run(&["migrate", "--adopt"]).await.expect_code(0);
    let after: String = sqlx::query_scalar(kind)
        .fetch_one(&mut db)
        .await
        .expect("it");
    assert_eq!(after, "v");
}
