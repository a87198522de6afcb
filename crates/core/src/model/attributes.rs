//! Further string attributes of events and selections, packed into one allocation each.
//! Filled by feed parsers; there can be a million of them in memory.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// String attributes of an event or selection (`going`, `jockey`, …), sorted by name.
///
/// Stored as `name NUL value NUL …`: a few dozen bytes where a map takes a kilobyte, and equality is one
/// comparison of memory. A NUL inside a name or value, which Postgres cannot store, becomes U+FFFD.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attributes(Box<str>);

impl Attributes {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator('\0');
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Sets one value; an earlier one under the name is replaced.
    pub fn insert(&mut self, name: impl AsRef<str>, value: impl AsRef<str>) {
        let (name, value) = (name.as_ref(), value.as_ref());
        *self = self.iter().chain([(name, value)]).collect();
    }
}

/// The last of several values under one name is kept.
impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        let mut all: Vec<(N, V)> = all.into_iter().collect();
        all.reverse();
        all.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
        all.dedup_by(|a, b| a.0.as_ref() == b.0.as_ref());
        let len = |(name, value): &(N, V)| name.as_ref().len() + value.as_ref().len() + 2;
        let mut text = String::with_capacity(all.iter().map(len).sum());
        for (name, value) in &all {
            for part in [name.as_ref(), value.as_ref()] {
                match part.contains('\0') {
                    true => text.push_str(&part.replace('\0', "\u{fffd}")),
                    false => text.push_str(part),
                }
                text.push('\0');
            }
        }
        Self(text.into())
    }
}

impl<N: AsRef<str>, V: AsRef<str>, const LEN: usize> From<[(N, V); LEN]> for Attributes {
    fn from(all: [(N, V); LEN]) -> Self {
        all.into_iter().collect()
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<String, String>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn attributes_equal_the_map_they_are_built_from(
            all in prop::collection::vec(("[a-c]{0,2}", "[a-cé \"]{0,3}"), 0..6),
        ) {
            let map: BTreeMap<String, String> = all.iter().cloned().collect();
            let attributes: Attributes = all.iter().cloned().collect();
            prop_assert_eq!(attributes.is_empty(), map.is_empty());
            let listed: BTreeMap<String, String> =
                attributes.iter().map(|(name, value)| (name.into(), value.into())).collect();
            prop_assert_eq!(&listed, &map);
            for (name, value) in &map {
                prop_assert_eq!(attributes.get(name), Some(value.as_str()));
            }
            let mut one_by_one = Attributes::new();
            for (name, value) in &all {
                one_by_one.insert(name, value);
            }
            prop_assert_eq!(&one_by_one, &attributes);
            let json = serde_json::to_string(&attributes).expect("text");
            prop_assert_eq!(&json, &serde_json::to_string(&map).expect("text"));
            prop_assert_eq!(serde_json::from_str::<Attributes>(&json).expect("a map"), attributes);
        }
    }

    #[test]
    fn attributes_replace_nul_in_a_value() {
        let attributes = Attributes::from([("going", "So\0ft")]);
        assert_eq!(attributes.get("going"), Some("So\u{fffd}ft"));
        assert_eq!(attributes.iter().count(), 1);
    }
}
