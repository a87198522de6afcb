//! Holds the scripts, on a real Redis, and the in-process cache to the rules: random operations, with records that the
//! server loses in between. After each, the memory of the server has to be what the rules say.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::shard::{Client, EpochRecord, LeaseAnswer, OfEpoch, ShardMemory, StoredEntry, Targets};
use crate::backend::{Cache, CacheSettings};
use crate::clock::ServerClock;
use crate::command::{CacheCommand, CacheReply, NO_ARGS};
use crate::entry::{Entry, VERSION_PREFIX};
use crate::in_process::InProcessCache;
use crate::lease::{
    Epoch, FillLease, LeaseOutcome, LeaseState, LocalLease, PutOutcome, RemoteLease,
};
use crate::lookup::RawLookup;
use crate::remote::RemoteCache;
use crate::{removal, script};
use oddsd_core::key::{InvalidationTargets, Key, Shard, Tag};
use oddsd_core::model::DbSnapshot;
use oddsd_testkit::redis::RedisServer;

/// Sequences of operations; a hundred times as many with `ODDSD_TEST_LONG=1`.
const SEQUENCES: u32 = 150;
const OPERATIONS: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Key(u8),
    Tag(u8),
}

const KEYS: [Name; 2] = [Name::Key(0), Name::Key(1)];
const TAGS: [Name; 2] = [Name::Tag(0), Name::Tag(1)];

/// Most readers, one whose server has started again, and one of another database.
const HERE: Client = Client {
    run: 1,
    database: 0,
};
const OTHER_RUN: Client = Client { run: 2, ..HERE };
const OTHER_DATABASE: Client = Client {
    database: 1,
    ..HERE
};

#[derive(Clone, Debug)]
enum Record {
    Epoch,
    Watermark,
    Heartbeat,
    Fence(Name),
    Lease(Name),
    Entry(Name),
}

#[derive(Clone, Debug)]
enum Operation {
    /// By a reader whose lookup was right, or came before the entry.
    AcquireLease {
        key: Name,
        tags: Vec<Name>,
        is_early: bool,
        by: Client,
    },
    /// With one of the leases that were given.
    Fill {
        lease: usize,
        load: DbSnapshot,
    },
    Remove {
        keys: Vec<Name>,
        mark_stale: Vec<Name>,
        tags: Vec<Name>,
        snapshot: DbSnapshot,
        database: u64,
    },
    /// For one of this database.
    EndEpoch(u64),
    /// One of the epochs that another was ended for.
    BeginEpoch(usize, DbSnapshot),
    /// A heartbeat of one of those, with this number.
    Heartbeat(usize, u64),
    Lose(Record),
    Flush,
}

fn snapshot() -> impl Strategy<Value = DbSnapshot> {
    (1u64..10, prop::collection::btree_set(1u64..10, 0..4)).prop_map(|(xmax, running)| {
        let running: Vec<u64> = running.into_iter().filter(|id| *id < xmax).collect();
        let list: Vec<String> = running.iter().map(u64::to_string).collect();
        let xmin = running.first().unwrap_or(&xmax);
        DbSnapshot::parse(&format!("{xmin}:{xmax}:{}", list.join(","))).expect("a snapshot")
    })
}

fn some_of(names: [Name; 2]) -> impl Strategy<Value = Vec<Name>> {
    prop::sample::subsequence(names.to_vec(), 0..=2)
}

/// Which of the leases or epochs: so many before the last one.
fn choice() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 1 => 1usize..5]
}

fn chosen<T>(choice: usize, of: &[T]) -> usize {
    of.len() - 1 - choice % of.len()
}

fn one_of(names: [Name; 2]) -> impl Strategy<Value = Name> {
    prop::sample::select(names.to_vec())
}

fn record() -> impl Strategy<Value = Record> {
    let fence = prop_oneof![one_of(KEYS), one_of(TAGS)];
    prop_oneof![
        Just(Record::Epoch),
        Just(Record::Watermark),
        Just(Record::Heartbeat),
        fence.prop_map(Record::Fence),
        one_of(KEYS).prop_map(Record::Lease),
        one_of(KEYS).prop_map(Record::Entry),
    ]
}

fn acquire_lease() -> impl Strategy<Value = Operation> {
    let clients = prop_oneof![7 => Just(HERE), 1 => Just(OTHER_RUN), 2 => Just(OTHER_DATABASE)];
    let early = prop::bool::weighted(0.1);
    (one_of(KEYS), some_of(TAGS), early, clients).prop_map(|(key, tags, is_early, by)| {
        Operation::AcquireLease {
            key,
            tags,
            is_early,
            by,
        }
    })
}

/// Mostly the same.
fn database() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(HERE.database), 1 => Just(OTHER_DATABASE.database)]
}

fn fill() -> impl Strategy<Value = Operation> {
    (choice(), snapshot()).prop_map(|(lease, load)| Operation::Fill { lease, load })
}

fn remove() -> impl Strategy<Value = Operation> {
    let targets = (some_of(KEYS), some_of(KEYS), some_of(TAGS));
    (targets, snapshot(), database()).prop_map(|(targets, snapshot, database)| {
        let (keys, mut mark_stale, tags) = targets;
        // As `InvalidationTargets` has it: a key is removed or marked.
        mark_stale.retain(|key| !keys.contains(key));
        Operation::Remove {
            keys,
            mark_stale,
            tags,
            snapshot,
            database,
        }
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        20 => acquire_lease(),
        20 => fill(),
        10 => remove(),
        2 => database().prop_map(EndEpoch),
        8 => (choice(), snapshot()).prop_map(|(epoch, snapshot)| BeginEpoch(epoch, snapshot)),
        4 => (choice(), 0u64..3).prop_map(|(epoch, last)| Heartbeat(epoch, last)),
        4 => record().prop_map(Lose),
        1 => Just(Flush),
    ]
}

fn key(name: Name) -> Key {
    let Name::Key(n) = name else {
        panic!("{name:?} is no key")
    };
    Key::from_user_input(&format!("k{n}")).expect("a key")
}

fn tag(name: Name) -> Tag {
    let Name::Tag(n) = name else {
        panic!("{name:?} is no tag")
    };
    Tag::from_text(&format!("t{n}")).expect("a tag")
}

fn keys(names: &[Name]) -> Vec<Key> {
    names.iter().map(|name| key(*name)).collect()
}

fn tags(names: &[Name]) -> Vec<Tag> {
    names.iter().map(|name| tag(*name)).collect()
}

fn targets(keys_of: &[Name], mark_stale: &[Name], tags_of: &[Name]) -> InvalidationTargets {
    InvalidationTargets {
        keys: keys(keys_of),
        mark_stale: keys(mark_stale),
        tags: tags(tags_of),
    }
}

fn run(number: u64) -> String {
    format!("run{number}")
}

/// The mark of a database, with which the ids of its epochs begin.
fn mark(database: u64) -> String {
    format!("{database:08x}")
}

/// An epoch as the daemon has it.
fn epoch(record: EpochRecord, heartbeat: u64) -> Epoch {
    Epoch {
        record: format!("{:016x} {}", record.id, run(record.run)),
        heartbeat,
    }
}

/// A lease that was given: to whom, when, and for an entry with these tags.
#[derive(Clone, Debug)]
struct Given {
    key: Name,
    tags: Vec<Name>,
    token: u64,
    epoch: EpochRecord,
}

/// Runs `check` with random operations.
fn for_sequences(check: impl Fn(Vec<Operation>) -> Result<(), TestCaseError>) {
    let long = std::env::var_os("ODDSD_TEST_LONG").is_some();
    let cases = if long { SEQUENCES * 100 } else { SEQUENCES };
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    });
    let operations = prop::collection::vec(operation(), 1..OPERATIONS);
    runner
        .run(&operations, check)
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// The scripts on one server.
struct Scripts {
    remote: RemoteCache,
    shard: Shard<'static>,
}

impl Scripts {
    async fn open(redis: &RedisServer) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let settings = CacheSettings {
            redis_url: Some(redis.url().into()),
            command_timeout: Duration::from_secs(20),
            ..CacheSettings::default()
        };
        let cache = Cache::open(&settings).await.expect("settings that work");
        cache.connected().await;
        let Cache::Remote(remote) = cache else {
            panic!("not on a server")
        };
        Self {
            remote,
            shard: Shard::FIRST,
        }
    }

    async fn call(&self, command: CacheCommand) -> CacheReply {
        let reply = self
            .remote
            .transport
            .call(&command, Duration::from_secs(20));
        reply.await.expect("a reply")
    }

    fn fence_name(&self, name: Name) -> String {
        match name {
            Name::Key(_) => key(name).fence_key(self.shard),
            Name::Tag(_) => tag(name).fence_key(self.shard),
        }
    }

    async fn get(&self, name: String) -> Option<String> {
        self.call(CacheCommand::named("GET", [name], NO_ARGS))
            .await
            .text()
    }

    async fn lose(&self, record: &Record) {
        let name = match record {
            Record::Epoch => self.shard.epoch_key(),
            Record::Watermark => self.shard.watermark_key(),
            Record::Heartbeat => self.shard.heartbeat_key(),
            Record::Fence(name) => self.fence_name(*name),
            Record::Lease(name) => key(*name).lease_key(self.shard),
            Record::Entry(name) => key(*name).value_key(self.shard),
        };
        self.call(CacheCommand::unlink([name])).await;
    }

    /// The entry that this reader is served.
    async fn lookup(&self, name: Name, by: Client) -> Option<Entry> {
        let value = key(name).value_key(self.shard);
        let mut names = vec![value, self.shard.epoch_key()];
        names.extend(TAGS.map(|tag| self.fence_name(tag)));
        let found = self.call(CacheCommand::named("MGET", names, NO_ARGS)).await;
        let mut found = found.list().expect("a list").into_iter();
        let raw = RawLookup {
            value: found.next().and_then(CacheReply::bytes),
            epoch: found.next().and_then(CacheReply::text),
            tag_fences: found.map(CacheReply::text).collect(),
        };
        let clock = ServerClock::default();
        let (run, mark) = (run(by.run), mark(by.database));
        let lookup = raw.validate(&tags(&TAGS), (&run, &mark), &clock, Instant::now());
        lookup.entry.map(Arc::unwrap_or_clone)
    }

    async fn acquire_lease(
        &self,
        name: Name,
        tags_of: &[Name],
        token: u64,
        by: Client,
        is_early: bool,
    ) -> LeaseAnswer {
        let value = CacheCommand::named("GET", [key(name).value_key(self.shard)], NO_ARGS);
        let seen = self.call(value).await.bytes().unwrap_or_default();
        let seen = match is_early {
            true => Bytes::from_static(b"another"),
            false => seen.slice(..seen.len().min(VERSION_PREFIX)),
        };
        let fences = tags_of.iter().map(|tag| self.fence_name(*tag));
        let token = format!("{token:032x}");
        let (key, run, mark) = (key(name), run(by.run), mark(by.database));
        let by = (&*run, &*mark);
        let acquire = script::acquire_lease(&key, self.shard, fences, &token, by, &seen);
        let reply = self.call(acquire).await.list().expect("a list");
        match (reply[0].number(), reply.get(1)) {
            (Some(0), None) => LeaseAnswer::Held,
            (Some(2), None) => LeaseAnswer::NoEpoch,
            (Some(3), None) => LeaseAnswer::Superseded,
            (Some(1), Some(epoch)) => {
                let epoch = epoch.clone().text().expect("the epoch");
                LeaseAnswer::Acquired(epoch_record(&epoch).id)
            }
            _ => panic!("{reply:?}"),
        }
    }

    async fn fill(&self, given: &Given, load: &DbSnapshot) -> PutOutcome {
        let lease = RemoteLease {
            token: given.token.into(),
            epoch: epoch(given.epoch, 0).record,
            server_ms: 1_000,
            acquired_at: Instant::now(),
        };
        let entry = entry(given, load);
        let stored = entry.encode(lease.epoch_id(), lease.server_ms, 1 << 20, false);
        let put = script::put_if_valid(&key(given.key), self.shard, &lease, &entry, stored);
        let reply = self.call(put).await.bytes().expect("an outcome");
        script::put_outcome(&reply).expect("a known outcome")
    }

    /// All records, as the rules hold them.
    async fn memory(&self) -> ShardMemory<Name, DbSnapshot> {
        let mut memory = ShardMemory::default();
        let epoch = self.get(self.shard.epoch_key()).await;
        memory.epoch = epoch.map(|text| epoch_record(&text));
        let watermark = self.get(self.shard.watermark_key()).await;
        memory.watermark = watermark.map(|text| of_epoch(&text, snapshot_in));
        let heartbeat = self.get(self.shard.heartbeat_key()).await;
        memory.heartbeat = heartbeat.map(|text| text.parse().expect("a number"));
        for name in KEYS.into_iter().chain(TAGS) {
            if let Some(text) = self.get(self.fence_name(name)).await {
                memory.fences.insert(name, of_epoch(&text, snapshot_in));
            }
        }
        for name in KEYS {
            if let Some(text) = self.get(key(name).lease_key(self.shard)).await {
                let (token, epoch) = text.split_once(' ').expect("a token and an epoch");
                let lease = OfEpoch {
                    epoch: hexadecimal(epoch),
                    record: hexadecimal(token),
                };
                memory.leases.insert(name, lease);
            }
            let value = CacheCommand::named("GET", [key(name).value_key(self.shard)], NO_ARGS);
            if let Some(value) = self.call(value).await.bytes() {
                let decoded = Entry::decode(&value, Instant::now(), |_| Duration::ZERO);
                let (epoch, entry) = decoded.expect("an entry");
                let entry = OfEpoch {
                    epoch: hexadecimal(&epoch),
                    record: stored_entry(&entry),
                };
                memory.entries.insert(name, entry);
            }
        }
        memory
    }
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn epoch_record(text: &str) -> EpochRecord {
    let (id, run) = text.split_once(" run").expect("an epoch");
    EpochRecord {
        id: hexadecimal(id),
        run: run.parse().expect("a run"),
    }
}

fn snapshot_in(text: &str) -> DbSnapshot {
    DbSnapshot::parse(text).unwrap_or_else(|| panic!("{text:?} is no snapshot"))
}

fn of_epoch<T>(text: &str, record: impl Fn(&str) -> T) -> OfEpoch<T> {
    let (epoch, text) = text.split_once(' ').expect("an epoch and a record");
    OfEpoch {
        epoch: hexadecimal(epoch),
        record: record(text),
    }
}

fn entry(given: &Given, load: &DbSnapshot) -> Entry {
    Entry {
        version: given.token.into(),
        snapshot: load.clone(),
        tags: tags(&given.tags),
        ..Entry::sample("body")
    }
}

fn stored_entry(entry: &Entry) -> StoredEntry<Name, DbSnapshot> {
    let name = |of: &Tag| *TAGS.iter().find(|name| tag(**name) == *of).expect("a tag");
    StoredEntry {
        version: entry.version as u64,
        snapshot: entry.snapshot.clone(),
        tags: entry.tags.iter().map(name).collect(),
        is_stale: entry.fresh.is_zero(),
    }
}

/// What both sides of a comparison need to know of the past.
#[derive(Default)]
struct History {
    given: Vec<Given>,
    ended_for: Vec<EpochRecord>,
    tokens: u64,
}

/// Applies an operation to the server and to the rules, and compares the answers.
async fn apply(
    scripts: &Scripts,
    rules: &mut ShardMemory<Name, DbSnapshot>,
    history: &mut History,
    operation: &Operation,
) -> Result<(), TestCaseError> {
    match operation {
        Operation::AcquireLease {
            key,
            tags,
            is_early,
            by,
        } => {
            history.tokens += 1;
            let token = history.tokens;
            let seen = rules.entries.get(key).map(|entry| entry.record.version);
            // A version that no entry has.
            let seen = if *is_early { Some(u64::MAX) } else { seen };
            let answer = rules.acquire_lease(key, tags, token, *by, seen);
            let replied = scripts.acquire_lease(*key, tags, token, *by, *is_early);
            prop_assert_eq!(replied.await, answer);
            if let (LeaseAnswer::Acquired(_), Some(epoch)) = (answer, rules.epoch) {
                history.given.push(Given {
                    key: *key,
                    tags: tags.clone(),
                    token,
                    epoch,
                });
            }
        }
        Operation::Fill { lease, load } if !history.given.is_empty() => {
            let given = &history.given[chosen(*lease, &history.given)];
            let outcome = rules.put_if_valid(
                &given.key,
                given.epoch,
                StoredEntry {
                    version: given.token,
                    snapshot: load.clone(),
                    tags: given.tags.clone(),
                    is_stale: false,
                },
            );
            prop_assert_eq!(scripts.fill(given, load).await, outcome);
        }
        Operation::Remove {
            keys,
            mark_stale,
            tags,
            snapshot,
            database,
        } => {
            let named = targets(keys, mark_stale, tags);
            if named.is_empty() {
                return Ok(());
            }
            let has_epoch = rules.remove(
                &Targets {
                    keys,
                    mark_stale,
                    tags,
                },
                snapshot,
                *database,
            );
            scripts.remote.set_database(&mark(*database));
            let removed = removal::remove(&scripts.remote.transport, &named, snapshot).await;
            let removed = removed.expect("removed");
            prop_assert_eq!(removed.first_error(), None);
            prop_assert_eq!(!removed.no_epoch, has_epoch);
        }
        Operation::EndEpoch(database) => {
            let next = EpochRecord {
                id: (database << 32) + history.ended_for.len() as u64 + 1,
                run: 1,
            };
            history.ended_for.push(next);
            rules.end_epoch(next.id);
            scripts
                .call(script::end_epoch(scripts.shard, &epoch(next, 0)))
                .await;
        }
        Operation::BeginEpoch(at, snapshot) if !history.ended_for.is_empty() => {
            let next = history.ended_for[chosen(*at, &history.ended_for)];
            let has_begun = rules.begin_epoch(next, snapshot, 0);
            let begin = script::begin_epoch(scripts.shard, &epoch(next, 0), snapshot);
            let reply = scripts.call(begin).await;
            prop_assert_eq!(reply, CacheReply::Number(has_begun.into()));
        }
        Operation::Heartbeat(at, last) if !history.ended_for.is_empty() => {
            let current = history.ended_for[chosen(*at, &history.ended_for)];
            let is_same = rules.beat(current, *last, last + 1);
            let heartbeat = script::heartbeat(scripts.shard, &epoch(current, *last));
            let reply = scripts.call(heartbeat).await;
            prop_assert_eq!(reply, CacheReply::Number(is_same.into()));
        }
        Operation::Fill { .. } | Operation::BeginEpoch(..) | Operation::Heartbeat(..) => {}
        Operation::Lose(record) => {
            match record {
                Record::Epoch => rules.epoch = None,
                Record::Watermark => rules.watermark = None,
                Record::Heartbeat => rules.heartbeat = None,
                Record::Fence(name) => drop(rules.fences.remove(name)),
                Record::Lease(name) => drop(rules.leases.remove(name)),
                Record::Entry(name) => drop(rules.entries.remove(name)),
            }
            scripts.lose(record).await;
        }
        Operation::Flush => {
            *rules = ShardMemory::default();
            scripts
                .call(CacheCommand::named("FLUSHALL", NO_ARGS, NO_ARGS))
                .await;
        }
    }
    Ok(())
}

#[test]
fn scripts_on_a_server_keep_the_rules() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let redis = runtime.block_on(RedisServer::start());
    let scripts = runtime.block_on(Scripts::open(&redis));
    let reached = RefCell::new([0u32; 4]);
    for_sequences(|operations| {
        runtime.block_on(async {
            scripts
                .call(CacheCommand::named("FLUSHALL", NO_ARGS, NO_ARGS))
                .await;
            let (mut rules, mut history) = (ShardMemory::default(), History::default());
            // One in four begins in an epoch of the other database.
            let whose = u64::from(operations.len() % 4 == 0);
            let first = [
                Operation::EndEpoch(whose),
                Operation::BeginEpoch(0, DbSnapshot::from_commit_count(0)),
            ];
            for operation in first.iter().chain(&operations) {
                apply(&scripts, &mut rules, &mut history, operation).await?;
                prop_assert_eq!(&scripts.memory().await, &rules, "after {:?}", operation);
                for (name, by) in [
                    (KEYS[0], HERE),
                    (KEYS[1], HERE),
                    (KEYS[0], OTHER_RUN),
                    (KEYS[0], OTHER_DATABASE),
                ] {
                    let served = scripts.lookup(name, by).await;
                    let served = served.as_ref().map(stored_entry);
                    prop_assert_eq!(served.as_ref(), rules.lookup(&name, by));
                    reached.borrow_mut()[0] += u32::from(served.is_some());
                    let is_foreign = by.database != HERE.database && served.is_some();
                    reached.borrow_mut()[3] += u32::from(is_foreign);
                }
                let reached = &mut reached.borrow_mut();
                reached[1] += u32::from(rules.entries.values().any(|entry| entry.record.is_stale));
                reached[2] += u32::from(!rules.leases.is_empty());
            }
            Ok(())
        })
    });
    let reached = reached.into_inner();
    assert!(reached.iter().all(|count| *count > 10), "{reached:?}");
}

/// It drops a little more than the rules ask: the removal of a tag ends all entries of the tag, and a fill is checked
/// against the fences of its tags at once. What it serves, the rules serve as well.
#[test]
fn in_process_cache_serves_nothing_that_the_rules_refuse() {
    let served = RefCell::new(0u32);
    for_sequences(|operations| {
        let (memory, now) = (InProcessCache::new(1 << 20), Instant::now());
        let (mut rules, epoch) = (ShardMemory::default(), EpochRecord { id: 1, run: 1 });
        rules.end_epoch(epoch.id);
        rules.begin_epoch(epoch, &DbSnapshot::from_commit_count(0), 0);
        let mut given: Vec<(Name, Vec<Name>, u64, LocalLease)> = Vec::new();
        for operation in &operations {
            match operation {
                Operation::AcquireLease {
                    key: name,
                    tags: of,
                    ..
                } => {
                    let seen = memory.local.get(&key(*name)).map(|entry| entry.version);
                    let outcome = memory.acquire_lease(&key(*name), &tags(of), seen, now);
                    let lease = match outcome {
                        LeaseOutcome::Acquired(FillLease(LeaseState::InProcess(lease))) => {
                            Some(lease)
                        }
                        LeaseOutcome::Held => None,
                        other => panic!("{other:?}"),
                    };
                    let token = lease.as_ref().map_or(0, |lease| lease.token as u64);
                    let seen = rules.entries.get(name).map(|entry| entry.record.version);
                    let answer = rules.acquire_lease(name, of, token, HERE, seen);
                    prop_assert_eq!(lease.is_some(), answer == LeaseAnswer::Acquired(epoch.id));
                    given.extend(lease.map(|lease| (*name, of.clone(), token, lease)));
                }
                Operation::Fill { lease, load } if !given.is_empty() => {
                    let (name, of, token, lease) = given.remove(chosen(*lease, &given));
                    let filled = Entry {
                        version: lease.token,
                        snapshot: load.clone(),
                        tags: tags(&of),
                        ..Entry::sample("body")
                    };
                    let outcome = memory.put_if_valid(&key(name), lease, Arc::new(filled), now);
                    let entry = StoredEntry {
                        version: token,
                        snapshot: load.clone(),
                        tags: of,
                        is_stale: false,
                    };
                    if outcome == Ok(PutOutcome::Stored) {
                        let allowed = rules.put_if_valid(&name, epoch, entry);
                        prop_assert_eq!(allowed, PutOutcome::Stored);
                    } else if rules
                        .leases
                        .get(&name)
                        .is_some_and(|held| held.record == token)
                    {
                        rules.leases.remove(&name);
                    }
                }
                Operation::Remove {
                    keys,
                    mark_stale,
                    tags,
                    snapshot,
                    ..
                } => {
                    memory.remove(&targets(keys, mark_stale, tags), snapshot, now);
                    rules.remove(
                        &Targets {
                            keys,
                            mark_stale,
                            tags,
                        },
                        snapshot,
                        HERE.database,
                    );
                }
                // Fences that expired. In process the removal itself ends the entries of a tag, so that they need no
                // fence to be served.
                Operation::Lose(Record::Fence(name @ Name::Key(_))) => {
                    memory.forget_fence(&[key(*name)], &[]);
                    rules.fences.remove(name);
                }
                Operation::Lose(Record::Fence(name)) => memory.forget_fence(&[], &[tag(*name)]),
                _ => {}
            }
            for name in KEYS {
                if let Some(entry) = memory.local.get(&key(name)) {
                    *served.borrow_mut() += 1;
                    let allowed = rules
                        .lookup(&name, HERE)
                        .map(|entry| (entry.version, entry.is_stale));
                    prop_assert_eq!(Some((entry.version as u64, entry.fresh.is_zero())), allowed);
                }
            }
        }
        Ok(())
    });
    assert!(served.into_inner() > 100);
}
