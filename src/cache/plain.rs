//! What other programs keep under their plain keys: removed, put so that a tag finds it, listed for a
//! person. None of it is ever served by us.

use std::collections::BTreeSet;
use std::time::Duration;

use super::call::{Call, Reply, Server};
use super::removal::{self, ask, cut};
use super::{Bytes, Cache, CacheError, LONGEST_TTL, redis, upstash};
use crate::key::{Key, Tag};

/// The door for other programs, in any language: they send this text.
const PUT: &str = include_str!("../../deploy/put.lua");
const REGISTER: &str = include_str!("../../deploy/register.lua");

/// Names that a step of a scan looks at.
const SCAN_COUNT: &str = "1000";
/// Steps of a scan: ten million names.
const SCAN_STEPS: usize = 10_000;

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    pub keys: Vec<Key>,
    /// There may be more.
    pub is_cut_off: bool,
}

impl Cache {
    /// Removes what other programs keep under the plain keys; how many there were. On an error, those
    /// that could be removed are.
    pub async fn remove_plain(&self, keys: &[Key]) -> Result<u64, CacheError> {
        let Some(server) = self.server() else {
            return Ok(0);
        };
        let per_command = match server.is_cluster() {
            true => 1,
            false => server.per_script(),
        };
        let keys: Vec<&Key> = keys.iter().collect();
        let bytes = |key: &&Key| key.as_str().len();
        let parts = cut(keys, per_command, server.script_bytes(), bytes);
        let unlink = |keys: &[&Key]| {
            let names = keys.iter().map(|key| key.to_string());
            Call::command("UNLINK", names, [""; 0])
        };
        let answers = ask(server, parts, unlink).await;
        let counts = answers.into_iter().map(|(_, answer)| {
            let count = answer?.number();
            count.ok_or_else(|| server.strange("no number"))
        });
        counts.sum()
    }

    /// Removes the plain keys that were put under these tags, and nothing of ours; how many there were.
    pub async fn remove_members(&self, tags: &[Tag]) -> Result<u64, CacheError> {
        match self.server() {
            Some(server) => removal::remove_members(server, tags).await,
            None => Ok(0),
        }
    }

    /// Puts a plain key so that removing one of its tags removes it, for `ttl` (from 1 ms to a week). In
    /// process nobody would read it, so nothing is kept. `deploy/put.lua` is the same for other programs.
    pub async fn put_plain(
        &self,
        key: &Key,
        body: &Bytes,
        ttl: Duration,
        tags: &[Tag],
    ) -> Result<(), CacheError> {
        let Some(server) = self.server() else {
            return Ok(());
        };
        let most = match server {
            Server::Redis(_) => redis::MAX_VALUE_BYTES,
            Server::Upstash(_) => upstash::MAX_VALUE_BYTES,
        };
        if body.len() > most {
            let bytes = body.len();
            return Err(CacheError::TooLarge {
                detail: format!("the value of {key} has {bytes} bytes, up to {most} are stored"),
            });
        }
        let ttl = ttl.min(LONGEST_TTL).as_millis().max(1).to_string();
        let name = Bytes::from(key.to_string());
        let lists = tags
            .iter()
            .map(|tag| Bytes::from(tag.members(tag.bucket(server.buckets()))));
        if !server.is_cluster() {
            let keys = std::iter::once(name).chain(lists);
            let args = [body.clone(), ttl.into()];
            return server.call(Call::script(PUT, keys, args)).await.map(drop);
        }
        let listing: Vec<Call> = lists
            .map(|list| {
                let args = [name.clone(), ttl.clone().into()];
                Call::script(REGISTER, [list], args)
            })
            .collect();
        let mut ends = None;
        for answer in server.call_all(&listing).await {
            let end = answer?.text().and_then(|ms| text(&ms)?.parse::<u64>().ok());
            let end = end.ok_or_else(|| server.strange("no time"))?;
            ends = Some(ends.map_or(end, |ends: u64| ends.min(end)));
        }
        let (how, when) = match ends {
            Some(ends) => ("PXAT", ends.to_string()),
            None => ("PX", ttl),
        };
        let args = [body.clone(), how.into(), when.into()];
        let put = Call::command("SET", [name], args);
        server.call(put).await.map(drop)
    }

    /// Plain keys that begin with this text, up to `max`, in order: for a person who asks, since it
    /// looks at every name there is. Names of ours and names that are no text are left out.
    pub async fn scan(&self, prefix: &str, max: usize) -> Result<Scanned, CacheError> {
        let Some(server) = self.server() else {
            return Ok(Scanned::default());
        };
        let pattern = Bytes::from(Key::beginning_with(prefix));
        let (mut found, mut is_cut_off) = (BTreeSet::new(), false);
        let mut steps = 0;
        'nodes: for node in server.nodes() {
            let mut cursor = Bytes::from_static(b"0");
            loop {
                if steps == SCAN_STEPS || found.len() > max {
                    is_cut_off = true;
                    break 'nodes;
                }
                steps += 1;
                let args = [
                    cursor,
                    "MATCH".into(),
                    pattern.clone(),
                    "COUNT".into(),
                    SCAN_COUNT.into(),
                ];
                let scan = Call::command("SCAN", [""; 0], args);
                let (next, names) = match server.call_at(node, scan).await?.list() {
                    Some(answer) => page(answer),
                    None => None,
                }
                .ok_or_else(|| server.strange("no page"))?;
                found.extend(names.iter().filter_map(|name| Key::stored(text(name)?)));
                cursor = next;
                if *cursor == *b"0" {
                    break;
                }
            }
        }
        is_cut_off |= found.len() > max;
        let keys = found.into_iter().take(max).collect();
        Ok(Scanned { keys, is_cut_off })
    }
}

fn page(answer: Vec<Reply>) -> Option<(Bytes, Vec<Bytes>)> {
    let [cursor, names]: [Reply; 2] = answer.try_into().ok()?;
    let names = names.list()?.into_iter().map(Reply::text);
    Some((cursor.text()?, names.collect::<Option<_>>()?))
}

fn text(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
