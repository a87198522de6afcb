//! The two transports to a cache server, Redis and Upstash, behind one minimal interface: send a
//! command, send many, and the limits of the server. `remote`, `removal` and `unmanaged` use it.

use std::time::Duration;

use super::command::{CacheCommand, CacheReply, Limits};
use super::connection::ServerInfo;
use super::error::CacheError;
use super::redis::RedisTransport;
use super::upstash::UpstashTransport;
use oddsd_core::key::Shard;

pub(super) enum Transport {
    Redis(RedisTransport),
    Upstash(UpstashTransport),
}

macro_rules! dispatch {
    ($self:ident, $transport:ident => $call:expr) => {
        match $self {
            Self::Redis($transport) => $call,
            Self::Upstash($transport) => $call,
        }
    };
}

impl Transport {
    pub fn server(&self) -> &ServerInfo {
        dispatch!(self, transport => transport.server())
    }

    pub fn limits(&self) -> &'static Limits {
        self.server().limits
    }

    /// The shard of a key or tag.
    pub fn shard(&self, name: &str) -> Shard<'_> {
        let server = self.server();
        server.namespace.shard(name, server.limits.shards)
    }

    pub fn shards(&self) -> impl Iterator<Item = Shard<'_>> {
        let server = self.server();
        server.namespace.shards(server.limits.shards)
    }

    /// Sends one command in a round trip of its own.
    pub async fn call(
        &self,
        command: &CacheCommand,
        deadline: Duration,
    ) -> Result<CacheReply, CacheError> {
        let reply = dispatch!(self, transport => transport.call(command, deadline).await);
        self.server().count(std::slice::from_ref(&reply));
        reply
    }

    /// Sends commands in one pipeline. Returns a reply each, in their order. Upstash, which is asked for one command
    /// in a request instead, does not use the deadline.
    pub async fn pipeline(
        &self,
        commands: &[CacheCommand],
        deadline: Duration,
    ) -> Vec<Result<CacheReply, CacheError>> {
        let replies = match self {
            Self::Redis(redis) => redis.pipeline(commands, deadline).await,
            Self::Upstash(upstash) => upstash.call_all(commands).await,
        };
        self.server().count(&replies);
        replies
    }

    /// Sends commands in as few round trips as they fit in, node by node. Returns a reply each, in
    /// their order. A command that fails stops none of the others, unless the server does not answer.
    pub async fn call_all(&self, commands: &[CacheCommand]) -> Vec<Result<CacheReply, CacheError>> {
        let replies = dispatch!(self, transport => transport.call_all(commands).await);
        self.server().count(&replies);
        replies
    }

    /// What this server cannot do, and what is lost without it. Waits until that is known, at most as long as a
    /// command may take.
    pub async fn limitations(&self) -> Vec<String> {
        match self {
            Self::Redis(redis) => redis.limitations().await,
            Self::Upstash(_) => Vec::new(),
        }
    }

    /// One slot of each node that has a memory of its own; `None`: there is only one node.
    pub fn nodes(&self) -> Vec<Option<u16>> {
        match self {
            Self::Redis(redis) => redis.nodes(),
            Self::Upstash(_) => vec![None],
        }
    }

    /// Sends one command to one of the `nodes`.
    pub async fn call_at(
        &self,
        node: Option<u16>,
        command: &CacheCommand,
    ) -> Result<CacheReply, CacheError> {
        let deadline = self.server().command_timeout;
        match self {
            Self::Redis(redis) if node.is_some() => {
                let reply = redis.call_at(node, command, deadline).await;
                self.server().count(std::slice::from_ref(&reply));
                reply
            }
            _ => self.call(command, deadline).await,
        }
    }

    /// Parses a reply that has to be a number.
    pub fn number(&self, reply: Result<CacheReply, CacheError>) -> Result<u64, CacheError> {
        let number = reply?.number();
        number.ok_or_else(|| self.unexpected_reply("a number"))
    }

    /// The error for a reply that the protocol does not allow.
    pub fn unexpected_reply(&self, expected: &str) -> CacheError {
        CacheError::Protocol(format!(
            "{} did not answer with {expected}",
            self.server().host
        ))
    }
}
