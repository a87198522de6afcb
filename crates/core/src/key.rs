//! Cache keys, tags and the Redis names derived from them. This is the only place with their formats, so that
//! readers, caches and removals always agree; all of them call it.

use std::fmt;

use crate::model::{EventId, EventStatus};

/// The key of one cached answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Today's and tomorrow's races by stage. Other programs read and delete it under this name.
    pub fn races_by_stage() -> Self {
        Self("races:by-stage:v1".into())
    }

    /// All current prices of one event.
    pub fn event_prices(event: &EventId) -> Self {
        Self(format!("event:{}:prices:v1", escape(event.as_str())))
    }

    /// The prices of one event, for readers that know it in this status.
    pub fn odds(status: EventStatus, event: &EventId) -> Self {
        Self(format!(
            "odds:{}:{}",
            status.as_str(),
            escape(event.as_str())
        ))
    }

    /// The list of events: of all sports, of one sport, or of one of its leagues. The patterns that cover it are
    /// `sidebar:*`, `sidebar:{sport}:*` and `sidebar:{sport}:{league}:*`, as far as it has these parts. A league
    /// without its sport is ignored: leagues are unique only within a sport.
    pub fn sidebar(sport: Option<&str>, league: Option<&str>) -> Self {
        let mut key = String::from("sidebar:");
        for part in [sport, sport.and(league)].into_iter().flatten() {
            key += &escape(part);
            key.push(':');
        }
        Self(key + "v1")
    }

    /// Steamers and drifters.
    pub fn movers() -> Self {
        Self("movers:v1".into())
    }

    /// The canary: a test row whose changes measure how long a change takes to become visible.
    pub fn canary() -> Self {
        Self("canary:v1".into())
    }

    /// The path of the read API that serves this key; `None` for a key of other programs.
    pub fn api_path(&self) -> Option<String> {
        let parts: Vec<&str> = self.0.split(':').collect();
        // Ids are escaped in a key as they are in a path.
        Some(match parts.as_slice() {
            ["races", "by-stage", "v1"] => "/v1/races/by-stage".into(),
            ["event", id, "prices", "v1"] => format!("/v1/events/{id}/prices"),
            ["odds", status, id] => format!("/v1/odds/{status}/{id}"),
            ["sidebar", "v1"] => "/v1/sidebar".into(),
            ["sidebar", sport, "v1"] => format!("/v1/sidebar/{sport}"),
            ["sidebar", sport, league, "v1"] => format!("/v1/sidebar/{sport}/{league}"),
            ["movers", "v1"] => "/v1/movers".into(),
            _ => return None,
        })
    }

    /// A key from a command line or request, unchanged but trimmed. `None` if it is empty, too long or holds
    /// control characters.
    pub fn from_user_input(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES && !text.chars().any(char::is_control))
            .then(|| Self(text.into()))
    }

    /// A key rendered from a rule's template: without control characters, its values escaped.
    pub(crate) fn from_template(text: String) -> Option<Self> {
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES).then_some(Self(text))
    }

    /// A key for arbitrary bytes: printable ASCII stays, everything else becomes `%XX`. `None` if it is empty
    /// or too long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut text = String::with_capacity(bytes.len());
        for byte in bytes {
            match byte {
                b'!'..=b'~' if *byte != b'%' => text.push(*byte as char),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        Self::from_user_input(&text)
    }

    /// Another program's key as found in a cache; `None` for oddsd's own names.
    pub fn from_unmanaged(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.starts_with(OWN_PREFIX)).then(|| Self(text.into()))
    }

    /// The glob pattern for all names that begin with this text; its special characters are escaped.
    pub fn prefix_glob(prefix: &str) -> String {
        let mut pattern = String::with_capacity(prefix.len() + 1);
        for c in prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        pattern
    }

    /// The prefix tags that cover it: one for each of its prefixes that end with `:`, the shortest first.
    pub fn prefix_tags(&self) -> Vec<Tag> {
        let ends = self.0.match_indices(':').map(|(at, _)| at + 1);
        ends.filter_map(|end| Tag::prefix_tag(&self.0[..end]))
            .collect()
    }

    /// The Redis name of oddsd's own value for this key. Other programs store theirs under the key itself.
    pub fn value_key(&self, shard: Shard<'_>) -> String {
        shard.name_of("value", &self.0)
    }

    /// The Redis name of its fill lease.
    pub fn lease_key(&self, shard: Shard<'_>) -> String {
        shard.name_of("lease", &self.0)
    }

    /// The Redis name of its fence: the database snapshot that a fill must include.
    pub fn fence_key(&self, shard: Shard<'_>) -> String {
        shard.name_of(FENCE, &self.0)
    }

    /// Its shard, of `of` shards, without a namespace.
    pub fn shard(&self, of: u16) -> Shard<'static> {
        Shard::new(OWN_PREFIX, shard_number(&self.0, of))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name for many cached answers that are removed together, e.g. all of one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// All answers that show this event.
    pub fn event(event: &EventId) -> Self {
        Self(format!("event:{}", escape(event.as_str())))
    }

    /// A tag from any text, which is escaped. `None` if it is empty or too long.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::from_template(escape_parts(text))
    }

    /// A tag rendered from a rule's template; its values are escaped already.
    pub(crate) fn from_template(text: String) -> Option<Self> {
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES).then_some(Self(text))
    }

    /// Whether it is a prefix tag, shown as `prefix:*`.
    pub fn is_prefix_tag(&self) -> bool {
        self.0.ends_with('*')
    }

    /// The tag of all keys that begin with `prefix`, which must end with `:`. Each key is filled with the prefix
    /// tags that cover it, see [`Key::prefix_tags`]. `None` if `prefix` ends otherwise or is too long.
    pub fn prefix_tag(prefix: &str) -> Option<Self> {
        let Self(text) = Self::from_text(prefix.strip_suffix(':')?)?;
        // Escaping leaves no `*` in any other tag.
        let text = format!("{text}:*");
        (text.len() <= MAX_KEY_BYTES).then_some(Self(text))
    }

    /// A tag as read back from a cache entry, which was written by this module.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The Redis name of its fence: the database snapshot that every answer under it must include.
    pub fn fence_key(&self, shard: Shard<'_>) -> String {
        shard.name_of(TAG_FENCE, &self.0)
    }

    /// The Redis name of the list of other programs' keys under this tag.
    pub fn members_key(&self, shard: Shard<'_>) -> String {
        shard.name_of("members", &self.0)
    }

    /// Its shard, of `of` shards, without a namespace.
    pub fn shard(&self, of: u16) -> Shard<'static> {
        Shard::new(OWN_PREFIX, shard_number(&self.0, of))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The cached answers that a change makes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvalidationTargets {
    /// Keys to remove.
    pub keys: Vec<Key>,
    /// Tags whose answers to remove.
    pub tags: Vec<Tag>,
    /// Keys to mark stale. oddsd's own values stay, but count as expired: readers whose policy allows it get the
    /// old answer, labelled stale, while one load renews it. Other programs' values are removed: they have no label.
    pub mark_stale: Vec<Key>,
}

/// One of [`InvalidationTargets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidationTarget<'a> {
    /// A key to remove.
    Key(&'a Key),
    /// A key to mark stale.
    MarkStale(&'a Key),
    /// A tag to remove.
    Tag(&'a Tag),
}

impl InvalidationTargets {
    /// Iterates over keys, keys to mark stale, and tags, in this order.
    pub fn iter(&self) -> impl Iterator<Item = InvalidationTarget<'_>> {
        let keys = self.keys.iter().map(InvalidationTarget::Key);
        let stale = self.mark_stale.iter().map(InvalidationTarget::MarkStale);
        keys.chain(stale)
            .chain(self.tags.iter().map(InvalidationTarget::Tag))
    }

    /// Number of targets.
    pub fn len(&self) -> usize {
        self.keys.len() + self.mark_stale.len() + self.tags.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> InvalidationTarget<'a> {
    /// The Redis name of its fence.
    pub fn fence_key(self, shard: Shard<'_>) -> String {
        match self {
            Self::Key(key) | Self::MarkStale(key) => key.fence_key(shard),
            Self::Tag(tag) => tag.fence_key(shard),
        }
    }

    /// The key; `None` of a tag.
    pub fn key(self) -> Option<&'a Key> {
        match self {
            Self::Key(key) | Self::MarkStale(key) => Some(key),
            Self::Tag(_) => None,
        }
    }

    /// The key or tag as text.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Key(key) | Self::MarkStale(key) => key.as_str(),
            Self::Tag(tag) => tag.as_str(),
        }
    }
}

/// The beginning of oddsd's own Redis names: `oddsd:`, or `oddsd:NAME:` for programs that share a Redis but no
/// database. The keys of other programs have no such prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace with this name; an empty name is the default. `None` unless the name has at most 32 letters,
    /// digits, `.`, `_` and `-`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self::default()),
            name if name.len() <= LONGEST_NAMESPACE && name.bytes().all(is_plain) => {
                Some(Self(format!("{OWN_PREFIX}{name}:")))
            }
            _ => None,
        }
    }

    /// The shard of a key or tag, of `of` shards.
    pub fn shard(&self, name: &str, of: u16) -> Shard<'_> {
        Shard::new(&self.0, shard_number(name, of))
    }

    /// All of `of` shards.
    pub fn shards(&self, of: u16) -> impl Iterator<Item = Shard<'_>> {
        (0..of).map(|number| Shard::new(&self.0, number))
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(OWN_PREFIX.into())
    }
}

/// A shard: keys that one script touches together. In a Redis cluster each shard lies in one hash slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard<'n> {
    /// The namespace.
    prefix: &'n str,
    number: u16,
}

impl<'n> Shard<'n> {
    /// The only shard of a single server, without a namespace.
    pub const FIRST: Shard<'static> = Shard::new(OWN_PREFIX, 0);

    const fn new(prefix: &'n str, number: u16) -> Self {
        Self { prefix, number }
    }

    fn name(self, record: &str) -> String {
        format!("{}{record}:{self}", self.prefix)
    }

    fn name_of(self, record: &str, key: &str) -> String {
        format!("{}{record}:{self}:{key}", self.prefix)
    }

    /// The Redis name of the cache epoch.
    pub fn epoch_key(self) -> String {
        self.name(EPOCH)
    }

    /// The Redis name of the watermark: the snapshot that stands for a fence that does not exist.
    pub fn watermark_key(self) -> String {
        self.name("watermark")
    }

    /// The Redis name of the epoch's heartbeat.
    pub fn heartbeat_key(self) -> String {
        self.name(HEARTBEAT)
    }
}

impl fmt::Display for Shard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{b{:04}}}", self.number)
    }
}

fn shard_number(name: &str, of: u16) -> u16 {
    (xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % u64::from(of.max(1))) as u16
}

/// A Redis name whose change invalidates entries of an in-process cache (client tracking).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackedKey<'a> {
    /// The fence of this key.
    Fence(&'a str),
    /// The fence of this tag.
    TagFence(&'a str),
    /// The epoch.
    Epoch,
    /// The heartbeat.
    Heartbeat,
}

impl<'a> TrackedKey<'a> {
    /// Prefixes of the names to track.
    pub fn prefixes(namespace: &Namespace) -> Vec<String> {
        let records = [FENCE, TAG_FENCE, EPOCH, HEARTBEAT].into_iter();
        let prefixes = records.map(|record| format!("{}{record}:", namespace.0));
        prefixes.collect()
    }

    /// Reads a Redis name; `None` for one that is not tracked, or of another namespace.
    pub fn parse(name: &'a str, namespace: &Namespace) -> Option<Self> {
        let (record, rest) = name.strip_prefix(&*namespace.0)?.split_once(':')?;
        // The name of another namespace may continue with the name of a record, but not with a shard.
        let (_, key) = rest.strip_prefix("{b")?.split_once('}')?;
        match (record, key.strip_prefix(':')) {
            (FENCE, Some(key)) => Some(Self::Fence(key)),
            (TAG_FENCE, Some(tag)) => Some(Self::TagFence(tag)),
            (EPOCH, None) => Some(Self::Epoch),
            (HEARTBEAT, None) => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// The keys of the read API, as templates of the rules language.
pub const BUILTIN_KEYS: [&str; 7] = [
    "races:by-stage:v1",
    "event:{event_id}:prices:v1",
    "odds:{status}:{event_id}",
    "sidebar:v1",
    "sidebar:{sport_id}:v1",
    "sidebar:{sport_id}:{league_id}:v1",
    "movers:v1",
];

/// The prefix of oddsd's own Redis names; other programs' keys have none.
const OWN_PREFIX: &str = "oddsd:";
/// The records whose changes are tracked.
const FENCE: &str = "fence";
const TAG_FENCE: &str = "tag";
const EPOCH: &str = "epoch";
const HEARTBEAT: &str = "heartbeat";

const LONGEST_NAMESPACE: usize = 32;

/// Upstash refuses keys over 32 KB, unlike Redis; oddsd's own names add a prefix.
pub(crate) const MAX_KEY_BYTES: usize = 32 * 1024 - 64;

/// Escapes an id as part of a key: everything but letters, digits, `.`, `_` and `-` becomes `%XX`, so that an id
/// can neither end its part early (`:`), nor widen a pattern (`* ? [ ]`), nor move the key to another cluster
/// slot (`{ }`).
pub fn escape(id: &str) -> String {
    let mut escaped = String::with_capacity(id.len());
    escape_into(id, &mut escaped);
    escaped
}

/// Escapes the parts between `:`.
pub(crate) fn escape_parts(text: &str) -> String {
    let parts: Vec<String> = text.split(':').map(escape).collect();
    parts.join(":")
}

/// Appends the escaped id to `text`.
pub(crate) fn escape_into(id: &str, text: &mut String) {
    if id.bytes().all(is_plain) {
        return text.push_str(id);
    }
    for byte in id.bytes() {
        match is_plain(byte) {
            true => text.push(byte as char),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn key_differs_for_different_ids(a in ".{0,20}", b in ".{0,20}") {
            let (ka, kb) = (Key::event_prices(&EventId::new(&a)), Key::event_prices(&EventId::new(&b)));
            prop_assert_eq!(a == b, ka == kb);
            let special = ka.as_str().contains(['*', '?', '[', ']', '{', '}', '\\', ' ']);
            prop_assert!(!special);
        }

        #[test]
        fn key_and_prefix_tag_are_never_widened_by_an_id(a in "[a*?{}:%\\[\\]\\\\ ]{0,6}", b in "[a*?{}:%\\[\\]\\\\ ]{0,6}", c in "[a*?{}:%\\[\\]\\\\ ]{0,6}") {
            let (ea, eb) = (EventId::new(&a), EventId::new(&b));
            let (live, over) = (EventStatus::Live, EventStatus::Completed);
            prop_assert_eq!(Key::odds(live, &ea) == Key::odds(live, &eb), a == b);
            prop_assert!(Key::odds(live, &ea) != Key::odds(over, &ea));
            let (one, other) = (Key::sidebar(Some(&a), Some(&c)), Key::sidebar(Some(&b), Some(&c)));
            prop_assert_eq!(one == other, a == b);
            prop_assert_eq!(Key::sidebar(Some(&a), Some(&b)) == Key::sidebar(Some(&b), Some(&a)), a == b);
            for key in [&one, &Key::odds(live, &ea)] {
                let special = key.as_str().contains(['*', '?', '[', ']', '{', '}', '\\', ' ']);
                prop_assert!(!special, "{}", key);
                prop_assert_eq!(key.as_str().matches(':').count(), if key == &one { 3 } else { 2 });
            }
            // The prefix tag of a sport covers that sport's keys and no others.
            let sport = |name: &str| Tag::prefix_tag(&format!("sidebar:{}:", escape(name))).expect("a prefix tag");
            prop_assert!(one.prefix_tags().contains(&sport(&a)));
            prop_assert_eq!(one.prefix_tags().contains(&sport(&b)), a == b);
        }

        #[test]
        fn prefix_tag_equals_no_other_tag(text in ".{0,12}", other in ".{0,12}") {
            let prefix_tag = Tag::prefix_tag(&format!("{text}:"));
            prop_assert!(prefix_tag.is_none() || prefix_tag != Tag::from_text(&other));
            let pattern = Tag::from_text(&format!("{text}:*"));
            prop_assert!(prefix_tag.is_none() || prefix_tag != pattern);
            prop_assert!(prefix_tag != Some(Tag::event(&EventId::new(&other))));
            let same = prefix_tag.is_some() && prefix_tag == Tag::prefix_tag(&format!("{other}:"));
            prop_assert_eq!(same, prefix_tag.is_some() && text == other);
        }
    }

    #[test]
    fn prefix_tags_of_a_key_are_its_prefixes() {
        let key = Key::sidebar(Some("7"), Some("12"));
        assert_eq!(key.as_str(), "sidebar:7:12:v1");
        let names: Vec<_> = key.prefix_tags().iter().map(Tag::to_string).collect();
        assert_eq!(names, ["sidebar:*", "sidebar:7:*", "sidebar:7:12:*"]);
        assert_eq!(Tag::prefix_tag("sidebar:7:12:"), key.prefix_tags().pop());
        for none in ["", ":", "sidebar", "sidebar:*"] {
            assert_eq!(Tag::prefix_tag(none), None, "{none}");
        }
    }

    #[test]
    fn prefix_glob_escapes_special_characters() {
        assert_eq!(Key::prefix_glob("a:"), "a:*");
        assert_eq!(Key::prefix_glob(r"a*?[b]\c{"), r"a\*\?\[b\]\\c{*");
        assert_eq!(Key::from_unmanaged("oddsd:value:{b0000}:x"), None);
        assert_eq!(Key::from_unmanaged(" x "), Some(Key(" x ".into())));
    }

    #[test]
    fn key_from_bytes_keeps_every_byte() {
        let all: Vec<u8> = (0..=255).collect();
        let key = Key::from_bytes(&all).expect("a key");
        assert!(key.as_str().starts_with("%00%01"), "{key}");
        assert!(key.as_str().ends_with("%FF"), "{key}");
        assert_ne!(Key::from_bytes(b"%41"), Key::from_bytes(b"A"));
    }

    #[test]
    fn sidebar_and_odds_keys_escape_their_parts() {
        let keys = [
            (None, None),
            (Some("tennis"), None),
            (Some("tennis"), Some("wta:1")),
        ];
        let keys = keys.map(|(sport, league)| Key::sidebar(sport, league).to_string());
        assert_eq!(
            keys,
            [
                "sidebar:v1",
                "sidebar:tennis:v1",
                "sidebar:tennis:wta%3A1:v1"
            ]
        );
        let odds = Key::odds(EventStatus::Live, &"a:b".into());
        assert_eq!(odds.as_str(), "odds:live:a%3Ab");
    }

    #[test]
    fn names_of_one_namespace_are_none_of_another() {
        let key = Key::races_by_stage();
        // The names of records are namespaces as well.
        let names = [
            "",
            "staging",
            "fence",
            "tag",
            "epoch",
            "heartbeat",
            "a.b_c-D",
        ];
        let namespaces = names.map(|name| Namespace::named(name).expect("a namespace"));
        let tracked = |namespace: &Namespace| {
            let shard = namespace.shard(key.as_str(), 32);
            let names = [
                key.fence_key(shard),
                Tag::event(&"1".into()).fence_key(shard),
                shard.epoch_key(),
                shard.heartbeat_key(),
            ];
            assert!(names.iter().all(|name| name.starts_with(&namespace.0)));
            names
        };
        for (at, own) in namespaces.iter().enumerate() {
            for (other_at, other) in namespaces.iter().enumerate() {
                for name in tracked(other) {
                    let parsed = TrackedKey::parse(&name, own);
                    assert_eq!(parsed.is_some(), at == other_at, "{name} in {own:?}");
                    let is_reported = TrackedKey::prefixes(own)
                        .iter()
                        .any(|prefix| name.starts_with(prefix));
                    assert!(is_reported || at != other_at, "{name} in {own:?}");
                }
            }
        }
        let staging = Namespace::named("staging").expect("a namespace");
        assert_eq!(
            key.value_key(staging.shard(key.as_str(), 1)),
            "oddsd:staging:value:{b0000}:races:by-stage:v1"
        );
        let long = "a".repeat(LONGEST_NAMESPACE + 1);
        for wrong in ["a b", "a:b", "{a}", "*", "é", " ", &long] {
            assert_eq!(Namespace::named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn key_formats_of_other_programs_are_exact() {
        assert_eq!(Key::races_by_stage().as_str(), "races:by-stage:v1");
        assert_eq!(
            Key::event_prices(&"rac_1".into()).as_str(),
            "event:rac_1:prices:v1"
        );
        let shard = Key::races_by_stage().shard(1);
        assert_eq!(
            Key::races_by_stage().value_key(shard),
            "oddsd:value:{b0000}:races:by-stage:v1"
        );
        for (name, tracked) in [
            (
                Key::races_by_stage().fence_key(shard),
                Some(TrackedKey::Fence("races:by-stage:v1")),
            ),
            (
                Tag::event(&"a:b".into()).fence_key(shard),
                Some(TrackedKey::TagFence("event:a%3Ab")),
            ),
            (shard.heartbeat_key(), Some(TrackedKey::Heartbeat)),
            (shard.epoch_key(), Some(TrackedKey::Epoch)),
            ("oddsd:value:{b0000}:x".into(), None),
        ] {
            let namespace = Namespace::default();
            assert_eq!(TrackedKey::parse(&name, &namespace), tracked, "{name}");
        }
        assert_eq!(Key::from_user_input("  "), None);
        assert_eq!(Key::from_user_input("a\nb"), None);
    }
}
