//! Upstash over its REST protocol: a command is a JSON array, the answer `{"result":…}` or `{"error":…}`.
//!
//! Each of our verbs is one script in one request, and billed once. A removal of many keys is cut into
//! several only where the request limit says so.

mod rest;

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::{Value, json};

use super::clock::ServerClock;
use super::entry::Entry;
use super::sight::{Looked, Seen, Sight};
use super::{
    CacheError, Claim, FENCE_TTL, Filled, LEASE_TTL, LONGEST_TTL, Lease, Life, Remote, Removed,
    TAG_FENCE_TTL, Taken, Targets, script,
};
use crate::key::{Bucket, Key, Tag};
use crate::model::View;
use rest::Rest;

/// Upstash takes requests up to 10 MB.
const MAX_REQUEST_BYTES: usize = 10_000_000;

/// Well below the request limit, since JSON text grows when it is put into JSON.
pub(super) const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// Keys or tags of one script: it has the database to itself for as long as it runs.
const NAMES_PER_SCRIPT: usize = 500;

/// Everything in one bucket: a beat is billed for each.
const BUCKETS: u16 = 1;

/// The service does not say which run of it answers; the beats alone tell.
pub(super) const RUN: &str = "upstash";

pub struct Upstash {
    rest: Rest,
    clock: ServerClock,
}

impl Upstash {
    /// Contacts nobody. Fails on a URL or token that can never work.
    pub fn open(
        url: &str,
        token: &SecretString,
        command_timeout: Duration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            rest: Rest::open(url, token, command_timeout)?,
            clock: ServerClock::default(),
        })
    }

    pub async fn look(
        &self,
        key: &Key,
        tags: &[Tag],
        deadline: Duration,
    ) -> Result<Looked, CacheError> {
        let bucket = key.bucket(BUCKETS);
        let mut keys = vec![key.value(bucket), bucket.floor()];
        keys.extend(tags.iter().map(|tag| tag.fence(tag.bucket(BUCKETS))));
        let answer = self.script(script::LOOK, &keys, &[], deadline).await?;
        let Some([Value::Array(found), now_ms]) = answer.as_array().map(Vec::as_slice) else {
            return Err(self.rest.strange("a script", &answer));
        };
        let now = Instant::now();
        self.clock.heard(now_ms.as_u64().unwrap_or_default(), now);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let sight = Sight {
            value: found.first().and_then(text).map(Into::into),
            floor: found.get(1).and_then(text),
            tags: found.iter().skip(2).map(text).collect(),
        };
        Ok(sight.standing(tags, RUN, &self.clock, now))
    }

    pub(super) async fn take(
        &self,
        key: &Key,
        tags: &[Tag],
        seen: &Seen,
        deadline: Duration,
    ) -> Result<Taken, CacheError> {
        let bucket = key.bucket(BUCKETS);
        let mut keys = vec![
            bucket.floor(),
            bucket.horizon(),
            key.value(bucket),
            key.lease(bucket),
            key.fence(bucket),
        ];
        keys.extend(tags.iter().map(|tag| tag.fence(tag.bucket(BUCKETS))));
        let token = fastrand::u128(..);
        let args = [
            format!("{token:032x}"),
            LEASE_TTL.as_millis().to_string(),
            RUN.to_owned(),
            FENCE_TTL.as_millis().to_string(),
            TAG_FENCE_TTL.as_millis().to_string(),
            String::from_utf8_lossy(&seen.beginning()).into_owned(),
        ];
        let answer = self.script(script::TAKE, &keys, &args, deadline).await?;
        let parts = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        match parts {
            [said] if *said == 0 => Ok(Taken::Held),
            [said] if *said == 2 => Ok(Taken::NoFloor),
            [said] if *said == 3 => Ok(Taken::Overtaken),
            [_, Value::String(floor), ms] if ms.is_u64() => {
                let (at, server_ms) = (Instant::now(), ms.as_u64().unwrap_or_default());
                self.clock.heard(server_ms, at);
                Ok(Taken::Mine(Lease(Claim::Remote(Remote {
                    token,
                    floor: floor.clone(),
                    server_ms,
                    at,
                }))))
            }
            _ => Err(self.rest.strange("a script", &answer)),
        }
    }

    pub(super) async fn fill(
        &self,
        key: &Key,
        lease: &Remote,
        entry: &Entry,
        compress_from: usize,
        deadline: Duration,
    ) -> Result<Filled, CacheError> {
        let stored = entry.encode(lease.life(), lease.server_ms(), compress_from, true);
        let text = String::from_utf8(stored).unwrap_or_default();
        if text.is_empty() || text.len() > MAX_VALUE_BYTES {
            return Err(CacheError::TooLarge {
                detail: format!(
                    "the value of {key} ({} bytes) is over {MAX_VALUE_BYTES} bytes: Upstash cannot keep it",
                    entry.body.len()
                ),
            });
        }
        let bucket = key.bucket(BUCKETS);
        let keys = [
            bucket.floor(),
            key.value(bucket),
            key.lease(bucket),
            key.fence(bucket),
        ];
        let ttl = entry.ttl().min(LONGEST_TTL).as_millis().max(1);
        let args = [
            lease.token(),
            lease.floor.clone(),
            entry.view.to_string(),
            text,
            ttl.to_string(),
        ];
        let answer = self.script(script::FILL, &keys, &args, deadline).await?;
        let said = answer.as_str().and_then(script::filled);
        said.ok_or_else(|| self.rest.strange("a script", &answer))
    }

    pub(super) async fn release(&self, key: &Key, lease: &Remote) {
        let keys = [key.lease(key.bucket(BUCKETS))];
        let args = [lease.token()];
        // Unheard, it runs out by itself.
        let _ = self
            .script(script::RELEASE, &keys, &args, self.rest.command_timeout)
            .await;
    }

    pub async fn remove(&self, targets: &Targets, view: &View) -> Result<Removed, CacheError> {
        let mut removed = Removed::default();
        for (keys, tags) in parts(targets) {
            let bucket = Bucket::all(BUCKETS).next().expect("one bucket");
            let mut names = vec![bucket.floor(), bucket.horizon()];
            names.extend(keys.iter().map(|key| key.fence(bucket)));
            names.extend(tags.iter().map(|tag| tag.fence(bucket)));
            names.extend(keys.iter().map(|key| key.lease(bucket)));
            names.extend(keys.iter().map(|key| key.value(bucket)));
            names.extend(keys.iter().map(Key::to_string));
            let args = [
                view.to_string(),
                keys.len().to_string(),
                tags.len().to_string(),
                FENCE_TTL.as_millis().to_string(),
                TAG_FENCE_TTL.as_millis().to_string(),
            ];
            let answer = self
                .script(script::REMOVE, &names, &args, self.rest.command_timeout)
                .await?;
            match answer.as_array().map(Vec::as_slice) {
                Some([existed, floor]) if existed.is_u64() => {
                    removed.existed += existed.as_u64().unwrap_or_default();
                    removed.no_floor |= *floor == 0;
                }
                _ => return Err(self.rest.strange("a script", &answer)),
            }
        }
        Ok(removed)
    }

    pub async fn remove_plain(&self, keys: &[Key]) -> Result<u64, CacheError> {
        let mut existed = 0;
        for part in cut(keys, |key| key.as_str().len()) {
            let mut command: Vec<Value> = vec!["UNLINK".into()];
            command.extend(part.iter().map(|key| Value::from(key.as_str())));
            let command = Value::Array(command);
            let answer = self
                .rest
                .command(&command, self.rest.command_timeout)
                .await?;
            existed += answer
                .as_u64()
                .ok_or_else(|| self.rest.strange("UNLINK", &answer))?;
        }
        Ok(existed)
    }

    pub async fn void(&self) -> Result<(), CacheError> {
        let mut command: Vec<Value> = vec!["DEL".into()];
        for bucket in Bucket::all(BUCKETS) {
            command.extend([bucket.floor(), bucket.horizon(), bucket.beat()].map(Value::from));
        }
        let command = Value::Array(command);
        self.rest
            .command(&command, self.rest.command_timeout)
            .await
            .map(drop)
    }

    pub async fn found(&self, life: &Life, view: &View) -> Result<(), CacheError> {
        let args = [life.floor.clone(), view.to_string(), life.beat.to_string()];
        self.vouch(script::FOUND, &args).await.map(drop)
    }

    pub async fn beat(&self, life: &Life) -> Result<bool, CacheError> {
        let args = [
            life.floor.clone(),
            life.beat.to_string(),
            (life.beat + 1).to_string(),
        ];
        self.vouch(script::BEAT, &args).await
    }

    async fn vouch(&self, script: &str, args: &[String]) -> Result<bool, CacheError> {
        let mut all = true;
        for bucket in Bucket::all(BUCKETS) {
            let keys = [bucket.floor(), bucket.horizon(), bucket.beat()];
            let answer = self
                .script(script, &keys, args, self.rest.command_timeout)
                .await?;
            all &= answer == 1;
        }
        Ok(all)
    }

    async fn script(
        &self,
        script: &str,
        keys: &[String],
        args: &[String],
        deadline: Duration,
    ) -> Result<Value, CacheError> {
        let mut command: Vec<Value> = vec![
            "EVAL".into(),
            format!("{}{script}", script::UPSTASH_FLAGS).into(),
            keys.len().to_string().into(),
        ];
        command.extend(
            keys.iter()
                .chain(args)
                .map(|word| Value::from(word.as_str())),
        );
        self.rest.command(&Value::Array(command), deadline).await
    }

    pub async fn ping(&self) -> Result<(), CacheError> {
        let answer = self
            .rest
            .command(&json!(["PING"]), self.rest.command_timeout)
            .await?;
        match answer.as_str() {
            Some("PONG") => Ok(()),
            _ => Err(self.rest.strange("PING", &answer)),
        }
    }

    pub fn host(&self) -> &str {
        self.rest.host()
    }
}

/// Keys and tags of one script each, below the request limit.
fn parts(targets: &Targets) -> Vec<(&[Key], &[Tag])> {
    // A key is named five times at most: value, lease, fence, plain, and their prefixes.
    let keys = cut(&targets.keys, |key| key.as_str().len() * 5 + 160);
    let tags = cut(&targets.tags, |tag| tag.as_str().len() + 40);
    match (&keys[..], &tags[..]) {
        ([keys], [tags]) if keys.len() + tags.len() <= NAMES_PER_SCRIPT => vec![(*keys, *tags)],
        _ => {
            let keys = keys.into_iter().map(|keys| (keys, &[][..]));
            let tags = tags.into_iter().map(|tags| (&[][..], tags));
            keys.chain(tags).collect()
        }
    }
}

/// Slices that fit into a request each.
fn cut<T>(names: &[T], bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut cuts, mut from, mut size) = (Vec::new(), 0, 0);
    for (at, name) in names.iter().enumerate() {
        // Escaped, a byte may become six.
        let bytes = bytes(name) * 2 + 8;
        if at > from && (size + bytes > MAX_REQUEST_BYTES / 2 || at - from >= NAMES_PER_SCRIPT) {
            cuts.push(&names[from..at]);
            (from, size) = (at, 0);
        }
        size += bytes;
    }
    if from < names.len() {
        cuts.push(&names[from..]);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_cut_below_the_request_limit_and_none_is_lost() {
        let long = "k".repeat(30_000);
        let keys: Vec<Key> = (0..1_000)
            .filter_map(|n| Key::from_person(&format!("{long}{n}")))
            .collect();
        let targets = Targets {
            keys,
            tags: vec![Tag::new("t").expect("a tag")],
        };
        let parts = parts(&targets);
        let bytes = |keys: &[Key]| keys.iter().map(|key| key.as_str().len() * 4).sum::<usize>();
        assert!(
            parts
                .iter()
                .all(|(keys, _)| bytes(keys) < MAX_REQUEST_BYTES)
        );
        let keys: usize = parts.iter().map(|(keys, _)| keys.len()).sum();
        let tags: usize = parts.iter().map(|(_, tags)| tags.len()).sum();
        assert_eq!((keys, tags), (1_000, 1));
        let few = Targets {
            keys: targets.keys[..10].to_vec(),
            ..targets
        };
        assert_eq!(
            super::parts(&few).len(),
            1,
            "one request for the usual removal"
        );
        assert!(super::parts(&Targets::default()).is_empty());
    }
}
