//! What a cache that does not do it says.

use std::fmt;

/// Why the cache did not do it. One variant for each way in which somebody reacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheError {
    /// Not reachable, still loading, or failing over.
    Down { detail: String },
    /// No answer in time: whether it happened is unknown.
    Timeout { detail: String },
    /// It answered no (password, rights, read-only, out of memory): a person must act.
    Refused { detail: String },
    /// This value or key is over the backend's limit.
    TooLarge { detail: String },
    /// An answer that is not what the backend documents.
    Protocol { detail: String },
}

impl CacheError {
    /// Somebody answered; what is asked for beside it may well be done.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Down { .. } | Self::Timeout { .. })
    }

    /// False: repeating it soon changes nothing, somebody has to act first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Timeout { .. } | Self::Protocol { .. } => true,
            Self::Refused { .. } | Self::TooLarge { .. } => false,
        }
    }

    pub fn detail(&self) -> &str {
        match self {
            Self::Down { detail }
            | Self::Timeout { detail }
            | Self::Refused { detail }
            | Self::TooLarge { detail }
            | Self::Protocol { detail } => detail,
        }
    }
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for CacheError {}
