//! How a cache key is spelt. This is the only place with key format strings: whoever wants a
//! key asks here, so a reader and a removal can never disagree about its spelling.

use std::fmt;

use crate::model::{EventId, EventStatus};

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

    /// The prices of one event, for those who know it in this status.
    pub fn odds(status: EventStatus, event: &EventId) -> Self {
        Self(format!(
            "odds:{}:{}",
            status.as_str(),
            escape(event.as_str())
        ))
    }

    /// The list of events: of everything, of one sport, or of one league of it. Each is covered by the patterns of
    /// what it belongs to (`sidebar:*`, `sidebar:{sport}:*`, `sidebar:{sport}:{league}:*`), and by no other. A
    /// league is one of its sport: without the sport it is not a place.
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

    /// The beat of the canary: a row of no meaning that shows how long a change takes to be seen.
    pub fn canary() -> Self {
        Self("canary:v1".into())
    }

    /// Where our read API answers with what is kept under this key; `None` for a key of other programs.
    pub fn path(&self) -> Option<String> {
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

    /// A key that a person names on the command line: taken as it is, `None` when it is empty,
    /// too long or holds control characters.
    pub fn from_person(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES && !text.chars().any(char::is_control))
            .then(|| Self(text.into()))
    }

    /// As a rule spells it: without control characters, its values escaped.
    pub(crate) fn rendered(text: String) -> Option<Self> {
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES).then_some(Self(text))
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

    /// A plain key as it stands in a cache; `None` for names of our own.
    pub(crate) fn stored(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.starts_with(OURS)).then(|| Self(text.into()))
    }

    /// What a scan asks for: every name that begins with this text, whatever characters it has.
    pub(crate) fn beginning_with(prefix: &str) -> String {
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

    /// The families that it is of: one for each of its beginnings up to a `:`, the widest first.
    pub fn families(&self) -> Vec<Tag> {
        let ends = self.0.match_indices(':').map(|(at, _)| at + 1);
        ends.filter_map(|end| Tag::family(&self.0[..end])).collect()
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

    /// As a rule spells it: its values are escaped already.
    pub(crate) fn rendered(text: String) -> Option<Self> {
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES).then_some(Self(text))
    }

    pub fn is_family(&self) -> bool {
        self.0.ends_with('*')
    }

    /// All keys that begin with `prefix`, which ends with `:`; the pattern `prefix*`. It holds those that
    /// were filled or put with it, see [`Key::families`]. `None` when it ends otherwise, or is too long.
    pub fn family(prefix: &str) -> Option<Self> {
        let Self(text) = Self::new(prefix.strip_suffix(':')?)?;
        // No other tag has a `*`.
        let text = format!("{text}:*");
        (text.len() <= MAX_KEY_BYTES).then_some(Self(text))
    }

    /// As it stands in an entry, spelt here before.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// What every answer under this tag has to have seen.
    pub fn fence(&self, bucket: Bucket) -> String {
        format!("{TAGS}{bucket}:{}", self.0)
    }

    /// Where the plain keys of other programs are listed that have this tag.
    pub fn members(&self, bucket: Bucket) -> String {
        format!("oddsd:members:{bucket}:{}", self.0)
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
    /// Ours stay, past their fresh time from now on: whose policy allows it is served the old answer,
    /// labelled stale, while one load renews it. Those of other programs go, as they bear no label.
    pub stale: Vec<Key>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Key(&'a Key),
    Stale(&'a Key),
    Tag(&'a Tag),
}

impl Targets {
    /// Keys, those to be marked stale, tags.
    pub fn each(&self) -> impl Iterator<Item = Target<'_>> {
        let keys = self.keys.iter().map(Target::Key);
        let stale = self.stale.iter().map(Target::Stale);
        keys.chain(stale).chain(self.tags.iter().map(Target::Tag))
    }

    pub fn len(&self) -> usize {
        self.keys.len() + self.stale.len() + self.tags.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> Target<'a> {
    pub fn bucket(self, of: u16) -> Bucket {
        match self {
            Self::Key(key) | Self::Stale(key) => key.bucket(of),
            Self::Tag(tag) => tag.bucket(of),
        }
    }

    pub fn fence(self, bucket: Bucket) -> String {
        match self {
            Self::Key(key) | Self::Stale(key) => key.fence(bucket),
            Self::Tag(tag) => tag.fence(bucket),
        }
    }

    /// `None` of a tag.
    pub fn key(self) -> Option<&'a Key> {
        match self {
            Self::Key(key) | Self::Stale(key) => Some(key),
            Self::Tag(_) => None,
        }
    }

    pub fn as_str(self) -> &'a str {
        match self {
            Self::Key(key) | Self::Stale(key) => key.as_str(),
            Self::Tag(tag) => tag.as_str(),
        }
    }
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

/// Keys that our own readers make, as rules spell them.
pub const READERS: [&str; 7] = [
    "races:by-stage:v1",
    "event:{event_id}:prices:v1",
    "odds:{status}:{event_id}",
    "sidebar:v1",
    "sidebar:{sport_id}:v1",
    "sidebar:{sport_id}:{league_id}:v1",
    "movers:v1",
];

/// How every name of ours begins; the plain keys are other programs'.
const OURS: &str = "oddsd:";
const FENCES: &str = "oddsd:fence:";
const TAGS: &str = "oddsd:tag:";
const FLOORS: &str = "oddsd:floor:";
const BEATS: &str = "oddsd:beat:";

/// Upstash refuses keys over 32 KB; Redis would take them. Ours carry a prefix.
pub(crate) const MAX_KEY_BYTES: usize = 32 * 1024 - 64;

/// An id as part of a key: whatever is not a letter, digit, `.`, `_` or `-` becomes `%XX`, so an id
/// can neither end its part early (`:`), nor widen a pattern (`* ? [ ]`), nor move the key to
/// another cluster slot (`{ }`).
pub(crate) fn escape(id: &str) -> String {
    let mut escaped = String::with_capacity(id.len());
    escape_into(id, &mut escaped);
    escaped
}

pub(crate) fn escape_into(id: &str, text: &mut String) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if id.bytes().all(plain) {
        return text.push_str(id);
    }
    for byte in id.bytes() {
        match plain(byte) {
            true => text.push(byte as char),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
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

        #[test]
        fn no_id_widens_a_key_or_a_family(a in "[a*?{}:%\\[\\]\\\\ ]{0,6}", b in "[a*?{}:%\\[\\]\\\\ ]{0,6}", c in "[a*?{}:%\\[\\]\\\\ ]{0,6}") {
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
            // The families of a sport hold that sport's keys and no others.
            let sport = |name: &str| Tag::family(&format!("sidebar:{}:", escape(name))).expect("a family");
            prop_assert!(one.families().contains(&sport(&a)));
            prop_assert_eq!(one.families().contains(&sport(&b)), a == b);
        }

        #[test]
        fn a_family_is_no_other_tag(text in ".{0,12}", other in ".{0,12}") {
            let family = Tag::family(&format!("{text}:"));
            prop_assert!(family.is_none() || family != Tag::new(&other));
            let pattern = Tag::new(&format!("{text}:*"));
            prop_assert!(family.is_none() || family != pattern);
            prop_assert!(family != Some(Tag::event(&EventId::new(&other))));
            let same = family.is_some() && family == Tag::family(&format!("{other}:"));
            prop_assert_eq!(same, family.is_some() && text == other);
        }
    }

    #[test]
    fn a_key_is_of_the_family_of_each_of_its_beginnings() {
        let key = Key::sidebar(Some("7"), Some("12"));
        assert_eq!(key.as_str(), "sidebar:7:12:v1");
        let names: Vec<_> = key.families().iter().map(Tag::to_string).collect();
        assert_eq!(names, ["sidebar:*", "sidebar:7:*", "sidebar:7:12:*"]);
        assert_eq!(Tag::family("sidebar:7:12:"), key.families().pop());
        for none in ["", ":", "sidebar", "sidebar:*"] {
            assert_eq!(Tag::family(none), None, "{none}");
        }
    }

    #[test]
    fn a_scan_takes_its_prefix_by_the_letter() {
        assert_eq!(Key::beginning_with("a:"), "a:*");
        assert_eq!(Key::beginning_with(r"a*?[b]\c{"), r"a\*\?\[b\]\\c{*");
        assert_eq!(Key::stored("oddsd:value:{b0000}:x"), None);
        assert_eq!(Key::stored(" x "), Some(Key(" x ".into())));
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
    fn each_list_is_covered_by_the_patterns_above_it_alone() {
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
        let covered = ["sidebar:", "sidebar:tennis:", "sidebar:tennis:wta%3A1:"]
            .map(|pattern| keys.iter().filter(|key| key.starts_with(pattern)).count());
        assert_eq!(covered, [3, 2, 1]);
        let odds = Key::odds(EventStatus::Live, &"a:b".into());
        assert_eq!(odds.as_str(), "odds:live:a%3Ab");
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
