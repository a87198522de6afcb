//! Why a cache operation failed, and how a Redis error reply maps to it. Every backend returns
//! these errors; the relay and the reader decide by their variant.

use oddsd_core::model::sanitize_text;

/// Replies are quoted in logs: long enough for every reply that Redis has.
const REPLY_CHARS: usize = 200;

/// Why a cache operation failed: one variant for each reaction of a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Not reachable, still loading, or failing over. The text names the host and the cause.
    #[error("{0}")]
    Down(String),
    /// No answer in time: whether the operation happened is unknown. The text names the host, or the budget that
    /// was used up.
    #[error("{0}")]
    Timeout(String),
    /// The server refused (password, rights, read-only, out of memory): an operator must act. The text has its
    /// reply and what to do.
    #[error("{0}")]
    Refused(String),
    /// This value or key is over the backend's limit. The text has the size and the limit.
    #[error("{0}")]
    TooLarge(String),
    /// A reply that the backend does not document. The text names the host and the reply.
    #[error("{0}")]
    Protocol(String),
}

impl CacheError {
    /// The server replied, so other commands of the same batch may have been executed.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Down(_) | Self::Timeout(_))
    }

    /// False: a retry fails again until an operator acts.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Down(_) | Self::Timeout(_) | Self::Protocol(_) => true,
            Self::Refused(_) | Self::TooLarge(_) => false,
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
            Some(Meaning::Refused(advice)) => Self::Refused(format!(
                "{host} refused: {reply}. {}",
                advice.replace("{credentials}", credentials)
            )),
            Some(Meaning::Down) => Self::Down(format!("{host} is not ready: {reply}")),
            None => Self::Protocol(format!("{host} answered with an error: {reply}")),
        }
    }
}

/// What to do if a server that was taken for one alone is a cluster, as serverless offers often are.
pub(super) const IS_CLUSTER: &str =
    "It is a cluster: write redis-cluster:// (rediss-cluster:// with TLS) in {credentials}";

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
        "CROSSSLOT" | "MOVED" => Meaning::Refused(IS_CLUSTER),
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
        assert!(matches!(explain(nested), CacheError::Refused(_)));
        assert!(matches!(
            explain("LOADING Redis is loading"),
            CacheError::Down(_)
        ));
        assert!(matches!(
            explain("ERR unknown command"),
            CacheError::Protocol(_)
        ));
        let cluster = explain("CROSSSLOT Keys in request don't hash to the same slot");
        assert!(
            cluster
                .to_string()
                .contains("redis-cluster:// (rediss-cluster:// with TLS) in REDIS_URL")
        );
        assert!(!cluster.is_retryable());
        assert!(!explain("ERR \u{1b}[2J").to_string().contains('\u{1b}'));
    }
}
