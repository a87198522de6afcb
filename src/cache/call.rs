//! A script or a command for a cache in another process, and what it answers, spelt alike for Redis
//! and Upstash.

use super::{Bytes, CacheError, Redis, Upstash};

/// Upstash takes requests up to 10 MB; a script stays well below that, escapes included.
const SCRIPT_BYTES: usize = 2_000_000;

#[derive(Clone, Copy)]
pub(super) enum Server<'a> {
    Redis(&'a Redis),
    Upstash(&'a Upstash),
}

#[derive(Clone)]
pub(super) enum Verb {
    Script(&'static str),
    Command(&'static str),
}

#[derive(Clone)]
pub(super) struct Call {
    pub verb: Verb,
    pub keys: Vec<Bytes>,
    pub args: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Nil,
    Number(i64),
    Text(Bytes),
    List(Vec<Reply>),
}

impl Call {
    pub fn script<K: Into<Bytes>, A: Into<Bytes>>(
        script: &'static str,
        keys: impl IntoIterator<Item = K>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            verb: Verb::Script(script),
            keys: keys.into_iter().map(Into::into).collect(),
            args: args.into_iter().map(Into::into).collect(),
        }
    }

    pub fn command<K: Into<Bytes>, A: Into<Bytes>>(
        command: &'static str,
        keys: impl IntoIterator<Item = K>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            verb: Verb::Command(command),
            ..Self::script("", keys, args)
        }
    }
}

impl Reply {
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub fn text(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text),
            // REST writes a cursor as either.
            Self::Number(number) => Some(number.to_string().into()),
            Self::Nil | Self::List(_) => None,
        }
    }

    pub fn list(self) -> Option<Vec<Reply>> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

impl Server<'_> {
    /// All of them in as few round trips as they fit in, an answer each, in their order. One that fails
    /// stops none of the others, unless there is nobody to answer at all.
    pub async fn call_all(self, calls: &[Call]) -> Vec<Result<Reply, CacheError>> {
        match self {
            Self::Redis(redis) => redis.call_all(calls).await,
            Self::Upstash(upstash) => upstash.call_all(calls).await,
        }
    }

    pub async fn call(self, call: Call) -> Result<Reply, CacheError> {
        let answer = self.call_all(&[call]).await.pop();
        answer.unwrap_or_else(|| Err(self.strange("nothing")))
    }

    /// A slot of each node that has a memory of its own; `None`: there is only one.
    pub fn nodes(self) -> Vec<Option<u16>> {
        match self {
            Self::Redis(redis) => redis.nodes(),
            Self::Upstash(_) => vec![None],
        }
    }

    /// At one of the `nodes`.
    pub async fn call_at(self, node: Option<u16>, call: Call) -> Result<Reply, CacheError> {
        match (self, node) {
            (Self::Redis(redis), Some(slot)) => redis.call_at(slot, &call).await,
            _ => self.call(call).await,
        }
    }

    pub fn buckets(self) -> u16 {
        match self {
            Self::Redis(redis) => redis.buckets(),
            Self::Upstash(_) => 1,
        }
    }

    /// A command or script sees the keys of one slot.
    pub fn is_cluster(self) -> bool {
        matches!(self, Self::Redis(redis) if redis.is_cluster)
    }

    /// Targets of one script. Of Redis it takes a few hundred microseconds, in which nobody else is
    /// served; Upstash bills each script.
    pub fn per_script(self) -> usize {
        match self {
            Self::Redis(_) => 100,
            Self::Upstash(_) => 500,
        }
    }

    /// Bytes of the names in one script.
    pub fn script_bytes(self) -> usize {
        SCRIPT_BYTES
    }

    pub fn strange(self, answer: &str) -> CacheError {
        let host = match self {
            Self::Redis(redis) => redis.host(),
            Self::Upstash(upstash) => upstash.host(),
        };
        CacheError::Protocol {
            detail: format!("{host} answered with {answer}"),
        }
    }
}
