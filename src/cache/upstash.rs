//! Upstash over its REST protocol: a command is a JSON array, the answer `{"result":…}` or `{"error":…}`.
//!
//! Each of our verbs is one command in one request: a removal of any number of keys is one `UNLINK`,
//! which is billed once, where a pipeline would be billed per key.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::link::Link;
use super::{CacheError, LEASE_TTL, Lease, Lookup, NO_EXPIRY, reply, script};
use crate::key::Key;
use crate::model::plain_text;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Upstash takes requests up to 10 MB.
const MAX_REQUEST_BYTES: usize = 10_000_000;

/// Room for the largest value that we store, escaped.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// Well below the request limit, since JSON text grows when it is put into JSON.
pub(super) const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// Keeps one removal below the request limit with keys of ordinary length; longer ones are cut
/// further by [`MAX_REQUEST_BYTES`].
const KEYS_PER_REQUEST: usize = 20_000;

/// Room for the command's name and brackets.
const REQUEST_OVERHEAD_BYTES: usize = 1024;

/// Sent back on each request, it makes a read see what we wrote before.
const SYNC_TOKEN: &str = "upstash-sync-token";

/// What an error page may add to a log line.
const EXCERPT_CHARS: usize = 120;

pub struct Upstash {
    http: Client,
    url: Url,
    token: SecretString,
    link: Link,
    command_timeout: Duration,
    sync_token: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "even_null")]
    result: Option<Value>,
    error: Option<String>,
}

/// `{"result":null}` holds a result, `{}` does not.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Upstash {
    /// Contacts nobody. Fails on a URL or token that can never work.
    pub fn open(
        url: &str,
        token: &SecretString,
        command_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let url: Url = url
            .trim()
            .parse()
            .ok()
            .context("UPSTASH_REDIS_REST_URL cannot be read: it is https://name.upstash.io, as the Upstash console shows it")?;
        let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        anyhow::ensure!(
            url.scheme() == "https" || (url.scheme() == "http" && is_loopback),
            "UPSTASH_REDIS_REST_URL must begin with https:// (the token would travel in the clear)"
        );
        anyhow::ensure!(
            url.username().is_empty() && url.password().is_none(),
            "UPSTASH_REDIS_REST_URL must not hold credentials: put the token into UPSTASH_REDIS_REST_TOKEN"
        );
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret().trim()))
            .ok()
            .context(
                "UPSTASH_REDIS_REST_TOKEN holds characters that no header takes: copy it again",
            )?;
        bearer.set_sensitive(true);
        let http = Client::builder()
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .connect_timeout(CONNECT_TIMEOUT.min(command_timeout))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("the HTTP client for Upstash cannot be built")?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Ok(Self {
            http,
            url,
            token: token.clone(),
            link: Link::new(host),
            command_timeout,
            sync_token: Mutex::default(),
        })
    }

    pub async fn get(&self, key: &Key, deadline: Duration) -> Result<Lookup, CacheError> {
        let lease = Lease::new();
        let script = format!("{}{}", script::UPSTASH_FLAGS, script::GET_OR_LEASE);
        let lease_ms = LEASE_TTL.as_millis().to_string();
        let command = json!([
            "EVAL",
            script,
            "2",
            key.as_str(),
            key.lease(),
            lease.as_str(),
            lease_ms
        ]);
        let answer = self.command(&command, deadline).await?;
        if answer == 1 {
            return Ok(Lookup::Miss { lease: Some(lease) });
        }
        if answer == 0 {
            return Ok(Lookup::Miss { lease: None });
        }
        match answer.as_array().map(Vec::as_slice) {
            Some([Value::String(body), pttl]) if pttl.is_i64() => {
                // −1: another program stored it without expiry.
                let remaining = pttl.as_u64().map_or(NO_EXPIRY, Duration::from_millis);
                let body = body.clone().into();
                Ok(Lookup::Hit { body, remaining })
            }
            _ => Err(self.strange("a script", &answer)),
        }
    }

    pub async fn fill(
        &self,
        key: &Key,
        lease: &Lease,
        body: &[u8],
        ttl: Duration,
        deadline: Duration,
    ) -> Result<bool, CacheError> {
        let text = text(body).ok_or_else(|| CacheError::TooLarge {
            detail: format!(
                "the value of {key} ({} bytes) is not text, or over {MAX_VALUE_BYTES} bytes: Upstash cannot keep it",
                body.len()
            ),
        })?;
        let script = format!("{}{}", script::UPSTASH_FLAGS, script::FILL);
        let ttl_ms = ttl.min(NO_EXPIRY).as_millis().max(1).to_string();
        let command = json!([
            "EVAL",
            script,
            "2",
            key.as_str(),
            key.lease(),
            lease.as_str(),
            text,
            ttl_ms
        ]);
        let answer = self.command(&command, deadline).await?;
        match answer.as_i64() {
            Some(stored) => Ok(stored == 1),
            None => Err(self.strange("a script", &answer)),
        }
    }

    pub async fn remove(&self, keys: &[Key]) -> Result<u64, CacheError> {
        let mut existed = 0;
        for command in unlinks(keys) {
            let answer = self.command(&command, self.command_timeout).await?;
            existed += answer
                .as_u64()
                .ok_or_else(|| self.strange("UNLINK", &answer))?;
        }
        Ok(existed)
    }

    pub async fn ping(&self) -> Result<(), CacheError> {
        let answer = self.command(&json!(["PING"]), self.command_timeout).await?;
        match answer.as_str() {
            Some("PONG") => Ok(()),
            _ => Err(self.strange("PING", &answer)),
        }
    }

    pub fn host(&self) -> &str {
        self.link.host()
    }

    /// Sends one command, and keeps the link informed.
    async fn command(&self, command: &Value, deadline: Duration) -> Result<Value, CacheError> {
        let answer = tokio::time::timeout(deadline, self.send(command))
            .await
            .unwrap_or_else(|_| Err(self.timeout()));
        match &answer {
            Ok(_) => self.link.up(),
            // A reader's impatience says nothing about the service.
            Err(CacheError::Timeout { .. }) if deadline < self.command_timeout => {}
            Err(CacheError::TooLarge { .. } | CacheError::Protocol { .. }) => {}
            Err(why) => self.link.down(why.clone()),
        }
        answer
    }

    async fn send(&self, command: &Value) -> Result<Value, CacheError> {
        let body = command.to_string();
        if body.len() > MAX_REQUEST_BYTES {
            return Err(CacheError::TooLarge {
                detail: format!(
                    "a request of {} bytes: Upstash takes up to {MAX_REQUEST_BYTES}",
                    body.len()
                ),
            });
        }
        let mut request = self.http.post(self.url.clone()).body(body);
        if let Some(token) = self.sync_token().clone() {
            request = request.header(SYNC_TOKEN, token);
        }
        let mut response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        if let Some(token) = response.headers().get(SYNC_TOKEN) {
            *self.sync_token() = Some(token.clone());
        }
        let status = response.status();
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            if text.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(CacheError::TooLarge {
                    detail: format!(
                        "{} answered with over {MAX_ANSWER_BYTES} bytes",
                        self.host()
                    ),
                });
            }
            text.extend_from_slice(&chunk);
        }
        self.read(status, &text)
    }

    /// Success is status 200 **and** a result.
    fn read(&self, status: StatusCode, text: &[u8]) -> Result<Value, CacheError> {
        let answer: Option<Answer> = serde_json::from_slice(text).ok();
        let (result, error) = answer.map_or((None, None), |a| (a.result, a.error));
        if let (StatusCode::OK, Some(value), None) = (status, result, &error) {
            return Ok(value);
        }
        let host = self.host();
        let said = error.unwrap_or_else(|| String::from_utf8_lossy(text).into_owned());
        let said = self.excerpt(&said);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(CacheError::Refused {
                detail: format!(
                    "{host} refused the token ({status}): {said}. Check UPSTASH_REDIS_REST_TOKEN"
                ),
            }),
            StatusCode::TOO_MANY_REQUESTS => Err(CacheError::Down {
                detail: format!("{host} is over its request limit: {said}"),
            }),
            StatusCode::PAYLOAD_TOO_LARGE => Err(CacheError::TooLarge {
                detail: format!("{host} takes no request of this size: {said}"),
            }),
            status if status.is_server_error() => Err(CacheError::Down {
                detail: format!("{host} answered {status}: {said}"),
            }),
            StatusCode::OK | StatusCode::BAD_REQUEST => {
                Err(reply::explain(host, "UPSTASH_REDIS_REST_TOKEN", &said))
            }
            status => Err(CacheError::Protocol {
                detail: format!("{host} answered {status}: {said}"),
            }),
        }
    }

    fn timeout(&self) -> CacheError {
        CacheError::Timeout {
            detail: format!("{} did not answer in time", self.host()),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> CacheError {
        let error = error.without_url();
        if error.is_timeout() {
            return self.timeout();
        }
        CacheError::Down {
            detail: format!(
                "cannot reach {}: {:#}",
                self.host(),
                anyhow::Error::new(error)
            ),
        }
    }

    fn strange(&self, command: &str, answer: &Value) -> CacheError {
        let answer = self.excerpt(&answer.to_string());
        CacheError::Protocol {
            detail: format!("{} answered {command} with {answer}", self.host()),
        }
    }

    /// What may be shown of an answer. A refusal likes to quote the token that it refuses.
    fn excerpt(&self, text: &str) -> String {
        let token = self.token.expose_secret().trim();
        let escaped = Value::from(token).to_string();
        let text = text.replace(token, "***");
        plain_text(
            &text.replace(escaped.trim_matches('"'), "***"),
            EXCERPT_CHARS,
        )
    }

    fn sync_token(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.sync_token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a body Upstash can keep: its requests are JSON, so only text.
pub(super) fn text(body: &[u8]) -> Option<&str> {
    (body.len() <= MAX_VALUE_BYTES)
        .then(|| std::str::from_utf8(body).ok())
        .flatten()
}

/// Leases and values of all keys, in as few commands as the request limit allows.
fn unlinks(keys: &[Key]) -> Vec<Value> {
    let mut commands = Vec::new();
    let mut names: Vec<Value> = vec!["UNLINK".into()];
    let mut bytes = REQUEST_OVERHEAD_BYTES;
    for key in keys {
        let pair = [key.lease().into(), Value::from(key.as_str())];
        let pair_bytes: usize = pair.iter().map(|name| name.to_string().len() + 1).sum();
        let is_full = bytes + pair_bytes > MAX_REQUEST_BYTES || names.len() > KEYS_PER_REQUEST * 2;
        if is_full && names.len() > 1 {
            commands.push(Value::Array(std::mem::replace(
                &mut names,
                vec!["UNLINK".into()],
            )));
            bytes = REQUEST_OVERHEAD_BYTES;
        }
        bytes += pair_bytes;
        names.extend(pair);
    }
    if names.len() > 1 {
        commands.push(Value::Array(names));
    }
    commands
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
        let commands = unlinks(&keys);
        assert!(
            commands
                .iter()
                .all(|c| c.to_string().len() <= MAX_REQUEST_BYTES)
        );
        let names = commands
            .iter()
            .filter_map(Value::as_array)
            .map(|c| c.len() - 1);
        assert_eq!(names.sum::<usize>(), keys.len() * 2);
        assert!(unlinks(&[]).is_empty());
        assert_eq!(unlinks(&keys[..10]).len(), 1);
    }
}
