//! Text identifiers with a type of their own, so that one kind cannot be passed for another.
//! Used by every crate.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Defines a text identifier that is cheap to clone.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// Copies the text.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// The provider's id of an event: `rac_11743160`, `1.241629436`, a 32-digit hash.
    EventId
);
text_id!(
    /// The id of a selection inside its event.
    SelectionId
);
text_id!(
    /// The kind of bet: `win`, `place`, `h2h`, `spreads`, `totals`. A lay side is `win_lay`.
    MarketId
);
text_id!(
    /// A bookmaker's name in lower case without spaces, after aliases (see [`BookmakerId::from_name`]).
    BookmakerId
);
