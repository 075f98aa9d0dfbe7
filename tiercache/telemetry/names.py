"""Every span, metric and attribute name: what queries and dashboards are written against.

OpenTelemetry has no conventions for caches, so all of them are ours, below ``tiercache.``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

SCOPE: Final = "tiercache"  # of instrumentation

# Spans

GET: Final = "tiercache.get"  # a read, of one key or of a batch; the others are below it
L2_GET: Final = "tiercache.l2.get"
L2_SET: Final = "tiercache.l2.set"
WAIT: Final = "tiercache.wait"  # for another caller's load, to whose span it has a link
LOAD: Final = "tiercache.load"  # plugins, time limit, and the user's function
REFRESH: Final = "tiercache.refresh"  # behind a served value: a root, with a link to its cause
INVALIDATE: Final = "tiercache.invalidate"  # delete, expire, invalidate_tags, clear
BUS_APPLY: Final = "tiercache.bus.apply"  # other processes' changes
WRITE_BEHIND_PUT: Final = "tiercache.write_behind.put"
WRITE_BEHIND_FLUSH: Final = "tiercache.write_behind.flush"

# Attributes of spans

CACHE: Final = "tiercache.cache"  # its name; the one attribute of every metric, too
FUNCTION: Final = "tiercache.function"
OUTCOME: Final = "tiercache.outcome"
KEY: Final = "tiercache.key"  # with trace_keys=True only
KEYS: Final = "tiercache.keys"  # how many
AGE_S: Final = "tiercache.age_s"  # of what was served
TTL_S: Final = "tiercache.ttl_s"  # that a loaded value was given
BREAKER_STATE: Final = "tiercache.breaker.state"
GUARD: Final = "tiercache.guard"  # which plugin has ruled the key out
OPERATION: Final = "tiercache.operation"  # of an invalidation
MESSAGES: Final = "tiercache.messages"  # how many the bus applied
WRITER: Final = "tiercache.writer"  # the name of a write-behind
OPERATIONS: Final = "tiercache.operations"  # how many were handed to a writer
NOTE: Final = "tiercache."  # before what plugins put in ``load.notes``

# Values of the outcome

L1_HIT: Final = "l1_hit"
L2_HIT: Final = "l2_hit"
LOADED: Final = "loaded"
JOINED: Final = "joined"  # another caller's load, or another process's
STALE: Final = "stale"
ABSENT: Final = "absent"
ERROR: Final = "error"
MISS: Final = "miss"  # of cache.get(), which does not load

#: Of a batch, the one that took longest.
_BY_COST: Final = (ERROR, LOADED, JOINED, STALE, L2_HIT, MISS, ABSENT, L1_HIT)

# Events of spans

LEASE_HELD: Final = "tiercache.lease.held"  # another process loads, and is waited for

# Metrics

HITS: Final = "tiercache.hits"
MISSES: Final = "tiercache.misses"
LOADS: Final = "tiercache.loads"
JOINS: Final = "tiercache.joins"
EVICTIONS: Final = "tiercache.evictions"
BUS_GAPS: Final = "tiercache.bus.gaps"
STALE_SERVED: Final = "tiercache.stale.served"
ABSENTS: Final = "tiercache.absent"
ENTRIES: Final = "tiercache.entries"
WEIGHT: Final = "tiercache.weight"
WRITE_BEHIND_DEPTH: Final = "tiercache.write_behind.depth"
WRITE_BEHIND_LAG: Final = "tiercache.write_behind.lag"  # s
WRITE_BEHIND_DEAD: Final = "tiercache.write_behind.dead"
WRITE_BEHIND_WRITTEN: Final = "tiercache.write_behind.written"
WRITE_BEHIND_RETRIES: Final = "tiercache.write_behind.retries"
PLUGIN: Final = "tiercache.plugin."  # before what ``Plugin.measures()`` names
LOAD_DURATION: Final = "tiercache.load.duration"  # s
SERVED_AGE: Final = "tiercache.served.age"  # s

# Attributes of metrics, beside the cache

TIER: Final = "tier"  # l1, l2
RESULT: Final = "result"  # ok, error
CAUSE: Final = "cause"  # of a removal from L1


def slowest(outcomes: Collection[str]) -> str:
    """Return the outcome of a batch whose keys have had these."""
    return min(outcomes, key=_BY_COST.index, default=MISS)
