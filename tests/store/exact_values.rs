//! Tests that odds and names are stored exactly.

use oddsd_core::model::{EachWay, Fraction, Offer, PriceKey};

use super::fixture::{DatabaseBackend, StateWriter, TestDay, decimal};
use super::on_every_backend;

on_every_backend!(odds_round_trip_exactly, names_round_trip_exactly);

async fn odds_round_trip_exactly(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let odds = [
        "1.952380952",
        "2.50",
        "1000",
        "1.000000001",
        "1.000000002",
        "0.000000001",
        "9999999.999999999",
        "1.01",
    ];
    let mut day = TestDay::with_races(1, 1, odds.len());
    for (nth, odd) in odds.iter().enumerate() {
        day.set(0, nth, Some(Offer::decimal(decimal(odd))));
    }
    day.set(
        0,
        0,
        Some(Offer {
            fractional: Fraction::parse("20/21"),
            point: Some(decimal("-1.5")),
            each_way: Some(EachWay {
                places: u16::MAX,
                denom: u16::MAX,
            }),
            ..Offer::decimal(decimal("1.952380952"))
        }),
    );
    day.set(
        0,
        2,
        Some(Offer {
            point: Some(decimal("0.25")),
            ..Offer::decimal(decimal("1000"))
        }),
    );
    let mut leader = StateWriter::start(&database.store, "leader").await;
    leader.commit_snapshot(&day.snapshot()).await;
    let loaded = database.store.load().await.expect("the rows load").state;
    for price in &day.races[0].prices {
        let stored = loaded.price("rac_0", &price.key).expect("stored");
        assert_eq!(Some(stored.offer), price.offer);
    }
    // 2.5 and 2.50 are one price; a step in the ninth place is another.
    day.advance(10);
    day.set(0, 1, Some(Offer::decimal(decimal("2.5000"))));
    let mut again = StateWriter::start(&database.store, "leader").await;
    assert_eq!(again.commit_snapshot(&day.snapshot()).await, None);
    day.set(0, 3, Some(Offer::decimal(decimal("1.000000002"))));
    let written = again
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a step");
    assert_eq!(written.updated, 1);
    let found = database.prices_of("rac_0").await;
    let stepped = &found.prices[3];
    assert_eq!(
        (stepped.opening, stepped.high),
        (decimal("1.000000001"), decimal("1.000000002"))
    );
}

async fn names_round_trip_exactly(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let names = [
        "L'Arc de Triomphe \"Prix\"",
        "C:\\new\\table",
        "{a,b}",
        "{}",
        "NULL",
        "",
        "naïve 🐎 Ωmega",
        "a\tb\nc",
        "'); DROP TABLE oddsd.prices; --",
        "\\N",
        "%s $1 ?1",
        "\u{202e}esrever",
        "ünïcode\u{301}",
    ];
    let mut day = TestDay::with_races(names.len(), 1, 1);
    for (race, name) in day.races.iter_mut().zip(names) {
        // An id must be something, and holds no control characters.
        let id: String = format!("id {name}")
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        race.event.id = id.as_str().into();
        race.event.name = name.into();
        race.event.venue = name.into();
        race.event.attributes.insert(name, name);
        race.selections[0].id = id.as_str().into();
        race.selections[0].name = name.into();
        race.selections[0].attributes.insert(name, name);
        let bookmaker = id.as_str().into();
        race.prices[0].key = PriceKey {
            market: id.as_str().into(),
            selection: id.as_str().into(),
            bookmaker,
        };
    }
    let mut leader = StateWriter::start(&database.store, "leader").await;
    leader
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a first look");
    let loaded = database.store.load().await.expect("the rows load").state;
    assert_eq!(loaded.bookmakers, leader.book.bookmakers);
    for race in &day.races {
        let stored = &loaded.events[&race.event.id];
        assert!(
            stored.event.equals_except_status(&race.event),
            "{:?}",
            stored.event
        );
        assert_eq!(stored.selections[0].selection, race.selections[0]);
        assert_eq!(
            loaded
                .price(race.event.id.as_str(), &race.prices[0].key)
                .map(|price| price.offer),
            race.prices[0].offer
        );
        let found = database.prices_of(race.event.id.as_str()).await;
        assert_eq!(
            found.prices[0].bookmaker,
            race.prices[0].key.bookmaker.as_str()
        );
    }
}
