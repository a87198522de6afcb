//! Removing from a cache in another process: fence, lease, value and other programs' plain key of each
//! target in few scripts, all scripts in few round trips. What is refused in company is asked for once
//! more alone, so that a target that cannot be removed keeps no other from it.
//!
//! A removed tag is one fence for our own answers. Other programs' plain keys bear no view, so those
//! that were put under the tag ([`super::plain`]) are unlinked by name: found in the tag's own list, read in the
//! script that raises the fence, so that whatever was listed before is found.

use std::collections::BTreeMap;

use super::call::{Call, Reply, Server};
use super::{Bytes, CacheError, FENCE_TTL, TAG_FENCE_TTL, Target, Targets, script};
use crate::key::{Bucket, Tag};
use crate::model::View;

/// Steps of ZSCAN at a time: what a table of 16,384 members takes is read at once.
const MEMBERS_AT_ONCE: usize = 20_000;
/// Members that one script forgets.
const PER_SCRIPT: usize = 500;
/// A cursor that has come round.
const END: &[u8] = b"0";

/// What a removal came to, target by target, in the order of [`Targets`]: how many answers were there, ours
/// and those of other programs. Of a tag only the latter are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub keys: Vec<Result<u64, CacheError>>,
    pub tags: Vec<Result<u64, CacheError>>,
    pub stale: Vec<Result<u64, CacheError>>,
    /// The cache has lost its memory and waits for a floor.
    pub no_floor: bool,
}

impl Removed {
    /// Nothing was there.
    pub(super) fn nothing(targets: &Targets) -> Self {
        Self {
            keys: vec![Ok(0); targets.keys.len()],
            tags: vec![Ok(0); targets.tags.len()],
            stale: vec![Ok(0); targets.stale.len()],
            no_floor: false,
        }
    }

    /// Answers that were there under all targets that are confirmed.
    pub fn existed(&self) -> u64 {
        self.each().filter_map(|result| result.as_ref().ok()).sum()
    }

    /// The targets that are not confirmed; `targets` are those of this removal.
    pub fn failed<'a>(
        &'a self,
        targets: &'a Targets,
    ) -> impl Iterator<Item = (Target<'a>, &'a CacheError)> {
        let results = self.of(targets);
        results.filter_map(|(target, result)| Some((target, result.as_ref().err()?)))
    }

    /// Each of the targets of this removal with what became of it.
    pub fn of<'a>(
        &'a self,
        targets: &'a Targets,
    ) -> impl Iterator<Item = (Target<'a>, &'a Result<u64, CacheError>)> {
        targets.each().zip(self.each())
    }

    /// Why not all is confirmed.
    pub fn first_error(&self) -> Option<&CacheError> {
        self.each().find_map(|result| result.as_ref().err())
    }

    /// In the order of [`Targets::each`].
    fn each(&self) -> impl Iterator<Item = &Result<u64, CacheError>> {
        self.keys.iter().chain(&self.stale).chain(&self.tags)
    }
}

/// One target's share of the work.
#[derive(Clone, Copy)]
struct Job<'a> {
    /// Its place in [`Targets::each`].
    at: usize,
    target: Target<'a>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// In a script, with others of this bucket.
    Ours(Bucket),
    /// In a cluster, where the plain key is in another slot.
    Plain,
}

/// Members of a tag that are to go, and where to read on.
struct Listed<'a> {
    at: usize,
    tag: &'a Tag,
    members: Vec<Bytes>,
    cursor: Bytes,
}

pub(super) async fn remove(
    server: Server<'_>,
    targets: &Targets,
    view: &View,
) -> Result<Removed, CacheError> {
    // Our own first level need not wait to be told.
    if let Server::Redis(redis) = server {
        redis.forget_first(targets);
    }
    let mut results = vec![Ok(0); targets.len()];
    let (mut no_floor, mut listed) = (false, Vec::new());
    let view = view.to_string();
    let (ours, plain) = parts(server, targets);
    let call = |jobs: &[Job<'_>]| call(server, jobs, &view);
    let mut answers = ask(server, ours, call).await;
    // Afterwards: asked at the same time, while a slot moves, they cost the client library the
    // connections of the next commands, too.
    answers.extend(ask(server, plain, call).await);
    for (jobs, reply) in answers {
        let said = reply.and_then(|reply| {
            let said = match jobs.first().map(|job| job.kind) {
                Some(Kind::Plain) => reply.number().map(|gone| (true, vec![gone], Vec::new())),
                _ => said(reply, &jobs),
            };
            said.ok_or_else(|| server.strange("something else"))
        });
        match said {
            Ok((floor, counts, members)) => {
                no_floor |= !floor;
                for (job, count) in jobs.iter().zip(counts) {
                    add(&mut results[job.at], Ok(count));
                }
                listed.extend(members);
            }
            Err(why) => {
                for job in &jobs {
                    add(&mut results[job.at], Err(why.clone()));
                }
            }
        }
    }
    remove_listed(server, listed, &mut results).await;
    if let Some(why) = nothing_confirmed(&results) {
        return Err(why);
    }
    let mut results = results.into_iter();
    let mut next = |many: usize| results.by_ref().take(many).collect();
    Ok(Removed {
        keys: next(targets.keys.len()),
        stale: next(targets.stale.len()),
        tags: next(targets.tags.len()),
        no_floor,
    })
}

/// The plain keys that are listed under these tags, and nothing of ours; how many were there.
pub(super) async fn remove_members(server: Server<'_>, tags: &[Tag]) -> Result<u64, CacheError> {
    let mut results = vec![Ok(0); tags.len()];
    let unread = tags.iter().enumerate().map(|(at, tag)| Listed {
        at,
        tag,
        members: Vec::new(),
        cursor: Bytes::new(),
    });
    remove_listed(server, unread.collect(), &mut results).await;
    results.into_iter().sum()
}

/// One failure fails the target.
fn add(result: &mut Result<u64, CacheError>, more: Result<u64, CacheError>) {
    match (&mut *result, more) {
        (Ok(sum), Ok(more)) => *sum += more,
        (Ok(_), Err(why)) => *result = Err(why),
        (Err(_), _) => {}
    }
}

/// The error to go by where every target has one: rather one that passes.
fn nothing_confirmed(results: &[Result<u64, CacheError>]) -> Option<CacheError> {
    let mut errors = Vec::new();
    for result in results {
        errors.push(result.as_ref().err()?);
    }
    let retryable = errors.iter().find(|why| why.is_retryable());
    retryable.or(errors.first()).map(|why| (*why).clone())
}

/// Asks for all at once, and for what was refused in company once more, each alone.
pub(super) async fn ask<T: Copy>(
    server: Server<'_>,
    parts: Vec<Vec<T>>,
    call: impl Fn(&[T]) -> Call,
) -> Vec<(Vec<T>, Result<Reply, CacheError>)> {
    let calls: Vec<Call> = parts.iter().map(|part| call(part)).collect();
    let answers = server.call_all(&calls).await;
    let (mut said, mut alone) = (Vec::with_capacity(parts.len()), Vec::new());
    for (part, answer) in parts.into_iter().zip(answers) {
        match answer {
            Err(why) if why.is_answer() && part.len() > 1 => {
                alone.extend(part.into_iter().map(|one| vec![one]));
            }
            answer => said.push((part, answer)),
        }
    }
    if !alone.is_empty() {
        let calls: Vec<Call> = alone.iter().map(|part| call(part)).collect();
        let answers = server.call_all(&calls).await;
        said.extend(alone.into_iter().zip(answers));
    }
    said
}

/// What goes into one script each, and in a cluster the plain keys, one by one.
fn parts<'a>(server: Server<'_>, targets: &'a Targets) -> (Vec<Vec<Job<'a>>>, Vec<Vec<Job<'a>>>) {
    let mut buckets: BTreeMap<Bucket, Vec<Job<'a>>> = BTreeMap::new();
    let mut plain = Vec::new();
    for (at, target) in targets.each().enumerate() {
        let bucket = target.bucket(server.buckets());
        let kind = Kind::Ours(bucket);
        buckets
            .entry(bucket)
            .or_default()
            .push(Job { at, target, kind });
        if server.is_cluster() && target.key().is_some() {
            let kind = Kind::Plain;
            plain.push(vec![Job { at, target, kind }]);
        }
    }
    // Four names of a key, and what is before them.
    let bytes = |job: &Job<'_>| job.target.as_str().len() * 4 + 100;
    let mut parts = Vec::new();
    for jobs in buckets.into_values() {
        parts.extend(cut(jobs, server.per_script(), server.script_bytes(), bytes));
    }
    (parts, plain)
}

/// Pieces of at most so many, and so many bytes unless one alone has more.
pub(super) fn cut<T>(
    whole: Vec<T>,
    most: usize,
    most_bytes: usize,
    bytes: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let (mut pieces, mut piece, mut size) = (Vec::new(), Vec::new(), 0);
    for one in whole {
        let more = bytes(&one);
        if !piece.is_empty() && (piece.len() == most || size + more > most_bytes) {
            pieces.push(std::mem::take(&mut piece));
            size = 0;
        }
        size += more;
        piece.push(one);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

fn call(server: Server<'_>, jobs: &[Job<'_>], view: &str) -> Call {
    let named = || jobs.iter().filter_map(|job| job.target.key());
    let bucket = match jobs.first().map(|job| job.kind) {
        Some(Kind::Ours(bucket)) => bucket,
        _ => {
            let names = named().map(|key| key.to_string());
            return Call::command("UNLINK", names, [""; 0]);
        }
    };
    let tags = || {
        jobs.iter().filter_map(|job| match job.target {
            Target::Tag(tag) => Some(tag),
            _ => None,
        })
    };
    let stale = jobs
        .iter()
        .filter(|job| matches!(job.target, Target::Stale(_)))
        .count();
    let mut keys = vec![bucket.floor(), bucket.horizon()];
    keys.extend(jobs.iter().map(|job| job.target.fence(bucket)));
    keys.extend(named().map(|key| key.lease(bucket)));
    keys.extend(tags().map(|tag| tag.members(bucket)));
    keys.extend(named().map(|key| key.value(bucket)));
    if !server.is_cluster() {
        keys.extend(named().map(|key| key.to_string()));
    }
    let args = [
        view.to_owned(),
        (named().count() - stale).to_string(),
        stale.to_string(),
        tags().count().to_string(),
        FENCE_TTL.as_millis().to_string(),
        TAG_FENCE_TTL.as_millis().to_string(),
        MEMBERS_AT_ONCE.to_string(),
    ];
    Call::script(script::REMOVE, keys, args)
}

type Said<'a> = (bool, Vec<u64>, Vec<Listed<'a>>);

/// Whether there is a floor, what was there of each, and what is listed under the tags.
fn said<'a>(reply: Reply, jobs: &[Job<'a>]) -> Option<Said<'a>> {
    let [floor, counts, lists]: [Reply; 3] = reply.list()?.try_into().ok()?;
    let mut counts: Vec<u64> = counts
        .list()?
        .iter()
        .map(Reply::number)
        .collect::<Option<_>>()?;
    let mut lists = lists.list()?.into_iter();
    let mut listed = Vec::new();
    for job in jobs {
        if let Target::Tag(tag) = job.target {
            let (cursor, members) = page(lists.next()?)?;
            counts.push(0);
            listed.push(Listed {
                at: job.at,
                tag,
                members,
                cursor,
            });
        }
    }
    (counts.len() == jobs.len()).then(|| (floor != Reply::Number(0), counts, listed))
}

/// What ZSCAN answers: where to read on, and members with their scores.
fn page(reply: Reply) -> Option<(Bytes, Vec<Bytes>)> {
    let [cursor, found]: [Reply; 2] = reply.list()?.try_into().ok()?;
    let members = found.list()?.into_iter().step_by(2).map(Reply::text);
    Some((cursor.text()?, members.collect::<Option<_>>()?))
}

/// On one server a member leaves its list in the step that unlinks its key: none is lost by a crash, and
/// one that was put again meanwhile is gone with its key. In a cluster that is no one step, and who
/// lists a key writes it afterwards: there members leave with their time alone.
async fn remove_listed(
    server: Server<'_>,
    mut listed: Vec<Listed<'_>>,
    results: &mut [Result<u64, CacheError>],
) {
    while !listed.is_empty() {
        let (mut calls, mut whose) = (Vec::new(), Vec::new());
        for list in &mut listed {
            let names = std::mem::take(&mut list.members);
            let most = if server.is_cluster() { 1 } else { PER_SCRIPT };
            for names in cut(names, most, server.script_bytes(), Bytes::len) {
                let call = if server.is_cluster() {
                    Call::command("UNLINK", names, [""; 0])
                } else {
                    let list = Bytes::from(list.tag.members(list.tag.bucket(server.buckets())));
                    let keys = std::iter::once(list).chain(names);
                    Call::script(script::FORGET, keys, [""; 0])
                };
                calls.push(call);
                whose.push(list.at);
            }
        }
        for (at, answer) in whose.into_iter().zip(server.call_all(&calls).await) {
            let gone = answer.and_then(|reply| {
                let gone = reply.number();
                gone.ok_or_else(|| server.strange("no number"))
            });
            add(&mut results[at], gone);
        }
        listed.retain(|list| *list.cursor != *END && results[list.at].is_ok());
        let calls: Vec<Call> = listed.iter().map(|list| read_on(server, list)).collect();
        let answers = server.call_all(&calls).await;
        for (list, answer) in listed.iter_mut().zip(answers) {
            let read =
                answer.and_then(|reply| page(reply).ok_or_else(|| server.strange("no list")));
            match read {
                Ok((cursor, members)) => (list.cursor, list.members) = (cursor, members),
                Err(why) => {
                    add(&mut results[list.at], Err(why));
                    list.cursor = END.into();
                }
            }
        }
    }
}

fn read_on(server: Server<'_>, list: &Listed<'_>) -> Call {
    let cursor = match list.cursor.is_empty() {
        true => Bytes::from_static(END),
        false => list.cursor.clone(),
    };
    let most = Bytes::from(MEMBERS_AT_ONCE.to_string());
    let name = list.tag.members(list.tag.bucket(server.buckets()));
    let args = [cursor, Bytes::from_static(b"COUNT"), most];
    Call::command("ZSCAN", [name], args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_nothing_is_lost() {
        let names: Vec<String> = (0..1_000).map(|n| "k".repeat(n % 97 + 1)).collect();
        let pieces = cut(names.clone(), 40, 1_000, String::len);
        let bytes = |piece: &Vec<String>| piece.iter().map(String::len).sum::<usize>();
        assert!(
            pieces
                .iter()
                .all(|piece| piece.len() <= 40 && bytes(piece) <= 1_000)
        );
        assert_eq!(pieces.concat(), names);
        assert_eq!(cut(vec!["long"], 9, 2, |name| name.len()), [["long"]]);
        assert!(cut(Vec::<String>::new(), 9, 9, String::len).is_empty());
    }
}
