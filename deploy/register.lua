-- Lists an unmanaged key under one of its tags in a Redis cluster, where the key and its tags' indexes are in
-- different slots. Run it for each tag, and only then SET the key, with PXAT and the earliest time that was
-- returned: a removal in between still finds the key.
--   KEYS: oddsd:members:{bNNNN}:TAG, where NNNN is XXH3-64 of the tag modulo 32, in decimal
--   ARGV: the key, time to live in ms
-- Returns the time, in ms since 1970, at which the key has to expire.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local ends = us + tonumber(ARGV[2]) * 1000
-- The node that stores the key may have another clock: by up to a minute.
local slack = 60000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', us))
redis.call('ZADD', KEYS[1], string.format('%.0f', ends + slack), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(tonumber(last[2]) / 1000)))
return string.format('%.0f', math.floor(ends / 1000))
