-- Puts an unmanaged key that oddsd removes by tag or pattern. EVAL it on one Redis server, or on Upstash (there
-- with a first line "#!lua flags=allow-key-locking"); in a cluster see register.lua.
--   KEYS: the key, then for each of its tags oddsd:members:{b0000}:TAG
--   ARGV: body, time to live in ms
-- Each put drops the expired members of a tag's index, and the index expires with its last member.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local ttl = tonumber(ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for at = 2, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[at], '-inf', string.format('(%.0f', us))
  redis.call('ZADD', KEYS[at], string.format('%.0f', us + ttl * 1000), KEYS[1])
  local last = redis.call('ZRANGE', KEYS[at], -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', KEYS[at], string.format('%.0f', math.ceil(tonumber(last[2]) / 1000)))
end
return 1
