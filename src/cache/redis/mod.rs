//! Redis over its own protocol: one server, a cluster, or behind sentinels, by URL scheme.
//!
//! The client library waits for ever by default (for a connection, for an answer, for room in its
//! queue); everything here is set so that a command ends, well or badly, within its own time.

mod connect;

use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, KeysInterface, LuaInterface};
use fred::types::Value;
use fred::types::config::Options;
use fred::util::redis_keyslot;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use super::link::Link;
use super::{Bytes, CacheError, LEASE_TTL, Lease, Lookup, NO_EXPIRY, reply, script};
use crate::key::Key;

/// Commands under way at a time; more than this fail at once. The library has a bound of its own,
/// but in 10.1 each command that it turns away stays counted as queued, and from then on it no longer
/// flushes: every later command waits in its write buffer.
const COMMANDS_UNDER_WAY: usize = 1024;

/// Keys removed in one round trip.
const KEYS_PER_TRIP: usize = 1000;

pub(super) const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;

pub struct Redis {
    client: Client,
    link: Arc<Link>,
    is_cluster: bool,
    command_timeout: Duration,
    under_way: Semaphore,
    keeper: JoinHandle<()>,
}

impl Redis {
    /// Starts connecting and waits for the first attempt to end, but no longer than a command may
    /// take. Fails only on a URL that can never work.
    pub async fn open(url: &SecretString, command_timeout: Duration) -> anyhow::Result<Self> {
        let config = connect::config(url.expose_secret())?;
        let is_cluster = config.server.is_clustered();
        let link = Arc::new(Link::new(connect::host(&config.server)));
        let client = connect::client(config, command_timeout)?;
        let keeper = tokio::spawn(connect::keep(client.clone(), Arc::clone(&link)));
        let redis = Self {
            client,
            link,
            is_cluster,
            command_timeout,
            under_way: Semaphore::new(COMMANDS_UNDER_WAY),
            keeper,
        };
        let _ = tokio::time::timeout(command_timeout, redis.link.tried()).await;
        Ok(redis)
    }

    pub async fn get(&self, key: &Key, deadline: Duration) -> Result<Lookup, CacheError> {
        let lease_key = key.lease();
        if !self.same_slot(key, &lease_key) {
            // Nobody can hold a lease on it, so we never put anything there.
            return Ok(Lookup::Miss { lease: None });
        }
        let _permit = self.permit()?;
        let lease = Lease::new();
        let args = vec![lease.as_str().to_owned(), millis(LEASE_TTL).to_string()];
        let keys = vec![key.as_str().to_owned(), lease_key];
        let answer = self
            .within(deadline)
            .eval::<Value, _, _, _>(script::GET_OR_LEASE, keys, args)
            .await;
        match answer.map_err(|error| self.explain(error))? {
            Value::Integer(1) => Ok(Lookup::Miss { lease: Some(lease) }),
            Value::Integer(0) => Ok(Lookup::Miss { lease: None }),
            Value::Array(parts) => self.hit(parts),
            other => Err(self.strange(&other)),
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
        if body.len() > MAX_VALUE_BYTES {
            return Err(CacheError::TooLarge {
                detail: format!(
                    "the value of {key} has {} bytes, we store up to {MAX_VALUE_BYTES} in Redis",
                    body.len()
                ),
            });
        }
        let _permit = self.permit()?;
        let keys = vec![key.as_str().to_owned(), key.lease()];
        let args: Vec<Value> = vec![
            lease.as_str().into(),
            Value::Bytes(Bytes::copy_from_slice(body)),
            millis(ttl).to_string().into(),
        ];
        let answer = self
            .within(deadline)
            .eval::<i64, _, _, _>(script::FILL, keys, args)
            .await;
        Ok(answer.map_err(|error| self.explain(error))? == 1)
    }

    /// Leases go before their values: a fill between the two is void.
    pub async fn remove(&self, keys: &[Key]) -> Result<u64, CacheError> {
        let _permit = self.permit()?;
        let mut existed = 0;
        for keys in keys.chunks(KEYS_PER_TRIP) {
            let leases: Vec<String> = keys.iter().map(Key::lease).collect();
            let values: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
            let per_command = if self.is_cluster { 1 } else { KEYS_PER_TRIP };
            let trip = self
                .client
                .pipeline()
                .with_options(&self.options(self.command_timeout));
            let mut lease_commands = 0;
            for part in leases.chunks(per_command) {
                let _: Value = trip
                    .unlink(part.to_vec())
                    .await
                    .map_err(|e| self.explain(e))?;
                lease_commands += 1;
            }
            let mut commands = lease_commands;
            for part in values.chunks(per_command) {
                let _: Value = trip
                    .unlink(part.to_vec())
                    .await
                    .map_err(|e| self.explain(e))?;
                commands += 1;
            }
            let answers = trip.try_all::<u64>().await;
            let answered = answers.len();
            for (n, answer) in answers.into_iter().enumerate() {
                let count = answer.map_err(|error| self.explain(error))?;
                existed += if n < lease_commands { 0 } else { count };
            }
            if answered != commands {
                return Err(CacheError::Protocol {
                    detail: format!(
                        "{} confirmed {answered} of {commands} removals",
                        self.link.host()
                    ),
                });
            }
        }
        Ok(existed)
    }

    pub async fn ping(&self) -> Result<(), CacheError> {
        let _permit = self.permit()?;
        let client = self.within(self.command_timeout);
        let answer: Result<Value, Error> = client.ping(None).await;
        answer.map(drop).map_err(|error| self.explain(error))
    }

    pub fn host(&self) -> &str {
        self.link.host()
    }

    pub async fn connected(&self) {
        self.link.connected().await;
    }

    pub async fn close(&self) {
        let _ = tokio::time::timeout(self.command_timeout, self.client.quit()).await;
        self.keeper.abort();
    }

    fn hit(&self, parts: Vec<Value>) -> Result<Lookup, CacheError> {
        let [body, Value::Integer(pttl)] = &parts[..] else {
            return Err(self.strange(&Value::Array(parts)));
        };
        let Some(body) = body.clone().into_bytes() else {
            return Err(self.strange(body));
        };
        // −1: another program stored it without expiry.
        let remaining = u64::try_from(*pttl).map_or(NO_EXPIRY, Duration::from_millis);
        Ok(Lookup::Hit { body, remaining })
    }

    /// In a cluster a script sees one slot. Value and lease share it unless the key has braces of its
    /// own, which only a key that a person typed can have.
    fn same_slot(&self, key: &Key, lease: &str) -> bool {
        !self.is_cluster
            || redis_keyslot(key.as_str().as_bytes()) == redis_keyslot(lease.as_bytes())
    }

    fn permit(&self) -> Result<SemaphorePermit<'_>, CacheError> {
        self.under_way.try_acquire().map_err(|_| CacheError::Down {
            detail: format!(
                "{}: {COMMANDS_UNDER_WAY} commands wait for it already",
                self.link.host()
            ),
        })
    }

    fn options(&self, deadline: Duration) -> Options {
        Options {
            timeout: Some(deadline),
            max_attempts: Some(connect::ATTEMPTS),
            fail_fast: true,
            ..Options::default()
        }
    }

    fn within(&self, deadline: Duration) -> WithOptions<Client> {
        self.client.with_options(&self.options(deadline))
    }

    fn explain(&self, error: Error) -> CacheError {
        match error.kind() {
            // What failing fast says; why there is no connection is known from the last attempt.
            ErrorKind::Canceled => self.link.failure(),
            _ => explain(self.link.host(), &error),
        }
    }

    fn strange(&self, answer: &Value) -> CacheError {
        CacheError::Protocol {
            detail: format!(
                "{} answered a script with {}",
                self.link.host(),
                answer.kind()
            ),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn explain(host: &str, error: &Error) -> CacheError {
    let text = error.details();
    match error.kind() {
        ErrorKind::Timeout => CacheError::Timeout {
            detail: format!("{host} did not answer in time"),
        },
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Routing | ErrorKind::Tls => {
            let text = crate::model::plain_text(text, 200);
            CacheError::Down {
                detail: format!("cannot reach {host}: {text}"),
            }
        }
        _ => match reply::explain(host, "REDIS_URL", text) {
            CacheError::Protocol { detail }
                if matches!(error.kind(), ErrorKind::Cluster | ErrorKind::Sentinel) =>
            {
                CacheError::Down { detail }
            }
            other => other,
        },
    }
}

/// Redis takes no time to live of 0 ms.
fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.min(NO_EXPIRY).as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}
