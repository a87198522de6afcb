//! One command or script for a cache server, and its reply, in a form that both transports share.
//! `script` and `removal` build commands; `redis` and `upstash` send them.

use bytes::Bytes;

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
