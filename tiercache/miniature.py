"""What hit ratio would half, or twice, the ``maxsize`` give? Answered from real traffic.

Beside L1 run two *miniatures* of it (Waldspurger et al., "Cache Modeling and Optimization using
Miniature Simulations", ATC '17): caches of the same policy that see only a share of the keys,
chosen by hash, and have that share of half, and of twice, the size. Where a miniature hits and L1
missed, that size would have had a hit more; where it lacks a key that L1 hits, one less. What each
such request stands for is added to L1's own hits, which are known exactly: so popular keys, which
hit at any size and make samples noisy, add no error.

A hit in L1 costs nothing for it, as nobody is told. An entry of a miniature is the *shadow* of one
in L1: asked for its hits and last use, it answers with those of the entry itself, and the policies
ask only when they must evict. Keys that L1 holds and a miniature has evicted are looked through
now and then: with loads, as often as keeps that to 8 keys a load of a watched key; when the slow
path serves a hit after 0.1 s; and for ``stats()``. Who was hit since would have been loaded again.
Of what happens between two looks the order is lost.

Half the size is half of what the watched keys really have of L1, which with popular ones among
them is more than their share of all keys.

Bounds: some 800 shadows at most, with all else 120 kB a cache. A load costs a hash more, and that
of a watched key 5 to 8 µs: each 16th in an L1 of 1,024 to 5,120 entries, fewer in a larger one, up
to all in a smaller. Measured over seven traces, both policies, in benchmarks/sizing.py: from 1,000
entries on ``twice`` errs by 0.3 points in the mean and ``half`` by 0.6, nine in ten by at most 0.7
and 1.5, the worst by 2.3; in a smaller L1 by up to 9 where the curve is steep. Where nothing is
loaded for long and nobody asks for ``stats()``, ``half`` is only known to be at most what it says.
What is stored by hand (``set``) or warmed counts as a load, as L1 cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from .clock import Clock
from .entry import DEAD, Entry, LastingEntry, RemovalCause
from .stats import Sizing
from .tiers.memory import Memory, hash_limit

SAMPLES = 320  # entries of L1 that have shadows, at most about
FEWEST_SAMPLES = 64  # and at least, if there are as many
USUAL_SHARE = 16  # else no more than each 16th key is watched: that bounds what a load costs
RUN = 16  # insertions that may share a tick in a miniature: shadows bring their own ticks
LOOK_AT_PER_LOAD = 8  # keys, per load of a watched one
FIT_EACH = 256  # loads of watched keys
LOOK_AFTER = 0.1  # seconds


# The slots of an entry, which a shadow covers with properties.
_own_hits, _set_own_hits = Entry.__dict__["hits"].__get__, Entry.__dict__["hits"].__set__
_own_use, _set_own_use = Entry.__dict__["used"].__get__, Entry.__dict__["used"].__set__


class Shadow(Entry):
    """Stands in a miniature for an entry, whose hits and last use it has, beside its own.

    The entry, or *twin*, in L1 or gone from it, is its ``value``; ``fresh_until`` is when that is
    not kept any more. It has no slots but those of an entry, and its own hits (through earlier
    twins, less what this one had before) and last use are in theirs.
    """

    __slots__ = ()

    def __init__(self, twin: Entry, own_hits: int = 0) -> None:
        self.key = twin.key
        self._stand_for(twin, own_hits, 0)

    def _stand_for(self, twin: Entry, own_hits: int, own_use: int) -> None:
        self.value = twin
        self.fresh_until = twin.kept_until if isinstance(twin, LastingEntry) else twin.fresh_until
        _set_own_hits(self, own_hits)
        _set_own_use(self, own_use)

    def follow(self, twin: Entry, tick: int, hits: int) -> None:
        """Stand for another entry of the same key from now on, after so many hits by it."""
        self._stand_for(twin, self.hits + hits - twin.hits, tick)

    @property
    def hits(self) -> int:  # type: ignore[override]
        own: int = _own_hits(self)
        return own if self.value is None else own + int(self.value.hits)

    @property
    def used(self) -> int:
        own: int = _own_use(self)
        return own if self.value is None else max(own, int(self.value.used))

    @used.setter
    def used(self, tick: int) -> None:
        _set_own_use(self, tick)


def _in_l1(shadow: Entry) -> bool:
    return isinstance(shadow, Shadow) and shadow.value.fresh_until != DEAD


class Miniature:
    """A cache of another size over a share of the keys, and how it fares beside L1."""

    def __init__(self, real: Memory, factor: float, keys_each: int) -> None:
        self._real = real
        self._factor = factor
        self._each = keys_each  # keys, and so requests, that one stands for
        self.extra = 0.0  # hits that L1 would have had beyond its own, were it of the other size
        self._make(max(1, round(real.maxsize * factor / keys_each)))

    def _make(self, maxsize: int) -> None:
        weigh = _weight_of_a_shadow if self._real.weighs else None
        self.memory = type(self._real)(maxsize, weigh=weigh)
        self.memory.shortest_run = RUN
        self.memory.resize(maxsize)
        self.memory.on_removal = self._removed
        self._out: dict[str, tuple[Entry, int]] = {}  # that L1 holds; with their hits by then

    @property
    def out_of_it(self) -> int:
        """How many keys are looked through in a look."""
        return len(self._out)

    def shrink(self) -> None:
        """Stand for half as large a share of the keys."""
        self._each *= 2
        self.memory.resize(max(1, self.memory.maxsize // 2))

    def fit(self, share: float) -> None:
        """Take the size for what share of the weight in L1 the watched keys have."""
        self.memory.resize(max(1, round(self._real.maxsize * self._factor * share)))

    @property
    def real_weight(self) -> float:
        """Weight in L1 of the keys that are in here."""
        weights = self._real.weights
        alive = [key for key, shadow in self.memory.table.items() if _in_l1(shadow)]
        return sum(weights.get(key, 0) for key in alive) if weights else len(alive)

    def empty(self) -> None:
        """Drop everything."""
        self._make(self.memory.maxsize)

    def load(self, entry: Entry, weight: float, now: float) -> None:
        """Ask for a key that L1 lacked; it is in L1 by now."""
        self._settle(entry.key)
        shadow = self.memory.get(entry.key)
        if isinstance(shadow, Shadow) and shadow.fresh_until > now:
            self.extra += self._each
            shadow.follow(entry, self._real.tick, 1)
        else:
            self._store(Shadow(entry, -entry.hits), weight)

    def replace(self, entry: Entry, weight: float) -> None:
        """Take another value under a key, which nobody asked for."""
        self._settle(entry.key)
        shadow = self.memory.get(entry.key)
        if isinstance(shadow, Shadow):
            shadow.follow(entry, self._real.tick, 0)
        else:
            self._store(Shadow(entry, -entry.hits), weight)

    def remove(self, key: str, cause: RemovalCause) -> None:
        """Drop what L1 dropped."""
        self._settle(key)
        self.memory.remove(key, cause)

    def look(self, weight_of: Mapping[str, float]) -> None:
        """Take up again what L1 was asked for though it was evicted here."""
        for key, (entry, hits) in list(self._out.items()):
            if entry.hits > hits:
                self.extra -= self._each
                del self._out[key]
                if entry.fresh_until != DEAD:
                    self._store(Shadow(entry, -1 - hits), weight_of.get(key, 1))
            elif entry.fresh_until == DEAD:
                del self._out[key]

    def _settle(self, key: str) -> None:
        """Count what was hit in L1 alone before its entry leaves that."""
        entry, hits = self._out.pop(key, (None, 0))
        if entry is not None and entry.hits > hits:
            self.extra -= self._each

    def _store(self, shadow: Shadow, weight: float) -> None:
        # One tick for all, so that a last use in L1 has its place in the order here.
        memory, real = self.memory, self._real
        memory.tick = real.tick
        used = shadow.value.used
        memory.bury(memory.place(shadow, weight))
        shadow.used = used
        real.tick = memory.tick

    def _removed(self, shadow: Entry, cause: RemovalCause) -> None:
        if cause is RemovalCause.SIZE and isinstance(shadow, Shadow):
            twin = shadow.value
            if twin.fresh_until != DEAD:
                self._out[twin.key] = twin, twin.hits


class LiveSizing:
    """Watches an L1, and says how other sizes of it would have fared.

    Everything happens under the L1's lock. A finalizer may change L1 in the middle of it, in the
    same thread: that change is left out, which costs an estimate little.
    """

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock
        self._share = _share_for(memory)  # each so many-th key is watched; a power of two
        self._half = Miniature(memory, 0.5, self._share)
        self._twice = Miniature(memory, 2, self._share)
        self._hits_before, self._loads_before = memory.hits, memory.loads
        self._replaced = ""  # key of what was dropped last, to be replaced
        self._until_look = 0  # loads of watched keys
        self._until_fit = FIT_EACH  # likewise
        self._looked_at = 0.0
        self._is_busy = False
        memory.observe(self, self._share)

    # What L1 tells of watched keys, with its lock held.

    def entered(self, entry: Entry, weight: float) -> None:
        """Have the miniatures ask for a key, too."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            replaces, self._replaced = self._replaced == entry.key, ""
            now = self._clock()
            for miniature in (self._half, self._twice):
                if replaces:
                    miniature.replace(entry, weight)
                else:
                    miniature.load(entry, weight, now)
            self._until_fit -= 1
            if self._until_fit <= 0:
                self._fit()
        finally:
            self._is_busy = False
        self._until_look -= 1
        if self._until_look <= 0:
            self._look(now)

    def left(self, entry: Entry, cause: RemovalCause) -> None:
        """Drop the key in the miniatures, too, unless a new value follows."""
        if cause is RemovalCause.REPLACED:
            self._replaced = entry.key
        elif not self._is_busy:
            self._half.remove(entry.key, cause)
            self._twice.remove(entry.key, cause)

    def passed(self) -> None:
        """Look, if it is long ago."""
        now = self._clock()
        if now - self._looked_at > LOOK_AFTER:
            self._look(now)

    def cleared(self) -> None:
        """Empty the miniatures."""
        self._is_busy = False  # a fork may have broken into something
        self._half.empty()
        self._twice.empty()

    def _look(self, now: float) -> None:
        """Bring the miniatures up to date with hits in L1."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            self._looked_at = now
            looked_at = self._half.out_of_it + self._twice.out_of_it
            self._until_look = looked_at // LOOK_AT_PER_LOAD
            for miniature in (self._half, self._twice):
                miniature.look(self._memory.weights)
        finally:
            self._is_busy = False

    def _fit(self) -> None:
        """Size the miniatures by the share of L1 that the watched keys really have.

        With popular ones among them it is more than their share of all keys.
        """
        self._until_fit = FIT_EACH
        while len(self._twice.memory) > 4 * SAMPLES:
            self._thin_out()
        if self._memory.weight:
            share = self._twice.real_weight / self._memory.weight
            self._half.fit(share)

    def _thin_out(self) -> None:
        """Halve the share of the keys: with weights, how many they are shows only in time."""
        self._share *= 2
        self._memory.observe(self, self._share)
        limit = hash_limit(self._share)
        for miniature in (self._half, self._twice):
            for key in miniature.memory:
                if hash(key) >= limit:
                    miniature.remove(key, RemovalCause.INVALIDATED)
            miniature.shrink()

    def snapshot(self, hits: int) -> Sizing:
        """Return the estimate, given the hits of L1 so far."""
        memory = self._memory
        with memory.locked():
            self._look(self._clock())
            hits -= self._hits_before
            return Sizing(
                maxsize=memory.maxsize,
                share=1 / self._share,
                hits=hits,
                loads=memory.loads - self._loads_before,
                hits_at_half=hits + self._half.extra,
                hits_at_twice=hits + self._twice.extra,
            )


def _share_for(memory: Memory) -> int:
    """Return the share that leaves few enough shadows, but enough to tell something."""
    share = 1
    while share < USUAL_SHARE and (memory.weighs or memory.maxsize >= 2 * share * FEWEST_SAMPLES):
        share *= 2
    while not memory.weighs and memory.maxsize > share * SAMPLES:
        share *= 2
    return share


def _weight_of_a_shadow(_value: object) -> int:
    raise AssertionError("shadows are placed with their weight")  # pragma: no cover - never asked
