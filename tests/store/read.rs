//! Tests of the read queries: the runners of a window, the prices of one race, and the removal log.

use std::time::Duration;

use oddsd_core::model::{EventStatus, Offer, SelectionStatus};
use oddsd_store::Runner;

use super::fixture::{DatabaseBackend, StateWriter, TestDay, at, decimal, offer};
use super::{log_page, on_every_backend, settlement};

on_every_backend!(
    runners_in_the_window_have_their_open_win_prices,
    race_shows_price_movements_since_opening,
    log_pages_start_at_the_newest_or_after_an_id,
    status_reports_the_current_state,
);

async fn runners_in_the_window_have_their_open_win_prices(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(4, 3, 3);
    let (from, to) = (at(3600), at(3600 + 1800));
    let mut place = day.races[0].prices[0].clone();
    place.key.market = "place".into();
    day.races[0].prices.push(place);
    day.price(0, 1).suspended = true;
    // The third runner has no price at all, the second is out.
    day.races[0]
        .prices
        .retain(|price| price.key.selection.as_str() != "hrs_0_2");
    day.races[0].selections[1].status = SelectionStatus::NonRunner;
    day.races[2].event.status = EventStatus::Abandoned;
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    day.set(0, 2, None);
    day.races.remove(1);
    leader.commit_snapshot(&day.snapshot()).await;

    let mut runners = database
        .store
        .runners(from, to)
        .await
        .expect("runners")
        .value;
    runners.sort_by(|a, b| a.selection.id.cmp(&b.selection.id));
    let short = |runner: &Runner| (runner.selection.id.to_string(), runner.prices.len());
    let found: Vec<_> = runners.iter().map(short).collect();
    // Race 1 left the card and race 3 starts when the window ends; an abandoned race has its own
    // status.
    let expected = [
        ("hrs_0_0", 1),
        ("hrs_0_1", 3),
        ("hrs_0_2", 0),
        ("hrs_2_0", 3),
        ("hrs_2_1", 3),
        ("hrs_2_2", 3),
    ];
    assert_eq!(found, expected.map(|(id, prices)| (id.to_owned(), prices)));
    assert_eq!(runners[3].event.status, EventStatus::Abandoned);
    assert_eq!(runners[1].selection.status, SelectionStatus::NonRunner);
    let price = &runners[0].prices[0];
    assert_eq!(
        (price.bookmaker.as_str(), price.fractional.as_deref()),
        ("Bookie 0", Some("5/2"))
    );
    assert_eq!(price.decimal, decimal("1.5"));
    assert!(
        runners
            .iter()
            .all(|runner| runner.updated_at <= chrono::Utc::now())
    );
}

async fn race_shows_price_movements_since_opening(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 1, 2);
    // As text, 9 is above 10.
    for odds in ["9", "10", "11.5", "8.25", "9.75"] {
        day.advance(10);
        day.set(0, 0, Some(Offer::decimal(decimal(odds))));
        leader.commit_snapshot(&day.snapshot()).await;
    }
    let seen = [(leader.book.events["rac_0"].row, day.now)];
    let word = serde_json::Value::Null;
    database
        .store
        .renew_lease(&leader.lease, Duration::from_secs(60), &word, &seen)
        .await
        .expect("held");
    let found = database.prices_of("rac_0").await;
    // Its source reports no status: an hour before the start it is scheduled.
    day.races[0].event.status = EventStatus::Upcoming;
    assert_eq!(found.event, day.races[0].event);
    assert_eq!(found.selections, day.races[0].selections);
    assert_eq!(found.checked_at, day.now);
    assert_eq!(found.prices.len(), 2);
    let moved = &found.prices[0];
    let shape = (moved.opening, moved.high, moved.low, moved.offer.decimal);
    assert_eq!(
        shape,
        (
            decimal("9"),
            decimal("11.5"),
            decimal("8.25"),
            decimal("9.75")
        )
    );
    assert_eq!(moved.bookmaker_name, "Bookie 0");
    assert_eq!(found.prices[1].opening, found.prices[1].offer.decimal);
    assert!(
        database
            .store
            .event_prices(&"rac_404".into())
            .await
            .expect("an answer")
            .value
            .is_none()
    );
}

async fn log_pages_start_at_the_newest_or_after_an_id(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(1, 1, 1);
    for cents in 0..5 {
        day.advance(10);
        day.set(0, 0, Some(offer(500 + cents)));
        leader.commit_snapshot(&day.snapshot()).await;
    }
    let page = async |after, limit| {
        let cycles = database.store.cycles(after, limit).await.expect("cycles");
        cycles.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(page(-1, 2).await, [4, 5]);
    assert_eq!(page(0, 2).await, [1, 2]);
    assert_eq!(page(2, 9).await, [3, 4, 5]);
    assert_eq!(page(5, 9).await, [0; 0]);
    assert_eq!(
        database.store.cycles(-1, 1).await.expect("cycles")[0].as_of,
        day.now
    );

    let log = database
        .store
        .claim("leader", 9, Duration::ZERO)
        .await
        .expect("a claim")
        .rows;
    let one = oddsd_store::Removal {
        rule: "r".into(),
        reason: "MANUAL".into(),
        keys: vec!["k".into()],
        backend: "memory".into(),
        ..Default::default()
    };
    let rows: Vec<i64> = log.iter().map(|row| row.id).collect();
    database
        .store
        .settle(&rows, settlement(&[one.clone(), one.clone(), one], None))
        .await
        .expect("settled");
    let all = database
        .store
        .removals(&log_page(0, 9))
        .await
        .expect("a log");
    assert_eq!(all.len(), 3);
    assert_eq!(
        database
            .store
            .removals(&log_page(-1, 1))
            .await
            .expect("a log"),
        all[2..]
    );
    assert_eq!(
        database
            .store
            .removals(&log_page(all[0].id, 1))
            .await
            .expect("a log"),
        all[1..2]
    );
}

async fn status_reports_the_current_state(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let empty = database.store.status().await.expect("a status");
    assert_eq!(
        (empty.holder, empty.last_cycle, empty.events),
        (None, None, 0)
    );
    assert_eq!(empty.state, serde_json::json!({}));
    let mut leader = StateWriter::start(&database.store, "leader").await;
    let mut day = TestDay::with_races(2, 2, 2);
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    day.races.remove(1);
    leader.commit_snapshot(&day.snapshot()).await;
    let status = database.store.status().await.expect("a status");
    assert_eq!(
        (status.events, status.open_prices, status.outbox_pending),
        (1, 4, 3)
    );
    assert_eq!(status.last_cycle.expect("two").counts.withdrawn, 4);
    assert!(status.outbox_oldest_seconds < 600.0);
    let skew = database.store.server_time().await.expect("a clock") - chrono::Utc::now();
    assert!(skew.num_seconds().abs() < 60, "one machine: {skew}");
}
