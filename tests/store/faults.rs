//! Tests of a database that refuses, hangs or is cut off in a statement: the error gives the reason, the
//! rows change wholly or not at all, and no later write is lost.

use std::future::ready;
use std::time::Duration;

use oddsd_core::diff::Changes;
use oddsd_core::diff::stored_state::StoredState;
use oddsd_core::key::Key;
use oddsd_store::{Store, StoreError};
use sqlx::{AssertSqlSafe, Executor};

use super::fixture::{
    DatabaseBackend, StateWriter, TTL, TestDatabase, TestDay, cycle, lease, offer, open, settings,
};
use oddsd_testkit::postgres::{self, PostgresServer};
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};
use oddsd_testkit::{eventually, within};

/// A writer behind a proxy, with a cycle to commit.
struct CommitTest {
    database: TestDatabase,
    proxy: FaultProxy,
    leader: StateWriter,
    day: TestDay,
    changes: Changes,
}

async fn test() -> CommitTest {
    let database = DatabaseBackend::Postgres.migrated().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&database.url).await;
    let mut leader = StateWriter::start(&open(&url).await, "leader").await;
    let mut day = TestDay::with_races(3, 4, 4);
    leader.commit_snapshot(&day.snapshot()).await;
    day.advance(10);
    for race in 0..3 {
        day.set(race, 5, Some(offer(4321)));
        day.set(race, 6, None);
    }
    let changes = leader.changes(&day.snapshot());
    CommitTest {
        database,
        proxy,
        leader,
        day,
        changes,
    }
}

impl CommitTest {
    async fn commit(&self) -> Result<(), StoreError> {
        let facts = cycle(self.leader.cycle);
        let mut changes = self.changes.clone();
        let work = self
            .leader
            .store
            .commit(&self.leader.lease, &facts, &mut changes);
        work.await.map(drop)
    }

    /// The daemon's recovery after any error: it takes the lease anew, loads, and compares again. The
    /// rows hold the cycle or do not; after it they hold it.
    async fn recover(mut self) -> bool {
        self.proxy.set(ProxyMode::Pass);
        let mut again = StateWriter::start(&open(&self.database.url).await, "leader").await;
        let went_in = odds(&again.book) != odds(&self.leader.book);
        self.leader.book.apply(self.changes.clone());
        let after = odds(&self.leader.book);
        if went_in {
            assert_eq!(odds(&again.book), after, "all of it");
            assert_eq!(again.cycle, self.leader.cycle + 1);
        } else {
            assert_eq!(again.cycle, self.leader.cycle);
        }
        assert_eq!(
            again.commit_snapshot(&self.day.snapshot()).await.is_none(),
            went_in
        );
        assert_eq!(
            odds(
                &self
                    .database
                    .store
                    .load()
                    .await
                    .expect("the rows load")
                    .state
            ),
            after
        );
        let reported = self.database.count("outbox").await;
        assert_eq!(reported, 6, "three races, told of once a cycle");
        went_in
    }
}

fn odds(book: &StoredState) -> Vec<String> {
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
async fn lost_server_is_reported_with_its_cause() {
    let mut test = test().await;
    test.proxy.refuse().await;
    // The first may still find a pooled connection, which is cut; then there is none.
    let mut why = down(test.commit().await);
    for _ in 0..6 {
        why = down(test.leader.store.claim("leader", 1, Duration::ZERO).await);
        assert!(
            !why.contains("busy") && !why.contains("became free"),
            "{why}"
        );
    }
    assert!(why.to_lowercase().contains("refused"), "{why}");
    let (mut proxy, gone) = FaultProxy::in_front_of_url(&test.database.url).await;
    proxy.refuse().await;
    let why = down(Store::open(&settings(&gone)).await);
    assert!(why.to_lowercase().contains("refused"), "{why}");
}

#[tokio::test]
async fn hanging_server_is_a_bounded_wait() {
    let test = test().await;
    test.proxy.set(ProxyMode::Hang);
    // The paused clock advances as soon as every task waits.
    tokio::time::pause();
    let why = down(test.commit().await);
    tokio::time::resume();
    // Either timeout may end first, depending on whether the pool has an idle connection.
    let in_hand = why.contains("no answer within") && why.contains("unknown");
    assert!(
        in_hand || why.contains("accepts no connection within"),
        "{why}"
    );
    test.recover().await;
}

#[tokio::test]
async fn remote_server_only_costs_latency() {
    let test = test().await;
    test.proxy.set(ProxyMode::Slow(Duration::from_millis(20)));
    assert_eq!(test.commit().await, Ok(()));
    assert!(test.recover().await);
}

#[tokio::test]
async fn commit_with_a_lost_answer_is_all_or_nothing() {
    let test = test().await;
    // Only the cycle itself names its feed.
    test.proxy.set(ProxyMode::CutAnswerTo("racing_api"));
    let failed = test.commit().await;
    assert!(matches!(failed, Err(StoreError::Down(_))), "{failed:?}");
    test.proxy.until_cut().await;
    assert!(test.recover().await, "the server had it all, and answered");
}

#[tokio::test]
async fn commit_cut_at_any_byte_is_all_or_nothing() {
    for bytes in [1, 5, 60, 700, 2500, 4000] {
        let test = test().await;
        test.proxy.set(ProxyMode::CutAfter(bytes));
        match test.commit().await {
            Ok(()) => assert!(test.recover().await, "{bytes}: it was confirmed"),
            Err(StoreError::Down(_)) => drop(test.recover().await),
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

#[tokio::test]
async fn cancelled_commit_is_finished() {
    let mut test = test().await;
    for n in 0..10 {
        abandon(Box::pin(test.commit())).await;
        let (store, number) = (test.database.store.clone(), test.leader.cycle);
        eventually("the commit is stored", async || {
            let last = store.cycles(-1, 1).await.expect("cycles")[0].id;
            (last == number).then_some(()).ok_or(last)
        })
        .await;
        test.leader.book.apply(test.changes.clone());
        test.leader.cycle += 1;
        test.day.advance(10);
        test.day.set(0, 1, Some(offer(1000 + n)));
        test.changes = test.leader.changes(&test.day.snapshot());
    }
    let rows = test
        .database
        .store
        .load()
        .await
        .expect("the rows load")
        .state;
    assert_eq!(odds(&rows), odds(&test.leader.book));
}

/// A dropped `begin()` poisons a pooled session: the next write would answer Ok and be lost.
#[tokio::test]
async fn write_after_a_cancelled_read_is_not_lost() {
    let test = test().await;
    let store = &test.leader.store;
    let mut asked = Vec::new();
    for n in 0..30 {
        abandon(store.load()).await;
        abandon(Box::pin(store.status())).await;
        abandon(Box::pin(store.event_prices(&"rac_0".into()))).await;
        abandon(Box::pin(store.claim("nobody", 0, Duration::ZERO))).await;
        let key = Key::from_user_input(&format!("key:{n}")).expect("a key");
        asked.push(
            store
                .request_removal(&[key], &[], None)
                .await
                .expect("written"),
        );
    }
    for row in asked {
        let seen = test
            .database
            .count(&format!("outbox WHERE id = {row}"))
            .await;
        assert_eq!(seen, 1, "row {row} was confirmed");
    }
}

#[tokio::test]
async fn terminated_sessions_are_replaced() {
    let test = test().await;
    let mut admin = postgres::connect(&test.database.url).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'oddsd'";
    admin.execute(end).await.expect("ended");
    let mut failures = 0;
    while let Err(error) = test.commit().await {
        assert!(matches!(error, StoreError::Down(_)), "{error:?}");
        failures += 1;
        assert!(failures < 6, "one for each pooled session at most");
    }
    assert!(test.recover().await);
}

/// Otherwise the reads would keep all connections until their own deadline.
#[tokio::test]
async fn hung_reads_leave_their_connections_to_a_statement_in_a_hurry() {
    let test = test().await;
    let store = test.leader.store.clone();
    // As many sessions as the pool holds.
    let read = || {
        let store = store.clone();
        async move { store.server_time().await.map(drop) }
    };
    let opened = futures_util::future::join_all((0..5).map(|_| read())).await;
    assert_eq!(opened, vec![Ok(()); 5]);
    let idle = "pg_stat_activity WHERE datname = current_database() AND application_name = 'oddsd' AND state = 'idle'
                AND query LIKE 'ROLLBACK%'";
    eventually("the sessions to be idle", async || {
        let idle = test
            .database
            .query_one(&format!("SELECT count(*)::text FROM {idle}"))
            .await;
        (idle == "5").then_some(()).ok_or(idle)
    })
    .await;
    test.proxy.set(ProxyMode::Stop);
    let reads: Vec<_> = (0..5).map(|_| tokio::spawn(read())).collect();
    let hurried = store.with_deadline(Duration::from_secs(2));
    down(hurried.claim("relay", 1, Duration::ZERO).await);
    test.proxy.set(ProxyMode::StopOpen);
    eventually("a claim in a new session", async || {
        hurried.claim("relay", 1, Duration::ZERO).await.map(drop)
    })
    .await;
    for read in reads {
        drop(within("the read to end", read).await.expect("no panic"));
    }
    test.recover().await;
}

/// As after a failover behind one name: the pooled sessions stay with a server that refuses writes, and new ones
/// reach one that takes them.
#[tokio::test]
async fn pooled_sessions_that_became_read_only_are_replaced() {
    let server = PostgresServer::start().expect("a server");
    let store = open(&server.url).await;
    store.migrate(false).await.expect("migrated");
    let held = lease(&store, "leader").await;
    let state = serde_json::json!({});
    let write = async || store.renew_lease(&held, TTL, &state, &[]).await.map(drop);
    // As many sessions as the pool holds.
    let reads = futures_util::future::join_all((0..5).map(|_| store.status())).await;
    assert!(reads.iter().all(Result::is_ok), "{reads:?}");
    let mut admin = postgres::connect(&server.url).await;
    for turn in [
        "ALTER ROLE oddsd SET default_transaction_read_only = off",
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        admin.execute(turn).await.expect("the server turns");
    }
    eventually("the old sessions to be read-only", async || {
        let asked = sqlx::query_scalar::<_, String>("SHOW transaction_read_only");
        match asked.fetch_one(&mut admin).await.expect("an answer") {
            state if state == "on" => Ok(()),
            state => Err(state),
        }
    })
    .await;
    // Each write takes the session that has been idle for longest.
    let mut written = 0;
    eventually("only new sessions", async || {
        let outcome = write().await;
        written = if outcome.is_ok() { written + 1 } else { 0 };
        (written > 5).then_some(()).ok_or(outcome)
    })
    .await;
}

#[tokio::test]
async fn refused_login_gives_advice_and_no_password() {
    let database = DatabaseBackend::Postgres.empty().await;
    let mut admin = postgres::connect(&database.url).await;
    let role = "DROP ROLE IF EXISTS oddsd_by_password; CREATE ROLE oddsd_by_password LOGIN PASSWORD 'canary-right'";
    admin
        .execute(AssertSqlSafe(role.to_owned()))
        .await
        .expect("a role");
    let as_role = |password: &str| {
        database
            .url
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

    let missing = database
        .url
        .rsplit_once('/')
        .expect("a database")
        .0
        .to_owned()
        + "/no_such_odds";
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
    database.store.migrate(false).await.expect("migrated");
    let why = misconfigured(poor.load().await.map(drop));
    assert!(why.contains("permission denied for schema oddsd"), "{why}");
    poor.close().await;
    admin
        .execute("DROP ROLE oddsd_by_password")
        .await
        .expect("gone");
}
