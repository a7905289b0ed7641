"""What has to happen in one step in the store, as Lua scripts; both Redis and Valkey run them.

Times are the store's own, so that replicas whose clocks differ agree.
"""

PUT = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and old >= ARGV[2] then return old end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[2])
return false
"""
"""Keeps a record unless there is a newer one, which is returned; their order is that of texts."""

FORGET = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""

TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local left = {}
for i = 1, #KEYS do
  local full = math.max(tonumber(redis.call('GET', KEYS[i]) or '0'), now) + tonumber(ARGV[i])
  local ms = string.format('%.0f', math.ceil((full - now) / 1000) + 1)
  redis.call('SET', KEYS[i], string.format('%.0f', full), 'PX', ms)
  left[i] = string.format('%.0f', full - now)
end
return left
"""
"""Takes from buckets, each kept as the time in us at which it is full again; returns what is left
until then. A full bucket is like none, so it expires."""

BEAT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""
"""Says that somebody lives; returns how many did so lately."""

ELECT = """
local now = redis.call('GET', KEYS[1])
if now and string.match(now, '|([^|]*)|') ~= ARGV[1] then return now end
local epoch = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[3])) + 1
redis.call('SET', KEYS[2], string.format('%.0f', epoch))
local mine = string.format('%.0f', epoch) .. '|' .. ARGV[1] .. '|' .. ARGV[2]
redis.call('SET', KEYS[1], mine, 'PX', ARGV[4])
return mine
"""
"""Takes the one seat if it is free, or was the asker's own before it began anew; returns who has
it. Each time it is taken it gets a greater number, also after the store has lost everything."""

RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

RESIGN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""
