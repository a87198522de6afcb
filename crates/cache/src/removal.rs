//! Removal on a cache server: fence, lease, value and other programs' unmanaged key of each target in few
//! scripts, all scripts in few round trips. `RemoteCache` calls it.
//!
//! Targets that fail in a script with others are sent once more, each alone, so that one bad target blocks
//! no other. A removed tag is one fence for managed entries. Unmanaged keys store no database snapshot, so
//! those that were put under the tag (see `unmanaged`) are unlinked by name: found in the tag's own index, which
//! the script that raises the fence reads, so that every key that was listed before is found.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::command::{CacheCommand, CacheReply, MAX_SCRIPT_BYTES, NO_ARGS, chunk};
use super::error::CacheError;
use super::lease::{FENCE_TTL, TAG_FENCE_TTL};
use super::script;
use super::transport::Transport;
use oddsd_core::key::{InvalidationTarget, InvalidationTargets, Shard, Tag};
use oddsd_core::model::DbSnapshot;

/// COUNT of a ZSCAN page: a table of 16,384 members is read in one page.
const MEMBERS_AT_ONCE: usize = 20_000;
/// Members that one script unlinks.
const MEMBERS_PER_SCRIPT: usize = 500;
/// The cursor of the last page.
const LAST_PAGE: &[u8] = b"0";

/// The outcome of a removal, target by target, in the order of the request: the number of entries that
/// existed, managed and unmanaged. Of a tag only the unmanaged ones are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Results of the keys to remove.
    pub keys: Vec<Result<u64, CacheError>>,
    /// Results of the tags.
    pub tags: Vec<Result<u64, CacheError>>,
    /// Results of the keys to mark stale.
    pub stale: Vec<Result<u64, CacheError>>,
    /// The cache has no epoch of this database: it has lost its memory, or another database uses it. No reader is
    /// served from it until an epoch begins.
    pub no_epoch: bool,
}

impl Removed {
    /// Confirmed, and nothing existed.
    pub(super) fn nothing(targets: &InvalidationTargets) -> Self {
        Self {
            keys: vec![Ok(0); targets.keys.len()],
            tags: vec![Ok(0); targets.tags.len()],
            stale: vec![Ok(0); targets.mark_stale.len()],
            no_epoch: false,
        }
    }

    /// The number of entries that existed under all confirmed targets.
    pub fn existing_entries(&self) -> u64 {
        self.each().filter_map(|result| result.as_ref().ok()).sum()
    }

    /// The targets that are not confirmed; `targets` are those of this removal.
    pub fn failures<'a>(
        &'a self,
        targets: &'a InvalidationTargets,
    ) -> impl Iterator<Item = (InvalidationTarget<'a>, &'a CacheError)> {
        let results = self.results(targets);
        results.filter_map(|(target, result)| Some((target, result.as_ref().err()?)))
    }

    /// Each target of this removal with its result.
    pub fn results<'a>(
        &'a self,
        targets: &'a InvalidationTargets,
    ) -> impl Iterator<Item = (InvalidationTarget<'a>, &'a Result<u64, CacheError>)> {
        targets.iter().zip(self.each())
    }

    /// The first error of a target; `None`: every target is confirmed.
    pub fn first_error(&self) -> Option<&CacheError> {
        self.each().find_map(|result| result.as_ref().err())
    }

    /// In the order in which the targets are iterated.
    fn each(&self) -> impl Iterator<Item = &Result<u64, CacheError>> {
        self.keys.iter().chain(&self.stale).chain(&self.tags)
    }
}

/// A target with its position in the request.
type TargetAt<'a> = (usize, InvalidationTarget<'a>);

/// One page of the members of a tag that are to be unlinked, and the cursor of the next one.
struct TagPage<'a> {
    at: usize,
    tag: &'a Tag,
    members: Vec<Bytes>,
    cursor: Bytes,
}

impl TagPage<'_> {
    /// The name of the index.
    fn index(&self, transport: &Transport) -> String {
        let shard = transport.shard(self.tag.as_str());
        self.tag.members_key(shard)
    }
}

pub(super) async fn remove(
    transport: &Transport,
    targets: &InvalidationTargets,
    snapshot: &DbSnapshot,
) -> Result<Removed, CacheError> {
    let mut results = vec![Ok(0); targets.len()];
    let (mut no_epoch, mut pages) = (false, Vec::new());
    let (snapshot, database) = (snapshot.to_string(), transport.server().database()?);
    let script = |chunk: &[TargetAt<'_>]| removal_script(transport, chunk, &snapshot, &database);
    let scripted = call_chunks(transport, chunk_by_script(transport, targets), script).await;
    // In a cluster an unmanaged key is in another slot. Afterwards: sent at the same time, while a slot moves,
    // they cost the client library the connections of the next commands, too.
    let unlinks = targets.iter().enumerate();
    let unlinks =
        unlinks.filter(|(_, target)| transport.limits().is_cluster && target.key().is_some());
    let unlinks = unlinks.map(|unlink| vec![unlink]).collect();
    let unlink = |chunk: &[TargetAt<'_>]| CacheCommand::unlink(names(chunk));
    let unlinked = call_chunks(transport, unlinks, unlink).await;
    for (chunk, reply) in scripted {
        let parsed = reply.and_then(|reply| {
            let parsed = ScriptReply::parse(reply, &chunk);
            parsed.ok_or_else(|| transport.unexpected_reply("the result of a removal"))
        });
        match parsed {
            Ok(parsed) => {
                no_epoch |= !parsed.has_epoch;
                for ((at, _), count) in chunk.iter().zip(parsed.counts) {
                    add(&mut results[*at], Ok(count));
                }
                pages.extend(parsed.pages);
            }
            Err(why) => {
                for (at, _) in chunk {
                    add(&mut results[at], Err(why.clone()));
                }
            }
        }
    }
    for (chunk, reply) in unlinked {
        let count = transport.number(reply);
        for (at, _) in chunk {
            add(&mut results[at], count.clone());
        }
    }
    remove_pages(transport, pages, &mut results).await;
    if let Some(why) = nothing_confirmed(&results) {
        return Err(why);
    }
    let mut results = results.into_iter();
    let mut next = |many: usize| results.by_ref().take(many).collect();
    Ok(Removed {
        keys: next(targets.keys.len()),
        stale: next(targets.mark_stale.len()),
        tags: next(targets.tags.len()),
        no_epoch,
    })
}

/// Unlinks the unmanaged keys that were put under these tags; returns the number that existed.
pub(super) async fn remove_members(transport: &Transport, tags: &[Tag]) -> Result<u64, CacheError> {
    let mut results = vec![Ok(0); tags.len()];
    let first_pages = tags.iter().enumerate().map(|(at, tag)| TagPage {
        at,
        tag,
        members: Vec::new(),
        cursor: Bytes::new(),
    });
    remove_pages(transport, first_pages.collect(), &mut results).await;
    results.into_iter().sum()
}

/// A target with one error has failed.
fn add(result: &mut Result<u64, CacheError>, more: Result<u64, CacheError>) {
    match (&mut *result, more) {
        (Ok(sum), Ok(more)) => *sum += more,
        (Ok(_), Err(why)) => *result = Err(why),
        (Err(_), _) => {}
    }
}

/// The error to return where every target has one: preferably one that a retry can cure.
fn nothing_confirmed(results: &[Result<u64, CacheError>]) -> Option<CacheError> {
    let mut errors = Vec::new();
    for result in results {
        errors.push(result.as_ref().err()?);
    }
    let retryable = errors.iter().find(|why| why.is_retryable());
    retryable.or(errors.first()).map(|why| (*why).clone())
}

/// Sends a command for each chunk. A chunk of several items that is refused is sent once more, item by item.
pub(super) async fn call_chunks<T: Clone>(
    transport: &Transport,
    chunks: Vec<Vec<T>>,
    build: impl Fn(&[T]) -> CacheCommand,
) -> Vec<(Vec<T>, Result<CacheReply, CacheError>)> {
    let commands: Vec<CacheCommand> = chunks.iter().map(|chunk| build(chunk)).collect();
    let replies = transport.call_all(&commands).await;
    let (mut done, mut alone) = (Vec::with_capacity(chunks.len()), Vec::new());
    for (chunk, reply) in chunks.into_iter().zip(replies) {
        match reply {
            Err(why) if why.is_answer() && chunk.len() > 1 => {
                alone.extend(chunk.into_iter().map(|item| vec![item]));
            }
            reply => done.push((chunk, reply)),
        }
    }
    if !alone.is_empty() {
        let commands: Vec<CacheCommand> = alone.iter().map(|chunk| build(chunk)).collect();
        let replies = transport.call_all(&commands).await;
        done.extend(alone.into_iter().zip(replies));
    }
    done
}

/// The targets of each script: all of one shard.
fn chunk_by_script<'a>(
    transport: &Transport,
    targets: &'a InvalidationTargets,
) -> Vec<Vec<TargetAt<'a>>> {
    let limits = transport.limits();
    let mut shards: BTreeMap<Shard<'_>, Vec<TargetAt<'a>>> = BTreeMap::new();
    for (at, target) in targets.iter().enumerate() {
        let shard = shards.entry(transport.shard(target.as_str()));
        shard.or_default().push((at, target));
    }
    // Four names of a key, and their prefixes.
    let bytes = |(_, target): &TargetAt<'_>| target.as_str().len() * 4 + 100;
    let shards = shards.into_values();
    shards
        .flat_map(|targets| chunk(targets, limits.targets_per_script, MAX_SCRIPT_BYTES, bytes))
        .collect()
}

fn names(targets: &[TargetAt<'_>]) -> impl Iterator<Item = String> {
    let keys = targets.iter().filter_map(|(_, target)| target.key());
    keys.map(ToString::to_string)
}

fn removal_script(
    transport: &Transport,
    targets: &[TargetAt<'_>],
    snapshot: &str,
    database: &str,
) -> CacheCommand {
    let limits = transport.limits();
    let shard = transport.shard(targets[0].1.as_str());
    let named = || targets.iter().filter_map(|(_, target)| target.key());
    let tags = || {
        targets.iter().filter_map(|(_, target)| match target {
            InvalidationTarget::Tag(tag) => Some(*tag),
            _ => None,
        })
    };
    let is_stale = |(_, target): &&TargetAt<'_>| matches!(target, InvalidationTarget::MarkStale(_));
    let stale = targets.iter().filter(is_stale).count();
    let mut keys = vec![shard.epoch_key(), shard.watermark_key()];
    keys.extend(targets.iter().map(|(_, target)| target.fence_key(shard)));
    keys.extend(named().map(|key| key.lease_key(shard)));
    keys.extend(tags().map(|tag| tag.members_key(shard)));
    keys.extend(named().map(|key| key.value_key(shard)));
    if !limits.is_cluster {
        keys.extend(names(targets));
    }
    let args = [
        snapshot.to_owned(),
        (named().count() - stale).to_string(),
        stale.to_string(),
        tags().count().to_string(),
        FENCE_TTL.as_millis().to_string(),
        TAG_FENCE_TTL.as_millis().to_string(),
        MEMBERS_AT_ONCE.to_string(),
        database.to_owned(),
    ];
    CacheCommand::script(script::REMOVE, keys, args)
}

struct ScriptReply<'a> {
    has_epoch: bool,
    /// The number of entries that existed, by target.
    counts: Vec<u64>,
    pages: Vec<TagPage<'a>>,
}

impl<'a> ScriptReply<'a> {
    fn parse(reply: CacheReply, targets: &[TargetAt<'a>]) -> Option<Self> {
        let [epoch, counts, lists]: [CacheReply; 3] = reply.list()?.try_into().ok()?;
        let mut counts: Vec<u64> = counts
            .list()?
            .iter()
            .map(CacheReply::number)
            .collect::<Option<_>>()?;
        let mut lists = lists.list()?.into_iter();
        let mut pages = Vec::new();
        for (at, target) in targets {
            if let InvalidationTarget::Tag(tag) = target {
                let (cursor, members) = lists.next()?.page(2)?;
                counts.push(0);
                pages.push(TagPage {
                    at: *at,
                    tag,
                    members,
                    cursor,
                });
            }
        }
        (counts.len() == targets.len()).then(|| Self {
            has_epoch: epoch != CacheReply::Number(0),
            counts,
            pages,
        })
    }
}

/// Unlinks the members of these pages, then reads and unlinks the next ones.
///
/// On one server a member leaves its index in the step that unlinks its key: a crash loses none, and a key
/// that was put again meanwhile is removed with its entry. In a cluster these are two steps, and a program
/// that lists a key writes it afterwards: there members leave by their expiry alone.
async fn remove_pages(
    transport: &Transport,
    mut pages: Vec<TagPage<'_>>,
    results: &mut [Result<u64, CacheError>],
) {
    let limits = transport.limits();
    while !pages.is_empty() {
        let (mut commands, mut positions) = (Vec::new(), Vec::new());
        for page in &mut pages {
            let members = std::mem::take(&mut page.members);
            let per_command = match limits.is_cluster {
                true => 1,
                false => MEMBERS_PER_SCRIPT,
            };
            for names in chunk(members, per_command, MAX_SCRIPT_BYTES, Bytes::len) {
                commands.push(match limits.is_cluster {
                    true => CacheCommand::unlink(names),
                    false => {
                        let index = page.index(transport);
                        let keys = std::iter::once(Bytes::from(index)).chain(names);
                        CacheCommand::script(script::UNLINK_MEMBERS, keys, NO_ARGS)
                    }
                });
                positions.push(page.at);
            }
        }
        let replies = transport.call_all(&commands).await;
        for (at, reply) in positions.into_iter().zip(replies) {
            add(&mut results[at], transport.number(reply));
        }
        pages.retain(|page| *page.cursor != *LAST_PAGE && results[page.at].is_ok());
        let scan = |page: &TagPage<'_>| {
            let cursor = match page.cursor.is_empty() {
                true => Bytes::from_static(LAST_PAGE),
                false => page.cursor.clone(),
            };
            let index = page.index(transport);
            let args = [cursor, "COUNT".into(), MEMBERS_AT_ONCE.to_string().into()];
            CacheCommand::named("ZSCAN", [index], args)
        };
        let commands: Vec<CacheCommand> = pages.iter().map(scan).collect();
        let replies = transport.call_all(&commands).await;
        for (page, reply) in pages.iter_mut().zip(replies) {
            let read = reply.and_then(|reply| {
                let read = reply.page(2);
                read.ok_or_else(|| transport.unexpected_reply("a list"))
            });
            match read {
                Ok((cursor, members)) => (page.cursor, page.members) = (cursor, members),
                Err(why) => {
                    add(&mut results[page.at], Err(why));
                    page.cursor = LAST_PAGE.into();
                }
            }
        }
    }
}
