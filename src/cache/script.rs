//! The scripts that make fills and removals safe, for Redis and Upstash alike. Each names all its keys,
//! and all of them are of one bucket, so it runs on a cluster as on one server.
//!
//! They are sent whole (EVAL) instead of by hash: the server keeps them under their text anyway, and
//! there is no second path that runs only after a restart or on a node that has not seen them.
//!
//! What is stored: a *floor* `life run` (which life of this memory, on which server process), a
//! *horizon* (all that the removals of this bucket have seen), and per key and tag a
//! *fence* `life view`: what a fill must have seen. A *lease* is `token life`: one of another life, which an
//! old copy of the memory brought back, is nobody's. A fence that is missing, or of another life,
//! begins at the horizon, which covers every removal that was ever confirmed here.

use std::time::Duration;

use super::call::Call;
use super::entry::Entry;
use super::sight::Seen;
use super::{Bytes, FENCE_TTL, Filled, LEASE_TTL, LONGEST_TTL, Life, Remote, TAG_FENCE_TTL};
use crate::key::{Bucket, Key};
use crate::model::View;

/// `covers` of [`View`](crate::model::View). Views are `xmin:xmax:running,…`; ids are exact up
/// to 2^53, which no database reaches.
macro_rules! views {
    () => {
        "\
local function read(view)
  local xmax, list = string.match(view, '^%d+:(%d+):([%d,]*)$')
  local running = {}
  for id in string.gmatch(list, '%d+') do running[id] = true end
  return tonumber(xmax), running
end
local function covers(a, b)
  if a == b then return true end
  local amax, arun = read(a)
  local bmax, brun = read(b)
  if amax < bmax then return false end
  for id in pairs(arun) do
    if tonumber(id) < bmax and not brun[id] then return false end
  end
  return true
end
"
    };
}

/// What either of two views saw. Most have nothing running; for those the rest is not even set up.
macro_rules! join {
    () => {
        concat!(
            "\
local function join(a, b)
  if a == b then return a end
  local amax, bmax = string.match(a, '^%d+:(%d+):$'), string.match(b, '^%d+:(%d+):$')
  if amax and bmax then return tonumber(amax) < tonumber(bmax) and b or a end
",
            views!(),
            "\
  if covers(a, b) then return a end
  if covers(b, a) then return b end
  local amax, arun = read(a)
  local bmax, brun = read(b)
  local running = {}
  for id in pairs(arun) do
    if brun[id] or tonumber(id) >= bmax then running[#running + 1] = tonumber(id) end
  end
  for id in pairs(brun) do
    if not arun[id] and tonumber(id) >= amax then running[#running + 1] = tonumber(id) end
  end
  table.sort(running)
  local xmax = math.max(amax, bmax)
  for at, id in ipairs(running) do running[at] = string.format('%.0f', id) end
  return string.format('%s:%.0f:%s', running[1] or string.format('%.0f', xmax), xmax, table.concat(running, ','))
end
"
        )
    };
}

/// `KEYS` value, floor, tag fences…; no arguments. Answers their values and the server's time in ms.
/// For Upstash, where two commands would be two requests; Redis is asked with MGET.
pub(super) const LOOK: &str = "\
local found = redis.call('MGET', unpack(KEYS))
local now = redis.call('TIME')
return {found, now[1] * 1000 + math.floor(now[2] / 1000)}";

/// `KEYS` floor, horizon, value, lease, fence, tag fences…; `ARGV` token, lease ms, server run, fence ms,
/// tag fence ms, beginning of the value that was seen. Answers `{0}` somebody holds the lease, `{2}` no
/// floor of this run: nothing may be filled, `{3}` there is another value by now: look again, or
/// `{1, floor, server ms}`.
const TAKE: &str = "\
local floor = redis.call('GET', KEYS[1])
local horizon = redis.call('GET', KEYS[2])
if not floor or not horizon then return {2} end
local life, run = string.match(floor, '^(%x+) (%S+)$')
if run ~= ARGV[3] then return {2} end
if redis.call('GETRANGE', KEYS[3], 0, 51) ~= ARGV[6] then return {3} end
for i = 5, #KEYS do
  local fence = redis.call('GET', KEYS[i])
  if not fence or string.sub(fence, 1, #life) ~= life then
    redis.call('SET', KEYS[i], life .. ' ' .. horizon, 'PX', ARGV[i == 5 and 4 or 5])
  end
end
local held = redis.call('GET', KEYS[4])
if held and string.sub(held, -#life) == life then return {0} end
redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. life, 'PX', ARGV[2])
local now = redis.call('TIME')
return {1, floor, now[1] * 1000 + math.floor(now[2] / 1000)}";

/// `fences` are those of the tags whose bucket is the key's.
pub(super) fn take(
    key: &Key,
    bucket: Bucket,
    fences: impl IntoIterator<Item = String>,
    token: &str,
    run: &str,
    seen: &Seen,
) -> Call {
    let mut keys = vec![
        bucket.floor(),
        bucket.horizon(),
        key.value(bucket),
        key.lease(bucket),
        key.fence(bucket),
    ];
    keys.extend(fences);
    let args = [
        token.to_owned(),
        millis(LEASE_TTL),
        run.to_owned(),
        millis(FENCE_TTL),
        millis(TAG_FENCE_TTL),
        String::from_utf8_lossy(&seen.beginning()).into_owned(),
    ];
    Call::script(TAKE, keys, args)
}

/// `KEYS` floor, horizon, tag fences…; `ARGV` tag fence ms. Begins the fences that are missing, where
/// the tags of an answer live in other buckets than its key.
const BEGIN: &str = "\
local floor = redis.call('GET', KEYS[1])
local horizon = redis.call('GET', KEYS[2])
if not floor or not horizon then return 0 end
local life = string.match(floor, '^%x+')
for i = 3, #KEYS do
  local fence = redis.call('GET', KEYS[i])
  if not fence or string.sub(fence, 1, #life) ~= life then
    redis.call('SET', KEYS[i], life .. ' ' .. horizon, 'PX', ARGV[1])
  end
end
return 1";

pub(super) fn begin(bucket: Bucket, fence: String) -> Call {
    let keys = [bucket.floor(), bucket.horizon(), fence];
    Call::script(BEGIN, keys, [millis(TAG_FENCE_TTL)])
}

/// `KEYS` floor, value, lease, fence; `ARGV` token, floor, view, entry, ttl ms. Answers `stored`, or what
/// spoke against it: `lease` (voided, or run out), `floor` (another life), `fence` (loaded too early).
const FILL: &str = concat!(
    views!(),
    "\
local life = string.match(ARGV[2], '^%x+')
if redis.call('GET', KEYS[3]) ~= ARGV[1] .. ' ' .. life then return 'lease' end
local fence = redis.call('GET', KEYS[4])
local seen = fence and string.sub(fence, 1, #life) == life and covers(ARGV[3], string.sub(fence, #life + 2))
local said = 'stored'
if redis.call('GET', KEYS[1]) ~= ARGV[2] then said = 'floor' elseif not seen then said = 'fence' end
if said == 'stored' then redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5]) end
redis.call('DEL', KEYS[3])
return said"
);

pub(super) fn fill(
    key: &Key,
    bucket: Bucket,
    lease: &Remote,
    entry: &Entry,
    stored: impl Into<Bytes>,
) -> Call {
    let keys = [
        bucket.floor(),
        key.value(bucket),
        key.lease(bucket),
        key.fence(bucket),
    ];
    let args: [Bytes; 5] = [
        lease.token().into(),
        lease.floor.clone().into(),
        entry.view.to_string().into(),
        stored.into(),
        millis(entry.ttl()).into(),
    ];
    Call::script(FILL, keys, args)
}

/// What a `FILL` answered.
pub(super) fn filled(answer: &str) -> Option<Filled> {
    Some(match answer {
        "stored" => Filled::Stored,
        "lease" => Filled::NoLease,
        "floor" => Filled::NoFloor,
        "fence" => Filled::TooEarly,
        _ => return None,
    })
}

/// `KEYS` lease; `ARGV` token. Gives a lease back whose load failed.
const RELEASE: &str = "\
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

pub(super) fn release(key: &Key, bucket: Bucket, lease: &Remote) -> Call {
    Call::script(RELEASE, [key.lease(bucket)], [lease.token()])
}

/// `KEYS` floor, horizon, fences (of keys that go, of keys that are marked stale, of tags), leases of the
/// keys, member lists of the tags, values, and plain keys where they are in the same slot; `ARGV` view,
/// keys that go, that are marked, tags, fence ms, tag fence ms, members to read. In any order, any number
/// of times: a fence only rises. Answers `{1 when there is a floor, answers that were there of each key,
/// a ZSCAN page of each tag}`; a page that begins with `''` was not read.
///
/// An entry is marked by the time, in its own line (see `entry`): the first mark counts.
///
/// Every change waits for this script, and its calls are what it costs: so they are few. It unlinks
/// first, because one that has written may go on writing when memory is full; PERSIST, which
/// changes nothing, is there for the same where there is nothing to unlink.
pub(super) const REMOVE: &str = concat!(
    join!(),
    "\
local view, keys, tags, left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[7])
local named = keys + ARGV[3]
local fences = 2 + named + tags
local lists, values = fences + named, fences + named + tags
local stood = redis.call('MGET', unpack(KEYS, 1, fences + named))
local counts, pages, mark = {}, {}, nil
if named == 0 then redis.call('PERSIST', KEYS[1]) end
for at = 1, named do
  local lease, value = KEYS[fences + at], KEYS[values + at]
  local plain, count = KEYS[values + named + at] or lease, 0
  if at <= keys then
    count = redis.call('UNLINK', lease, value, plain)
  else
    count = redis.call('UNLINK', lease, plain)
    local line = redis.call('GETRANGE', value, 0, 65)
    if string.sub(line, 1, 3) == 'o2 ' then
      count = count + 1
      if string.sub(line, 54) == '0000000000000' then
        if not mark then
          local now = redis.call('TIME')
          mark = string.format('%013.0f', now[1] * 1000 + math.floor(now[2] / 1000))
        end
        redis.call('SETRANGE', value, 53, mark)
      end
    end
  end
  if stood[fences + at] then count = count - 1 end
  counts[at] = count
end
local floor, horizon = stood[1], stood[2]
local life = floor and string.match(floor, '^%x+') or '0'
redis.call('SET', KEYS[2], horizon and join(horizon, view) or view)
for at = 3, fences do
  local old, new = stood[at], view
  if old and string.sub(old, 1, #life) == life then new = join(string.sub(old, #life + 2), view) end
  redis.call('SET', KEYS[at], life .. ' ' .. new, 'PX', ARGV[at <= 2 + named and 5 or 6])
end
for at = 1, tags do
  local page = {'', {}}
  if left > 0 then page = redis.call('ZSCAN', KEYS[lists + at], '0', 'COUNT', left) end
  left = left - #page[2] / 2
  pages[at] = page
end
return {floor and 1 or 0, counts, pages}"
);

/// `KEYS` member list of a tag, plain keys. They go, and leave the list, in one step. Answers how many
/// there were.
pub(super) const FORGET: &str = "\
local names = {unpack(KEYS, 2)}
local gone = redis.call('UNLINK', unpack(names))
redis.call('ZREM', KEYS[1], unpack(names))
return gone";

/// `KEYS` floor, horizon, beat; `ARGV` floor, last beat, next beat. Answers 0 when this is not the memory
/// that was beaten last: emptied, or back from an old copy. The next beat may be there already, when
/// its answer was lost.
const BEAT: &str = "\
local beat = redis.call('GET', KEYS[3])
if beat ~= ARGV[2] and beat ~= ARGV[3] then return 0 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[3], ARGV[3])
return 1";

pub(super) fn beat(bucket: Bucket, life: &Life) -> Call {
    let beats = [life.beat, life.beat + 1].map(|beat| beat.to_string());
    let [last, next] = beats;
    Call::script(BEAT, vouched(bucket), [life.floor.clone(), last, next])
}

/// `KEYS` floor, horizon, beat; `ARGV` floor, view, beat. Begins a life. A horizon that is there was
/// raised by a removal since `void`, so it counts.
const FOUND: &str = concat!(
    join!(),
    "\
local horizon = redis.call('GET', KEYS[2])
redis.call('SET', KEYS[2], horizon and join(horizon, ARGV[2]) or ARGV[2])
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1])
return 1"
);

pub(super) fn found(bucket: Bucket, life: &Life, view: &View) -> Call {
    let args = [life.floor.clone(), view.to_string(), life.beat.to_string()];
    Call::script(FOUND, vouched(bucket), args)
}

/// What says that a bucket's memory is the one it was.
pub(super) fn vouched(bucket: Bucket) -> [String; 3] {
    [bucket.floor(), bucket.horizon(), bucket.beat()]
}

/// Without it a script on Upstash locks the whole database. Redis itself refuses to run a script
/// with a flag that it does not know, so only Upstash gets it.
pub(super) const UPSTASH_FLAGS: &str = "#!lua flags=allow-key-locking\n";

/// A life of at least a millisecond, and no longer than any may be.
fn millis(ttl: Duration) -> String {
    ttl.min(LONGEST_TTL).as_millis().max(1).to_string()
}
