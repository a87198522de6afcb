//! The two transports to a cache server, Redis and Upstash, behind one minimal interface: send a
//! command, send many, and the limits of the server. `remote`, `removal` and `unmanaged` use it.

use std::sync::Arc;
use std::time::Duration;

use super::clock::ServerClock;
use super::command::{CacheCommand, CacheReply};
use super::error::CacheError;
use super::redis::RedisTransport;
use super::upstash::UpstashTransport;

/// Upstash takes requests up to 10 MB; a script stays well below that, escapes included.
pub(super) const MAX_SCRIPT_BYTES: usize = 2_000_000;

pub(super) enum Transport {
    Redis(RedisTransport),
    Upstash(UpstashTransport),
}

/// The properties in which the servers differ.
pub(super) struct Limits {
    /// For logs and metrics.
    pub backend: &'static str,
    /// Keys are spread over so many buckets, each in one slot of a cluster.
    pub buckets: u16,
    /// A command or script may name the keys of one slot only.
    pub is_cluster: bool,
    pub max_value_bytes: usize,
    /// Targets of one removal script. Redis serves nobody else while a script runs (a few hundred
    /// microseconds); Upstash bills each script.
    pub targets_per_script: usize,
    /// Values have to be UTF-8.
    pub text_only: bool,
    /// Each command is paid for.
    pub is_billed: bool,
    pub heartbeat_interval: Duration,
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
    pub fn limits(&self) -> &Limits {
        dispatch!(self, transport => transport.limits())
    }

    /// Host and port, never credentials.
    pub fn host(&self) -> &str {
        dispatch!(self, transport => transport.host())
    }

    /// The time that an operation outside a request may take.
    pub fn command_timeout(&self) -> Duration {
        dispatch!(self, transport => transport.command_timeout())
    }

    /// The id of the server process; after a restart its memory may be another one.
    pub fn run(&self) -> Result<Arc<str>, CacheError> {
        dispatch!(self, transport => transport.run())
    }

    pub fn clock(&self) -> &ServerClock {
        dispatch!(self, transport => transport.clock())
    }

    /// Sends one command in a round trip of its own.
    pub async fn call(
        &self,
        command: &CacheCommand,
        deadline: Duration,
    ) -> Result<CacheReply, CacheError> {
        dispatch!(self, transport => transport.call(command, deadline).await)
    }

    /// Sends commands in one pipeline. Returns a reply each, in their order.
    pub async fn pipeline(
        &self,
        commands: &[CacheCommand],
        deadline: Duration,
    ) -> Vec<Result<CacheReply, CacheError>> {
        match self {
            Self::Redis(redis) => redis.pipeline(commands, deadline).await,
            Self::Upstash(upstash) => upstash.call_all(commands).await,
        }
    }

    /// Sends commands in as few round trips as they fit in, node by node. Returns a reply each, in
    /// their order. A command that fails stops none of the others, unless the server does not answer.
    pub async fn call_all(&self, commands: &[CacheCommand]) -> Vec<Result<CacheReply, CacheError>> {
        dispatch!(self, transport => transport.call_all(commands).await)
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
        match (self, node) {
            (Self::Redis(redis), Some(slot)) => redis.call_at(slot, command).await,
            _ => self.call(command, self.command_timeout()).await,
        }
    }

    /// The error for a reply that the protocol does not allow.
    pub fn unexpected_reply(&self, expected: &str) -> CacheError {
        CacheError::Protocol {
            detail: format!("{} did not answer with {expected}", self.host()),
        }
    }
}
