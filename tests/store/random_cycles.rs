//! A randomized test of the store: after every commit, the loaded state equals the mirror in memory.

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use fastrand::Rng;
use oddsd_core::diff::Changes;
use oddsd_core::diff::stored_state::StoredState;
use oddsd_core::model::{Bookmaker, EventStatus, SelectionStatus};

use super::fixture::{DatabaseBackend, StateWriter, TestDay, cycle, decimal, lease, offer};
use super::on_every_backend;

on_every_backend!(
    loaded_state_equals_the_mirror_after_random_cycles,
    full_card_is_written_and_loaded,
);

const CYCLES: usize = 40;

async fn loaded_state_equals_the_mirror_after_random_cycles(backend: DatabaseBackend) {
    for seed in [1, 2, 3, oddsd_testkit::seed()] {
        println!("seed {seed} on {backend:?}");
        let mut luck = Rng::with_seed(seed);
        let database = backend.migrated().await;
        let mut leader = StateWriter::start(&database.store, "leader").await;
        let mut day = TestDay::with_races(4, 4, 3);
        for _ in 0..CYCLES {
            something_happens(&mut day, &mut luck);
            let changes = leader.changes(&day.snapshot());
            let written = leader.commit_snapshot(&day.snapshot()).await;
            assert_eq!(written.is_none(), changes.is_empty());
            let loaded = database.store.load().await.expect("the rows load");
            assert_eq!(loaded.next_cycle, leader.cycle, "seed {seed}");
            same(&leader.book, &loaded.state, &changes, seed);
            if luck.u8(..) < 60 {
                leader = StateWriter::start(&database.store, "leader").await;
            }
        }
    }
}

/// One step of a race day in which everything that can happen does.
fn something_happens(day: &mut TestDay, luck: &mut Rng) {
    day.now += TimeDelta::nanoseconds(luck.i64(1_000_000_000..60_000_000_000));
    for _ in 0..luck.usize(0..6) {
        let race = luck.usize(..day.races.len());
        let nth = luck.usize(..day.races[race].prices.len().max(1));
        let now = day.now;
        if day.races[race].prices.is_empty() {
            continue;
        }
        match luck.u8(..14) {
            0 => day.set(race, nth, None),
            1..4 => day.set(race, nth, Some(offer(luck.i64(101..9000)))),
            4 => day.price(race, nth).suspended ^= true,
            // The feed's clock moves, the price does not.
            5 => {
                day.price(race, nth);
            }
            6 => drop(day.races[race].prices.remove(nth)),
            7 => {
                let status = *luck
                    .choice(&SelectionStatus::ALL)
                    .expect("there are statuses");
                if let Some(first) = day.races[race].selections.first_mut() {
                    first.status = status;
                }
            }
            8 => {
                let event = &mut day.races[race].event;
                event
                    .attributes
                    .insert("going", format!("Soft {}", luck.u8(..)));
                event.starts_at = event.starts_at.map(|at| at + TimeDelta::minutes(1));
            }
            9 => {
                let event = &mut day.races[race].event;
                event.status = *luck.choice(&EventStatus::ALL).expect("there are statuses");
                event.in_play = luck.bool();
            }
            10 => drop(day.races[race].selections.pop()),
            11 => day.races.rotate_left(1),
            12 => {
                let id = format!("late{}", luck.u8(..));
                let name = format!("Late \"{id}\" \\ {{}}");
                let late = Bookmaker {
                    id: id.as_str().into(),
                    name,
                };
                let mut price = day.races[race].prices[nth].clone();
                price.key.bookmaker = late.id.clone();
                price.observed_at = Some(now);
                day.bookmakers.push(late);
                day.races[race].prices.push(price);
            }
            _ if day.races.len() > 1 => drop(day.races.remove(race)),
            _ => {
                *day = TestDay {
                    now,
                    ..TestDay::with_races(4, 4, 3)
                }
            }
        }
    }
}

fn micros(at: DateTime<Utc>) -> DateTime<Utc> {
    at.with_nanosecond(at.nanosecond() / 1000 * 1000)
        .expect("in range")
}

/// Memory and rows agree. What an unchanged price's feed time moved on to is remembered, never
/// written; and "last checked" is written with the lease, not with the cycle.
fn same(memory: &StoredState, rows: &StoredState, changes: &Changes, seed: u64) {
    let (mut memory, mut rows) = (memory.clone(), rows.clone());
    for (id, event) in &mut memory.events {
        let stored = rows
            .events
            .get_mut(id)
            .unwrap_or_else(|| panic!("seed {seed}: {id} is stored"));
        assert!(stored.checked_at <= event.checked_at, "seed {seed}: {id}");
        stored.checked_at = event.checked_at;
        event.event.starts_at = event.event.starts_at.map(micros);
        assert_eq!(event.prices.len(), stored.prices.len(), "seed {seed}: {id}");
        for (price, kept) in event.prices.iter_mut().zip(&mut stored.prices) {
            price.observed_at = price.observed_at.map(micros);
            let written = changes.prices.iter().any(|change| change.row == price.row);
            if !written && kept.observed_at <= price.observed_at {
                kept.observed_at = price.observed_at;
            }
        }
    }
    assert_eq!(memory, rows, "seed {seed}");
}

/// 12,000 prices, in an unoptimised build; what takes seconds here takes the daemon's cycle apart.
async fn full_card_is_written_and_loaded(backend: DatabaseBackend) {
    let database = backend.migrated().await;
    let leader = lease(&database.store, "leader").await;
    let mut memory = StateWriter::start(&database.store, "leader").await;
    let day = TestDay::with_races(50, 10, 24);
    let changes = memory.changes(&day.snapshot());
    let began = std::time::Instant::now();
    let stale = database
        .store
        .commit(&leader, &cycle(1), &mut changes.clone())
        .await;
    stale.expect_err("leader took the lease anew");
    let written = memory
        .commit_snapshot(&day.snapshot())
        .await
        .expect("a first look");
    let wrote = began.elapsed();
    assert_eq!(written.inserted, 12_000);
    let loaded = database.store.load().await.expect("the rows load");
    println!(
        "{backend:?}: refused and wrote in {wrote:?}, loaded in {:?}",
        began.elapsed() - wrote
    );
    assert_eq!(loaded.state.open_prices(), 12_000);
    same(&memory.book, &loaded.state, &changes, 0);

    let mut moved = day.clone();
    moved.advance(10);
    for race in 0..50 {
        for nth in 0..240 {
            let cents = moved.races[race].prices[nth].offer.expect("a price");
            moved.set(race, nth, Some(offer_plus(cents.decimal)));
        }
    }
    let written = memory
        .commit_snapshot(&moved.snapshot())
        .await
        .expect("all moved");
    assert_eq!(written.updated, 12_000);
    let quiet = memory.commit_snapshot(&moved.snapshot()).await;
    assert_eq!(quiet, None);
}

fn offer_plus(odds: rust_decimal::Decimal) -> oddsd_core::model::Offer {
    oddsd_core::model::Offer::decimal(odds + decimal("0.05"))
}
