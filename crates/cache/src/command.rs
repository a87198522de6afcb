//! Commands, replies and limits of a cache server, in a form that both transports share. `script` and `removal`
//! build commands; `redis` and `upstash` send them.

use std::time::Duration;

use bytes::Bytes;

/// Upstash takes requests up to 10 MB; a script stays well below that, escapes included.
pub(super) const MAX_SCRIPT_BYTES: usize = 2_000_000;

/// A command's name, or the text of a Lua script.
#[derive(Clone, Copy)]
pub(super) enum CommandKind {
    Script(&'static str),
    Named(&'static str),
}

#[derive(Clone)]
pub(super) struct CacheCommand {
    pub kind: CommandKind,
    pub keys: Vec<Bytes>,
    pub args: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum CacheReply {
    Nil,
    Number(i64),
    Text(Bytes),
    List(Vec<CacheReply>),
}

/// For commands without arguments.
pub(super) const NO_ARGS: [&str; 0] = [];

impl CacheCommand {
    pub fn script<K: Into<Bytes>, A: Into<Bytes>>(
        script: &'static str,
        keys: impl IntoIterator<Item = K>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self::new(CommandKind::Script(script), keys, args)
    }

    pub fn named<K: Into<Bytes>, A: Into<Bytes>>(
        name: &'static str,
        keys: impl IntoIterator<Item = K>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self::new(CommandKind::Named(name), keys, args)
    }

    pub fn unlink<K: Into<Bytes>>(names: impl IntoIterator<Item = K>) -> Self {
        Self::named("UNLINK", names, NO_ARGS)
    }

    fn new<K: Into<Bytes>, A: Into<Bytes>>(
        kind: CommandKind,
        keys: impl IntoIterator<Item = K>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            kind,
            keys: keys.into_iter().map(Into::into).collect(),
            args: args.into_iter().map(Into::into).collect(),
        }
    }
}

impl CacheReply {
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub fn bytes(self) -> Option<Bytes> {
        match self {
            Self::Text(text) => Some(text),
            // REST writes a cursor as either.
            Self::Number(number) => Some(number.to_string().into()),
            Self::Nil | Self::List(_) => None,
        }
    }

    /// UTF-8 text; `None` for anything else.
    pub fn text(self) -> Option<String> {
        String::from_utf8(self.bytes()?.into()).ok()
    }

    pub fn list(self) -> Option<Vec<CacheReply>> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// A page of SCAN, or of ZSCAN, where every second item is a score (`step` 2): the next cursor, and the items.
    pub fn page(self, step: usize) -> Option<(Bytes, Vec<Bytes>)> {
        let [cursor, items]: [CacheReply; 2] = self.list()?.try_into().ok()?;
        let items = items.list()?.into_iter().step_by(step).map(Self::bytes);
        Some((cursor.bytes()?, items.collect::<Option<_>>()?))
    }
}

/// The properties in which the servers differ.
pub(super) struct Limits {
    /// For logs and metrics.
    pub backend: &'static str,
    /// Keys are spread over so many shards, each in one slot of a cluster.
    pub shards: u16,
    /// A command or script may name the keys of one slot only.
    pub is_cluster: bool,
    pub max_value_bytes: usize,
    /// Targets of one removal script. Redis serves no other client while a script runs (a few hundred
    /// microseconds); Upstash bills each script.
    pub targets_per_script: usize,
    /// Values have to be UTF-8.
    pub text_only: bool,
    /// Each command is paid for.
    pub is_billed: bool,
    pub heartbeat_interval: Duration,
}

/// Splits into chunks of at most `max_items` items, and of at most `max_bytes` unless a single item is larger.
pub(super) fn chunk<T>(
    items: Vec<T>,
    max_items: usize,
    max_bytes: usize,
    bytes: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let (mut chunks, mut current, mut size) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let more = bytes(&item);
        if !current.is_empty() && (current.len() == max_items || size + more > max_bytes) {
            chunks.push(std::mem::take(&mut current));
            size = 0;
        }
        size += more;
        current.push(item);
    }
    if !current.is_empty() {
        chunks.push(current);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_and_hold_every_item_once() {
        let names: Vec<String> = (0..1_000).map(|n| "k".repeat(n % 97 + 1)).collect();
        let chunks = chunk(names.clone(), 40, 1_000, String::len);
        let bytes = |chunk: &Vec<String>| chunk.iter().map(String::len).sum::<usize>();
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk.len() <= 40 && bytes(chunk) <= 1_000)
        );
        assert_eq!(chunks.concat(), names);
        assert_eq!(chunk(vec!["long"], 9, 2, |name| name.len()), [["long"]]);
        assert!(chunk(Vec::<String>::new(), 9, 9, String::len).is_empty());
    }
}
