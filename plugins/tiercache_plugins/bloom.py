"""A guard that knows every key there can be: whoever asks for another is told so without any I/O.

**The rule.** A Bloom filter says "surely not there" only if *every* existing key was added to it.
So it says nothing at all, it is *unknown*, until it has been built from all ids, and again whenever
it may have missed one: a gap in the bus, a fork, a process that cannot hear others any more. An add
too many costs a load; one too few would be a wrong "absent".

**How no key is missed.** The bus is open before the first id is read (_bloom_builder.py). Every key
that is written, here before the writer returns or elsewhere as soon as the bus tells, is added to
the filter in use and to the one that is being built (_bloom_members.py). What was missed ends a
build, and makes the filter unknown.

**The filter** is a series of plain ones (_bloom_series.py), in a file for the next start
(_bloom_files.py), and in Redis for other processes (_bloom_shared.py).
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from tiercache import Cache, ConfigurationError, Duration, Event, Plugin

from ._bloom_builder import Builder
from ._bloom_files import Files
from ._bloom_ids import Ids
from ._bloom_keys import Keys, TemplateKeys, only_function
from ._bloom_members import Added, Members
from ._bloom_options import checked_absent, checked_rate, checked_rate_limit
from ._bloom_reading import Plan
from ._bloom_shared import SharedFilter
from ._bloom_stats import BloomStats, GuardState, filled, read
from ._bloom_waiting import await_, wait
from ._forks import heal_after_fork
from ._options import duration, file, whole

__all__ = ["BloomGuard", "BloomStats", "GuardState"]

log = logging.getLogger(__name__)

_BUS = "tiercache-bus"  # the thread in which what other processes have written is heard


class BloomGuard(Plugin):
    """Answer for keys of which no value can exist, before any I/O.

    Give each process that creates what is cached such a guard: it tells the others.

    Args:
        ids: Every id there is, as the cached function takes it; tuples where it takes several. An
            iterable, an async iterable, or a function (``async`` or not) that returns or yields
            one. They are read in a thread of the guard, the async ones in an event loop of its
            own; afresh for each build, so an iterator, which is spent then, serves for one.
        key: The template of the function's key, as ``"user:{user_id}"``. By default the guard is
            for the only function of its cache, and rules nothing out once there are two.
        capacity: How many keys there will be. Beyond, the filter grows, and looks up slower.
        error_rate: The share of absent keys that may be let through, in (0, 1); at any size.
        absent: What a caller gets for a key that is ruled out: None, an exception class, which is
            raised with the key, or a function of the key whose result is returned.
        rebuild_every: How often to build anew, beside the old filter, so that what was deleted is
            forgotten. By default only when it has to be, after missed messages.
        retry: How soon to read the ids again after they failed; doubles with each failure, up to
            five minutes.
        rate_limit: Ids to read per second, at most.
        snapshot: A file to keep the filter in, written after each build and at the end.
        trust_snapshot: Begin with the file instead of the ids, if the process that wrote it was
            closed in order: nothing may have been created since, by anyone.
        shared: ``redis://...`` or a ``redis.Redis``, where one process at a time publishes the
            filter, so that the next begins ready. Needs ``key=``, and an L2.
        on_progress: Called with how many ids were read, and of how many (None: not known), every
            10,000 and at the end, in the guard's thread.

    Raises:
        ConfigurationError: If an option is illegal or does not go with another.
    """

    def __init__(
        self,
        ids: Any,
        *,
        key: str | None = None,
        capacity: int = 100_000,
        error_rate: float = 0.01,
        absent: type[Exception] | Callable[[str], Any] | None = None,
        rebuild_every: Duration | None = None,
        retry: Duration = 1,
        rate_limit: float | None = None,
        snapshot: str | os.PathLike[str] | None = None,
        trust_snapshot: bool = False,
        shared: Any = None,
        on_progress: Callable[[int, int | None], object] | None = None,
    ) -> None:
        self._ids = Ids(ids)
        self._absent = checked_absent(absent)
        plan = Plan(
            capacity=whole(capacity, "capacity", least=1),
            error_rate=checked_rate(error_rate),
            rebuild_every=inf
            if rebuild_every is None
            else duration(rebuild_every, "rebuild_every"),
            retry=duration(retry, "retry"),
            rate_limit=inf if rate_limit is None else checked_rate_limit(rate_limit),
            on_progress=on_progress,
        )
        self._keys: Keys | None = None if key is None else TemplateKeys(key)
        self._shared = None if shared is None else SharedFilter(shared)
        self._check_together(plan, snapshot, trust_snapshot=trust_snapshot)
        self._files = Files(file(snapshot, "snapshot"), plan.error_rate, is_trusted=trust_snapshot)
        self._members = Members()
        self._builder = Builder(
            plan, self._ids, self._members, self._find_keys, self._shared, self._files
        )
        self._cache: weakref.ref[Cache] | None = None  # it holds its plugins
        self._is_stopped = False
        self._is_ambiguous = False
        self._lookups = self._saved = self._adds = 0
        heal_after_fork(self)

    def _check_together(self, plan: Plan, snapshot: Any, *, trust_snapshot: bool) -> None:
        if self._ids.is_one_shot and (plan.rebuild_every < inf or self._shared is not None):
            what = "rebuild_every" if plan.rebuild_every < inf else "shared"
            raise ConfigurationError(
                f"{what} needs ids that can be read again, got an iterator, which is spent after "
                "one build; give the function that makes it"
            )
        if trust_snapshot and snapshot is None:
            raise ConfigurationError("trust_snapshot needs snapshot=, the file to trust")
        if self._shared is not None and self._keys is None:
            raise ConfigurationError(
                "shared needs key=, the template of the function, such as key='user:{user_id}'"
            )

    def after_fork(self) -> None:
        """Know nothing in a forked child, and build anew once it is asked."""
        for part in (self._ids, self._members, self._builder, self._files, self._shared):
            if part is not None:
                part.after_fork()

    # Reading

    def admits(self, key: str) -> bool:
        series = self._members.live
        if series is None:
            self._builder.ensure()  # in a forked child there is no thread yet
            return True
        if not self._keys.matches(key):  # type: ignore[union-attr]  # known before anything is built
            return True
        self._lookups += 1
        if key in series or not self._may_judge():
            return True
        self._saved += 1
        return False

    def absent(self, key: str) -> Any:
        if self._absent is None:
            return None
        if isinstance(self._absent, type):
            raise self._absent(key)
        return self._absent(key)

    def _may_judge(self) -> bool:
        """Whether what the filter does not have is really not there; asked only then."""
        cache = None if self._cache is None else self._cache()
        if cache is None or not cache.hears_peers:
            return False
        if self._keys is None or self._keys.still_hold():
            return self._keys is not None
        if not self._is_ambiguous:
            self._is_ambiguous = True
            log.error(
                "BloomGuard of cache %r rules nothing out: there are several functions now; "
                "tell it which one its ids are of: key=",
                cache.name,
            )
        return False

    # Hearing

    def on_write(self, keys: Sequence[str]) -> None:
        known = self._keys
        if known is None:
            self._files.outdate()  # they may be of a function that is decorated later
            return
        matching = [key for key in keys if known.matches(key)]
        if matching:
            self._add(matching)

    def _add(self, keys: Sequence[str]) -> None:
        try:
            self._adds += len(keys)
            added = self._members.add(keys)
            if added.new:
                self._files.outdate()
        except BaseException:  # interrupted, or out of memory: it may lack them
            self._miss()
            raise
        if self._shared is not None:
            self._share(self._shared, added)

    def _miss(self) -> None:
        """Know that some key is not known."""
        self._members.forget()
        self._files.outdate()
        self._builder.hurry()

    def _share(self, shared: SharedFilter, added: Added) -> None:
        if threading.current_thread().name == _BUS:  # who added them has noted them, or owes it
            shared.hear(added.new)
        else:
            shared.add(*added)
        self._builder.attend()

    def on_event(self, event: Event) -> None:
        if event.name == "bus_gap":
            self._miss()

    # Life

    def start(self, cache: Cache) -> None:
        if self._cache is not None and self._cache() not in (None, cache):
            raise ConfigurationError(
                f"this BloomGuard is of cache {self._name()!r} already; make one for each cache"
            )
        if self._shared is not None:
            if cache.store is None:
                raise ConfigurationError(
                    "shared needs l2= in the cache: what is added later is told through it"
                )
            assert self._keys is not None
            prefix = getattr(cache.store, "prefix", "tc")
            self._shared.bind(prefix, cache.name, self._keys.label)
        self._cache = weakref.ref(cache)
        self._builder.start(cache)

    def stop(self) -> None:
        self._builder.stop()
        if not self._is_stopped:
            self._leave_snapshot()
        self._is_stopped = True
        self._members.forget()
        if self._shared is not None:
            self._shared.close()

    def _leave_snapshot(self) -> None:
        series, keys = self._members.live, self._keys
        if series is not None and keys is not None and self.is_ready:
            self._files.write(series, keys.label, is_complete=True)
        else:
            self._files.outdate()

    def measures(self) -> Mapping[str, float]:
        stats = self.stats()
        return {
            "bloom.entries": stats.entries,
            "bloom.bytes": stats.bytes,
            "bloom.false_positive_rate": stats.false_positive_rate,
            "bloom.lookups": stats.lookups,
            "bloom.saved": stats.saved,
            "bloom.ready": float(self.is_ready),
        }

    def _name(self) -> str:
        cache = None if self._cache is None else self._cache()
        return "" if cache is None else cache.name

    def _find_keys(self, cache: Cache) -> Keys | None:
        if self._keys is None:
            self._keys = only_function(cache)
        return self._keys

    # For the user

    def add(self, item: Any) -> None:
        """Tell of something that was created, here and in every other process.

        ``@cache.invalidates`` and ``@cache.write_through`` do so by themselves. What was cached of
        it, such as a None, is forgotten.

        Args:
            item: Its id, as of ``ids``.

        Raises:
            UncacheableArguments: If it does not fit the key.
        """
        cache, key = self._taken(item)
        if cache is not None:
            cache.delete(key)

    async def aadd(self, item: Any) -> None:
        """Do what ``add`` does, awaited."""
        cache, key = self._taken(item)
        if cache is not None:
            await cache.adelete(key)

    def _taken(self, item: Any) -> tuple[Cache | None, str]:
        """Return the cache that is to be told, which tells this guard, too."""
        cache = None if self._cache is None else self._cache()
        key = self._key(item, cache)
        if cache is None:
            self._add([key])
        return cache, key

    def _key(self, item: Any, cache: Cache | None) -> str:
        keys = self._keys if cache is None else self._find_keys(cache)
        if keys is None:
            raise ConfigurationError(
                "this BloomGuard does not know its keys yet; decorate the function first, "
                "or tell them: key="
            )
        return keys.key(item)

    def contains(self, item: Any) -> bool:
        """Whether something may exist; True as long as that is unknown.

        Raises:
            UncacheableArguments: If the item does not fit the key.
        """
        cache = None if self._cache is None else self._cache()
        key = self._key(item, cache)
        series = self._members.live
        return series is None or key in series or not self._may_judge()

    @property
    def is_ready(self) -> bool:
        """Whether it rules keys out now."""
        return self._members.live is not None and not self._is_stopped and self._may_judge()

    @property
    def state(self) -> GuardState:
        """What it is about."""
        if self._is_stopped:
            return GuardState.STOPPED
        if self.is_ready:
            return GuardState.REBUILDING if self._builder.is_building else GuardState.READY
        return GuardState.BUILDING if self._builder.is_building else GuardState.UNKNOWN

    def rebuild(self) -> None:
        """Have the filter built anew, in the background; the old one serves until then."""
        self._builder.hurry()

    def wait_until_ready(self, timeout: Duration | None = None) -> bool:
        """Wait until it rules keys out; return False if that takes longer than the timeout."""
        return wait(lambda: self.is_ready, timeout)

    async def await_until_ready(self, timeout: Duration | None = None) -> bool:
        """Do what ``wait_until_ready`` does, awaited."""
        return await await_(lambda: self.is_ready, timeout)

    def stats(self) -> BloomStats:
        """Return what it knows, and what came of it."""
        return BloomStats(
            state=self.state,
            lookups=self._lookups,
            saved=self._saved,
            adds=self._adds,
            builds=self._builder.builds,
            error=self._error(),
            **filled(self._members.live),
            **read(self._builder.reading),
        )

    def _error(self) -> str:
        if self._is_ambiguous:
            return "the cache has several functions; use key="
        if self._builder.error or self._members.live is None or self.is_ready or self._is_stopped:
            return self._builder.error
        return "other processes cannot be heard: L2 is out of reach"

    def __repr__(self) -> str:
        what = "its only function" if self._keys is None else repr(self._keys.label)
        return f"<BloomGuard of {what}: {self.state}>"
