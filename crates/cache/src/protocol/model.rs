//! A model checker tries every order of steps of readers, writers, relay and leaders on the rules, with faults of the
//! memory in between. No reader may be served what a confirmed removal made wrong. Each rule is also left out once, as
//! a mutant that the checker has to refute: so the model sees the faults that the rule is there for.

mod worlds;

use stateright::{Model, Property};

use super::super::lease::PutOutcome;
use super::Snapshot;
use super::shard::{
    Client, EpochRecord, LeaseAnswer, NO_EPOCH, OfEpoch, ShardMemory, StoredEntry, Targets,
};

const FRESH: &str = "no reader is served what a confirmed removal made wrong";
/// A world in which nothing is ever served would prove nothing.
const SERVED: &str = "a change is served";
const ONE_LOAD: &str = "only the holder of the lease fills";

/// Transactions that are visible, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    bits: u8,
    /// Of a mutant: compared by the highest id alone.
    by_highest_id: bool,
}

impl Snapshot for Seen {
    fn nothing() -> Self {
        Self {
            bits: 0,
            by_highest_id: false,
        }
    }

    fn merge(&self, other: &Self) -> Self {
        let by_highest_id = self.by_highest_id || other.by_highest_id;
        let bits = match by_highest_id {
            true => self.bits.max(other.bits),
            false => self.bits | other.bits,
        };
        Self {
            bits,
            by_highest_id,
        }
    }

    fn includes(&self, other: &Self) -> bool {
        match self.by_highest_id || other.by_highest_id {
            true => self.bits.leading_zeros() <= other.bits.leading_zeros(),
            false => other.bits & !self.bits == 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Key,
    Tag,
}

/// What a writer's removal aims at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Key,
    Tag,
    Mark,
}

/// A rule that is left out or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    NoFence,
    HighestId,
    NoEpoch,
    AnyRun,
    AcknowledgedBeforeDelivery,
    FenceBegunAtRemoval,
    NoLeaseToken,
    EpochOutlivesItsWatermark,
    WatermarkOfAnyEpoch,
    SnapshotBeforeTheEnd,
    EpochWithoutSnapshot,
    WatermarkNotRaised,
    FenceOutlivesItsEpoch,
    TagFenceIgnored,
    MissingTagFencePasses,
    MarkRaisesNoFence,
    L1GenerationAfterTheLookup,
    L1KeptOverACut,
    L1TagIgnored,
}

/// A bounded world.
#[derive(Clone, Debug)]
struct Bounds {
    name: &'static str,
    /// One writer for each.
    targets: Vec<Target>,
    /// Of each reader.
    loads: [u8; READERS],
    leaders: usize,
    /// Epochs that may be begun beside the first.
    epochs: u64,
    flushes: u8,
    evictions: u8,
    /// Restarts of the server with an old copy of its memory.
    restores: u8,
    /// Removals that arrive again after they were acknowledged.
    repeats: u8,
    /// Lookups of a process with an L1, which removes nothing itself.
    l1_lookups: u8,
    /// Times at which that process loses the connection that reports changes.
    cuts: u8,
    mutant: Option<Mutant>,
}

const READERS: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle,
    Leased {
        token: u64,
        epoch: EpochRecord,
    },
    Loaded {
        token: u64,
        epoch: EpochRecord,
        load: Seen,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Leader {
    /// It has begun no epoch.
    New,
    /// It sends heartbeats.
    Beats(EpochRecord),
    Ended(EpochRecord),
    /// With a snapshot of the database.
    Ready(EpochRecord, Seen),
}

/// The L1 of a process. Time is not modelled: while a report is on its way or the connection is cut, the L1 may
/// serve what it has, until the heartbeats are missed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct L1 {
    /// Counts the reports that arrived and the resets: what was looked up before one is not served.
    generation: u8,
    /// A lookup that is under way: the generation at its begin, and what it found, once the server has answered.
    lookup: Option<(u8, Option<StoredEntry<Name, Seen>>)>,
    entry: Option<(u8, StoredEntry<Name, Seen>)>,
    lookups: u8,
    is_connected: bool,
    cuts: u8,
    /// Reports that have not arrived yet.
    reports: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    shard: ShardMemory<Name, Seen>,
    old_copy: Option<ShardMemory<Name, Seen>>,
    run: u64,
    /// Transactions that began, with the snapshot of each.
    begun: Vec<u8>,
    running: u8,
    committed: u8,
    /// What was committed after each commit: a reader may lag.
    history: Vec<u8>,
    /// Removals in the outbox; those that were sent at least once; those that may come again.
    owed: u8,
    sent: u8,
    repeats: u8,
    readers: [Reader; READERS],
    loads: [u8; READERS],
    l1: L1,
    /// A fill was accepted while another reader had the lease.
    intruded: bool,
    leaders: Vec<Leader>,
    tokens: u64,
    epochs: u64,
    flushes: u8,
    evictions: u8,
    restores: u8,
}

/// All epochs are of one database; `conformance` has two.
const DATABASE: u64 = 0;

impl World {
    /// A reader.
    fn client(&self) -> Client {
        Client {
            run: self.run,
            database: DATABASE,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Epoch,
    Watermark,
    Heartbeat,
    KeyFence,
    TagFence,
    Lease,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Begin,
    Commit(usize),
    /// With the snapshot of the commit, or with that of a later claim (true).
    Remove(usize, bool),
    Acknowledge(usize),
    AcquireLease(usize),
    Load(usize, usize),
    Fill(usize),
    EndEpoch(usize),
    TakeSnapshot(usize),
    BeginEpoch(usize),
    Flush,
    Evict(Record),
    Copy,
    Restore,
    L1Ask,
    L1Answer,
    L1Put,
    L1Report,
    L1Cut,
    L1Connect,
}

impl Bounds {
    fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn seen(&self, bits: u8) -> Seen {
        Seen {
            bits,
            by_highest_id: self.has(Mutant::HighestId),
        }
    }

    fn tags(&self) -> Vec<Name> {
        match self.targets.contains(&Target::Tag) {
            true => vec![Name::Tag],
            false => Vec::new(),
        }
    }

    /// The entry that a reader is served.
    fn served(&self, world: &World) -> Option<StoredEntry<Name, Seen>> {
        let mut shard = world.shard.clone();
        let mut by = world.client();
        if self.has(Mutant::NoEpoch) {
            return Some(shard.entries.get(&Name::Key)?.record.clone());
        }
        if self.has(Mutant::AnyRun) {
            by.run = shard.epoch?.run;
        }
        if self.has(Mutant::TagFenceIgnored) {
            shard.entries.get_mut(&Name::Key)?.record.tags.clear();
        }
        if self.has(Mutant::MissingTagFencePasses) && !shard.fences.contains_key(&Name::Tag) {
            shard.entries.get_mut(&Name::Key)?.record.tags.clear();
        }
        shard.lookup(&Name::Key, by).cloned()
    }

    fn remove(&self, shard: &mut ShardMemory<Name, Seen>, target: Target, removal: Seen) {
        let before = shard.clone();
        let (keys, marks, tags): (&[Name], &[Name], &[Name]) = match target {
            Target::Key => (&[Name::Key], &[], &[]),
            Target::Tag => (&[], &[], &[Name::Tag]),
            Target::Mark => (&[], &[Name::Key], &[]),
        };
        let targets = Targets {
            keys,
            mark_stale: marks,
            tags,
        };
        shard.remove(&targets, &removal, DATABASE);
        let epoch = before.epoch.map_or(NO_EPOCH, |epoch| epoch.id);
        if self.has(Mutant::EpochOutlivesItsWatermark) && before.watermark.is_none() {
            shard.epoch = before.epoch;
            for fence in shard
                .fences
                .values_mut()
                .filter(|fence| fence.epoch == NO_EPOCH)
            {
                fence.epoch = epoch;
            }
            if let Some(watermark) = &mut shard.watermark {
                watermark.epoch = epoch;
            }
        }
        for name in keys.iter().chain(marks).chain(tags) {
            let was_missing = before
                .fences
                .get(name)
                .is_none_or(|fence| fence.epoch != epoch);
            if self.has(Mutant::FenceBegunAtRemoval) && was_missing {
                shard.fences.get_mut(name).expect("raised").record = removal;
            }
        }
        if self.has(Mutant::WatermarkNotRaised) && before.watermark.is_some() {
            shard.watermark = before.watermark;
        }
        if self.has(Mutant::MarkRaisesNoFence) && target == Target::Mark {
            shard.fences = before.fences;
            shard.leases = before.leases;
        }
    }

    fn acquire_lease(&self, world: &mut World, token: u64) -> LeaseAnswer {
        if self.has(Mutant::FenceOutlivesItsEpoch)
            && let Some(epoch) = world.shard.epoch
        {
            for fence in world.shard.fences.values_mut() {
                fence.epoch = epoch.id;
            }
        }
        let seen = world.shard.entries.get(&Name::Key);
        let seen = seen.map(|entry| entry.record.version);
        let (tags, by) = (self.tags(), world.client());
        world
            .shard
            .acquire_lease(&Name::Key, &tags, token, by, seen)
    }

    fn fill(&self, world: &mut World, token: u64, epoch: EpochRecord, load: Seen) {
        let shard = &mut world.shard;
        let held = shard.leases.get(&Name::Key).map(|lease| lease.record);
        let entry = StoredEntry {
            version: token,
            snapshot: load,
            tags: self.tags(),
            is_stale: false,
        };
        if self.has(Mutant::NoLeaseToken) && shard.leases.contains_key(&Name::Key) {
            let lease = OfEpoch {
                epoch: epoch.id,
                record: token,
            };
            shard.leases.insert(Name::Key, lease);
        }
        let outcome = shard.put_if_valid(&Name::Key, epoch, entry.clone());
        world.intruded |= outcome == PutOutcome::Stored && held != Some(token);
        if self.has(Mutant::NoFence) && outcome == PutOutcome::TooEarly {
            let entry = OfEpoch {
                epoch: epoch.id,
                record: entry,
            };
            shard.entries.insert(Name::Key, entry);
        }
    }

    /// The entry that the L1 serves.
    fn served_by_l1<'a>(&self, world: &'a World) -> Option<&'a StoredEntry<Name, Seen>> {
        let (generation, entry) = world.l1.entry.as_ref()?;
        (*generation == world.l1.generation).then_some(entry)
    }

    /// Redis reports the fences and the epoch that a step writes. (It reports every write and eviction, the model only
    /// what changed: a report more only makes the L1 drop more.)
    fn report(&self, before: &World, world: &mut World) {
        let reported = |world: &World| {
            let mut fences = world.shard.fences.clone();
            if self.has(Mutant::L1TagIgnored) {
                fences.remove(&Name::Tag);
            }
            (world.shard.epoch, fences)
        };
        let is_written = |at: &World| reported(at) != reported(before);
        if self.l1_lookups > 0 && world.l1.is_connected && is_written(world) {
            world.l1.reports += 1;
        }
    }

    /// Whether the leader finds that its epoch has ended.
    fn has_lost_its_epoch(world: &World, epoch: EpochRecord) -> bool {
        epoch.run != world.run || !world.shard.clone().beat(epoch, 0, 0)
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let epoch = EpochRecord { id: 1, run: 1 };
        let mut shard = ShardMemory::default();
        shard.end_epoch(epoch.id);
        assert!(shard.begin_epoch(epoch, &self.seen(0), 0));
        let mut leaders = vec![Leader::New; self.leaders];
        leaders[0] = Leader::Beats(epoch);
        vec![World {
            shard,
            old_copy: None,
            run: 1,
            begun: Vec::new(),
            running: 0,
            committed: 0,
            history: vec![0],
            owed: 0,
            sent: 0,
            repeats: self.repeats,
            readers: [Reader::Idle, Reader::Idle],
            loads: self.loads,
            l1: L1 {
                generation: 0,
                lookup: None,
                entry: None,
                lookups: self.l1_lookups,
                is_connected: true,
                cuts: self.cuts,
                reports: 0,
            },
            intruded: false,
            leaders,
            tokens: 0,
            epochs: 1,
            flushes: self.flushes,
            evictions: self.evictions,
            restores: self.restores,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.begun.len() < self.targets.len() {
            steps.push(Step::Begin);
        }
        for writer in 0..world.begun.len() {
            let bit = 1 << writer;
            if world.running & bit != 0 {
                steps.push(Step::Commit(writer));
            }
            let (owed, sent) = (world.owed & bit != 0, world.sent & bit != 0);
            if owed || sent && world.repeats > 0 {
                steps.push(Step::Remove(writer, false));
                steps.push(Step::Remove(writer, true));
            }
            if owed && (sent || self.has(Mutant::AcknowledgedBeforeDelivery)) {
                steps.push(Step::Acknowledge(writer));
            }
        }
        for (at, reader) in world.readers.iter().enumerate() {
            match reader {
                Reader::Idle if world.loads[at] > 0 && self.served(world).is_none() => {
                    steps.push(Step::AcquireLease(at));
                }
                Reader::Idle => {}
                Reader::Leased { .. } => {
                    steps.extend((0..world.history.len()).map(|then| Step::Load(at, then)));
                }
                Reader::Loaded { .. } => steps.push(Step::Fill(at)),
            }
        }
        for (at, leader) in world.leaders.iter().enumerate() {
            match leader {
                Leader::New if world.epochs <= self.epochs => steps.push(Step::EndEpoch(at)),
                Leader::Beats(epoch)
                    if world.epochs <= self.epochs && Self::has_lost_its_epoch(world, *epoch) =>
                {
                    steps.push(Step::EndEpoch(at));
                }
                Leader::New | Leader::Beats(_) => {}
                Leader::Ended(_) => steps.push(Step::TakeSnapshot(at)),
                Leader::Ready(..) => steps.push(Step::BeginEpoch(at)),
            }
        }
        if world.flushes > 0 {
            steps.push(Step::Flush);
        }
        if world.evictions > 0 {
            let shard = &world.shard;
            let records = [
                (Record::Epoch, shard.epoch.is_some()),
                (Record::Watermark, shard.watermark.is_some()),
                (Record::Heartbeat, shard.heartbeat.is_some()),
                (Record::KeyFence, shard.fences.contains_key(&Name::Key)),
                (Record::TagFence, shard.fences.contains_key(&Name::Tag)),
                (Record::Lease, shard.leases.contains_key(&Name::Key)),
            ];
            let there = records.into_iter().filter(|(_, there)| *there);
            steps.extend(there.map(|(record, _)| Step::Evict(record)));
        }
        match &world.old_copy {
            None if world.restores > 0 => steps.push(Step::Copy),
            Some(_) if world.restores > 0 => steps.push(Step::Restore),
            _ => {}
        }
        let l1 = &world.l1;
        match &l1.lookup {
            None if l1.lookups > 0 => steps.push(Step::L1Ask),
            None => {}
            Some((_, None)) => steps.push(Step::L1Answer),
            Some((_, Some(_))) => steps.push(Step::L1Put),
        }
        if l1.reports > 0 {
            steps.push(Step::L1Report);
        }
        match l1.is_connected {
            true if l1.cuts > 0 => steps.push(Step::L1Cut),
            true => {}
            false => steps.push(Step::L1Connect),
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Begin => {
                world.running |= 1 << world.begun.len();
                world.begun.push(world.committed);
            }
            Step::Commit(writer) => {
                let bit = 1 << writer;
                world.running &= !bit;
                world.committed |= bit;
                world.owed |= bit;
                world.history.push(world.committed);
            }
            Step::Remove(writer, claimed) => {
                let bit = 1 << writer;
                if world.owed & bit == 0 {
                    world.repeats -= 1;
                }
                let bits = match claimed {
                    true => world.committed,
                    false => world.begun[writer] | bit,
                };
                self.remove(&mut world.shard, self.targets[writer], self.seen(bits));
                world.sent |= bit;
            }
            Step::Acknowledge(writer) => world.owed &= !(1 << writer),
            Step::AcquireLease(at) => {
                let token = world.tokens + 1;
                let LeaseAnswer::Acquired(_) = self.acquire_lease(&mut world, token) else {
                    return None;
                };
                let epoch = world.shard.epoch.expect("the lease proves it");
                world.tokens = token;
                world.loads[at] -= 1;
                world.readers[at] = Reader::Leased { token, epoch };
            }
            Step::Load(at, then) => {
                let Reader::Leased { token, epoch } = world.readers[at] else {
                    return None;
                };
                let load = self.seen(world.history[then]);
                world.readers[at] = Reader::Loaded { token, epoch, load };
            }
            Step::Fill(at) => {
                let Reader::Loaded { token, epoch, load } = world.readers[at] else {
                    return None;
                };
                world.readers[at] = Reader::Idle;
                self.fill(&mut world, token, epoch, load);
            }
            Step::EndEpoch(at) => {
                world.epochs += 1;
                let next = EpochRecord {
                    id: world.epochs,
                    run: world.run,
                };
                let early = self.seen(world.committed);
                world.leaders[at] = match self.has(Mutant::SnapshotBeforeTheEnd) {
                    true => Leader::Ready(next, early),
                    false => Leader::Ended(next),
                };
                if !self.has(Mutant::SnapshotBeforeTheEnd) {
                    world.shard.end_epoch(next.id);
                }
            }
            Step::TakeSnapshot(at) => {
                let Leader::Ended(next) = world.leaders[at] else {
                    return None;
                };
                let bits = match self.has(Mutant::EpochWithoutSnapshot) {
                    true => 0,
                    false => world.committed,
                };
                world.leaders[at] = Leader::Ready(next, self.seen(bits));
            }
            Step::BeginEpoch(at) => {
                let Leader::Ready(next, snapshot) = world.leaders[at] else {
                    return None;
                };
                if self.has(Mutant::SnapshotBeforeTheEnd) {
                    world.shard.end_epoch(next.id);
                }
                if self.has(Mutant::WatermarkOfAnyEpoch) {
                    let found = world.shard.watermark.take();
                    let record = found.map_or(self.seen(0), |found| found.record);
                    let epoch = next.id;
                    world.shard.watermark = Some(OfEpoch { epoch, record });
                }
                let has_begun =
                    next.run == world.run && world.shard.begin_epoch(next, &snapshot, 0);
                world.leaders[at] = match has_begun {
                    true => Leader::Beats(next),
                    false => Leader::New,
                };
            }
            Step::Flush => {
                world.flushes -= 1;
                world.shard = ShardMemory::default();
            }
            Step::Evict(record) => {
                world.evictions -= 1;
                let shard = &mut world.shard;
                match record {
                    Record::Epoch => shard.epoch = None,
                    Record::Watermark => shard.watermark = None,
                    Record::Heartbeat => shard.heartbeat = None,
                    Record::KeyFence => drop(shard.fences.remove(&Name::Key)),
                    Record::TagFence => drop(shard.fences.remove(&Name::Tag)),
                    Record::Lease => drop(shard.leases.remove(&Name::Key)),
                }
            }
            Step::Copy => world.old_copy = Some(world.shard.clone()),
            Step::Restore => {
                world.restores -= 1;
                world.run += 1;
                world.shard = world.old_copy.take()?;
            }
            Step::L1Ask => {
                world.l1.lookups -= 1;
                world.l1.lookup = Some((world.l1.generation, None));
            }
            Step::L1Answer => {
                let found = self.served(&world);
                let (_, answer) = world.l1.lookup.as_mut()?;
                if found.is_none() {
                    world.l1.lookup = None;
                } else {
                    *answer = found;
                }
            }
            Step::L1Put => {
                let (mut generation, entry) = world.l1.lookup.take()?;
                if self.has(Mutant::L1GenerationAfterTheLookup) {
                    generation = world.l1.generation;
                }
                world.l1.entry = Some((generation, entry?));
            }
            Step::L1Report => {
                world.l1.reports -= 1;
                world.l1.generation += 1;
            }
            Step::L1Cut => {
                world.l1.cuts -= 1;
                world.l1.is_connected = false;
                world.l1.reports = 0;
            }
            Step::L1Connect => {
                world.l1.is_connected = true;
                if !self.has(Mutant::L1KeptOverACut) {
                    world.l1.generation += 1;
                }
            }
        }
        self.report(before, &mut world);
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_LOAD, |_, world: &World| !world.intruded),
            Property::always(FRESH, |bounds: &Bounds, world: &World| {
                let is_fresh = |entry: &StoredEntry<Name, Seen>| {
                    entry.is_stale || world.committed & !entry.snapshot.bits & !world.owed == 0
                };
                let is_l1_told = world.l1.is_connected && world.l1.reports == 0;
                bounds.served(world).as_ref().is_none_or(is_fresh)
                    && (!is_l1_told || bounds.served_by_l1(world).is_none_or(is_fresh))
            }),
            Property::sometimes(SERVED, |bounds: &Bounds, world: &World| {
                bounds
                    .served(world)
                    .is_some_and(|entry| entry.snapshot.bits != 0)
            }),
        ]
    }
}
