//! The auditor and the canary, on a real database and a real cache: what they call clean, and what
//! they say of each way in which an answer can outlive a change. The stories say what time it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use oddsd::audit::{self, Audited, Auditor, Beat, Canary, Cause, LOOKS, Rate, Report, Step};
use oddsd::cache::{Cache, CacheSettings, Loaded, Policy, Reader};
use oddsd::invalidate::{Batch, Relay};
use oddsd::key::Key;
use oddsd::rulebook::Rulebook;
use oddsd::store::{Claim, Commit, Poke, Purpose, Store, Told};
use tokio::sync::mpsc;

use crate::store::fixture::{Backend, Home};
use oddsd_testkit::WAIT_LIMIT as PATIENCE;
use oddsd_testkit::log::Log;
use oddsd_testkit::redis::RedisServer;
use oddsd_testkit::resp::Reply;

const MS: Duration = Duration::from_millis(1);

/// A database, a cache with a floor, a relay that works when it is told to, and an auditor.
struct House {
    home: Home,
    redis: RedisServer,
    reader: Reader,
    relay: Relay,
    auditor: Auditor,
    tells: mpsc::Sender<Told>,
    /// When everything happens, until the story says otherwise.
    start: Instant,
}

async fn open_cache(redis: &RedisServer) -> Arc<Cache> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = CacheSettings {
        redis_url: Some(redis.url().into()),
        command_timeout: Duration::from_secs(20),
        ..CacheSettings::default()
    };
    let cache = Cache::open(&settings).await.expect("settings that work");
    cache.connected().await;
    Arc::new(cache)
}

impl House {
    async fn build() -> Self {
        let (home, redis) = (Backend::Postgres.fresh().await, RedisServer::start().await);
        let cache = open_cache(&redis).await;
        cache.void().await.expect("void");
        let view = home.store.view().await.expect("a view");
        cache.found(&view).await.expect("a floor");
        let (tells, told) = audit::hearing();
        let reader = Reader::with_budget(cache, PATIENCE);
        let relay = Relay {
            reader: reader.clone(),
            auditor: Some(tells.clone()),
            ..Relay::alone(
                home.store.clone(),
                reader.cache().clone(),
                Rulebook::builtin(),
                "relay".into(),
            )
        };
        let auditor = Auditor {
            store: home.store.clone(),
            reader: reader.clone(),
            told,
            audited: Audited::new(Rate::FREE, Rulebook::builtin(), true),
            patience: PATIENCE,
        };
        Self {
            home,
            redis,
            reader,
            relay,
            auditor,
            tells,
            start: Instant::now(),
        }
    }

    /// A reader asks for the answer, and it is in the cache afterwards.
    async fn read(&self, key: &Key) -> String {
        let policy = Policy::fresh_for(Duration::from_secs(30));
        let store = self.home.store.clone();
        let load = move || {
            let store = store.clone();
            async move {
                let beat = store.canary().await?;
                Ok(Loaded::new(beat.value.to_string(), beat.view))
            }
        };
        let served = self.reader.read(key, &policy, load).await.expect("read");
        let text = String::from_utf8(served.body().to_vec());
        text.expect("a number")
    }

    /// Something changes that makes `key` wrong, and the auditor hears of it. It was at `start`.
    async fn change(&self, key: &Key) {
        let claim = self.touch(key).await;
        self.tell(claim).await;
    }

    /// As a change, and not as the canary that it really is.
    async fn touch(&self, key: &Key) -> Claim {
        let touched = self.home.store.touch_canary(key).await.expect("a commit");
        let mut claim = touched.told.expect("few in between");
        claim.rows[0].purpose = Purpose::Change;
        claim
    }

    async fn tell(&self, claim: Claim) {
        let committed_at = Utc::now();
        let commit = Commit {
            claim,
            observed_at: committed_at - TimeDelta::seconds(2),
            committed_at,
            at: self.start,
        };
        let told = self.tells.send(Told::Committed(commit)).await;
        told.expect("the auditor hears");
    }

    async fn remove(&self) {
        let batch = self.relay.batch().await.expect("the database answers");
        assert!(matches!(batch, Batch::Removed { rows: 1, .. }), "{batch:?}");
    }

    /// The looks at this time after the change.
    async fn look(&mut self, after: Duration) -> Step {
        self.auditor.step(self.start + after).await
    }

    fn report(&self) -> Report {
        self.auditor.audited.report(self.start)
    }

    fn share(&self, within: &str) -> Option<f64> {
        self.report().clean[within]
    }

    fn count(&self, cause: Cause) -> u64 {
        self.report().offenders_by_cause[&cause]
    }

    /// What the cache holds under the key, as it stands there.
    async fn stored(&self, key: &Key) -> String {
        match self.redis.cli(&["GET", &key.value(key.bucket(1))]).await {
            Reply::Bulk(value) => String::from_utf8(value).expect("small bodies are text"),
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Somebody brings it back, past every rule.
    async fn bring_back(&self, key: &Key, stored: &str) {
        let name = key.value(key.bucket(1));
        let set = self.redis.cli(&["SET", &name, stored]).await;
        assert_eq!(set, Reply::Status("OK".into()));
    }

    async fn let_go(&self, key: &Key) {
        self.redis.cli(&["DEL", &key.value(key.bucket(1))]).await;
    }
}

fn key() -> Key {
    Key::event_prices(&"rac_1".into())
}

fn is(looked: usize, stale: usize, asked: usize) -> Step {
    Step {
        looked,
        stale,
        asked,
    }
}

#[tokio::test]
async fn a_clean_day_is_told_as_one_and_the_database_is_not_asked() {
    let mut house = House::build().await;
    // It could not even be asked.
    house.auditor.store = house.home.another().await;
    house.auditor.store.close().await;
    house.read(&key()).await;
    for _ in 0..3 {
        house.change(&key()).await;
        house.remove().await;
    }
    assert_eq!(house.look(20 * MS).await, is(0, 0, 0));
    assert_eq!(house.share("50ms"), None, "nothing was looked at yet");
    assert_eq!(house.look(60 * MS).await, is(3, 0, 0));
    assert_eq!(house.read(&key()).await, "3");
    for look in &LOOKS[1..] {
        // What readers have put there since has seen it all.
        assert_eq!(house.look(*look).await, is(3, 0, 0));
    }
    assert_eq!(house.look(LOOKS[4] * 2).await, is(0, 0, 0));
    let report = house.report();
    let shares: Vec<Option<f64>> = report.clean.values().copied().collect();
    assert_eq!(shares, [Some(1.0); 4]);
    assert_eq!((report.looked_at, report.not_looked_at), (3, 0));
    assert_eq!(report.offenders, []);
    assert!(report.stale_at_ms.values().all(|stale| *stale == 0));
    // The feed had said it two seconds before the commit.
    let (feed, commit) = (
        report.freshness.expect("a real clock"),
        report.commit_to_readable,
    );
    assert_eq!((feed.changes, commit.changes, report.unheard), (3, 3, 0));
    assert!(feed.p50_ms > Some(1_000.0) && feed.p50_ms > commit.p50_ms);
}

#[tokio::test]
async fn a_removal_that_is_lost_is_found_and_so_is_its_end_by_time_alone() {
    let mut house = House::build().await;
    house.read(&key()).await;
    let old = house.stored(&key()).await;
    house.change(&key()).await;
    house.remove().await;
    house.bring_back(&key(), &old).await;
    assert_eq!(house.look(50 * MS).await, is(1, 1, 1));
    let report = house.report();
    let [offender] = &report.offenders[..] else {
        panic!("{:?}", report.offenders);
    };
    assert_eq!(offender.cause, Cause::Lost);
    assert_eq!(offender.key, key().to_string());
    assert_eq!(offender.first_seen_ms, 50);
    assert_eq!(house.look(250 * MS).await, is(1, 1, 1));
    assert_eq!(house.report().offenders[0].last_seen_ms, 250);
    assert_eq!(house.share("50ms"), Some(0.0));
    assert_eq!(house.share("60s"), None, "it may be clean by then");

    // Its time is up, and nobody has removed it.
    house.let_go(&key()).await;
    assert_eq!(house.look(LOOKS[4]).await, is(1, 1, 0));
    let offender = house.report().offenders.remove(0);
    assert_eq!(offender.cause, Cause::TtlOnly);
    assert_eq!(offender.last_seen_ms, 250);
    assert_eq!(house.share("60s"), Some(1.0));
    for cause in Cause::ALL {
        let once = matches!(cause, Cause::Lost | Cause::TtlOnly);
        assert_eq!(house.count(cause), u64::from(once), "{cause:?}");
    }
}

#[tokio::test]
async fn an_old_answer_that_comes_after_a_clean_look_was_filled_late() {
    let mut house = House::build().await;
    house.read(&key()).await;
    let old = house.stored(&key()).await;
    house.change(&key()).await;
    house.remove().await;
    assert_eq!(house.look(50 * MS).await, is(1, 0, 0));
    assert_eq!(house.share("50ms"), Some(1.0));
    house.bring_back(&key(), &old).await;
    assert_eq!(house.look(250 * MS).await, is(1, 1, 1));
    assert_eq!(house.report().offenders[0].cause, Cause::LateFill);
    // Clean at first is not clean.
    assert_eq!(house.share("50ms"), Some(0.0));
    // The next change removes it, as it removes everything.
    house.touch(&key()).await;
    house.remove().await;
    assert_eq!(house.look(LOOKS[2]).await, is(1, 0, 0));
    assert_eq!(house.share("2s"), Some(1.0));
    assert_eq!(house.count(Cause::TtlOnly), 0);
}

#[tokio::test]
async fn what_waits_in_the_outbox_is_late_and_is_forgiven_when_it_comes() {
    let mut house = House::build().await;
    house.read(&key()).await;
    house.change(&key()).await;
    assert_eq!(house.look(50 * MS).await, is(1, 1, 1));
    assert_eq!(house.report().offenders[0].cause, Cause::Late);
    house.remove().await;
    for look in &LOOKS[1..] {
        assert_eq!(house.look(*look).await, is(1, 0, 0));
    }
    let shares = ["50ms", "250ms", "2s", "60s"].map(|within| house.share(within));
    assert_eq!(shares, [Some(0.0), Some(1.0), Some(1.0), Some(1.0)]);
    assert_eq!(house.count(Cause::Late), 1);
    assert_eq!(house.report().stale_at_ms[&50], 1);
}

#[tokio::test]
async fn with_the_cache_away_a_change_is_late_and_nothing_is_called_clean() {
    let mut house = House::build().await;
    house.redis.kill().await;
    for _ in 0..3 {
        house.change(&key()).await;
    }
    // One question for each row.
    assert_eq!(house.look(50 * MS).await, is(3, 3, 3));
    assert_eq!(house.count(Cause::Late), 3);
    assert_eq!(house.share("50ms"), Some(0.0));
    // The database is away as well: nobody can say.
    house.auditor.store = house.home.another().await;
    house.auditor.store.close().await;
    assert_eq!(house.look(250 * MS).await, is(3, 0, 1));
    assert_eq!(house.share("250ms"), None);
}

#[tokio::test]
async fn so_many_changes_a_second_are_looked_at_and_the_rest_is_counted() {
    let mut house = House::build().await;
    for _ in 0..Rate::FREE.most + 5 {
        let claim = house.touch(&key()).await;
        house.tell(claim).await;
    }
    house.start += Rate::FREE.per;
    house.change(&key()).await;
    house.look(Duration::ZERO).await;
    let report = house.report();
    assert_eq!(report.looked_at, u64::from(Rate::FREE.most) + 1);
    assert_eq!(report.not_looked_at, 5);
}

/// The canary of a house, with what it tells the auditor and leaves to the relay's look.
fn canary(house: &House, store: &Store) -> Canary {
    let poke = Poke {
        relay: None,
        auditor: Some(house.tells.clone()),
        bell: Arc::default(),
    };
    let (every, audited) = (Duration::from_secs(1), house.auditor.audited.clone());
    Canary::new(store.clone(), &house.reader, poke, every, audited)
}

/// Steps until this comes of it; each step is a moment later than the last.
async fn until(canary: &mut Canary, house: &mut House, wanted: Beat) {
    let come = async {
        loop {
            house.start += MS;
            if canary.step(house.start).await == wanted {
                return;
            }
        }
    };
    let come = tokio::time::timeout(PATIENCE, come).await;
    come.unwrap_or_else(|_| panic!("{wanted:?} does not come"));
}

#[tokio::test]
async fn a_canary_that_reaches_readers_is_young_and_one_that_does_not_is_missed() {
    let (log, _guard) = Log::start();
    let mut house = House::build().await;
    let store = house.home.store.clone();
    let mut canary = canary(&house, &store);
    assert_eq!(house.report().canary, None);
    for beat in 1..=3 {
        until(&mut canary, &mut house, Beat::Touched).await;
        // One is on its way, and no other begins.
        house.start += 2 * Duration::from_secs(1);
        assert_eq!(canary.step(house.start).await, Beat::Flying);
        house.remove().await;
        house.auditor.step(house.start).await;
        until(&mut canary, &mut house, Beat::Clean).await;
        let told = house.report().canary.expect("it sings");
        assert_eq!((told.age_seconds, told.beats), (0.0, beat));
    }
    assert_eq!(house.home.count("outbox").await, 0);
    assert_eq!(house.home.count("removals").await, 0);
    let report = house.report();
    let feed = report.freshness.expect("a real clock");
    assert_eq!((feed.changes, report.commit_to_readable.changes), (0, 3));

    // Nobody removes any more.
    until(&mut canary, &mut house, Beat::Touched).await;
    for _ in 0..20 {
        house.start += Duration::from_secs(1);
        assert_eq!(canary.step(house.start).await, Beat::Flying);
    }
    assert!(house.report().canary.expect("it sings").age_seconds > 20.0);
    assert_eq!(house.home.count("outbox").await, 1);
    assert_eq!(log.lines("canary.silent").len(), 1, "{}", log.text());
    assert_eq!(log.lines("canary.back").len(), 0);
    house.remove().await;
    house.auditor.step(house.start).await;
    until(&mut canary, &mut house, Beat::Clean).await;
    assert_eq!(log.lines("canary.back").len(), 1);
    assert_eq!(log.lines("canary.silent").len(), 1);
}

/// Another daemon's relay took it: nobody tells us, and it is found gone.
#[tokio::test]
async fn a_canary_that_somebody_else_removed_is_not_missed() {
    let mut house = House::build().await;
    let store = house.home.store.clone();
    let mut canary = canary(&house, &store);
    house.relay.auditor = None;
    until(&mut canary, &mut house, Beat::Touched).await;
    house.remove().await;
    house.start += Duration::from_secs(1);
    until(&mut canary, &mut house, Beat::Clean).await;
}
