"""tiercache: a multi-tier cache for Python services.

A call is answered from process memory (L1), else from a store that processes share (L2), else by
one load. ``@cached`` over a blocking or async function is all that most need::

    from tiercache import cached

    @cached(ttl="10m")
    def get_user(user_id: int) -> dict: ...
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cache import Cache
from .codec import Codec
from .coherence.lock import Lock
from .current import current_load
from .default import cached, configure, default_cache
from .entry import Freshness, RememberedError, RemovalCause
from .errors import (
    BulkheadFull,
    CacheError,
    CircuitOpen,
    ConfigurationError,
    DecodeError,
    EncodeError,
    JournalFull,
    LoadErrors,
    LoadTimeout,
    LockLost,
    LockTimeout,
    StoreError,
    StoreTimeout,
    UncacheableArguments,
    WriteFailed,
)
from .functions import AsyncCachedFunction, CachedFunction
from .invalidating import Invalidation
from .key_template import KeyTemplate
from .load import Load, Previous
from .plugin import Event, Plugin
from .spec import MISS, Miss, UncacheableValueWarning
from .stats import CacheInfo, LoadSeconds, Sizing, Stats
from .tiers.memory import LRU, S3FIFO
from .tiers.store import Store, Stored
from .ttl import Duration, seconds

if TYPE_CHECKING:
    from .coherence.async_lock import AsyncLock
    from .explaining import Explanation
    from .tiers.redis import Redis
    from .tiers.sqlite import SQLite
    from .warming.hot import HotKey
    from .warming.run import WarmReport
    from .warming.warmup import Warmup
    from .writes.behind import WriteBehind
    from .writes.figures import WriteBehindStats
    from .writes.operation import DeadLetter, Operation
    from .writes.publishing import Publication
    from .writes.reading import AsyncReadThrough, ReadThrough

__all__ = [  # noqa: RUF022 - grouped by what it is for
    # a cache, and functions cached in it
    "Cache",
    "cached",
    "configure",
    "default_cache",
    "current_load",
    "AsyncCachedFunction",
    "CachedFunction",
    "Invalidation",
    "Publication",
    "ReadThrough",
    "AsyncReadThrough",
    "WriteBehind",
    "WriteBehindStats",
    "Operation",
    "DeadLetter",
    "Lock",
    "AsyncLock",
    # its tiers
    "LRU",
    "S3FIFO",
    "Redis",
    "SQLite",
    "Store",
    "Stored",
    "Codec",
    # what it returns and counts
    "MISS",
    "Miss",
    "CacheInfo",
    "LoadSeconds",
    "Stats",
    "Sizing",
    "WarmReport",
    "Warmup",
    "HotKey",
    "Freshness",
    "Explanation",
    "RemovalCause",
    # extending it
    "Plugin",
    "KeyTemplate",
    "Load",
    "Previous",
    "RememberedError",
    "Event",
    "Duration",
    "seconds",
    # what it raises and warns of
    "CacheError",
    "ConfigurationError",
    "UncacheableArguments",
    "UncacheableValueWarning",
    "EncodeError",
    "DecodeError",
    "StoreError",
    "StoreTimeout",
    "LoadTimeout",
    "LoadErrors",
    "CircuitOpen",
    "BulkheadFull",
    "LockTimeout",
    "LockLost",
    "WriteFailed",
    "JournalFull",
]


#: Where a store, or what needs asyncio, writes or warms, is imported from once it is asked for.
_LATE = {
    "AsyncLock": "coherence.async_lock",
    "Explanation": "explaining",
    "DeadLetter": "writes.operation",
    "Operation": "writes.operation",
    "WriteBehind": "writes.behind",
    "WriteBehindStats": "writes.figures",
    "AsyncReadThrough": "writes.reading",
    "Publication": "writes.publishing",
    "ReadThrough": "writes.reading",
    "Redis": "tiers.redis",
    "SQLite": "tiers.sqlite",
    "HotKey": "warming.hot",
    "WarmReport": "warming.run",
    "Warmup": "warming.warmup",
}


def __getattr__(name: str) -> Any:
    """Import what is heavy, or seldom wanted, only where it is asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATE[name]}", __name__), name)
