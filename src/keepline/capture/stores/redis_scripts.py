"""The Lua scripts of a RedisCaptureStore: each is one atomic step, in one slot of a cluster.

Numbers come in and go back as decimal text, because Lua's own have 53 bits and print 14 digits.
A script's answer is a list whose first element says what became of it. Those of the register
(which sessions there are) begin with KEYS[1] = the store's hash and ARGV[1] = the store's id,
and answer `gone` when another store, or none, is there by now; those of a stream begin with
KEYS[1] = its meta hash and ARGV[1] = the store's id, and answer `none` then.

The register:  store (hash), sessions (sorted set of numbers), removed (one of those whose
streams are being deleted), origins (hash: what is captured, by whom), and for each session a
hash and a hash of its streams' declarations.
A stream:  meta (hash), chunks (stream, one entry a chunk), losses (list).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest that the server knows it by."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


_RUN = "string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''"
_KNOWN = """
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return {'gone'} end
"""
_OURS = """
local m = redis.call('HMGET', KEYS[1], 'store', 'state', 'fence', 'next', 'until')
if m[1] ~= ARGV[1] then return {'none'} end
"""
_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function at(ms) return string.format('%.0f', ms) end
"""
_WRITING = (
    _OURS
    + _NOW
    + """
if m[2] ~= 'running' then return {'closed'} end
if m[3] ~= ARGV[2] then return {'fenced'} end
"""
)

#: Return the store's id, epoch, the server's run when that began, its run now, and the nodes;
#: ARGV[2] and [3] are id and epoch of the store that is made when there is none, or ''.
OPEN = Script(
    f"""
local run = {_RUN}
if ARGV[2] ~= '' and redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], 'id', ARGV[2], 'epoch', ARGV[3], 'run', run, 'nodes', ARGV[4],
        'number', '0')
    ARGV[1] = ARGV[2]
end
local kept = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'run', 'nodes')
if not kept[1] or (ARGV[1] ~= '' and kept[1] ~= ARGV[1]) then return {{'gone'}} end
return {{'ok', kept[1], kept[2], kept[3] or '', run, kept[4] or ''}}
"""
)

#: Begin the epoch ARGV[4], if the one that is on is still ARGV[2] (or that is ''); the next
#: session's number is above ARGV[5], and ARGV[6] are left out.
RENEW = Script(
    _KNOWN
    + f"""
local run = {_RUN}
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if ARGV[2] ~= '' and epoch ~= ARGV[2] then return {{'ok', epoch}} end
local number = tonumber(redis.call('HGET', KEYS[1], 'number') or '0') + tonumber(ARGV[6])
number = math.max(number, tonumber(ARGV[5]))
redis.call('HSET', KEYS[1], 'epoch', ARGV[4], 'run', run, 'nodes', ARGV[3],
    'number', string.format('%.0f', number))
return {{'ok', ARGV[4]}}
"""
)

#: Tell the highest session number given out.
LAST = Script(
    _KNOWN
    + """
return {'ok', redis.call('HGET', KEYS[1], 'number') or '0'}
"""
)

#: Give out the next session number, unless the server has begun anew since the epoch did, or
#: KEYS[2] (origins) has ARGV[2] already.
NUMBER = Script(
    _KNOWN
    + f"""
local run = {_RUN}
if redis.call('HGET', KEYS[1], 'run') ~= run then return {{'restarted'}} end
if ARGV[2] ~= '' and redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return {{'taken'}} end
return {{'ok', redis.call('HINCRBY', KEYS[1], 'number', 1)}}
"""
)

#: Let a session be seen: KEYS are store, origins, sessions, session, specs; ARGV store id,
#: origin's field or '', number, source, spec, then names and values of the session.
SHOW = Script(
    _KNOWN
    + """
if ARGV[2] ~= '' and redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 0 then
    return {'taken'}
end
redis.call('HSET', KEYS[4], 'number', ARGV[3], 'state', 'running', unpack(ARGV, 6))
redis.call('HSET', KEYS[5], ARGV[4], ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[3])
return {'ok'}
"""
)

_FIELDS = "'number', 'instrument', 'user', 'state', 'started', 'ended', 'origin', 'level', 'stop'"
#: KEYS are store, session: what is kept of one session.
SESSION = Script(
    _KNOWN
    + f"""
if redis.call('EXISTS', KEYS[2]) == 0 then return {{'none'}} end
return {{'ok', redis.call('HMGET', KEYS[2], {_FIELDS})}}
"""
)

#: KEYS are store, sessions: what is kept of up to ARGV[3] sessions with numbers from ARGV[2]
#: on. ARGV[4] begins the name of each session's hash, which lies in the same slot.
SESSIONS = Script(
    _KNOWN
    + f"""
local found = {{'ok'}}
local numbers = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[2], '+inf', 'LIMIT', 0, ARGV[3])
for _, number in ipairs(numbers) do
    found[#found + 1] = redis.call('HMGET', ARGV[4] .. number, {_FIELDS})
end
return found
"""
)

_RUNNING = (
    _KNOWN
    + """
local state = redis.call('HGET', KEYS[2], 'state')
if not state then return {'none'} end
if state ~= 'running' then return {'closed', state} end
"""
)
#: KEYS are store, session, specs: the streams' declarations, source by source.
SPECS = Script(
    _KNOWN
    + """
if redis.call('EXISTS', KEYS[2]) == 0 then return {'none'} end
return {'ok', redis.call('HGETALL', KEYS[3])}
"""
)

#: KEYS are store, session, specs; add the stream ARGV[2] with the declaration ARGV[3].
ADD = Script(
    _RUNNING
    + """
if redis.call('HEXISTS', KEYS[2], 'sealed') == 1 then return {'closed', 'ending'} end
if redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3]) == 1 then return {'ok'} end
if redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[3] then return {'ok'} end
return {'other'}
"""
)

#: KEYS are store, session, specs. A sealed session gets no more streams and no more writers,
#: so that its streams can be closed one after the other, each in its slot.
SEAL = Script(
    _RUNNING
    + """
redis.call('HSET', KEYS[2], 'sealed', '1')
return {'ok', redis.call('HKEYS', KEYS[3])}
"""
)
UNSEAL = Script(_RUNNING + "redis.call('HDEL', KEYS[2], 'sealed')\nreturn {'ok'}")
OPENED = Script(
    _RUNNING
    + """
if redis.call('HEXISTS', KEYS[2], 'sealed') == 1 then return {'closed', 'ending'} end
return {'ok'}
"""
)

# What is captured completely, or just now, is not captured again.
_FREE_ORIGIN = """
local who = redis.call('HMGET', KEYS[2], 'instrument', 'origin', 'number')
if who[2] then
    local name = who[1] .. '\\0' .. who[2]
    if redis.call('HGET', KEYS[4], name) == who[3] then redis.call('HDEL', KEYS[4], name) end
end
"""
#: KEYS are store, session, specs, origins; end the session as ARGV[2] at ARGV[3].
END = Script(
    _RUNNING
    + f"""
redis.call('HSET', KEYS[2], 'state', ARGV[2], 'ended', ARGV[3])
redis.call('HDEL', KEYS[2], 'sealed')
if ARGV[2] ~= 'complete' then {_FREE_ORIGIN} end
return {{'ok'}}
"""
)

#: KEYS are store, session, specs, origins, sessions, removed; ARGV[2] is the number. Nobody sees
#: the session from here on; its specs stay, and say which streams are to go.
REMOVE = Script(
    _KNOWN
    + _FREE_ORIGIN
    + """
redis.call('ZREM', KEYS[5], ARGV[2])
if redis.call('DEL', KEYS[2]) == 0 then return {'none'} end
redis.call('ZADD', KEYS[6], ARGV[2], ARGV[2])
return {'ok'}
"""
)
#: KEYS are store, removed: the numbers of up to ARGV[3] removed sessions whose streams may be
#: left, each with their names. ARGV[2] begins the name of each one's specs, in the same slot.
REMOVED = Script(
    _KNOWN
    + """
local found = {'ok'}
for _, number in ipairs(redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[3]) - 1)) do
    found[#found + 1] = {number, redis.call('HKEYS', ARGV[2] .. number)}
end
return found
"""
)
#: KEYS are store, specs, removed: the streams of the session ARGV[2] are gone.
FORGET = Script(
    _KNOWN
    + """
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
return {'ok'}
"""
)

#: KEYS are store, session.
STOP = Script(_RUNNING + "redis.call('HSET', KEYS[2], 'stop', '1')\nreturn {'ok'}")

#: Make a stream that is gone after ARGV[4] ms unless KEEP comes; fence ARGV[2] for ARGV[3] ms.
MAKE = Script(
    _NOW
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
redis.call('HSET', KEYS[1], 'store', ARGV[1], 'state', 'running', 'fence', ARGV[2],
    'until', at(now + tonumber(ARGV[3])), 'next', '0', 'messages', '0', 'archived', '-1',
    'trimmed', '-1')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'ok'}
"""
)
KEEP = Script(_OURS + "redis.call('PERSIST', KEYS[1])\nreturn {'ok'}")

#: Take the fence ARGV[2] for ARGV[3] ms; answers the next number and whose it was.
TAKE = Script(
    _OURS
    + _NOW
    + """
if m[3] ~= '' and tonumber(m[5]) > now then return {'locked'} end
if m[2] ~= 'running' then return {'closed'} end
redis.call('HSET', KEYS[1], 'fence', ARGV[2], 'until', at(now + tonumber(ARGV[3])))
return {'ok', m[4], m[3]}
"""
)
#: Give the fence ARGV[2] up; it is then that of ARGV[3], expired, or nobody's.
GIVE = Script(
    _OURS
    + """
if m[3] == ARGV[2] then redis.call('HSET', KEYS[1], 'fence', ARGV[3], 'until', '0') end
return {'ok'}
"""
)
#: A lease that ran out is renewed as well, as long as nobody took the fence.
RENEW_LEASE = Script(
    _WRITING
    + """
redis.call('HSET', KEYS[1], 'until', at(now + tonumber(ARGV[3])))
return {'ok'}
"""
)
#: A closed stream lives as long as its lease, so that nobody takes a session that is just being
#: ended, which takes several steps, for one whose recorder died.
LIVE = Script(
    _OURS
    + _NOW
    + """
if m[3] ~= '' and tonumber(m[5]) > now then return {'live'} end
return {'ok'}
"""
)
CLOSE = Script(_OURS + "redis.call('HSET', KEYS[1], 'state', 'closed')\nreturn {'ok'}")

#: KEYS are meta, chunks. ARGV are store id, fence, lease, and ten for each chunk: entry id,
#: first number, number after it, CRC, wall clock, monotonic clock, lengths, times, ticks, raw.
#: First all chunks are looked at, then all are written: nothing is written on a conflict.
APPEND = Script(
    _WRITING
    + """
local following, stored, outcome = m[4], 0, {}
for i = 4, #ARGV, 10 do
    if ARGV[i + 1] == following and ARGV[i + 2] ~= following then
        outcome[#outcome + 1] = 's'
        stored = stored + tonumber(ARGV[i + 2]) - tonumber(following)
        following = ARGV[i + 2]
    else
        local found = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
        local entry = found and found[2]
        local trimmed = tonumber(redis.call('HGET', KEYS[1], 'trimmed'))
        -- What was trimmed since cannot be compared any more.
        if not (entry and entry[2] == ARGV[i + 2] and entry[4] == ARGV[i + 3])
            and (entry or ARGV[i + 2] == ARGV[i + 1] or tonumber(ARGV[i + 2]) - 1 > trimmed) then
            return {'conflict', m[4], (i - 4) / 10}
        end
        outcome[#outcome + 1] = 'r'
    end
end
for n, what in ipairs(outcome) do
    local i = 10 * n - 6
    if what == 's' then
        redis.call('XADD', KEYS[2], ARGV[i], 'n', ARGV[i + 2], 'c', ARGV[i + 3],
            'w', ARGV[i + 4], 'm', ARGV[i + 5], 'l', ARGV[i + 6], 't', ARGV[i + 7],
            'k', ARGV[i + 8], 'r', ARGV[i + 9])
    end
end
redis.call('HSET', KEYS[1], 'next', following, 'until', at(now + tonumber(ARGV[3])))
if stored > 0 then redis.call('HINCRBY', KEYS[1], 'messages', at(stored)) end
return {'ok', following, table.concat(outcome)}
"""
)

#: KEYS are meta, losses. ARGV are store id, fence, lease, the writer's next number, the last
#: lost one, the one after it, when, and why. A call that was not known to succeed may come again.
LOSE = Script(
    _WRITING
    + """
local last = redis.call('LINDEX', KEYS[2], -1)
local begun = ARGV[4] .. ' ' .. ARGV[5] .. ' '
if last and string.sub(last, 1, #begun) == begun then return {'ok', last} end
if tonumber(m[4]) > tonumber(ARGV[4]) or tonumber(m[4]) > tonumber(ARGV[5]) then
    return {'conflict', m[4]}
end
local loss = m[4] .. ' ' .. ARGV[5] .. ' ' .. ARGV[7] .. ' ' .. ARGV[8]
redis.call('RPUSH', KEYS[2], loss)
redis.call('HSET', KEYS[1], 'next', ARGV[6], 'until', at(now + tonumber(ARGV[3])))
return {'ok', loss}
"""
)

#: The archive's mark never goes back.
MARK = Script(
    _OURS
    + """
if tonumber(redis.call('HGET', KEYS[1], 'archived')) < tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], 'archived', ARGV[2])
end
return {'ok'}
"""
)

#: Put the archive's mark to ARGV[2], also back, but not beyond what is there.
SET_MARK = Script(
    _OURS
    + """
local seq = math.max(-1, math.min(tonumber(ARGV[2]), tonumber(m[4]) - 1))
redis.call('HSET', KEYS[1], 'archived', string.format('%.0f', seq))
return {'ok'}
"""
)

#: KEYS are meta, chunks: remove up to ARGV[2] chunks that end at or before both ARGV[3] and the
#: archive's mark.
TRIM = Script(
    _OURS
    + """
local archived = tonumber(redis.call('HGET', KEYS[1], 'archived'))
local last, removed, upto = math.min(archived, tonumber(ARGV[3])), 0, nil
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[2])) do
    local following = tonumber(entry[2][2])
    if following - 1 > last then break end
    local id = tonumber(string.match(entry[1], '^%d+'))
    removed, upto = removed + following - (id - 1), following
end
if upto then
    redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', upto + 1))
    redis.call('HSET', KEYS[1], 'trimmed', string.format('%.0f', upto - 1))
end
return {'ok', string.format('%.0f', removed)}
"""
)
