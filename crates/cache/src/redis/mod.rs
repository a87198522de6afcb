//! The Redis transport: one server, a cluster, or behind sentinels, by URL scheme. `RemoteCache` sends its
//! commands through it; no other module uses the client library.
//!
//! The client library waits for ever by default (for a connection, for an answer, for room in its
//! queue); everything here is set so that a command ends, well or badly, within its own time.

mod connect;
mod convert;
mod tracking;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::Value;
use fred::types::config::{Config, Options, Server, ServerConfig};
use futures_util::future::join_all;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use self::convert::{decode, map_error, send, slot, weight};
use self::tracking::TrackingSubscriber;
use super::command::{CacheCommand, CacheReply, Limits};
use super::connection::ServerInfo;
use super::error::CacheError;
use super::l1::L1Cache;
use oddsd_core::key::Namespace;

/// Commands under way at a time; more than this fail at once. The library has a bound of its own,
/// but in 10.1 each command that it turns away stays counted as queued, and from then on it no longer
/// flushes: every later command waits in its write buffer.
const COMMANDS_UNDER_WAY: usize = 1024;

/// The weight of one batch, such that no other command notices it: twenty scripts of a hundred keys,
/// or a thousand single commands.
const BATCH_WEIGHT: usize = 1_000;

/// The pause between two searches for the primary, while the server is a replica.
const SEARCH_AGAIN: Duration = Duration::from_secs(2);

const ONE_SERVER: Limits = Limits {
    backend: "redis",
    shards: 1,
    is_cluster: false,
    max_value_bytes: 16 * 1024 * 1024,
    targets_per_script: 100,
    text_only: false,
    is_billed: false,
    heartbeat_interval: Duration::from_millis(25),
};

const CLUSTER: Limits = Limits {
    shards: 32,
    is_cluster: true,
    ..ONE_SERVER
};

/// Upstash by the Redis protocol bills each command, as its REST API does.
const BILLED_SERVER: Limits = Limits {
    is_billed: true,
    heartbeat_interval: Duration::from_secs(10),
    ..ONE_SERVER
};

/// The hosts of Upstash databases end with this.
const UPSTASH: &str = ".upstash.io";

fn limits(server: &ServerConfig) -> &'static Limits {
    let hosts = server.hosts();
    match server.is_clustered() {
        true => &CLUSTER,
        false if hosts.iter().any(|server| server.host.ends_with(UPSTASH)) => &BILLED_SERVER,
        false => &ONE_SERVER,
    }
}

type Replies = Vec<Result<CacheReply, CacheError>>;

pub(super) struct RedisTransport {
    client: Client,
    config: Config,
    server: Arc<ServerInfo>,
    under_way: Semaphore,
    tracking: Option<TrackingSubscriber>,
    /// When the primary was last searched for.
    searched: Mutex<Option<Instant>>,
    keeper: JoinHandle<()>,
}

/// Host and port of this URL, which is checked without a connection.
pub(super) fn host_in(url: &SecretString) -> anyhow::Result<String> {
    Ok(connect::host(&connect::config(url.expose_secret())?.server))
}

impl RedisTransport {
    /// Starts connecting and waits for the first attempt to end, but no longer than a command may
    /// take. Fails only on a URL that can never work.
    pub async fn open(
        url: &SecretString,
        namespace: &Namespace,
        command_timeout: Duration,
        l1_bytes: u64,
    ) -> anyhow::Result<Self> {
        let config = connect::config(url.expose_secret())?;
        let is_cluster = config.server.is_clustered();
        let limits = limits(&config.server);
        let host = connect::host(&config.server);
        let server = ServerInfo::new(limits, host, namespace.clone(), command_timeout);
        let server = Arc::new(server);
        // The library subscribes to one node of a cluster only, so there is no L1 in front of one.
        let tracking = (l1_bytes > 0 && !is_cluster)
            .then(|| {
                let (config, namespace) = (config.clone(), namespace.clone());
                TrackingSubscriber::start(config, namespace, command_timeout, l1_bytes)
            })
            .transpose()?;
        let client = connect::client(config.clone(), command_timeout)?;
        let keeper = tokio::spawn(connect::keep_connected(client.clone(), Arc::clone(&server)));
        let redis = Self {
            client,
            config,
            server,
            under_way: Semaphore::new(COMMANDS_UNDER_WAY),
            tracking,
            searched: Mutex::default(),
            keeper,
        };
        let _ = tokio::time::timeout(command_timeout, redis.server.first_attempt()).await;
        Ok(redis)
    }

    pub fn l1(&self) -> Option<Arc<L1Cache>> {
        let tracking = self.tracking.as_ref()?;
        Some(Arc::clone(&tracking.l1))
    }

    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    pub async fn connected(&self) {
        self.server.connected().await;
    }

    pub async fn limitations(&self) -> Vec<String> {
        let mut limitations = Vec::new();
        let run = self.server.run();
        if run.is_ok_and(|run| *run == *connect::UNKNOWN_RUN) {
            limitations.push(
                "no INFO for this user or server: that it restarted or lost its memory is noticed only at the next heartbeat".into(),
            );
        }
        let Some(tracking) = &self.tracking else {
            return limitations;
        };
        let mut outcome = tracking.outcome.clone();
        let known = outcome.wait_for(Option::is_some);
        let why = match tokio::time::timeout(self.server.command_timeout, known).await {
            Ok(Ok(known)) => known.clone().and_then(Result::err),
            _ => Some(CacheError::Timeout(
                "it could not be started in time".into(),
            )),
        };
        if let Some(why) = why {
            limitations.push(format!(
                "no client tracking ({why}): answers are not kept in the process (CACHE_FIRST_LEVEL_MB), so each read asks the server"
            ));
        }
        limitations
    }

    pub async fn close(&self) {
        let _ = tokio::time::timeout(self.server.command_timeout, self.client.quit()).await;
        self.keeper.abort();
    }

    pub async fn call(
        &self,
        command: &CacheCommand,
        deadline: Duration,
    ) -> Result<CacheReply, CacheError> {
        self.call_at(slot(command), command, deadline).await
    }

    pub async fn call_at(
        &self,
        slot: Option<u16>,
        command: &CacheCommand,
        deadline: Duration,
    ) -> Result<CacheReply, CacheError> {
        let _permit = self.permit()?;
        self.send_one(&self.client, command, slot, deadline).await
    }

    pub async fn pipeline(&self, commands: &[CacheCommand], deadline: Duration) -> Replies {
        let _permit = match self.permit() {
            Ok(permit) => permit,
            Err(why) => return vec![Err(why); commands.len()],
        };
        let commands: Vec<&CacheCommand> = commands.iter().collect();
        self.send_batches(&self.client, &commands, deadline).await
    }

    /// A cluster's nodes get batches of their own, so that a node that is away fails its own commands only.
    pub async fn call_all(&self, commands: &[CacheCommand]) -> Replies {
        if commands.is_empty() {
            return Vec::new();
        }
        if !self.server.limits.is_cluster {
            return self.pipeline(commands, self.server.command_timeout).await;
        }
        let _permit = match self.permit() {
            Ok(permit) => permit,
            Err(why) => return vec![Err(why); commands.len()],
        };
        let pick = |which: &[usize]| -> Vec<&CacheCommand> {
            which.iter().map(|at| &commands[*at]).collect()
        };
        let mut replies = vec![Err(self.server.failure()); commands.len()];
        let all = (0..commands.len()).collect();
        let sent = self
            .by_node(commands, all)
            .into_values()
            .map(async |which| {
                let batch = pick(&which);
                let sent = self.send_batches(&self.client, &batch, self.server.command_timeout);
                which.into_iter().zip(sent.await)
            });
        for (at, reply) in join_all(sent).await.into_iter().flatten() {
            replies[at] = reply;
        }
        let unanswered = |at: &usize| matches!(&replies[*at], Err(why) if !why.is_answer());
        let unanswered = (0..commands.len()).filter(unanswered).collect();
        let nodes = self.by_node(commands, unanswered).into_iter();
        let sent = nodes.map(async |(node, which)| {
            let replies = match node {
                Some(node) => self.send_via_node(node, &pick(&which)).await,
                None => Vec::new(),
            };
            which.into_iter().zip(replies)
        });
        for (at, reply) in join_all(sent).await.into_iter().flatten() {
            replies[at] = reply;
        }
        replies
    }

    /// Groups the commands at these positions by node, as far as the routing table is known.
    fn by_node(
        &self,
        commands: &[CacheCommand],
        which: Vec<usize>,
    ) -> BTreeMap<Option<Server>, Vec<usize>> {
        let routing = self.client.cached_cluster_state();
        let mut nodes: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for at in which {
            let routing = routing.as_ref().zip(slot(&commands[at]));
            let node = routing.and_then(|(routing, slot)| routing.get_server(slot).cloned());
            nodes.entry(node).or_default().push(at);
        }
        nodes
    }

    /// Sends over a connection for these commands alone. As long as one node of a cluster is away, the
    /// library repairs its connections and sends to none of the others.
    async fn send_via_node(&self, node: Server, commands: &[&CacheCommand]) -> Replies {
        let connecting = connect::once(&self.config, node, self.server.command_timeout);
        match tokio::time::timeout(self.server.command_timeout, connecting).await {
            Ok(Ok((client, _connection))) => {
                self.send_batches(&client, commands, self.server.command_timeout)
                    .await
            }
            Ok(Err(error)) => vec![Err(self.map_error(error)); commands.len()],
            Err(_) => vec![Err(self.server.failure()); commands.len()],
        }
    }

    /// Sends batch after batch. After a batch without any answer the rest is not sent any more.
    async fn send_batches(
        &self,
        client: &Client,
        commands: &[&CacheCommand],
        deadline: Duration,
    ) -> Replies {
        let mut replies = Vec::with_capacity(commands.len());
        while replies.len() < commands.len() {
            let (from, mut to, mut total) = (replies.len(), replies.len(), 0);
            while to < commands.len()
                && (to == from || total + weight(commands[to]) <= BATCH_WEIGHT)
            {
                total += weight(commands[to]);
                to += 1;
            }
            let batch = self.send_batch(client, &commands[from..to], deadline).await;
            let unanswered = |reply: &Result<CacheReply, CacheError>| match reply {
                Err(why) if !why.is_answer() => Some(why.clone()),
                _ => None,
            };
            let all_unanswered = batch.iter().map(unanswered).collect::<Option<Vec<_>>>();
            replies.extend(batch);
            if let Some(why) = all_unanswered.and_then(|mut whys| whys.pop()) {
                replies.resize(commands.len(), Err(why));
            }
        }
        replies
    }

    async fn send_batch(
        &self,
        client: &Client,
        commands: &[&CacheCommand],
        deadline: Duration,
    ) -> Replies {
        // The usual removal and heartbeat are one script: a pipeline would cost more.
        if let [command] = commands {
            let reply = self.send_one(client, command, slot(command), deadline);
            return vec![reply.await];
        }
        let pipeline = client.pipeline().with_options(&options(deadline));
        for command in commands {
            if let Err(error) = send::<()>(&pipeline, command, slot(command)).await {
                return vec![Err(self.map_error(error)); commands.len()];
            }
        }
        let replies = pipeline.try_all::<Value>().await.into_iter();
        let mut replies: Replies = replies
            .map(|reply| reply.map(decode).map_err(|error| self.map_error(error)))
            .collect();
        if replies.len() != commands.len() {
            let why = match replies.pop() {
                // A pipeline that failed as a whole has one reply.
                Some(Err(why)) if replies.is_empty() => why,
                _ => CacheError::Protocol(format!(
                    "{} did not confirm {} commands",
                    self.server.host,
                    commands.len()
                )),
            };
            return vec![Err(why); commands.len()];
        }
        replies
    }

    async fn send_one(
        &self,
        client: &Client,
        command: &CacheCommand,
        slot: Option<u16>,
        deadline: Duration,
    ) -> Result<CacheReply, CacheError> {
        let client = client.with_options(&options(deadline));
        let reply = send(&client, command, slot).await;
        reply.map(decode).map_err(|error| self.map_error(error))
    }

    pub fn nodes(&self) -> Vec<Option<u16>> {
        let is_cluster = self.server.limits.is_cluster;
        match is_cluster.then(|| self.client.cached_cluster_state()) {
            Some(Some(routing)) => routing.unique_hash_slots().into_iter().map(Some).collect(),
            _ => vec![None],
        }
    }

    fn permit(&self) -> Result<SemaphorePermit<'_>, CacheError> {
        self.under_way.try_acquire().map_err(|_| {
            CacheError::Down(format!(
                "{}: {COMMANDS_UNDER_WAY} commands wait for it already",
                self.server.host
            ))
        })
    }

    /// Connects anew: a server that became a replica keeps its connections, but its name, or the sentinels, may lead to
    /// the primary by now.
    fn search_primary(&self) {
        let mut searched = self.searched.lock();
        if searched.is_some_and(|last| last.elapsed() < SEARCH_AGAIN) {
            return;
        }
        *searched = Some(Instant::now());
        let clients = self
            .tracking
            .as_ref()
            .map(|tracking| tracking.client.clone());
        for client in clients.into_iter().chain([self.client.clone()]) {
            tokio::spawn(async move { client.force_reconnection().await });
        }
    }

    fn map_error(&self, error: Error) -> CacheError {
        match error.kind() {
            // The library's word for failing fast; the last attempt knows why there is no connection.
            ErrorKind::Canceled => self.server.failure(),
            _ if error.details().contains("READONLY") => {
                self.search_primary();
                map_error(&self.server.host, &error)
            }
            _ => map_error(&self.server.host, &error),
        }
    }
}

impl Drop for RedisTransport {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn options(deadline: Duration) -> Options {
    Options {
        timeout: Some(deadline),
        max_attempts: Some(connect::ATTEMPTS),
        fail_fast: true,
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstash_by_the_redis_protocol_is_billed_and_gets_slow_heartbeats() {
        for (url, is_billed) in [
            (
                "rediss://default:t@eu1-calm-mole-38001.upstash.io:6379",
                true,
            ),
            ("redis://default:t@calm-mole.upstash.io:38001", true),
            ("rediss://cache.example.com:6379", false),
            ("redis://upstash.io.example.com", false),
        ] {
            let config = connect::config(url).expect("valid");
            let limits = limits(&config.server);
            assert_eq!(limits.is_billed, is_billed, "{url}");
            let is_slow = limits.heartbeat_interval >= Duration::from_secs(10);
            assert_eq!(is_slow, is_billed, "{url}");
        }
    }
}
