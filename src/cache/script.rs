//! The two scripts that make leases safe, for Redis and Upstash alike.
//!
//! They are sent whole (EVAL) instead of by hash: they are shorter than most bodies, the server caches
//! them under their text anyway, and there is no second path that runs only after a restart.

/// `KEYS` value, lease; `ARGV` token, lease ms. Answers `{value, pttl}`, or 1 when the lease is ours,
/// or 0 when somebody else holds it.
pub(super) const GET_OR_LEASE: &str = "\
local value = redis.call('GET', KEYS[1])
if value then return {value, redis.call('PTTL', KEYS[1])} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0";

/// `KEYS` value, lease; `ARGV` token, value, ttl ms. Answers 1 when stored, 0 when the lease is void.
pub(super) const FILL: &str = "\
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1";

/// Without it a script on Upstash locks the whole database. Redis itself refuses to run a script
/// with a flag that it does not know, so only Upstash gets it.
pub(super) const UPSTASH_FLAGS: &str = "#!lua flags=allow-key-locking\n";
