//! The Lua scripts that make fills and removals safe, and the commands that carry them. `RemoteCache` and
//! `removal` send them, to Redis and Upstash alike.
//!
//! Each script names all its keys, and all of them are in one shard, so it runs on a cluster as on one
//! server. Scripts are sent whole (EVAL) instead of by hash: the server keeps them under their text anyway,
//! and there is no second path that runs only after a restart or on a node that has not seen them.
//!
//! Stored are: the *epoch* `id run` (the current life of this memory, and the server process it began on; the id begins
//! with the mark of the database, and in an epoch of another database nothing but unmanaged keys is touched), the
//! *watermark* of a shard (the join of the database snapshots of all its removals), and per key and tag a *fence*: a
//! fill has to include it. Watermark and fences are `epoch-id snapshot`. A *lease* is `token epoch-id`; a lease of another
//! epoch, which an old copy of the memory brought back, is not valid. A fence that is missing, or of another epoch,
//! begins at the watermark, which covers every removal that was ever confirmed here. An epoch whose watermark is
//! missing is none.
//!
//! `protocol` has the same rules as functions; a test holds the scripts to them.

use std::time::Duration;

use bytes::Bytes;

use super::command::CacheCommand;
use super::entry::Entry;
use super::lease::{
    Epoch, FENCE_TTL, LEASE_TTL, LONGEST_TTL, PutOutcome, RemoteLease, TAG_FENCE_TTL,
};
use super::protocol::Snapshot;
use oddsd_core::key::{Key, Shard};
use oddsd_core::model::DbSnapshot;

/// `read` parses a database snapshot, `covers(a, b)` tells whether `a` includes `b`. Snapshots are `xmin:xmax:running,…`; ids are exact up
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

/// The join of two database snapshots: everything that either saw. Most have no running transactions; for
/// those the functions are not even created.
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

/// The server's clock in ms.
pub(super) const NOW: &str =
    "local now = redis.call('TIME') return now[1] * 1000 + math.floor(now[2] / 1000)";

/// `KEYS` value, epoch, tag fences…; no arguments. Returns their values and the server's time in ms.
/// For Upstash, where two commands would be two requests; Redis gets an MGET.
pub(super) const LOOKUP: &str = "\
local found = redis.call('MGET', unpack(KEYS))
local now = redis.call('TIME')
return {found, now[1] * 1000 + math.floor(now[2] / 1000)}";

/// `KEYS` epoch, watermark, value, lease, fence, tag fences…; `ARGV` token, lease ms, server run, fence ms,
/// tag fence ms, prefix of the value that the lookup saw, mark of the database. Returns `{0}`: another reader holds the
/// lease, `{2}`: no epoch of this run and database, so nothing may be filled, `{3}`: the value changed, look up again, or
/// `{1, epoch, server ms}`.
const ACQUIRE_LEASE: &str = "\
local epoch = redis.call('GET', KEYS[1])
local watermark = redis.call('GET', KEYS[2])
if not epoch or not watermark then return {2} end
local id, run = string.match(epoch, '^(%x+) (%S+)$')
if run ~= ARGV[3] or string.sub(id, 1, #ARGV[7]) ~= ARGV[7] then return {2} end
if string.sub(watermark, 1, #id + 1) ~= id .. ' ' then return {2} end
if redis.call('GETRANGE', KEYS[3], 0, 51) ~= ARGV[6] then return {3} end
for i = 5, #KEYS do
  local fence = redis.call('GET', KEYS[i])
  if not fence or string.sub(fence, 1, #id) ~= id then
    redis.call('SET', KEYS[i], watermark, 'PX', ARGV[i == 5 and 4 or 5])
  end
end
local held = redis.call('GET', KEYS[4])
if held and string.sub(held, -#id) == id then return {0} end
redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. id, 'PX', ARGV[2])
local now = redis.call('TIME')
return {1, epoch, now[1] * 1000 + math.floor(now[2] / 1000)}";

/// `fences` are those of the tags in the shard of the key.
pub(super) fn acquire_lease(
    key: &Key,
    shard: Shard<'_>,
    fences: impl IntoIterator<Item = String>,
    token: &str,
    (run, database): (&str, &str),
    seen_prefix: &[u8],
) -> CacheCommand {
    let mut keys = vec![
        shard.epoch_key(),
        shard.watermark_key(),
        key.value_key(shard),
        key.lease_key(shard),
        key.fence_key(shard),
    ];
    keys.extend(fences);
    let args = [
        token.to_owned(),
        millis(LEASE_TTL),
        run.to_owned(),
        millis(FENCE_TTL),
        millis(TAG_FENCE_TTL),
        String::from_utf8_lossy(seen_prefix).into_owned(),
        database.to_owned(),
    ];
    CacheCommand::script(ACQUIRE_LEASE, keys, args)
}

/// `KEYS` epoch, watermark, tag fence; `ARGV` tag fence ms, mark of the database. Begins the fence if it is missing, for a tag whose
/// shard is not the key's. Returns 0 where there is no epoch.
const BEGIN_FENCE: &str = "\
local epoch = redis.call('GET', KEYS[1])
local watermark = redis.call('GET', KEYS[2])
if not epoch or not watermark then return 0 end
local id = string.match(epoch, '^%x+')
if string.sub(id, 1, #ARGV[2]) ~= ARGV[2] then return 0 end
if string.sub(watermark, 1, #id + 1) ~= id .. ' ' then return 0 end
for i = 3, #KEYS do
  local fence = redis.call('GET', KEYS[i])
  if not fence or string.sub(fence, 1, #id) ~= id then
    redis.call('SET', KEYS[i], watermark, 'PX', ARGV[1])
  end
end
return 1";

pub(super) fn begin_fence(shard: Shard<'_>, fence: String, database: &str) -> CacheCommand {
    let keys = [shard.epoch_key(), shard.watermark_key(), fence];
    let args = [millis(TAG_FENCE_TTL), database.to_owned()];
    CacheCommand::script(BEGIN_FENCE, keys, args)
}

/// `KEYS` epoch, value, lease, fence; `ARGV` token, epoch, database snapshot, entry, ttl ms. Returns `stored`, or
/// the reason of the refusal: `lease` (ended, or expired), `epoch` (another one), `fence` (loaded too early).
const PUT_IF_VALID: &str = concat!(
    views!(),
    "\
local id = string.match(ARGV[2], '^%x+')
if redis.call('GET', KEYS[3]) ~= ARGV[1] .. ' ' .. id then return 'lease' end
local fence = redis.call('GET', KEYS[4])
local seen = fence and string.sub(fence, 1, #id) == id and covers(ARGV[3], string.sub(fence, #id + 2))
local outcome = 'stored'
if redis.call('GET', KEYS[1]) ~= ARGV[2] then outcome = 'epoch' elseif not seen then outcome = 'fence' end
if outcome == 'stored' then redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5]) end
redis.call('DEL', KEYS[3])
return outcome"
);

pub(super) fn put_if_valid(
    key: &Key,
    shard: Shard<'_>,
    lease: &RemoteLease,
    entry: &Entry,
    stored: impl Into<Bytes>,
) -> CacheCommand {
    let keys = [
        shard.epoch_key(),
        key.value_key(shard),
        key.lease_key(shard),
        key.fence_key(shard),
    ];
    let args: [Bytes; 5] = [
        lease.token_text().into(),
        lease.epoch.clone().into(),
        entry.snapshot.to_string().into(),
        stored.into(),
        millis(entry.ttl()).into(),
    ];
    CacheCommand::script(PUT_IF_VALID, keys, args)
}

/// Parses the reply of a fill.
pub(super) fn put_outcome(reply: &[u8]) -> Option<PutOutcome> {
    Some(match reply {
        b"stored" => PutOutcome::Stored,
        b"lease" => PutOutcome::LeaseEnded,
        b"epoch" => PutOutcome::EpochEnded,
        b"fence" => PutOutcome::TooEarly,
        _ => return None,
    })
}

/// `KEYS` lease; `ARGV` token. Releases a lease whose load failed.
const RELEASE_LEASE: &str = "\
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

pub(super) fn release_lease(key: &Key, shard: Shard<'_>, lease: &RemoteLease) -> CacheCommand {
    CacheCommand::script(RELEASE_LEASE, [key.lease_key(shard)], [lease.token_text()])
}

/// `KEYS` epoch, watermark, fences (of keys to remove, of keys to mark stale, of tags), leases of the
/// keys, member indexes of the tags, values, and unmanaged keys where they are in the same slot; `ARGV` database
/// snapshot, number of keys to remove, of keys to mark, of tags, fence ms, tag fence ms, members to read, mark of the
/// database. In an epoch of another database, or one that is about to begin, only unmanaged keys are unlinked. An epoch
/// without its watermark is ended: what the lost one held is not in the next one.
/// Returns `{1 if there is an epoch of this database, the number of entries that existed of each key, a ZSCAN page of
/// each tag}`; a page whose cursor is `''` was not read. The order and the number of repetitions do not matter: a fence
/// only rises.
///
/// An entry is marked stale by writing the time into its header line (see `entry`); the first mark counts.
///
/// Every change waits for this script, and its time is that of its calls: so they are few. It unlinks
/// first, because a script that has written may go on writing when memory is full; PERSIST, which changes
/// nothing, does the same where there is nothing to unlink.
pub(super) const REMOVE: &str = concat!(
    join!(),
    "\
local view, keys, tags, budget = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[7])
local named = keys + ARGV[3]
local fences = 2 + named + tags
local lists, values = fences + named, fences + named + tags
local before = redis.call('MGET', unpack(KEYS, 1, fences + named))
local counts, pages, mark = {}, {}, nil
local id = before[1] and string.match(before[1], '^%x+') or '0'
local owner, watermark = string.match(before[2] or '', '^(%x+) (.+)$')
local whose = before[1] and id or owner or '0'
local foreign = whose ~= '0' and string.sub(whose, 1, #ARGV[8]) ~= ARGV[8]
if named == 0 and not foreign then redis.call('PERSIST', KEYS[1]) end
for at = 1, named do
  local lease, value = KEYS[fences + at], KEYS[values + at]
  local plain, count = KEYS[values + named + at] or lease, 0
  if foreign then
    if plain ~= lease then count = redis.call('UNLINK', plain) end
  elseif at <= keys then
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
  if before[fences + at] and not foreign then count = count - 1 end
  counts[at] = count
end
if foreign then
  before[1] = nil
else
  if before[1] and owner ~= id then
    redis.call('UNLINK', KEYS[1])
    before[1], id = nil, '0'
  end
  watermark = watermark and join(watermark, view) or view
  redis.call('SET', KEYS[2], (owner or '0') .. ' ' .. watermark)
  for at = 3, fences do
    local old, new = before[at], watermark
    if old and string.sub(old, 1, #id + 1) == id .. ' ' then new = join(string.sub(old, #id + 2), view) end
    redis.call('SET', KEYS[at], id .. ' ' .. new, 'PX', ARGV[at <= 2 + named and 5 or 6])
  end
end
for at = 1, tags do
  local page = {'', {}}
  if budget > 0 then page = redis.call('ZSCAN', KEYS[lists + at], '0', 'COUNT', budget) end
  budget = budget - #page[2] / 2
  pages[at] = page
end
return {before[1] and 1 or 0, counts, pages}"
);

/// `KEYS` member index of a tag, unmanaged keys. Unlinks them and removes them from the index in one step.
/// Returns the number of keys that existed.
pub(super) const UNLINK_MEMBERS: &str = "\
local names = {unpack(KEYS, 2)}
local gone = redis.call('UNLINK', unpack(names))
redis.call('ZREM', KEYS[1], unpack(names))
return gone";

/// `KEYS` epoch, watermark, heartbeat; `ARGV` epoch, last heartbeat, next heartbeat. Returns 0 when this is not the
/// memory of the last heartbeat: emptied, or restored from an old copy. The next heartbeat may be stored already,
/// when its reply was lost.
const HEARTBEAT: &str = "\
local heartbeat = redis.call('GET', KEYS[3])
if heartbeat ~= ARGV[2] and heartbeat ~= ARGV[3] then return 0 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local owner = string.match(redis.call('GET', KEYS[2]) or '', '^%x+')
if owner ~= string.match(ARGV[1], '^%x+') then return 0 end
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[3], ARGV[3])
return 1";

pub(super) fn heartbeat(shard: Shard<'_>, epoch: &Epoch) -> CacheCommand {
    let args = [
        epoch.record.clone(),
        epoch.heartbeat.to_string(),
        (epoch.heartbeat + 1).to_string(),
    ];
    CacheCommand::script(HEARTBEAT, epoch_names(shard), args)
}

/// `KEYS` epoch, watermark, heartbeat; `ARGV` watermark without any removal. Ends the epoch, for the one that the watermark
/// names.
const END_EPOCH: &str = "\
redis.call('UNLINK', KEYS[1], KEYS[3])
redis.call('SET', KEYS[2], ARGV[1])
return 1";

pub(super) fn end_epoch(shard: Shard<'_>, next: &Epoch) -> CacheCommand {
    let watermark = format!("{} {}", next.id(), <DbSnapshot as Snapshot>::nothing());
    CacheCommand::script(END_EPOCH, epoch_names(shard), [watermark])
}

/// `KEYS` epoch, watermark, heartbeat; `ARGV` epoch, database snapshot, heartbeat. Begins an epoch. A removal since
/// the last one ended has raised the watermark, so it is joined. Returns 0 where the watermark since then is lost, or
/// belongs to an epoch that another daemon is about to begin.
const BEGIN_EPOCH: &str = concat!(
    join!(),
    "\
local owner, watermark = string.match(redis.call('GET', KEYS[2]) or '', '^(%x+) (.+)$')
if owner ~= string.match(ARGV[1], '^%x+') then return 0 end
redis.call('SET', KEYS[2], owner .. ' ' .. join(watermark, ARGV[2]))
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1])
return 1"
);

pub(super) fn begin_epoch(shard: Shard<'_>, epoch: &Epoch, view: &DbSnapshot) -> CacheCommand {
    let args = [
        epoch.record.clone(),
        view.to_string(),
        epoch.heartbeat.to_string(),
    ];
    CacheCommand::script(BEGIN_EPOCH, epoch_names(shard), args)
}

/// The names that prove that a shard's memory is still the same.
pub(super) fn epoch_names(shard: Shard<'_>) -> [String; 3] {
    [
        shard.epoch_key(),
        shard.watermark_key(),
        shard.heartbeat_key(),
    ]
}

/// At least a millisecond, at most the longest time to live.
fn millis(ttl: Duration) -> String {
    ttl.min(LONGEST_TTL).as_millis().max(1).to_string()
}
