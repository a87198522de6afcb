//! Names of things: text that cannot be swapped for another kind of text.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Makes a cheap-to-clone text identifier that cannot be swapped for another kind of text.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub Arc<str>);

        impl $name {
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }
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
    /// A race or game, as its provider names it: `rac_11743160`, `1.241629436`, a 32-digit hash.
    EventId
);
text_id!(
    /// A runner, team or outcome inside one event.
    SelectionId
);
text_id!(
    /// What is being bet on: `win`, `place`, `h2h`, `spreads`, `totals`. A lay side is `win_lay`.
    MarketId
);
text_id!(
    /// A bookmaker's name in lower case without spaces, after aliases (see [`BookmakerId::from_name`]).
    BookmakerId
);
