//! Redis over its own protocol: one server, a cluster, or behind sentinels, by URL scheme.
//!
//! The client library waits for ever by default (for a connection, for an answer, for room in its
//! queue); everything here is set so that a command ends, well or badly, within its own time.

mod call;
mod connect;
mod known;
mod listen;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::config::{Config, Options};
use fred::types::{FromValue, Value};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use self::known::Known;
use self::listen::Listener;
use super::call::Call;
use super::entry::Entry;
use super::link::Link;
use super::sight::{Looked, Seen, Sight};
use super::{Bytes, CacheError, Claim, Filled, Lease, Life, Remote, Taken, reply, script};
use crate::key::{Bucket, Key, Tag};
use crate::model::View;

/// Commands under way at a time; more than this fail at once. The library has a bound of its own,
/// but in 10.1 each command that it turns away stays counted as queued, and from then on it no longer
/// flushes: every later command waits in its write buffer.
const COMMANDS_UNDER_WAY: usize = 1024;

pub(super) const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;

/// In a cluster keys are spread over so many slots; one server has one.
const CLUSTER_BUCKETS: u16 = 32;

/// Which run of the server a cluster is: its nodes restart one by one, so nobody asks.
const CLUSTER_RUN: &str = "cluster";

pub struct Redis {
    client: Client,
    config: Config,
    link: Arc<Link>,
    known: Arc<Known>,
    pub(super) is_cluster: bool,
    command_timeout: Duration,
    under_way: Semaphore,
    first: Option<Listener>,
    keeper: JoinHandle<()>,
}

impl Redis {
    /// Starts connecting and waits for the first attempt to end, but no longer than a command may
    /// take. Fails only on a URL that can never work.
    pub async fn open(
        url: &SecretString,
        command_timeout: Duration,
        first_level_bytes: u64,
    ) -> anyhow::Result<Self> {
        let config = connect::config(url.expose_secret())?;
        let is_cluster = config.server.is_clustered();
        let link = Arc::new(Link::new(connect::host(&config.server)));
        let known = Arc::new(Known::new(is_cluster));
        // The library hears one node of a cluster only, so there is no first level in front of one.
        let first = (first_level_bytes > 0 && !is_cluster)
            .then(|| Listener::start(config.clone(), command_timeout, first_level_bytes))
            .transpose()?;
        let client = connect::client(config.clone(), command_timeout)?;
        let keeper = tokio::spawn(connect::keep(
            client.clone(),
            Arc::clone(&link),
            Arc::clone(&known),
        ));
        let redis = Self {
            client,
            config,
            link,
            known,
            is_cluster,
            command_timeout,
            under_way: Semaphore::new(COMMANDS_UNDER_WAY),
            first,
            keeper,
        };
        let _ = tokio::time::timeout(command_timeout, redis.link.tried()).await;
        Ok(redis)
    }

    /// What the first level has of it; nothing while it is not sure that it hears every removal.
    pub fn first(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        self.first.as_ref()?.get(key, now)
    }

    pub async fn look(
        &self,
        key: &Key,
        tags: &[Tag],
        deadline: Duration,
    ) -> Result<Looked, CacheError> {
        let marks = self.first.as_ref().map(|first| first.marks(key, tags));
        let run = self.run()?;
        let bucket = key.bucket(self.buckets());
        let _permit = self.permit()?;
        let client = self.within(deadline);
        let mut names = vec![key.value(bucket), bucket.floor()];
        let sight = if self.is_cluster && !tags.is_empty() {
            let trip = client.pipeline();
            let queued: Result<(), Error> = async {
                trip.mget::<(), _>(names).await?;
                for tag in tags {
                    trip.get::<(), _>(tag.fence(tag.bucket(self.buckets())))
                        .await?;
                }
                Ok(())
            }
            .await;
            queued.map_err(|error| self.explain(error))?;
            let mut answers = trip.try_all::<Value>().await.into_iter();
            let mut next = || match answers.next() {
                Some(answer) => answer.map_err(|error| self.explain(error)),
                None => Err(self.strange(&Value::Null)),
            };
            let mut found = self.array(next()?)?;
            for _ in tags {
                found.push(next()?);
            }
            self.sight(found)?
        } else {
            names.extend(tags.iter().map(|tag| tag.fence(tag.bucket(self.buckets()))));
            let found: Value = client.mget(names).await.map_err(|e| self.explain(e))?;
            self.sight(self.array(found)?)?
        };
        let now = Instant::now();
        let looked = sight.standing(tags, &run, &self.known.clock, now);
        if let (Some(first), Some(marks), Some(entry)) = (&self.first, marks, &looked.entry) {
            first.keep(key, Arc::clone(entry), marks);
        }
        Ok(looked)
    }

    pub async fn stored(&self, key: &Key) -> Result<Option<Bytes>, CacheError> {
        let _permit = self.permit()?;
        let client = self.within(self.command_timeout);
        let name = key.value(key.bucket(self.buckets()));
        client.get(name).await.map_err(|error| self.explain(error))
    }

    pub(super) async fn take(
        &self,
        key: &Key,
        tags: &[Tag],
        seen: &Seen,
        deadline: Duration,
    ) -> Result<Taken, CacheError> {
        let run = self.run()?;
        let bucket = key.bucket(self.buckets());
        let _permit = self.permit()?;
        let client = self.within(deadline);
        let mut fences = Vec::new();
        for tag in tags {
            let of = tag.bucket(self.buckets());
            if of == bucket {
                fences.push(tag.fence(of));
                continue;
            }
            let begun = send::<i64>(&client, &script::begin(of, tag.fence(of))).await;
            if begun.map_err(|error| self.explain(error))? != 1 {
                return Ok(Taken::NoFloor);
            }
        }
        let token = fastrand::u128(..);
        let taking = script::take(key, bucket, fences, &format!("{token:032x}"), &run, seen);
        let answer: Value = send(&client, &taking)
            .await
            .map_err(|error| self.explain(error))?;
        let parts = self.array(answer)?;
        match &parts[..] {
            [Value::Integer(0)] => Ok(Taken::Held),
            [Value::Integer(2)] => Ok(Taken::NoFloor),
            [Value::Integer(3)] => Ok(Taken::Overtaken),
            [Value::Integer(1), floor, Value::Integer(ms)] => {
                let (at, server_ms) = (Instant::now(), *ms as u64);
                self.known.clock.heard(server_ms, at);
                let floor = floor.as_string().ok_or_else(|| self.strange(floor))?;
                Ok(Taken::Mine(Lease(Claim::Remote(Remote {
                    token,
                    floor,
                    server_ms,
                    at,
                }))))
            }
            _ => Err(self.strange(&Value::Array(parts))),
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
        let stored = entry.encode(lease.life(), lease.server_ms(), compress_from, false);
        if stored.len() > MAX_VALUE_BYTES {
            return Err(CacheError::TooLarge {
                detail: format!(
                    "the value of {key} has {} bytes, we store up to {MAX_VALUE_BYTES} in Redis",
                    stored.len()
                ),
            });
        }
        let _permit = self.permit()?;
        let bucket = key.bucket(self.buckets());
        let filling = script::fill(key, bucket, lease, entry, stored);
        let client = self.within(deadline);
        let answer: String = send(&client, &filling)
            .await
            .map_err(|error| self.explain(error))?;
        script::filled(&answer).ok_or_else(|| self.strange(&answer.into()))
    }

    pub(super) async fn release(&self, key: &Key, lease: &Remote) {
        let Ok(_permit) = self.permit() else { return };
        let client = self.within(self.command_timeout);
        let released = script::release(key, key.bucket(self.buckets()), lease);
        // Unheard, it runs out by itself.
        let _: Result<i64, Error> = send(&client, &released).await;
    }

    pub async fn void(&self) -> Result<(), CacheError> {
        let _permit = self.permit()?;
        let trip = self.client.pipeline();
        let trip = trip.with_options(&self.options(self.command_timeout));
        for bucket in Bucket::all(self.buckets()) {
            let keys = script::vouched(bucket).to_vec();
            let queued: Result<(), Error> = trip.del(keys).await;
            queued.map_err(|error| self.explain(error))?;
        }
        self.confirmed::<i64>(trip.try_all().await)?;
        if let Some(first) = &self.first {
            first.remove_all();
        }
        Ok(())
    }

    pub async fn found(&self, life: &Life, view: &View) -> Result<(), CacheError> {
        let call = |bucket| script::found(bucket, life, view);
        self.in_each_bucket(call).await.map(drop)
    }

    pub async fn beat(&self, life: &Life) -> Result<bool, CacheError> {
        let call = |bucket| script::beat(bucket, life);
        let answers = self.in_each_bucket(call).await?;
        let same_run = life.floor.split(' ').nth(1) == Some(&*self.run()?);
        Ok(same_run && answers.iter().all(|answer| *answer == 1))
    }

    /// Which run of the server answers us; its memory may be another one after a restart.
    pub fn run(&self) -> Result<Arc<str>, CacheError> {
        self.known.run().ok_or_else(|| self.link.failure())
    }

    async fn in_each_bucket(&self, call: impl Fn(Bucket) -> Call) -> Result<Vec<i64>, CacheError> {
        let _permit = self.permit()?;
        let trip = self.client.pipeline();
        let trip = trip.with_options(&self.options(self.command_timeout));
        for bucket in Bucket::all(self.buckets()) {
            let queued: Result<(), Error> = send(&trip, &call(bucket)).await;
            queued.map_err(|error| self.explain(error))?;
        }
        self.confirmed(trip.try_all().await)
    }

    fn confirmed<T: FromValue>(
        &self,
        answers: Vec<Result<T, Error>>,
    ) -> Result<Vec<T>, CacheError> {
        let answers = answers.into_iter();
        answers
            .map(|answer| answer.map_err(|error| self.explain(error)))
            .collect()
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

    pub(super) fn buckets(&self) -> u16 {
        if self.is_cluster { CLUSTER_BUCKETS } else { 1 }
    }

    fn sight(&self, found: Vec<Value>) -> Result<Sight, CacheError> {
        let mut found = found.into_iter();
        let text = |value: Value| match value {
            Value::Null => None,
            value => value.into_string(),
        };
        Ok(Sight {
            value: found.next().and_then(Value::into_bytes),
            floor: found.next().and_then(text),
            tags: found.map(text).collect(),
        })
    }

    fn array(&self, value: Value) -> Result<Vec<Value>, CacheError> {
        match value {
            Value::Array(parts) => Ok(parts),
            other => Err(self.strange(&other)),
        }
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

/// To whoever holds its first key.
async fn send<R: FromValue>(client: &impl ClientLike, call: &Call) -> Result<R, Error> {
    call.send(client, call.slot()).await
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
