//! The fenced cache on a server in another process: lookup, lease, fill, removal and epoch, written once
//! for Redis and Upstash. `Cache` calls it; it decides on replies, the transports only carry them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::command::{CacheCommand, CacheReply, NO_ARGS};
use super::entry::Entry;
use super::error::CacheError;
use super::l1::L1Cache;
use super::lease::{Epoch, FillLease, LeaseOutcome, LeaseState, PutOutcome, RemoteLease};
use super::lookup::{Lookup, RawLookup};
use super::redis::RedisTransport;
use super::removal::{self, Removed};
use super::script;
use super::transport::Transport;
use super::upstash::UpstashTransport;
use oddsd_core::key::{InvalidationTargets, Key, Shard, Tag};
use oddsd_core::model::DbSnapshot;

/// A cache on a Redis or Upstash server, with an in-process L1 in front of it where the server tells
/// which keys change.
pub struct RemoteCache {
    pub(super) transport: Transport,
    l1: Option<Arc<L1Cache>>,
}

impl From<RedisTransport> for RemoteCache {
    fn from(redis: RedisTransport) -> Self {
        Self {
            l1: redis.l1(),
            transport: Transport::Redis(redis),
        }
    }
}

impl From<UpstashTransport> for RemoteCache {
    fn from(upstash: UpstashTransport) -> Self {
        Self {
            l1: None,
            transport: Transport::Upstash(upstash),
        }
    }
}

impl RemoteCache {
    /// Returns the L1's entry, or `None` while the L1 cannot be sure to see every removal.
    pub(super) fn get_l1(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        self.l1.as_ref()?.get(key, now)
    }

    pub(super) async fn get(
        &self,
        key: &Key,
        tags: &[Tag],
        deadline: Duration,
    ) -> Result<Lookup, CacheError> {
        // Before the lookup: only what nothing is removed from meanwhile may enter the L1.
        let generations = self.l1.as_ref().map(|l1| l1.local.generations(key, tags));
        let server = self.transport.server();
        let (run, database) = (server.run()?, server.database()?);
        let mut found = self.read(key, tags, deadline).await?.into_iter();
        let raw = RawLookup {
            value: found.next().and_then(CacheReply::bytes),
            epoch: found.next().and_then(CacheReply::text),
            tag_fences: found.map(CacheReply::text).collect(),
        };
        let lookup = raw.validate(tags, (&run, &database), &server.clock, Instant::now());
        if let (Some(l1), Some(generations), Some(entry)) = (&self.l1, generations, &lookup.entry) {
            // An entry that is too large for the L1 stays on the server alone.
            l1.local.put(key, Arc::clone(entry), generations);
        }
        Ok(lookup)
    }

    /// Reads the key's value, the epoch and the tags' fences, in this order.
    async fn read(
        &self,
        key: &Key,
        tags: &[Tag],
        deadline: Duration,
    ) -> Result<Vec<CacheReply>, CacheError> {
        let limits = self.transport.limits();
        let shard = self.shard(key);
        let mut names = vec![key.value_key(shard), shard.epoch_key()];
        let fences = tags
            .iter()
            .map(|tag| tag.fence_key(self.transport.shard(tag.as_str())));
        if limits.is_cluster && !tags.is_empty() {
            let mut commands = vec![CacheCommand::named("MGET", names, NO_ARGS)];
            commands.extend(fences.map(|fence| CacheCommand::named("GET", [fence], NO_ARGS)));
            let replies = self.transport.pipeline(&commands, deadline).await;
            let mut replies = replies.into_iter();
            let first = replies.next().unwrap_or(Ok(CacheReply::Nil))?;
            let mut found = self.list(first)?;
            for reply in replies {
                found.push(reply?);
            }
            return Ok(found);
        }
        names.extend(fences);
        if !limits.is_billed {
            let command = CacheCommand::named("MGET", names, NO_ARGS);
            return self.list(self.transport.call(&command, deadline).await?);
        }
        // Billed by the command: the script reads the values and the time in one.
        let command = CacheCommand::script(script::LOOKUP, names, NO_ARGS);
        let reply = self.list(self.transport.call(&command, deadline).await?)?;
        let Ok([found, now_ms]) = <[CacheReply; 2]>::try_from(reply) else {
            return Err(self.unexpected_reply());
        };
        let now_ms = now_ms.number().unwrap_or_default();
        self.transport.server().clock.record(now_ms, Instant::now());
        self.list(found)
    }

    pub(super) async fn acquire_lease(
        &self,
        key: &Key,
        tags: &[Tag],
        seen_prefix: &[u8],
        deadline: Duration,
    ) -> Result<LeaseOutcome, CacheError> {
        let server = self.transport.server();
        let (run, database) = (server.run()?, server.database()?);
        let shard = self.shard(key);
        let mut fences = Vec::new();
        for tag in tags {
            let tag_shard = self.transport.shard(tag.as_str());
            let fence = tag.fence_key(tag_shard);
            if tag_shard == shard {
                fences.push(fence);
                continue;
            }
            let begin = script::begin_fence(tag_shard, fence, &database);
            if self.transport.call(&begin, deadline).await? != CacheReply::Number(1) {
                return Ok(LeaseOutcome::NoEpoch);
            }
        }
        let token = fastrand::u128(..);
        let token_text = format!("{token:032x}");
        let asked_by = (&*run, &*database);
        let acquire = script::acquire_lease(key, shard, fences, &token_text, asked_by, seen_prefix);
        let reply = self.list(self.transport.call(&acquire, deadline).await?)?;
        let mut parts = reply.into_iter();
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(CacheReply::Number(0)), None, ..) => Ok(LeaseOutcome::Held),
            (Some(CacheReply::Number(2)), None, ..) => Ok(LeaseOutcome::NoEpoch),
            (Some(CacheReply::Number(3)), None, ..) => Ok(LeaseOutcome::Superseded),
            (Some(CacheReply::Number(1)), Some(epoch), Some(CacheReply::Number(ms)), None) => {
                let (acquired_at, server_ms) = (Instant::now(), ms.max(0) as u64);
                self.transport.server().clock.record(server_ms, acquired_at);
                let epoch = epoch.text().ok_or_else(|| self.unexpected_reply())?;
                Ok(LeaseOutcome::Acquired(FillLease(LeaseState::Remote(
                    RemoteLease {
                        token,
                        epoch,
                        server_ms,
                        acquired_at,
                    },
                ))))
            }
            _ => Err(self.unexpected_reply()),
        }
    }

    pub(super) async fn put_if_valid(
        &self,
        key: &Key,
        lease: &RemoteLease,
        entry: &Entry,
        compress_from: usize,
        deadline: Duration,
    ) -> Result<PutOutcome, CacheError> {
        let limits = self.transport.limits();
        let stored = entry.encode(
            lease.epoch_id(),
            lease.server_ms_now(),
            compress_from,
            limits.text_only,
        );
        if stored.len() > limits.max_value_bytes {
            return Err(CacheError::TooLarge(format!(
                "the value of {key} has {} bytes, {} stores up to {}",
                stored.len(),
                limits.backend,
                limits.max_value_bytes
            )));
        }
        let put = script::put_if_valid(key, self.shard(key), lease, entry, stored);
        let reply = self.transport.call(&put, deadline).await?;
        let outcome = reply.bytes().and_then(|text| script::put_outcome(&text));
        outcome.ok_or_else(|| self.unexpected_reply())
    }

    pub(super) async fn release(&self, key: &Key, lease: &RemoteLease) {
        let release = script::release_lease(key, self.shard(key), lease);
        // If this is lost, the lease expires by itself.
        let _ = self.transport.call(&release, self.command_timeout()).await;
    }

    pub(super) async fn remove(
        &self,
        targets: &InvalidationTargets,
        snapshot: &DbSnapshot,
    ) -> Result<Removed, CacheError> {
        // This process's own L1 need not wait for the server's message.
        if let Some(l1) = &self.l1 {
            l1.remove(targets);
        }
        removal::remove(&self.transport, targets, snapshot).await
    }

    pub(super) async fn end_epoch(&self) -> Result<Epoch, CacheError> {
        let server = self.transport.server();
        let next = Epoch::new(&server.run()?, &server.database()?);
        self.in_each_shard(|shard| script::end_epoch(shard, &next))
            .await?;
        if let Some(l1) = &self.l1 {
            l1.local.remove_all();
        }
        Ok(next)
    }

    pub(super) async fn begin_epoch(
        &self,
        epoch: &Epoch,
        snapshot: &DbSnapshot,
    ) -> Result<bool, CacheError> {
        let begin = |shard| script::begin_epoch(shard, epoch, snapshot);
        let replies = self.in_each_shard(begin).await?;
        Ok(replies.iter().all(|reply| *reply == CacheReply::Number(1)))
    }

    pub(super) async fn heartbeat(&self, epoch: &Epoch) -> Result<bool, CacheError> {
        let server = self.transport.server();
        if !epoch.id().starts_with(&*server.database()?) {
            return Ok(false);
        }
        let heartbeat = |shard| script::heartbeat(shard, epoch);
        let replies = self.in_each_shard(heartbeat).await?;
        let same_run = epoch.run() == Some(&*server.run()?);
        Ok(same_run && replies.iter().all(|reply| *reply == CacheReply::Number(1)))
    }

    /// `mark` is the one of the database.
    pub(super) fn set_database(&self, mark: &str) {
        let has_changed = self.transport.server().set_database(mark);
        if let Some(l1) = self.l1.as_ref().filter(|_| has_changed) {
            l1.local.remove_all();
        }
    }

    pub(super) async fn foreign_epoch(&self) -> Result<Option<String>, CacheError> {
        let names = |shard| CacheCommand::named("MGET", script::epoch_names(shard), NO_ARGS);
        for reply in self.in_each_shard(names).await? {
            let records = self.list(reply)?.into_iter().map(CacheReply::text);
            let records: Vec<String> = records.map(Option::unwrap_or_default).collect();
            // The watermark names the epoch that is about to begin; without any, it is of no database.
            let owner = records.iter().find(|record| !record.is_empty());
            let owner = owner.and_then(|record| record.split_once(' '));
            if owner.is_some_and(|(id, _)| id != "0" && self.transport.server().is_foreign(id)) {
                return Ok(Some(records.join(" ")));
            }
        }
        Ok(None)
    }

    async fn in_each_shard<'t>(
        &'t self,
        command: impl Fn(Shard<'t>) -> CacheCommand,
    ) -> Result<Vec<CacheReply>, CacheError> {
        let commands: Vec<CacheCommand> = self.transport.shards().map(command).collect();
        let replies = self.transport.pipeline(&commands, self.command_timeout());
        replies.await.into_iter().collect()
    }

    pub(super) async fn ping(&self) -> Result<(), CacheError> {
        let ping = CacheCommand::named("PING", NO_ARGS, NO_ARGS);
        let reply = self.transport.call(&ping, self.command_timeout()).await?;
        match reply.bytes().as_deref() {
            Some(b"PONG") => self.transport.server().refusal().map_or(Ok(()), Err),
            _ => Err(self.unexpected_reply()),
        }
    }

    /// The stored bytes of a key, unchecked: for inspection, never for a reader.
    pub(super) async fn stored(&self, key: &Key) -> Result<Option<Bytes>, CacheError> {
        let name = key.value_key(self.shard(key));
        let get = CacheCommand::named("GET", [name], NO_ARGS);
        let reply = self.transport.call(&get, self.command_timeout()).await?;
        Ok(reply.bytes())
    }

    fn shard(&self, key: &Key) -> Shard<'_> {
        self.transport.shard(key.as_str())
    }

    fn command_timeout(&self) -> Duration {
        self.transport.server().command_timeout
    }

    fn list(&self, reply: CacheReply) -> Result<Vec<CacheReply>, CacheError> {
        reply.list().ok_or_else(|| self.unexpected_reply())
    }

    fn unexpected_reply(&self) -> CacheError {
        self.transport
            .unexpected_reply("what the command documents")
    }
}
