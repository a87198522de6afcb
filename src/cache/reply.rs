//! What a Redis error reply means for us, on the wire or through REST, and what a person can do
//! about it.

use super::CacheError;
use crate::model::plain_text;

/// Replies are quoted in logs: long enough for every reply that Redis has.
const REPLY_CHARS: usize = 200;

/// Reads an error reply of `host`. `credentials` names the setting that a person would correct.
pub(super) fn explain(host: &str, credentials: &str, reply: &str) -> CacheError {
    let reply = plain_text(reply, REPLY_CHARS);
    match meaning(&reply) {
        Meaning::Refused(advice) => CacheError::Refused {
            detail: format!(
                "{host} refused: {reply}. {}",
                advice.replace("{credentials}", credentials)
            ),
        },
        Meaning::Down => CacheError::Down {
            detail: format!("{host} is not ready: {reply}"),
        },
        Meaning::Unknown => CacheError::Protocol {
            detail: format!("{host} answered with an error: {reply}"),
        },
    }
}

enum Meaning {
    Refused(&'static str),
    Down,
    Unknown,
}

/// Redis names an error in capitals, mostly as its first word; inside a script's error it may come
/// later, so the first capital word that we know decides.
fn meaning(reply: &str) -> Meaning {
    reply
        .split(|c: char| !c.is_ascii_uppercase())
        .find_map(known)
        .unwrap_or(Meaning::Unknown)
}

fn known(word: &str) -> Option<Meaning> {
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
    fn replies_sort_into_what_somebody_does_about_them() {
        let explain = |reply| explain("cache:6379", "REDIS_URL", reply);
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
