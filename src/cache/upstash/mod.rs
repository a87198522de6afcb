//! Upstash over its REST protocol: a command is a JSON array, the answer `{"result":…}` or `{"error":…}`.
//!
//! Each of our verbs is one script in one request, and billed once. A removal of many keys is several in
//! one pipeline.

mod rest;

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::{Value, json};

use super::call::{Call, Reply, Verb};
use super::clock::ServerClock;
use super::entry::Entry;
use super::removal::cut;
use super::sight::{Looked, Seen, Sight};
use super::{CacheError, Claim, Filled, Lease, Life, Remote, Taken, script};
use crate::key::{Bucket, Key, Tag};
use crate::model::View;
use rest::Rest;

/// Upstash takes requests up to 10 MB.
const MAX_REQUEST_BYTES: usize = 10_000_000;

/// Well below the request limit, since JSON text grows when it is put into JSON.
pub(super) const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// Upstash takes keys up to 32 KB.
const LONGEST_NAME: usize = 32 * 1024;

/// Of a pipeline.
const COMMANDS_PER_REQUEST: usize = 1_000;

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
        let looking = Call::script(script::LOOK, keys, [""; 0]);
        let answer = self.script(&looking, deadline).await?;
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
        let fences = tags.iter().map(|tag| tag.fence(tag.bucket(BUCKETS)));
        let token = fastrand::u128(..);
        let taking = script::take(key, bucket, fences, &format!("{token:032x}"), RUN, seen);
        let answer = self.script(&taking, deadline).await?;
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
        let filling = script::fill(key, bucket, lease, entry, text);
        let answer = self.script(&filling, deadline).await?;
        let said = answer.as_str().and_then(script::filled);
        said.ok_or_else(|| self.rest.strange("a script", &answer))
    }

    pub(super) async fn release(&self, key: &Key, lease: &Remote) {
        let released = script::release(key, key.bucket(BUCKETS), lease);
        // Unheard, it runs out by itself.
        let _ = self.script(&released, self.rest.command_timeout).await;
    }

    /// See `Server::call_all`.
    pub(super) async fn call_all(&self, calls: &[Call]) -> Vec<Result<Reply, CacheError>> {
        let mut answers: Vec<Option<Result<Reply, CacheError>>> = vec![None; calls.len()];
        let mut commands = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            match command(call) {
                Ok(command) => commands.push((at, command)),
                Err(why) => answers[at] = Some(Err(why)),
            }
        }
        let bytes = |(_, command): &(usize, String)| command.len() + 1;
        let mut nobody = None;
        for request in cut(commands, COMMANDS_PER_REQUEST, MAX_REQUEST_BYTES / 2, bytes) {
            let (at, commands): (Vec<usize>, Vec<String>) = request.into_iter().unzip();
            let said = match &nobody {
                None => self.rest.commands(&commands).await,
                Some(why) => Err(CacheError::clone(why)),
            };
            match said {
                Ok(said) => {
                    for (at, said) in at.into_iter().zip(said) {
                        answers[at] = Some(said.map(read));
                    }
                }
                Err(why) => {
                    for at in at {
                        answers[at] = Some(Err(why.clone()));
                    }
                    nobody = (!why.is_answer()).then_some(why);
                }
            }
        }
        let answers = answers.into_iter();
        let unasked = || self.rest.strange("a pipeline", &Value::Null);
        answers
            .map(|answer| answer.unwrap_or_else(|| Err(unasked())))
            .collect()
    }

    pub async fn void(&self) -> Result<(), CacheError> {
        let mut command: Vec<Value> = vec!["DEL".into()];
        for bucket in Bucket::all(BUCKETS) {
            command.extend(script::vouched(bucket).map(Value::from));
        }
        let command = Value::Array(command);
        self.rest
            .command(&command, self.rest.command_timeout)
            .await
            .map(drop)
    }

    pub async fn found(&self, life: &Life, view: &View) -> Result<(), CacheError> {
        let call = |bucket| script::found(bucket, life, view);
        self.vouch(call).await.map(drop)
    }

    pub async fn beat(&self, life: &Life) -> Result<bool, CacheError> {
        self.vouch(|bucket| script::beat(bucket, life)).await
    }

    async fn vouch(&self, call: impl Fn(Bucket) -> Call) -> Result<bool, CacheError> {
        let mut all = true;
        for bucket in Bucket::all(BUCKETS) {
            let answer = self
                .script(&call(bucket), self.rest.command_timeout)
                .await?;
            all &= answer == 1;
        }
        Ok(all)
    }

    async fn script(&self, call: &Call, deadline: Duration) -> Result<Value, CacheError> {
        self.rest
            .command(&Value::Array(words(call)?), deadline)
            .await
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

/// As it travels. Names over the service's limit are told apart here, since it has no word for them that
/// could be relied on.
fn command(call: &Call) -> Result<String, CacheError> {
    if let Some(long) = call.keys.iter().find(|name| name.len() > LONGEST_NAME) {
        return Err(CacheError::TooLarge {
            detail: format!(
                "a name of {} bytes: Upstash takes up to {LONGEST_NAME}",
                long.len()
            ),
        });
    }
    let command = Value::Array(words(call)?).to_string();
    if command.len() > MAX_REQUEST_BYTES {
        return Err(CacheError::TooLarge {
            detail: format!(
                "a request of {} bytes: Upstash takes up to {MAX_REQUEST_BYTES}",
                command.len()
            ),
        });
    }
    Ok(command)
}

fn words(call: &Call) -> Result<Vec<Value>, CacheError> {
    let mut words: Vec<Value> = match call.verb {
        Verb::Command(name) => vec![name.into()],
        Verb::Script(script) => vec![
            "EVAL".into(),
            format!("{}{script}", script::UPSTASH_FLAGS).into(),
            call.keys.len().to_string().into(),
        ],
    };
    for word in call.keys.iter().chain(&call.args) {
        let word = std::str::from_utf8(word).map_err(|_| CacheError::Refused {
            detail: "Upstash takes text only: encode the body".into(),
        })?;
        words.push(word.into());
    }
    Ok(words)
}

fn read(value: Value) -> Reply {
    match value {
        Value::String(text) => Reply::Text(text.into()),
        Value::Array(parts) => Reply::List(parts.into_iter().map(read).collect()),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Reply::Number(number),
            // A score.
            None => Reply::Text(number.to_string().into()),
        },
        Value::Null | Value::Bool(_) | Value::Object(_) => Reply::Nil,
    }
}
