//! `migrate`: rehearsed, done, done again; other programs' tables are only taken when told to.

use sqlx::Executor;

use super::{on_postgres, simulated};
use crate::harness::program::Oddsd;
use oddsd_testkit::postgres;

#[tokio::test]
async fn a_rehearsal_says_what_it_would_do_and_does_nothing() {
    let oddsd = on_postgres().await;
    let told = oddsd.run(&["migrate", "--dry-run"]).await.is(0);
    told.says(&["would have "]);
    oddsd.run(&["status"]).await.is(78).says(&["oddsd migrate"]);
    oddsd
        .run(&["migrate"])
        .await
        .is(0)
        .says_not(&["would have"]);
    oddsd.run(&["migrate"]).await.is(0).says(&["nothing to do"]);
    oddsd.run(&["status"]).await.is(0);
}

#[tokio::test]
async fn a_file_is_made_by_migrating_and_not_by_rehearsing() {
    let oddsd = simulated();
    let told = oddsd.run(&["migrate", "--dry-run"]).await.is(78);
    told.says(&["there is no database oddsd.db", "oddsd migrate"]);
    assert!(!oddsd.folder().join("oddsd.db").exists());
    oddsd.run(&["migrate"]).await.is(0);
    oddsd.run(&["migrate"]).await.is(0).says(&["nothing to do"]);
}

#[tokio::test]
async fn tables_of_other_programs_stand_in_the_way_until_they_are_adopted() {
    let url = postgres::database().await;
    let mut db = postgres::connect(&url).await;
    let theirs = "CREATE TABLE ra_bookmakers (bookmaker_id text PRIMARY KEY, bookmaker_name text, bookmaker_type text,
                  active boolean, created_at timestamptz); INSERT INTO ra_bookmakers VALUES ('bet365', 'Bet365', 'fixed', true, now())";
    db.execute(theirs).await.expect("their table");
    let oddsd = Oddsd::new().with("DATABASE_URL", &url);
    let told = oddsd.run(&["migrate"]).await.is(78);
    told.says(&["ra_bookmakers", "oddsd migrate --adopt"]);
    let told = oddsd.run(&["migrate", "--adopt", "--dry-run"]).await.is(0);
    told.says(&["would have ", "ra_bookmakers"]);
    // A rehearsal leaves their table where it was.
    let kind = "SELECT relkind::text FROM pg_class WHERE relname = 'ra_bookmakers'";
    let before: String = sqlx::query_scalar(kind)
        .fetch_one(&mut db)
        .await
        .expect("it");
    assert_eq!(before, "r");
    oddsd.run(&["migrate", "--adopt"]).await.is(0);
    let after: String = sqlx::query_scalar(kind)
        .fetch_one(&mut db)
        .await
        .expect("it");
    assert_eq!(after, "v");
}
