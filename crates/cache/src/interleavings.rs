//! Random orders of threads on the real code that threads share: single flight, the L1, the in-process cache. Whoever
//! begins to read after a removal was confirmed must not get what it removed.

use std::sync::Arc;
use std::time::Instant;

use shuttle::future::block_on;
use shuttle::thread;

use crate::entry::Entry;
use crate::in_process::InProcessCache;
use crate::l1::L1Cache;
use crate::lease::{FillLease, LeaseOutcome, LeaseState};
use crate::single_flight::{LoadResult, SingleFlight};
use crate::sync::{AtomicU64, Mutex, Ordering, interleaved};
use oddsd_core::key::{InvalidationTargets, Key, Namespace, Shard, Tag};
use oddsd_core::model::DbSnapshot;

/// Orders for each test; a hundred times as many with `ODDSD_TEST_LONG=1`.
fn orders() -> usize {
    match std::env::var_os("ODDSD_TEST_LONG") {
        Some(_) => 2_000_000,
        None => 20_000,
    }
}

fn key() -> Key {
    Key::from_user_input("k").expect("a key")
}

fn tag() -> Tag {
    Tag::from_text("t").expect("a tag")
}

/// An answer of this version of the data.
fn entry(version: u64) -> Entry {
    Entry {
        version: version.into(),
        snapshot: DbSnapshot::from_commit_count(version),
        tags: vec![tag()],
        ..Entry::sample("body")
    }
}

/// The entry, and the lease that a reader holds.
type Stored = (Option<Arc<Entry>>, Option<u64>);

/// A cache server with one entry and one lease, as the rules have them, and the data behind it.
#[derive(Default)]
struct Server {
    stored: Mutex<Stored>,
    /// The version of the data that the next load sees.
    data: AtomicU64,
    /// The version whose removal is confirmed.
    confirmed: AtomicU64,
    leases: AtomicU64,
    loads: AtomicU64,
}

impl Server {
    /// One request: a step for the server, before and after which others have time for theirs.
    fn request<T>(&self, step: impl FnOnce(&mut Stored) -> T) -> T {
        let reply = step(&mut self.stored.lock());
        thread::yield_now();
        reply
    }

    fn change_and_remove(&self) {
        let version = self.data.fetch_add(1, Ordering::AcqRel) + 1;
        self.request(|stored| *stored = (None, None));
        self.confirmed.store(version, Ordering::Release);
    }

    /// The reader of `reader.rs`, without its time limits: returns the version that it is served.
    fn read(&self, flights: &Arc<SingleFlight>) -> u64 {
        let arrived = flights.next_number();
        loop {
            let looked_up = self.request(|stored| match &stored.0 {
                Some(entry) => Err(entry.version as u64),
                None => {
                    let token = self.leases.fetch_add(1, Ordering::AcqRel) + 1;
                    Ok(stored.1.is_none().then(|| *stored.1.insert(token)))
                }
            });
            let lease = match looked_up {
                Ok(lease) => lease,
                Err(version) => return version,
            };
            let flight = match lease {
                Some(_) => Ok(flights.lead(&key())),
                None => flights.join_or_lead(&key()),
            };
            let leader = match flight {
                Ok(leader) => leader,
                Err(follower) => match block_on(follower.wait(arrived, true)) {
                    Some(LoadResult::Loaded { entry, .. } | LoadResult::Found { entry, .. }) => {
                        return entry.version as u64;
                    }
                    Some(LoadResult::Failed(why)) => panic!("{why}"),
                    None => continue,
                },
            };
            let Some(lease) = lease else {
                // Another reader holds the lease: look again.
                drop(leader);
                thread::yield_now();
                continue;
            };
            let load = leader.begin_load();
            self.loads.fetch_add(1, Ordering::AcqRel);
            let entry = Arc::new(entry(self.data.load(Ordering::Acquire)));
            leader.begin_fill();
            let is_stored = self.request(|stored| {
                let is_valid = stored.1 == Some(lease);
                if is_valid {
                    *stored = (Some(Arc::clone(&entry)), None);
                }
                is_valid
            });
            let version = entry.version as u64;
            leader.finish(LoadResult::Loaded {
                entry,
                load,
                is_stored,
            });
            return version;
        }
    }
}

#[test]
fn single_flight_hands_over_nothing_that_was_removed_before_the_reader_came() {
    interleaved(orders(), || {
        let (server, flights) = (Arc::new(Server::default()), Arc::<SingleFlight>::default());
        let threads = [false, true, false].map(|removes| {
            let (server, flights) = (Arc::clone(&server), Arc::clone(&flights));
            thread::spawn(move || {
                if removes {
                    server.change_and_remove();
                }
                let confirmed = server.confirmed.load(Ordering::Acquire);
                let version = server.read(&flights);
                assert!(version >= confirmed, "{version} after {confirmed}");
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
    });
}

/// The fill was accepted before the removal, and the reply is late: it is no proof for readers who came after both.
#[test]
fn single_flight_hands_over_no_fill_from_before_the_reader_came() {
    interleaved(orders(), || {
        let (server, flights) = (Arc::new(Server::default()), Arc::<SingleFlight>::default());
        let leader = flights.lead(&key());
        let load = leader.begin_load();
        let entry = Arc::new(entry(server.data.load(Ordering::Acquire)));
        leader.begin_fill();
        server.change_and_remove();
        let readers = [(), ()].map(|()| {
            let (server, flights) = (Arc::clone(&server), Arc::clone(&flights));
            thread::spawn(move || assert_eq!(server.read(&flights), 1))
        });
        leader.finish(LoadResult::Loaded {
            entry,
            load,
            is_stored: true,
        });
        readers
            .into_iter()
            .for_each(|reader| reader.join().expect("no panic"));
    });
}

#[test]
fn readers_who_miss_together_load_once() {
    interleaved(orders(), || {
        let (server, flights) = (Arc::new(Server::default()), Arc::<SingleFlight>::default());
        let readers = (0..3).map(|_| {
            let (server, flights) = (Arc::clone(&server), Arc::clone(&flights));
            thread::spawn(move || server.read(&flights))
        });
        let readers: Vec<_> = readers.collect();
        let versions = readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader"));
        assert_eq!(versions.max(), Some(0));
        assert_eq!(server.loads.load(Ordering::Acquire), 1);
    });
}

/// Two readers load, fill and are served, while version 1 becomes 2 and is removed: whoever comes after the removal is not
/// served version 1.
fn read_while_removed<C: Send + Sync + 'static>(
    cache: &Arc<C>,
    fill: impl Fn(&C, &dyn Fn() -> Arc<Entry>) + Copy + Send + 'static,
    get: impl Fn(&C) -> Option<Arc<Entry>> + Copy + Send + 'static,
    remove: impl FnOnce(&C),
) {
    let (data, confirmed) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(1)));
    let readers = [(), ()].map(|()| {
        let (cache, data, confirmed) =
            (Arc::clone(cache), Arc::clone(&data), Arc::clone(&confirmed));
        thread::spawn(move || {
            fill(&cache, &|| Arc::new(entry(data.load(Ordering::Acquire))));
            let confirmed = confirmed.load(Ordering::Acquire);
            if let Some(entry) = get(&cache) {
                let version = entry.version as u64;
                assert!(version >= confirmed, "{version} after {confirmed}");
            }
        })
    });
    data.store(2, Ordering::Release);
    remove(cache);
    confirmed.store(2, Ordering::Release);
    readers
        .into_iter()
        .for_each(|reader| reader.join().expect("a reader"));
}

/// Another process removes; this one hears of it by the report of a fence that was written.
#[test]
fn l1_serves_nothing_that_was_reported_as_removed() {
    let shard = Shard::FIRST;
    for report in [
        key().fence_key(shard),
        tag().fence_key(shard),
        shard.epoch_key(),
    ] {
        interleaved(orders() / 4, move || {
            let l1 = Arc::new(L1Cache::new(1 << 20, Namespace::default()));
            for _ in 0..2 {
                l1.apply_change(shard.heartbeat_key().as_bytes());
            }
            let fill = |l1: &L1Cache, load: &dyn Fn() -> Arc<Entry>| {
                let generations = l1.local.generations(&key(), &[tag()]);
                l1.local.put(&key(), load(), generations);
            };
            let get = |l1: &L1Cache| l1.get(&key(), Instant::now());
            read_while_removed(&l1, fill, get, |l1| l1.apply_change(report.as_bytes()));
        });
    }
}

#[test]
fn in_process_cache_serves_nothing_that_was_removed() {
    let by_key = InvalidationTargets {
        keys: vec![key()],
        ..InvalidationTargets::default()
    };
    let by_tag = InvalidationTargets {
        tags: vec![tag()],
        ..InvalidationTargets::default()
    };
    for targets in [by_key, by_tag] {
        interleaved(orders() / 4, move || {
            let now = Instant::now();
            let memory = Arc::new(InProcessCache::new(1 << 20));
            let fill = move |memory: &InProcessCache, load: &dyn Fn() -> Arc<Entry>| {
                let lease = memory.acquire_lease(&key(), &[tag()], None, now);
                if let LeaseOutcome::Acquired(FillLease(LeaseState::InProcess(lease))) = lease {
                    let filled = memory.put_if_valid(&key(), lease, load(), now);
                    filled.expect("no error");
                }
            };
            let get = |memory: &InProcessCache| memory.local.get_fast(&key());
            read_while_removed(&memory, fill, get, |memory| {
                memory.remove(&targets, &DbSnapshot::from_commit_count(2), now);
            });
        });
    }
}
