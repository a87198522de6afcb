//! Removing from Redis: every fence and value of a bucket in few scripts, all scripts in few round
//! trips, none so long that another command would notice.

use std::collections::BTreeMap;

use fred::error::Error;
use fred::interfaces::{ClientLike, KeysInterface};

use super::super::{CacheError, FENCE_TTL, Removed, TAG_FENCE_TTL, Targets, script};
use super::{Redis, eval, millis};
use crate::key::{Bucket, Key, Tag};
use crate::model::View;

/// Keys and tags in one script: a few hundred microseconds of the server's time.
const PER_SCRIPT: usize = 100;
/// Scripts, or single commands of a cluster, in one round trip.
const PER_TRIP: usize = 20;
/// Plain keys in one command of a single server.
const PLAIN_PER_COMMAND: usize = 1000;

/// What one script removes.
#[derive(Default)]
struct Part<'a> {
    keys: Vec<&'a Key>,
    tags: Vec<&'a Tag>,
}

impl Redis {
    pub async fn remove(&self, targets: &Targets, view: &View) -> Result<Removed, CacheError> {
        // Our own first level need not wait to be told.
        if let Some(first) = &self.first {
            first.remove(targets);
        }
        let _permit = self.permit()?;
        let mut removed = Removed::default();
        let parts = self.parts(targets);
        for trip_parts in parts.chunks(PER_TRIP) {
            let answers = match trip_parts {
                // The usual removal goes without what a pipeline costs beside.
                [(bucket, part)] => {
                    let (keys, args) = self.command(*bucket, part, view);
                    let client = self.within(self.command_timeout);
                    let answer = eval(&client, script::REMOVE, keys, args).await;
                    vec![answer.map_err(|error| self.explain(error))?]
                }
                parts => {
                    let trip = self.client.pipeline();
                    let trip = trip.with_options(&self.options(self.command_timeout));
                    for (bucket, part) in parts {
                        let (keys, args) = self.command(*bucket, part, view);
                        let queued: Result<(), Error> =
                            eval(&trip, script::REMOVE, keys, args).await;
                        queued.map_err(|error| self.explain(error))?;
                    }
                    self.confirmed::<(u64, i64)>(trip.try_all().await)?
                }
            };
            self.all_answered(answers.len(), trip_parts.len())?;
            for (existed, floor) in answers {
                removed.existed += existed;
                removed.no_floor |= floor == 0;
            }
        }
        if self.is_cluster {
            removed.existed += self.remove_plain(&targets.keys).await?;
        }
        Ok(removed)
    }

    pub async fn remove_plain(&self, keys: &[Key]) -> Result<u64, CacheError> {
        // In a cluster a command sees one slot.
        let per_command = if self.is_cluster {
            1
        } else {
            PLAIN_PER_COMMAND
        };
        let commands: Vec<&[Key]> = keys.chunks(per_command).collect();
        let mut existed = 0;
        for commands in commands.chunks(PER_TRIP * PER_SCRIPT / 2) {
            let trip = self.client.pipeline();
            let trip = trip.with_options(&self.options(self.command_timeout));
            for keys in commands {
                let names: Vec<String> = keys.iter().map(Key::to_string).collect();
                let queued: Result<(), Error> = trip.unlink(names).await;
                queued.map_err(|error| self.explain(error))?;
            }
            let answers = self.confirmed::<u64>(trip.try_all().await)?;
            self.all_answered(answers.len(), commands.len())?;
            existed += answers.iter().sum::<u64>();
        }
        Ok(existed)
    }

    fn parts<'a>(&self, targets: &'a Targets) -> Vec<(Bucket, Part<'a>)> {
        let mut buckets: BTreeMap<Bucket, Part<'a>> = BTreeMap::new();
        for key in &targets.keys {
            let bucket = key.bucket(self.buckets());
            buckets.entry(bucket).or_default().keys.push(key);
        }
        for tag in &targets.tags {
            let bucket = tag.bucket(self.buckets());
            buckets.entry(bucket).or_default().tags.push(tag);
        }
        let mut parts = Vec::new();
        for (bucket, part) in buckets {
            for keys in part.keys.chunks(PER_SCRIPT) {
                let keys = keys.to_vec();
                parts.push((
                    bucket,
                    Part {
                        keys,
                        ..Part::default()
                    },
                ));
            }
            for tags in part.tags.chunks(PER_SCRIPT) {
                let tags = tags.to_vec();
                match parts.last_mut() {
                    // The usual removal, a few of each, is one script.
                    Some((last, part))
                        if *last == bucket
                            && part.keys.len() + tags.len() <= PER_SCRIPT
                            && part.tags.is_empty() =>
                    {
                        part.tags = tags;
                    }
                    _ => parts.push((
                        bucket,
                        Part {
                            tags,
                            ..Part::default()
                        },
                    )),
                }
            }
        }
        parts
    }

    fn command(&self, bucket: Bucket, part: &Part<'_>, view: &View) -> (Vec<String>, Vec<String>) {
        let mut keys = vec![bucket.floor(), bucket.horizon()];
        keys.extend(part.keys.iter().map(|key| key.fence(bucket)));
        keys.extend(part.tags.iter().map(|tag| tag.fence(bucket)));
        keys.extend(part.keys.iter().map(|key| key.lease(bucket)));
        keys.extend(part.keys.iter().map(|key| key.value(bucket)));
        if !self.is_cluster {
            keys.extend(part.keys.iter().map(|key| key.to_string()));
        }
        let args = vec![
            view.to_string(),
            part.keys.len().to_string(),
            part.tags.len().to_string(),
            millis(FENCE_TTL).to_string(),
            millis(TAG_FENCE_TTL).to_string(),
        ];
        (keys, args)
    }

    fn all_answered(&self, answered: usize, asked: usize) -> Result<(), CacheError> {
        if answered == asked {
            return Ok(());
        }
        Err(CacheError::Protocol {
            detail: format!("{} confirmed {answered} of {asked} removals", self.host()),
        })
    }
}
