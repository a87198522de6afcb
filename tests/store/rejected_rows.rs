//! A row that only the database finds fault with: it is set aside alone, counted, and tried again.

use oddsd::store::StoreError;

use super::fixture::{Backend, Daemon, Day, Home, cycle, offer, same_rows};
use super::on_every_backend;

on_every_backend!(
    poison_rows_are_set_aside_and_the_others_stored,
    an_event_that_is_refused_takes_its_prices_along,
    when_no_row_is_to_blame_none_is_blamed,
);

/// Somebody's own rule about a column, which we cannot know.
async fn forbid(home: &Home, table: &str, column: &str, condition: &str) {
    match home.backend {
        Backend::Postgres => {
            let check = format!(
                "ALTER TABLE oddsd.{table} ADD CONSTRAINT house_rule CHECK (NOT ({column} {condition}))"
            );
            home.meddle(&check).await;
        }
        Backend::Sqlite => {
            for (name, on) in [("insert", "INSERT"), ("update", "UPDATE")] {
                home.meddle(&format!(
                    "CREATE TRIGGER house_rule_{name} BEFORE {on} ON {table} WHEN NEW.{column} {condition}
                     BEGIN SELECT raise(ABORT, 'house_rule'); END"
                ))
                .await;
            }
        }
    }
}

async fn poison_rows_are_set_aside_and_the_others_stored(backend: Backend) {
    let home = backend.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let mut day = Day::of(42, 10, 24);
    ann.see(&day.snapshot()).await.expect("a first look");
    forbid(&home, "prices", "decimal", "= '777.77'").await;
    day.pass(10);
    for race in 0..42 {
        for nth in 0..240 {
            day.set(race, nth, Some(offer(5000 + (race * 240 + nth) as i64)));
        }
    }
    for (race, nth) in [(3, 7), (3, 100), (41, 239)] {
        day.set(race, nth, Some(offer(77_777)));
    }
    let mut changes = ann.changes(&day.snapshot());
    let stored = home
        .store
        .commit(&ann.lease, &cycle(ann.cycle), &mut changes)
        .await;
    assert_eq!(
        stored.expect("the others go in").written.updated,
        42 * 240 - 3
    );
    assert_eq!(
        (changes.counts.rejected, changes.counts.changed),
        (3, 42 * 240 - 3)
    );
    let why = &changes.rejects.by_reason["refused_by_store"];
    assert_eq!(why.rows, 3);
    assert!(
        why.sample.contains("rac_3") && why.sample.contains("house_rule"),
        "{}",
        why.sample
    );
    ann.book.apply(changes);
    ann.cycle += 1;
    let rows = home.store.load().await.expect("the rows load");
    same_rows(&ann.book, &rows.book);
    let cycles = home.store.cycles(-1, 1).await.expect("cycles");
    assert_eq!(
        (cycles[0].counts.changed, cycles[0].counts.rejected),
        (10_077, 3)
    );

    // It is tried again, alone; and once it can be stored it is.
    day.pass(10);
    assert_eq!(ann.see(&day.snapshot()).await, Some(Default::default()));
    ann.cycle -= 1;
    match backend {
        Backend::Postgres => {
            home.meddle("ALTER TABLE oddsd.prices DROP CONSTRAINT house_rule")
                .await
        }
        Backend::Sqlite => home.meddle("DROP TRIGGER house_rule_update").await,
    }
    assert_eq!(
        ann.see(&day.snapshot()).await.expect("the three").updated,
        3
    );
    let rows = home.store.load().await.expect("the rows load");
    same_rows(&ann.book, &rows.book);
}

async fn an_event_that_is_refused_takes_its_prices_along(backend: Backend) {
    let home = backend.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    forbid(&home, "events", "name", "= 'The 2th Stakes'").await;
    let day = Day::of(5, 3, 3);
    let written = ann.see(&day.snapshot()).await.expect("the others");
    assert_eq!(
        (written.events, written.inserted, written.outbox),
        (4, 36, 4)
    );
    let book = home.store.load().await.expect("the rows load").book;
    same_rows(&ann.book, &book);
    assert!(!book.events.contains_key("rac_2"));
}

async fn when_no_row_is_to_blame_none_is_blamed(backend: Backend) {
    let home = backend.fresh().await;
    let mut ann = Daemon::start(&home.store, "ann").await;
    let mut day = Day::of(3, 3, 3);
    ann.see(&day.snapshot()).await;
    forbid(&home, "cycles", "id", "= 2").await;
    day.pass(10);
    day.set(0, 0, Some(offer(444)));
    let mut changes = ann.changes(&day.snapshot());
    let refused = home.store.commit(&ann.lease, &cycle(2), &mut changes).await;
    assert!(
        matches!(&refused, Err(StoreError::Failed(why)) if why.contains("house_rule")),
        "{refused:?}"
    );
    assert_eq!(changes.counts.rejected, 0);
    let rows = home.store.load().await.expect("the rows load");
    same_rows(&ann.book, &rows.book);
}
