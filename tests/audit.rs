//! The auditor and the canary on a real database and a real cache: clean changes, and each cause by which an answer
//! can outlive a change. The tests pass in the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use oddsd::audit::{
    self, AuditHandle, AuditOutcome, AuditReport, Auditor, CHECK_OFFSETS, Canary, Cause,
    ProbeResult, SampleRate,
};
use oddsd::relay::{Relay, RelayOutcome};
use oddsd::rules_file::RulesHandle;
use oddsd_cache::{Cache, LoadedValue, Policy, Reader};
use oddsd_core::key::Key;
use oddsd_store::{AuditEvent, ClaimedBatch, CommitEvent, CommitNotifier, Purpose, Store};
use tokio::sync::mpsc;

use crate::cache::open_redis;
use crate::store::fixture::{DatabaseBackend, TestDatabase, open};
use oddsd_testkit::log::CapturedLog;
use oddsd_testkit::proxy::{FaultProxy, ProxyMode};
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::RespReply;
use oddsd_testkit::{WAIT_LIMIT, eventually, within};

const MS: Duration = Duration::from_millis(1);

/// A database, a cache with an epoch, a relay that is stepped by hand, and an auditor.
struct AuditFixture {
    home: TestDatabase,
    redis: RedisServer,
    reader: Reader,
    relay: Relay,
    auditor: Auditor,
    events: mpsc::Sender<AuditEvent>,
    /// The time of commits and checks, until a test changes it.
    start: Instant,
}

async fn open_cache(redis: &RedisServer) -> Arc<Cache> {
    let cache = open_redis(&redis.url()).await;
    cache.connected().await;
    Arc::new(cache)
}

impl AuditFixture {
    async fn start() -> Self {
        let (home, redis) = (
            DatabaseBackend::Postgres.migrated().await,
            RedisServer::start().await,
        );
        let cache = open_cache(&redis).await;
        let epoch = cache.end_epoch().await.expect("ended");
        let snapshot = home.store.current_snapshot().await.expect("a snapshot");
        assert_eq!(cache.begin_epoch(&epoch, &snapshot).await, Ok(true));
        let (events, queue) = audit::channel();
        let reader = Reader::with_budget(cache, WAIT_LIMIT);
        let relay = Relay {
            reader: reader.clone(),
            audit_events: Some(events.clone()),
            ..Relay::without_observers(
                home.store.clone(),
                reader.cache().clone(),
                RulesHandle::builtin(),
                "relay".into(),
            )
        };
        let auditor = Auditor {
            store: home.store.clone(),
            reader: reader.clone(),
            database_waits: relay.database_waits.clone(),
            events: queue,
            handle: AuditHandle::new(SampleRate::FREE, RulesHandle::builtin(), true),
            timeout: WAIT_LIMIT,
        };
        Self {
            home,
            redis,
            reader,
            relay,
            auditor,
            events,
            start: Instant::now(),
        }
    }

    /// Reads the answer through the cache, which keeps it.
    async fn read(&self, key: &Key) -> String {
        let policy = Policy::fresh_for(Duration::from_secs(30));
        let store = self.home.store.clone();
        let load = move || {
            let store = store.clone();
            async move {
                let beat = store.last_canary().await?;
                Ok(LoadedValue::new(beat.value.to_string(), beat.snapshot))
            }
        };
        let served = self.reader.read(key, &policy, load).await.expect("read");
        let text = String::from_utf8(served.body().to_vec());
        text.expect("a number")
    }

    /// Commits a change at `start` that makes `key` wrong, and sends it to the auditor.
    async fn change(&self, key: &Key) {
        let claim = self.write_row(key).await;
        self.send_commit(claim).await;
    }

    /// Writes the canary's row, as a change and not as the canary.
    async fn write_row(&self, key: &Key) -> ClaimedBatch {
        let written = self.home.store.write_canary(key).await.expect("a commit");
        let mut claim = written.outbox.expect("few in between");
        claim.rows[0].entry.purpose = Purpose::Change;
        claim
    }

    async fn send_commit(&self, claim: ClaimedBatch) {
        let committed_at = Utc::now();
        let commit = CommitEvent {
            batch: claim,
            observed_at: committed_at - TimeDelta::seconds(2),
            committed_at,
            at: self.start,
        };
        let sent = self.events.send(AuditEvent::Committed(commit)).await;
        sent.expect("the auditor receives");
    }

    async fn remove(&self) {
        let batch = self.relay.step().await.expect("the database answers");
        assert!(
            matches!(batch, RelayOutcome::Removed { rows: 1, .. }),
            "{batch:?}"
        );
    }

    /// The checks at this time after the change.
    async fn check(&mut self, after: Duration) -> AuditOutcome {
        self.auditor.step(self.start + after).await
    }

    fn report(&self) -> AuditReport {
        self.auditor.handle.report(self.start)
    }

    fn clean_ratio(&self, within: &str) -> Option<f64> {
        self.report().clean[within]
    }

    fn count(&self, cause: Cause) -> u64 {
        self.report().offenders_by_cause[&cause]
    }

    /// The stored text under the key.
    async fn stored(&self, key: &Key) -> String {
        match self
            .redis
            .command(&["GET", &key.value_key(key.shard(1))])
            .await
        {
            RespReply::Bulk(value) => String::from_utf8(value).expect("small bodies are text"),
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Stores an old text again, past every fence.
    async fn restore(&self, key: &Key, stored: &str) {
        let name = key.value_key(key.shard(1));
        let set = self.redis.command(&["SET", &name, stored]).await;
        assert_eq!(set, RespReply::Status("OK".into()));
    }

    async fn delete(&self, key: &Key) {
        self.redis
            .command(&["DEL", &key.value_key(key.shard(1))])
            .await;
    }
}

fn key() -> Key {
    Key::event_prices(&"rac_1".into())
}

fn is(checked: usize, stale: usize, queries: usize) -> AuditOutcome {
    AuditOutcome {
        checked,
        stale,
        queries,
    }
}

#[tokio::test]
async fn auditor_reports_clean_changes_without_querying_the_database() {
    let mut fixture = AuditFixture::start().await;
    // A query would fail.
    fixture.auditor.store = fixture.home.another().await;
    fixture.auditor.store.close().await;
    fixture.read(&key()).await;
    for _ in 0..3 {
        fixture.change(&key()).await;
        fixture.remove().await;
    }
    assert_eq!(fixture.check(20 * MS).await, is(0, 0, 0));
    assert_eq!(fixture.clean_ratio("50ms"), None, "nothing was checked yet");
    assert_eq!(fixture.check(60 * MS).await, is(3, 0, 0));
    assert_eq!(fixture.read(&key()).await, "3");
    for offset in &CHECK_OFFSETS[1..] {
        // The answer that a reader stored since includes all changes.
        assert_eq!(fixture.check(*offset).await, is(3, 0, 0));
    }
    assert_eq!(fixture.check(CHECK_OFFSETS[4] * 2).await, is(0, 0, 0));
    let report = fixture.report();
    let shares: Vec<Option<f64>> = report.clean.values().copied().collect();
    assert_eq!(shares, [Some(1.0); 4]);
    assert_eq!((report.looked_at, report.not_looked_at), (3, 0));
    assert_eq!(report.offenders, []);
    assert!(report.stale_at_ms.values().all(|stale| *stale == 0));
    // The feed's time was two seconds before the commit.
    let (feed, commit) = (
        report.freshness.expect("a real clock"),
        report.commit_to_readable,
    );
    assert_eq!((feed.changes, commit.changes, report.unheard), (3, 3, 0));
    assert!(feed.p50_ms > Some(1_000.0) && feed.p50_ms > commit.p50_ms);
}

#[tokio::test]
async fn auditor_finds_a_lost_removal_and_its_expiry() {
    let mut fixture = AuditFixture::start().await;
    fixture.read(&key()).await;
    let old = fixture.stored(&key()).await;
    fixture.change(&key()).await;
    fixture.remove().await;
    fixture.restore(&key(), &old).await;
    assert_eq!(fixture.check(50 * MS).await, is(1, 1, 1));
    let report = fixture.report();
    let [offender] = &report.offenders[..] else {
        panic!("{:?}", report.offenders);
    };
    assert_eq!(offender.cause, Cause::Lost);
    assert_eq!(offender.key, key().to_string());
    assert_eq!(offender.first_seen_ms, 50);
    assert_eq!(fixture.check(250 * MS).await, is(1, 1, 1));
    assert_eq!(fixture.report().offenders[0].last_seen_ms, 250);
    assert_eq!(fixture.clean_ratio("50ms"), Some(0.0));
    assert_eq!(fixture.clean_ratio("60s"), None, "it may be clean by then");

    // It expires without a removal.
    fixture.delete(&key()).await;
    assert_eq!(fixture.check(CHECK_OFFSETS[4]).await, is(1, 1, 0));
    let offender = fixture.report().offenders.remove(0);
    assert_eq!(offender.cause, Cause::TtlOnly);
    assert_eq!(offender.last_seen_ms, 250);
    assert_eq!(fixture.clean_ratio("60s"), Some(1.0));
    for cause in Cause::ALL.iter().copied() {
        let once = matches!(cause, Cause::Lost | Cause::TtlOnly);
        assert_eq!(fixture.count(cause), u64::from(once), "{cause:?}");
    }
}

#[tokio::test]
async fn auditor_finds_a_late_fill_after_a_clean_check() {
    let mut fixture = AuditFixture::start().await;
    fixture.read(&key()).await;
    let old = fixture.stored(&key()).await;
    fixture.change(&key()).await;
    fixture.remove().await;
    assert_eq!(fixture.check(50 * MS).await, is(1, 0, 0));
    assert_eq!(fixture.clean_ratio("50ms"), Some(1.0));
    fixture.restore(&key(), &old).await;
    assert_eq!(fixture.check(250 * MS).await, is(1, 1, 1));
    assert_eq!(fixture.report().offenders[0].cause, Cause::LateFill);
    // Clean at first is not clean.
    assert_eq!(fixture.clean_ratio("50ms"), Some(0.0));
    // The next change removes it, as it removes everything.
    fixture.write_row(&key()).await;
    fixture.remove().await;
    assert_eq!(fixture.check(CHECK_OFFSETS[2]).await, is(1, 0, 0));
    assert_eq!(fixture.clean_ratio("2s"), Some(1.0));
    assert_eq!(fixture.count(Cause::TtlOnly), 0);
}

#[tokio::test]
async fn removal_that_waits_for_a_hung_session_is_reported_and_comes_by_itself() {
    let (log, _capture) = CapturedLog::start();
    let mut fixture = AuditFixture::start().await;
    let (proxy, url) = FaultProxy::in_front_of_url(&fixture.home.url).await;
    fixture.relay.store = open(&url).await;
    let idle = fixture.relay.step().await.expect("the database answers");
    assert_eq!(idle, RelayOutcome::Idle);
    fixture.read(&key()).await;
    fixture.change(&key()).await;
    // Its session may be idle or still be released: either way the claim waits.
    proxy.set(ProxyMode::Stop);
    let relay = fixture.relay.clone();
    let removing = tokio::spawn(async move {
        while !matches!(relay.step().await, Ok(RelayOutcome::Removed { .. })) {}
    });
    eventually("a wait for the database", async || {
        fixture
            .relay
            .database_waits
            .is_waiting()
            .then_some(())
            .ok_or(())
    })
    .await;
    assert_eq!(fixture.check(50 * MS).await, is(1, 1, 1));
    assert_eq!(fixture.report().offenders[0].cause, Cause::DatabaseWait);
    proxy.set(ProxyMode::StopOpen);
    within("the removal in a new session", removing)
        .await
        .expect("no panic");
    assert_eq!(fixture.check(250 * MS).await, is(1, 0, 0));
    for event in ["relay.database_hangs", "relay.database_answers"] {
        assert_eq!(log.lines(event).len(), 1, "{event}");
    }
}

#[tokio::test]
async fn auditor_reports_a_pending_removal_as_late_until_it_comes() {
    let mut fixture = AuditFixture::start().await;
    fixture.read(&key()).await;
    fixture.change(&key()).await;
    assert_eq!(fixture.check(50 * MS).await, is(1, 1, 1));
    assert_eq!(fixture.report().offenders[0].cause, Cause::Late);
    fixture.remove().await;
    for offset in &CHECK_OFFSETS[1..] {
        assert_eq!(fixture.check(*offset).await, is(1, 0, 0));
    }
    let shares = ["50ms", "250ms", "2s", "60s"].map(|within| fixture.clean_ratio(within));
    assert_eq!(shares, [Some(0.0), Some(1.0), Some(1.0), Some(1.0)]);
    assert_eq!(fixture.count(Cause::Late), 1);
    assert_eq!(fixture.report().stale_at_ms[&50], 1);
}

#[tokio::test]
async fn auditor_with_an_unreachable_cache_reports_nothing_as_clean() {
    let mut fixture = AuditFixture::start().await;
    fixture.redis.kill().await;
    for _ in 0..3 {
        fixture.change(&key()).await;
    }
    // One query for each row.
    assert_eq!(fixture.check(50 * MS).await, is(3, 3, 3));
    assert_eq!(fixture.count(Cause::Late), 3);
    assert_eq!(fixture.clean_ratio("50ms"), Some(0.0));
    // With the database closed as well the result is unknown.
    fixture.auditor.store = fixture.home.another().await;
    fixture.auditor.store.close().await;
    assert_eq!(fixture.check(250 * MS).await, is(3, 0, 1));
    assert_eq!(fixture.clean_ratio("250ms"), None);
}

#[tokio::test]
async fn auditor_samples_at_its_rate_and_counts_the_rest() {
    let mut fixture = AuditFixture::start().await;
    for _ in 0..SampleRate::FREE.most + 5 {
        let claim = fixture.write_row(&key()).await;
        fixture.send_commit(claim).await;
    }
    fixture.start += SampleRate::FREE.per;
    fixture.change(&key()).await;
    fixture.check(Duration::ZERO).await;
    let report = fixture.report();
    assert_eq!(report.looked_at, u64::from(SampleRate::FREE.most) + 1);
    assert_eq!(report.not_looked_at, 5);
}

/// A canary that reports to the auditor and leaves its rows to the polling path of the relay.
fn canary(fixture: &AuditFixture, store: &Store) -> Canary {
    let notifier = CommitNotifier {
        relay: None,
        auditor: Some(fixture.events.clone()),
        outbox_wakeup: Arc::default(),
    };
    let (every, handle) = (Duration::from_secs(1), fixture.auditor.handle.clone());
    Canary::new(store.clone(), &fixture.reader, notifier, every, handle)
}

/// Steps until this result; each step is a moment later than the last.
async fn until(canary: &mut Canary, fixture: &mut AuditFixture, wanted: ProbeResult) {
    eventually("the probe's result", async || {
        fixture.start += MS;
        let result = canary.step(fixture.start).await;
        (result == wanted).then_some(()).ok_or(result)
    })
    .await;
}

#[tokio::test]
async fn canary_that_stops_reaching_readers_is_logged_once() {
    let (log, _guard) = CapturedLog::start();
    let mut fixture = AuditFixture::start().await;
    let store = fixture.home.store.clone();
    let mut canary = canary(&fixture, &store);
    assert_eq!(fixture.report().canary, None);
    for beat in 1..=3 {
        until(&mut canary, &mut fixture, ProbeResult::Written).await;
        // No second probe begins while one is pending.
        fixture.start += 2 * Duration::from_secs(1);
        assert_eq!(canary.step(fixture.start).await, ProbeResult::Pending);
        fixture.remove().await;
        fixture.auditor.step(fixture.start).await;
        until(&mut canary, &mut fixture, ProbeResult::Clean).await;
        let canary = fixture.report().canary.expect("it runs");
        assert_eq!((canary.age_seconds, canary.beats), (0.0, beat));
    }
    assert_eq!(fixture.home.count("outbox").await, 0);
    assert_eq!(fixture.home.count("removals").await, 0);
    let report = fixture.report();
    let feed = report.freshness.expect("a real clock");
    assert_eq!((feed.changes, report.commit_to_readable.changes), (0, 3));

    // No relay removes any more.
    until(&mut canary, &mut fixture, ProbeResult::Written).await;
    for _ in 0..20 {
        fixture.start += Duration::from_secs(1);
        assert_eq!(canary.step(fixture.start).await, ProbeResult::Pending);
    }
    assert!(fixture.report().canary.expect("it runs").age_seconds > 20.0);
    assert_eq!(fixture.home.count("outbox").await, 1);
    assert_eq!(log.lines("canary.missed").len(), 1, "{}", log.text());
    assert_eq!(log.lines("canary.recovered").len(), 0);
    fixture.remove().await;
    fixture.auditor.step(fixture.start).await;
    until(&mut canary, &mut fixture, ProbeResult::Clean).await;
    assert_eq!(log.lines("canary.recovered").len(), 1);
    assert_eq!(log.lines("canary.missed").len(), 1);
}

/// Its removal is not reported here; the outbox shows it.
#[tokio::test]
async fn canary_removed_by_another_daemon_is_not_missed() {
    let mut fixture = AuditFixture::start().await;
    let store = fixture.home.store.clone();
    let mut canary = canary(&fixture, &store);
    fixture.relay.audit_events = None;
    until(&mut canary, &mut fixture, ProbeResult::Written).await;
    fixture.remove().await;
    fixture.start += Duration::from_secs(1);
    until(&mut canary, &mut fixture, ProbeResult::Clean).await;
}
