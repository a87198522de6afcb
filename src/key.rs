//! How a cache key is spelt. This is the only place with key format strings: whoever wants a
//! key asks here, so a reader and a removal can never disagree about its spelling.

use std::fmt;

use crate::model::EventId;

/// The exact name of one cached answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// The races of today and tomorrow by stage; other programs read and delete it under this name.
    pub fn races_by_stage() -> Self {
        Self("races:by-stage:v1".into())
    }

    /// All current prices of one event.
    pub fn event_prices(event: &EventId) -> Self {
        Self(format!("event:{}:prices:v1", escape(event.as_str())))
    }

    /// The beat of the canary: a row of no meaning that shows how long a change takes to be seen.
    pub fn canary() -> Self {
        Self("canary:v1".into())
    }

    /// A key that a person names on the command line: taken as it is, `None` when it is empty,
    /// too long or holds control characters.
    pub fn from_person(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES && !text.chars().any(char::is_control))
            .then(|| Self(text.into()))
    }

    /// A key for any bytes whatever: printable ASCII stays, everything else becomes `%XX`. `None`
    /// when it is empty or too long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut text = String::with_capacity(bytes.len());
        for byte in bytes {
            match byte {
                b'!'..=b'~' if *byte != b'%' => text.push(*byte as char),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        Self::from_person(&text)
    }

    /// Where our own cached answer to this key stands. Other programs keep theirs under the plain key.
    pub fn value(&self, bucket: Bucket) -> String {
        format!("oddsd:value:{bucket}:{}", self.0)
    }

    /// The right to fill it.
    pub fn lease(&self, bucket: Bucket) -> String {
        format!("oddsd:lease:{bucket}:{}", self.0)
    }

    /// What a fill has to have seen.
    pub fn fence(&self, bucket: Bucket) -> String {
        format!("{FENCES}{bucket}:{}", self.0)
    }

    pub fn bucket(&self, of: u16) -> Bucket {
        Bucket::holding(&self.0, of)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name for many cached answers that go at once, e.g. all of one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// Everything that shows this event.
    pub fn event(event: &EventId) -> Self {
        Self(format!("event:{}", escape(event.as_str())))
    }

    /// A tag of another program; escaped, so any text will do. `None` when it is empty or too long.
    pub fn new(text: &str) -> Option<Self> {
        let text: Vec<String> = text.split(':').map(escape).collect();
        let text = text.join(":");
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES).then_some(Self(text))
    }

    /// As it stands in an entry, spelt by `new` or `event` before.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// What every answer under this tag has to have seen.
    pub fn fence(&self, bucket: Bucket) -> String {
        format!("{TAGS}{bucket}:{}", self.0)
    }

    pub fn bucket(&self, of: u16) -> Bucket {
        Bucket::holding(&self.0, of)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a change makes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub keys: Vec<Key>,
    pub tags: Vec<Tag>,
}

/// Keys that one script touches together. In a Redis cluster a bucket is in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(u16);

impl Bucket {
    pub fn all(of: u16) -> impl Iterator<Item = Self> {
        (0..of).map(Self)
    }

    fn holding(name: &str, of: u16) -> Self {
        Self((xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % u64::from(of.max(1))) as u16)
    }

    /// Which life of the cache this is.
    pub fn floor(self) -> String {
        format!("{FLOORS}{self}")
    }

    /// What a fence that is missing begins with.
    pub fn horizon(self) -> String {
        format!("oddsd:horizon:{self}")
    }

    /// Proof that the life goes on.
    pub fn beat(self) -> String {
        format!("{BEATS}{self}")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{b{:04}}}", self.0)
    }
}

/// What a stored name tells a first-level cache that hears it change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    Key(&'a str),
    Tag(&'a str),
    Floor,
    Beat,
}

impl<'a> Heard<'a> {
    /// Beginnings of the names that are worth listening to.
    pub const PREFIXES: [&'static str; 4] = [FENCES, TAGS, FLOORS, BEATS];

    pub fn name(name: &'a str) -> Option<Self> {
        let after_bucket = |rest: &'a str| rest.split_once(':').map(|(_, name)| name);
        if let Some(rest) = name.strip_prefix(FENCES) {
            return after_bucket(rest).map(Self::Key);
        }
        if let Some(rest) = name.strip_prefix(TAGS) {
            return after_bucket(rest).map(Self::Tag);
        }
        match name {
            name if name.starts_with(FLOORS) => Some(Self::Floor),
            name if name.starts_with(BEATS) => Some(Self::Beat),
            _ => None,
        }
    }
}

const FENCES: &str = "oddsd:fence:";
const TAGS: &str = "oddsd:tag:";
const FLOORS: &str = "oddsd:floor:";
const BEATS: &str = "oddsd:beat:";

/// Upstash refuses keys over 32 KB; Redis would take them. Ours carry a prefix.
const MAX_KEY_BYTES: usize = 32 * 1024 - 64;

/// An id as part of a key: whatever is not a letter, digit, `.`, `_` or `-` becomes `%XX`, so an id
/// can neither end its part early (`:`), nor widen a pattern (`* ? [ ]`), nor move the key to
/// another cluster slot (`{ }`).
fn escape(id: &str) -> String {
    let mut escaped = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
            escaped.push(byte as char);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn different_ids_have_different_keys(a in ".{0,20}", b in ".{0,20}") {
            let (ka, kb) = (Key::event_prices(&EventId::new(&a)), Key::event_prices(&EventId::new(&b)));
            prop_assert_eq!(a == b, ka == kb);
            let special = ka.as_str().contains(['*', '?', '[', ']', '{', '}', '\\', ' ']);
            prop_assert!(!special);
        }
    }

    #[test]
    fn every_byte_has_a_place_in_a_key() {
        let all: Vec<u8> = (0..=255).collect();
        let key = Key::from_bytes(&all).expect("a key");
        assert!(key.as_str().starts_with("%00%01"), "{key}");
        assert!(key.as_str().ends_with("%FF"), "{key}");
        assert_ne!(Key::from_bytes(b"%41"), Key::from_bytes(b"A"));
    }

    #[test]
    fn keys_other_programs_know_are_spelt_exactly() {
        assert_eq!(Key::races_by_stage().as_str(), "races:by-stage:v1");
        assert_eq!(
            Key::event_prices(&"rac_1".into()).as_str(),
            "event:rac_1:prices:v1"
        );
        let bucket = Key::races_by_stage().bucket(1);
        assert_eq!(
            Key::races_by_stage().value(bucket),
            "oddsd:value:{b0000}:races:by-stage:v1"
        );
        let fence = Key::races_by_stage().fence(bucket);
        assert_eq!(Heard::name(&fence), Some(Heard::Key("races:by-stage:v1")));
        let tag = Tag::event(&"a:b".into());
        assert_eq!(
            Heard::name(&tag.fence(bucket)),
            Some(Heard::Tag("event:a%3Ab"))
        );
        assert_eq!(Heard::name(&bucket.beat()), Some(Heard::Beat));
        assert_eq!(Heard::name(&bucket.floor()), Some(Heard::Floor));
        assert_eq!(Heard::name("oddsd:value:{b0000}:x"), None);
        assert_eq!(Key::from_person("  "), None);
        assert_eq!(Key::from_person("a\nb"), None);
    }
}
