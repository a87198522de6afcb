//! A server that refuses, hangs, or is cut off in mid-word: an error that says why, all or nothing
//! in the rows, and no later write lost.

use std::future::ready;
use std::time::{Duration, Instant};

use oddsd::diff::Changes;
use oddsd::diff::book::Book;
use oddsd::key::Key;
use oddsd::store::{Store, StoreError};
use sqlx::{AssertSqlSafe, Executor};

use super::fixture::{Backend, Daemon, Day, Home, cycle, offer, open, settings};
use oddsd_testkit::WAIT_LIMIT as PATIENCE;
use oddsd_testkit::postgres;
use oddsd_testkit::proxy::{Proxy, Wire};

/// A daemon behind a wire, with a cycle that it is about to commit.
struct Scene {
    home: Home,
    proxy: Proxy,
    ann: Daemon,
    day: Day,
    changes: Changes,
}

async fn scene() -> Scene {
    let home = Backend::Postgres.fresh().await;
    let (proxy, url) = Proxy::before_url(&home.url).await;
    let mut ann = Daemon::start(&open(&url).await, "ann").await;
    let mut day = Day::of(3, 4, 4);
    ann.see(&day.snapshot()).await;
    day.pass(10);
    for race in 0..3 {
        day.set(race, 5, Some(offer(4321)));
        day.set(race, 6, None);
    }
    let changes = ann.changes(&day.snapshot());
    Scene {
        home,
        proxy,
        ann,
        day,
        changes,
    }
}

impl Scene {
    async fn commit(&self) -> Result<(), StoreError> {
        let facts = cycle(self.ann.cycle);
        let mut changes = self.changes.clone();
        let work = self.ann.store.commit(&self.ann.lease, &facts, &mut changes);
        work.await.map(drop)
    }

    /// What a daemon does after any error: takes the lease anew, loads, and looks again. The rows
    /// hold the cycle or do not; then they hold it.
    async fn recover(mut self) -> bool {
        self.proxy.set(Wire::Pass);
        let mut again = Daemon::start(&open(&self.home.url).await, "ann").await;
        let went_in = odds(&again.book) != odds(&self.ann.book);
        self.ann.book.apply(self.changes.clone());
        let after = odds(&self.ann.book);
        if went_in {
            assert_eq!(odds(&again.book), after, "all of it");
            assert_eq!(again.cycle, self.ann.cycle + 1);
        } else {
            assert_eq!(again.cycle, self.ann.cycle);
        }
        assert_eq!(again.see(&self.day.snapshot()).await.is_none(), went_in);
        assert_eq!(
            odds(&self.home.store.load().await.expect("the rows load").book),
            after
        );
        let told = self.home.count("outbox").await;
        assert_eq!(told, 6, "three races, told of once a cycle");
        went_in
    }
}

fn odds(book: &Book) -> Vec<String> {
    let events = book.events.values();
    let mut all: Vec<String> = events
        .flat_map(|event| event.prices.iter())
        .map(|price| format!("{} {} {:?}", price.row, price.offer.decimal, price.status))
        .collect();
    all.sort();
    all
}

fn down<T>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Err(StoreError::Down(why)) => why,
        Err(other) => panic!("not down: {other:?}"),
        Ok(_) => panic!("it went through"),
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_named_by_its_own_cause() {
    let mut scene = scene().await;
    scene.proxy.refuse().await;
    // The first may still find a pooled connection, which is cut; then there is none.
    let mut why = down(scene.commit().await);
    for _ in 0..6 {
        why = down(scene.ann.store.claim("ann", 1, Duration::ZERO).await);
        assert!(
            !why.contains("busy") && !why.contains("became free"),
            "{why}"
        );
    }
    assert!(why.to_lowercase().contains("refused"), "{why}");
    let (mut proxy, gone) = Proxy::before_url(&scene.home.url).await;
    proxy.refuse().await;
    let why = down(Store::open(&settings(&gone)).await);
    assert!(why.to_lowercase().contains("refused"), "{why}");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_not_waited_for_for_ever() {
    let scene = scene().await;
    scene.proxy.set(Wire::Hang);
    // The clock of the waiting runs ahead as soon as all that is left to do is wait.
    tokio::time::pause();
    let why = down(scene.commit().await);
    tokio::time::resume();
    // Which wait ends first depends on whether the pool has a connection at hand.
    let in_hand = why.contains("no answer within") && why.contains("unknown");
    assert!(
        in_hand || why.contains("accepts no connection within"),
        "{why}"
    );
    scene.recover().await;
}

#[tokio::test]
async fn a_server_far_away_is_slow_and_no_more() {
    let scene = scene().await;
    scene.proxy.set(Wire::Slow(Duration::from_millis(20)));
    assert_eq!(scene.commit().await, Ok(()));
    assert!(scene.recover().await);
}

#[tokio::test]
async fn an_answer_that_never_came_back_leaves_all_or_nothing() {
    let scene = scene().await;
    // Only the cycle itself names its feed.
    scene.proxy.set(Wire::CutAnswerTo("racing_api"));
    let failed = scene.commit().await;
    assert!(matches!(failed, Err(StoreError::Down(_))), "{failed:?}");
    scene.proxy.until_cut().await;
    assert!(scene.recover().await, "the server had it all, and answered");
}

#[tokio::test]
async fn a_statement_cut_at_any_byte_leaves_all_or_nothing() {
    for bytes in [1, 5, 60, 700, 2500, 4000] {
        let scene = scene().await;
        scene.proxy.set(Wire::CutAfter(bytes));
        match scene.commit().await {
            Ok(()) => assert!(scene.recover().await, "{bytes}: it was confirmed"),
            Err(StoreError::Down(_)) => drop(scene.recover().await),
            Err(other) => panic!("{bytes}: {other:?}"),
        }
    }
}

/// Polls a future once and drops it.
async fn abandon<T>(work: impl Future<Output = T>) {
    tokio::select! {
        biased;
        _ = work => {}
        () = ready(()) => {}
    }
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "it does not come to pass");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_is_finished() {
    let mut scene = scene().await;
    for n in 0..10 {
        abandon(scene.commit()).await;
        let (store, number) = (scene.home.store.clone(), scene.ann.cycle);
        until(async || store.cycles(-1, 1).await.expect("cycles")[0].id == number).await;
        scene.ann.book.apply(scene.changes.clone());
        scene.ann.cycle += 1;
        scene.day.pass(10);
        scene.day.set(0, 1, Some(offer(1000 + n)));
        scene.changes = scene.ann.changes(&scene.day.snapshot());
    }
    let rows = scene.home.store.load().await.expect("the rows load").book;
    assert_eq!(odds(&rows), odds(&scene.ann.book));
}

/// A dropped `begin()` poisons a pooled session: the next write would answer Ok and be lost.
#[tokio::test]
async fn a_write_after_an_abandoned_question_is_not_lost() {
    let scene = scene().await;
    let store = &scene.ann.store;
    let mut asked = Vec::new();
    for n in 0..30 {
        abandon(store.load()).await;
        abandon(store.status()).await;
        abandon(store.event_prices(&"rac_0".into())).await;
        abandon(store.claim("nobody", 0, Duration::ZERO)).await;
        let key = Key::from_person(&format!("key:{n}")).expect("a key");
        asked.push(
            store
                .request_removal(&[key], &[], None)
                .await
                .expect("written"),
        );
    }
    for row in asked {
        let seen = scene.home.count(&format!("outbox WHERE id = {row}")).await;
        assert_eq!(seen, 1, "row {row} was confirmed");
    }
}

#[tokio::test]
async fn sessions_that_the_server_ended_are_replaced() {
    let scene = scene().await;
    let mut admin = postgres::connect(&scene.home.url).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'oddsd'";
    admin.execute(end).await.expect("ended");
    let mut failures = 0;
    while let Err(error) = scene.commit().await {
        assert!(matches!(error, StoreError::Down(_)), "{error:?}");
        failures += 1;
        assert!(failures < 6, "one for each pooled session at most");
    }
    assert!(scene.recover().await);
}

#[tokio::test]
async fn a_refused_login_says_what_to_do_and_shows_no_password() {
    let home = Backend::Postgres.empty().await;
    let mut admin = postgres::connect(&home.url).await;
    let role = "DROP ROLE IF EXISTS oddsd_by_password; CREATE ROLE oddsd_by_password LOGIN PASSWORD 'canary-right'";
    admin
        .execute(AssertSqlSafe(role.to_owned()))
        .await
        .expect("a role");
    let as_role = |password: &str| {
        home.url
            .replace("oddsd@", &format!("oddsd_by_password:{password}@"))
    };
    let misconfigured = |outcome: Result<(), StoreError>| match outcome {
        Err(StoreError::Misconfigured(why)) => {
            assert!(!why.contains("canary"), "{why}");
            why
        }
        other => panic!("{other:?}"),
    };
    let wrong = Store::open(&settings(&as_role("canary-wrong")))
        .await
        .map(drop);
    let why = misconfigured(wrong);
    assert!(
        why.contains("oddsd_by_password") && why.contains("check user and password"),
        "{why}"
    );

    let missing = home.url.rsplit_once('/').expect("a database").0.to_owned() + "/no_such_odds";
    let why = misconfigured(Store::open(&settings(&missing)).await.map(drop));
    assert!(
        why.contains("no_such_odds") && why.contains("create it"),
        "{why}"
    );

    let poor = open(&as_role("canary-right")).await;
    let why = misconfigured(poor.migrate(false).await.map(drop));
    assert!(
        why.contains("permission denied") && why.contains("CREATE on the database"),
        "{why}"
    );
    home.store.migrate(false).await.expect("migrated");
    let why = misconfigured(poor.load().await.map(drop));
    assert!(why.contains("permission denied for schema oddsd"), "{why}");
    poor.close().await;
    admin
        .execute("DROP ROLE oddsd_by_password")
        .await
        .expect("gone");
}
