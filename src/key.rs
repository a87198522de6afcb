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

    /// A key that a person names on the command line: taken as it is, `None` when it is empty,
    /// too long or holds control characters.
    pub fn from_person(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty() && text.len() <= MAX_KEY_BYTES && !text.chars().any(char::is_control))
            .then(|| Self(text.into()))
    }

    /// The lease that a reader takes at a miss. The braces put value and lease into one slot of a
    /// Redis cluster, while the value keeps the plain name that other programs know.
    pub fn lease(&self) -> String {
        format!("lease:{{{}}}", self.0)
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

/// Upstash refuses longer keys; Redis would take them.
const MAX_KEY_BYTES: usize = 32 * 1024;

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
    fn keys_other_programs_know_are_spelt_exactly() {
        assert_eq!(Key::races_by_stage().as_str(), "races:by-stage:v1");
        assert_eq!(
            Key::event_prices(&"rac_1".into()).as_str(),
            "event:rac_1:prices:v1"
        );
        assert_eq!(Key::races_by_stage().lease(), "lease:{races:by-stage:v1}");
        assert_eq!(Key::from_person("  "), None);
        assert_eq!(Key::from_person("a\nb"), None);
    }
}
