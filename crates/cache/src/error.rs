//! Why a cache operation failed, and how a Redis error reply maps to it. Every backend returns
//! these errors; the relay and the reader decide by their variant.

use oddsd_core::model::sanitize_text;

/// Replies are quoted in logs: long enough for every reply that Redis has.
const REPLY_CHARS: usize = 200;

/// Why a cache operation failed: one variant for each reaction of a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Not reachable, still loading, or failing over.
    #[error("{detail}")]
    Down {
        /// The host and the cause.
        detail: String,
    },
    /// No answer in time: whether the operation happened is unknown.
    #[error("{detail}")]
    Timeout {
        /// The host, or the budget that was used up.
        detail: String,
    },
    /// The server refused (password, rights, read-only, out of memory): an operator must act.
    #[error("{detail}")]
    Refused {
        /// The host, its reply and what to do.
        detail: String,
    },
    /// This value or key is over the backend's limit.
    #[error("{detail}")]
    TooLarge {
        /// The size and the limit.
        detail: String,
    },
    /// A reply that the backend does not document.
    #[error("{detail}")]
    Protocol {
        /// The host and its reply.
        detail: String,
    },
}

impl CacheError {
    /// The server replied, so other commands of the same batch may have been executed.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Down { .. } | Self::Timeout { .. })
    }

    /// False: a retry fails again until an operator acts.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Timeout { .. } | Self::Protocol { .. } => true,
            Self::Refused { .. } | Self::TooLarge { .. } => false,
        }
    }

    /// The text of the error: host, cause and, where there is one, the remedy.
    pub fn detail(&self) -> &str {
        match self {
            Self::Down { detail }
            | Self::Timeout { detail }
            | Self::Refused { detail }
            | Self::TooLarge { detail }
            | Self::Protocol { detail } => detail,
        }
    }

    /// Maps an error reply of `host`, by RESP or REST. `credentials` names the setting that an operator
    /// would correct.
    pub(super) fn from_reply(host: &str, credentials: &str, reply: &str) -> Self {
        let reply = sanitize_text(reply, REPLY_CHARS);
        // Redis names an error in capitals, mostly as its first word; inside a script's error it may
        // come later, so the first known capital word decides.
        let mut words = reply.split(|c: char| !c.is_ascii_uppercase());
        match words.find_map(meaning) {
            Some(Meaning::Refused(advice)) => Self::Refused {
                detail: format!(
                    "{host} refused: {reply}. {}",
                    advice.replace("{credentials}", credentials)
                ),
            },
            Some(Meaning::Down) => Self::Down {
                detail: format!("{host} is not ready: {reply}"),
            },
            None => Self::Protocol {
                detail: format!("{host} answered with an error: {reply}"),
            },
        }
    }
}

enum Meaning {
    Refused(&'static str),
    Down,
}

fn meaning(word: &str) -> Option<Meaning> {
    Some(match word {
        "WRONGPASS" | "NOAUTH" | "AUTH" => Meaning::Refused("Check {credentials}"),
        "NOPERM" => Meaning::Refused(
            "Give the user of {credentials} the commands eval, get, set, mget, del, unlink, persist, getrange, setrange, exists, zadd, zscan, zrange, zrem, zremrangebyscore, pexpireat, time, ping and info (and client, for the first level), or use another",
        ),
        "READONLY" => Meaning::Refused("This is a replica: name the primary in {credentials}"),
        "OOM" => Meaning::Refused(
            "Its memory is full: raise maxmemory, or set maxmemory-policy to allkeys-lru",
        ),
        "MISCONF" => Meaning::Refused(
            "It cannot save to disk: free space, or turn persistence off for a cache",
        ),
        "NOREPLICAS" => Meaning::Refused("It misses replicas: see min-replicas-to-write"),
        "LOADING" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "BUSY" => Meaning::Down,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_replies_map_to_the_reaction_they_need() {
        let explain = |reply| CacheError::from_reply("cache:6379", "REDIS_URL", reply);
        let refused = explain("READONLY You can't write against a read only replica.");
        assert!(!refused.is_retryable());
        assert!(refused.to_string().contains("primary in REDIS_URL"));
        let nested = "ERR Error running script: @user_script:3: -OOM command not allowed";
        assert!(matches!(explain(nested), CacheError::Refused { .. }));
        assert!(matches!(
            explain("LOADING Redis is loading"),
            CacheError::Down { .. }
        ));
        assert!(matches!(
            explain("ERR unknown command"),
            CacheError::Protocol { .. }
        ));
        assert!(!explain("ERR \u{1b}[2J").to_string().contains('\u{1b}'));
    }
}
