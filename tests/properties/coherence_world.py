"""A small world of processes that share a cache, in which every order of events can be had.

*Processes* are caches of one name on one DictStore, in one SteppedLoop. Between any two of the
following the world can do anything else: each side of each operation of the store, each side of a
load's look at the database, every await of the engine, every message of the bus. It does what it is
told by calls of its methods (*moves*) with plain arguments, and nothing else: so a list of moves is
a history, which any driver may make, repeat, and cut down.

It is checked against the sequential model of coherence_model.py. Besides: a load without a lease
has a reason; without any invalidation a row is loaded once; every caller's wait ends, and at once
where nothing but a message can be missing; no trouble of L2 reaches a caller; nothing is left.

Rows that are written by ``set`` have a lock that whoever updates them holds from the change of the
database to the end of the ``set``: which of two unordered writes is the newer, no cache can tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import tiercache.coherence.bus
from tests.properties.coherence_line import FakeKeeper, ManualReader
from tests.properties.coherence_model import (
    ROWS,
    SHARED,
    WRITTEN,
    DatabaseError,
    Floors,
    Value,
    Violation,
    changed_by,
    covered,
    value_of,
)
from tests.properties.coherence_process import BLIND_TTL, Process
from tests.properties.stepped_loop import SteppedLoop, gate, label
from tiercache import LRU, MISS, LoadErrors, StoreError
from tiercache.coherence.keeper import keeper
from tiercache.runtime import run
from tiercache.singleflight import loading_now
from tiercache.testing import DictStore, FakeClock
from tiercache.tiers.store import Fill, Item, Kind, Message

PATIENCE = 10  # seconds of the world's time in which every wait must have ended
NAMES = "ABC"


class World:
    """Three processes, and what happens to them.

    Args:
        log_length: Messages that the log keeps.
        sends_late: Whether what a cancelled caller had sent takes effect all the same, later.
        never_late: Operations of which nothing takes effect after it was given up on. A write that
            does cannot be told from a new one.
        is_forgetful: Whether a process remembers no more than two changes, tags or debts.
        is_big: Whether L1 counts as too big to be searched for tags.
        staleness: Options of the caches: a TTL, and what is served past it. Then a row may be
            loaded more than once.
    """

    def __init__(
        self,
        *,
        log_length: int = 1000,
        sends_late: bool = False,
        never_late: Iterable[str] = ("write", "write_many"),
        is_forgetful: bool = False,
        is_big: bool = True,
        staleness: Mapping[str, Any] | None = None,
    ) -> None:
        self.clock = FakeClock(1000.0)
        self.loop = SteppedLoop(self.clock)
        self.store = DictStore(clock=self.clock, log_length=log_length)
        self.keeper = FakeKeeper(self.clock)
        self.sends_late = sends_late
        self.never_late = frozenset(never_late)
        self.database = dict.fromkeys(ROWS, 1)
        self.stored_floors = Floors()  # of L2
        self.counts: Counter[str] = Counter()
        self._effects: dict[int, tuple[Message, Floors]] = {}  # by id, which the message keeps
        self._violations: list[str] = []
        self._callers: list[asyncio.Task[None]] = []
        self._interludes: list[int] = []
        self._loaded: Counter[str] = Counter()
        self._failed: set[str] = set()  # rows of which a load did not succeed
        self._failing = 0  # loads that are to fail
        self.staleness = staleness or {}
        self._is_calm = (
            not staleness
        )  # no trouble, nobody cancelled, no lease or bus ended by itself
        self._is_updated = False
        self._is_closing = False
        self._patches = contextlib.ExitStack()
        self._patch(is_forgetful, is_big)
        self.processes = [
            Process(self, name, l1)
            for name, l1 in zip(NAMES, (LRU(100), LRU(2), None), strict=True)
        ]
        self._locks = {row: asyncio.Lock() for row in WRITTEN}

    def _patch(self, is_forgetful: bool, is_big: bool) -> None:
        """Have the engine live by this world's time, and without threads."""
        here = self._patches.enter_context
        here(patch("tiercache.nearby.jittered", lambda ttl, _: ttl))
        if is_big:
            here(patch("tiercache.nearby.FEW_ENTRIES", 0))
        if is_forgetful:
            here(patch.multiple("tiercache.singleflight", CHANGED_KEYS=2, TAGS=2))
            here(patch.multiple("tiercache.coherence.debts", MOST_DEBTS=2, AT_ONCE=1))
        for module in _modules_with("time", time):
            here(patch.object(module, "time", SimpleNamespace(monotonic=self.clock)))
        for module in _modules_with("keeper", keeper):
            here(patch.object(module, "keeper", self.keeper))
        here(patch.object(tiercache.coherence.bus, "_Reader", ManualReader))

    def close(self) -> None:
        """End everything, whatever state it is in."""
        self._is_closing = True
        for process in self.processes:
            self.counts["stale answers"] += process.cache.stats().stale_served
        for process in self.processes:
            process.trouble = ""
            process.cache.close()
        for task in self._callers:
            task.cancel()
        for _ in range(10):
            self._run_out()
            self.clock.now += 5.0
        self._patches.close()

    # Moves

    def read(self, process: int, how: str, row: str) -> None:
        """Have a process read rows: how is call, many, get, get_many, peek, load or load_many."""
        reader = self.processes[process]
        self._begin(self._reading(reader, how, row), f"{reader.name}.{how}({row})")

    def update(self, process: int, how: str, what: str, bumps: bool) -> None:
        """Have a process invalidate; first the rows change in the database, if it ``bumps`` them.

        How is delete, expire, tags, clear, refresh or set, and what a row, tags or a prefix.
        """
        writer = self.processes[process]
        self._begin(self._updating(writer, how, what, bumps), f"{writer.name}.{how}({what})")

    def block(self, process: int, how: str, what: str, interludes: Sequence[int]) -> None:
        """Do what ``update`` does in blocking calls; others step in during it, as these say."""
        rows = changed_by(how, what, self.database)
        locks = [self._locks[row] for row in rows if row in self._locks]
        if any(lock.locked() or lock._waiters for lock in locks):
            return
        for lock in locks:
            run(lock.acquire())
        self.counts["blocking updates"] += 1
        self._interludes = list(interludes)
        floors = self._begin_update(how, what, bumps=True)
        self.processes[process].block(how, what)
        self.processes[process].floors.lift(floors)
        self._interludes = []
        for lock in locks:
            lock.release()

    def step(self, pick: int) -> None:
        """Run one of what is ready."""
        ready = self.loop.ready()
        if ready:
            self.counts["steps"] += 1
            self.loop.step(ready[pick % len(ready)])
            self._complain()

    def deliver(self, process: int, most: int) -> int:
        """Have messages reach a process; return how many there were."""
        reader = self.processes[process].reader
        count = 0 if reader is None else reader.deliver(most)
        self.counts["messages"] += count
        self._complain()
        return count

    def cancel(self, pick: int) -> None:
        """Cancel one of the callers that wait."""
        waiting = [task for task in self._callers if not task.done()]
        if waiting:
            self._is_calm = False
            self.counts["cancelled"] += 1
            task = waiting[pick % len(waiting)]
            # What an update may have left undone is owed, and nobody asks L2 before it is paid.
            self.processes[NAMES.index(task.get_name()[0])].was_in_trouble = True
            task.cancel()

    def trouble(self, process: int, how: str) -> None:
        """Have a process's line be in one of TROUBLES; "" ends it."""
        victim = self.processes[process]
        victim.trouble = how
        if how:
            self._is_calm = False
            victim.was_in_trouble = True
            self.counts["troubles"] += 1

    def go_blind(self, process: int) -> None:
        """Have a process hear nothing for too long."""
        victim: Any = self.processes[process]
        if victim.reader is not None:
            victim.cache.flow.bus.lose_sight(StoreError("cut off"))

    def reopen(self, process: int) -> None:
        """Have a process end its bus, as ``close`` does; it begins anew with the next read."""
        self._is_calm = False
        self.processes[process].cache.flow.stop()

    def pass_time(self, seconds: float, renewing: int) -> None:
        """Let time pass. Processes whose bit is not set do not renew their leases: are frozen."""
        self.clock.now += seconds
        leases = self.store._spaces["world"].leases.values()
        if any(lease.deadline <= self.clock.now for lease in leases):
            self._is_calm = False
        awake = [each for bit, each in enumerate(self.processes) if renewing & 1 << bit]
        self.keeper.call_due([None, *(process.l2.namespace for process in awake)])

    def fail_loads(self, count: int) -> None:
        """Have the next loads fail."""
        self._failing = count

    # What callers do

    def _begin(self, caller: Any, name: str) -> None:
        self._callers.append(self.loop.create_task(caller, name=f"{name}#{len(self._callers)}"))

    async def _reading(self, process: Process, how: str, row: str) -> None:
        floors = process.floors_now()
        self.counts[f"read {how}"] += 1
        try:
            values = await process.read(how, row)
        except DatabaseError:
            return
        except LoadErrors as errors:
            if any(not isinstance(each, DatabaseError) for each in errors.exceptions):
                self.violate(f"{process.name}.{how}({row}) raised {errors.exceptions}")
            values = {value[0]: value for value in errors.results.values()}
        except Exception as error:
            self.violate(f"{process.name}.{how}({row}) raised {error!r}")
            return
        for wanted, value in values.items():
            if value is not MISS:
                self._check_seen(f"{process.name}.{how}({wanted})", floors, wanted, value)

    async def _updating(self, process: Process, how: str, what: str, bumps: bool) -> None:
        bumps = bumps or how == "set"
        async with contextlib.AsyncExitStack() as held:
            if bumps:
                for row in sorted(WRITTEN.intersection(changed_by(how, what, self.database))):
                    await held.enter_async_context(self._locks[row])
            floors = self._begin_update(how, what, bumps=bumps)
            try:
                brought = await process.update(how, what)
            except DatabaseError:
                return  # a refresh failed: nothing was promised
            except Exception as error:
                self.violate(f"{process.name}.{how}({what}) raised {error!r}")
                return
            process.floors.lift(floors)
            if how == "refresh":
                self._check_seen(f"{process.name}.{how}({what})", floors, what, brought)

    def _begin_update(self, how: str, what: str, *, bumps: bool) -> Floors:
        """Change the database; return what may not be seen once the update has returned."""
        self.counts[f"update {how}"] += 1
        self._is_updated = True
        rows = changed_by(how, what, self.database)
        if bumps:
            for row in rows:
                self.database[row] += 1
        if how == "tags":
            return Floors.of_tags(what.split(), self.database)
        return Floors.of_rows(rows, self.database)

    async def load(self, process: Process, rows: list[str]) -> list[Value]:
        """Read rows from the database; they may change before, between and after."""
        for flight in loading_now.get():
            if flight.key in rows:
                self._check_load(process, flight)
        try:
            await gate()
            values = [value_of(row, self.database) for row in rows]
            await gate()
            if self._failing:
                self._failing -= 1
                raise DatabaseError  # noqa: TRY301 - as the database would, in the midst of it
        except BaseException:
            self._failed.update(rows)
            raise
        return values

    def interlude(self) -> None:
        """Let others do something in the midst of a blocking call."""
        while self._interludes:
            pick = self._interludes.pop()
            if pick % 4 == 0:
                return
            if pick % 4 == 1:
                self.deliver(pick // 4 % 3, 1)
            else:
                self.step(pick // 4)

    # Checks

    def _check_seen(self, where: str, floors: Floors, row: str, value: Value) -> None:
        """Check what a read has brought against what stood when it began."""
        self.counts["values checked"] += 1
        key, version, tags = value
        if key != row:
            self.violate(f"{where} returned a value of {key}")
        floor = floors.of(row, tags)
        if version < floor:
            self.violate(f"{where} returned version {version}, when {floor} had been promised")

    def _check_load(self, process: Process, flight: Any) -> None:
        """Check that a load without a lease has a reason."""
        row = flight.key
        self.counts["loads"] += 1
        self._loaded[row] += 1
        has_reason = SHARED in row or process.was_in_trouble or row in self._failed
        if flight.lease is None and not has_reason:
            self.violate(f"{process.name} loads {row} without a lease, for no reason")

    def after_effect(self, stored: Iterable[Item | Fill], told: Iterable[Message]) -> None:
        """Check what an operation has put in L2; take note of what it has told in the log."""
        codec = self.processes[0].cache.codec
        versions = {}
        for item in stored:
            self.counts["L2 values checked"] += 1
            _, version, tags = codec.decode(item.key, item.payload).value
            versions[item.key] = version
            floor = self.stored_floors.of(item.key, tags)
            if version < floor:
                kind = "a write" if isinstance(item, Item) else "a fill"
                self.violate(f"L2 took {kind} of {item.key} at version {version} below {floor}")
        for message in told:
            floors = self._floors_after(message, versions)
            self._effects[id(message)] = message, floors
            self.stored_floors.lift(floors)

    def _floors_after(self, message: Message, written: dict[str, int]) -> Floors:
        match message.kind:
            case Kind.DELETE | Kind.EXPIRE:
                return Floors.of_rows(message.names, self.database)
            case Kind.CLEAR:
                return Floors.of_rows(covered(message.names[0]), self.database)
            case Kind.TAGS:
                return Floors.of_tags(message.names, self.database)
            case Kind.SET:
                return Floors.of_rows(message.names, written)
        return Floors()

    def floors_of(self, message: Message) -> Floors:
        """Return what may not be seen any more where a message has been applied."""
        return self._effects[id(message)][1]

    def violate(self, what: str) -> None:
        """Note that a promise was broken; the move that is under way will say so."""
        self._violations.append(what)

    def _complain(self) -> None:
        if self.loop.complaints:
            self._violations += self.loop.complaints
            self.loop.complaints = []
        if self._violations and not self._is_closing:
            raise Violation("; ".join(self._violations))

    # The end

    def finish(self) -> None:
        """Heal everything, let everything happen, and check what must hold at the end."""
        for process in self.processes:
            process.trouble = ""
        self._failing = 0
        self._run_out()
        self._check_calm()
        for process in self.processes:
            if process.was_closed and process.reader is None:  # it pays once it asks L2 again
                self._let_pass(BLIND_TTL)
                self._begin(
                    self._reading(process, "get", ROWS[0]), f"{process.name}.get afterwards"
                )
        for _ in range(PATIENCE):
            if self._unfinished():
                self._let_pass(1.0)
        if self._unfinished():
            raise Violation(f"for ever: {self._unfinished()}")
        self._let_pass(BLIND_TTL)
        for process in self.processes:
            self._begin(self._reading(process, "get_many", ""), f"{process.name}.get_many at last")
        self._run_out()
        self._check_leaks()

    def _check_calm(self) -> None:
        """Check what holds where nothing has gone wrong: nobody waits, nothing is loaded twice."""
        if not self._is_calm:
            return
        waiting = self._waiting()
        if waiting:
            raise Violation(f"nobody wakes {waiting}")
        if not self._failed and not self._is_updated:
            twice = [row for row, times in self._loaded.items() if times > 1 and SHARED not in row]
            if twice:
                raise Violation(f"loaded more than once: {twice}")

    def _let_pass(self, seconds: float) -> None:
        """Let time pass in which everything works."""
        for _ in range(round(seconds)):
            self.pass_time(1.0, 7)
            self._run_out()

    def _run_out(self) -> None:
        """Run what is ready and deliver what was said until nothing moves."""
        for _ in range(100_000):
            ready = self.loop.ready()
            if ready:
                self.loop.step(ready[0])
                self._complain()
            elif (
                not sum(self.deliver(number, 1000) for number in range(3)) and not self.loop.ready()
            ):
                return
        raise Violation("it never comes to rest")

    def _waiting(self) -> list[str]:
        return [task.get_name() for task in self._callers if not task.done()]

    def _unfinished(self) -> list[str]:
        owing = [f"{process.name} owes" for process in self.processes if process.l2.debts]
        return [*(f"{name} waits" for name in self._waiting()), *owing]

    def _check_leaks(self) -> None:
        for process in self.processes:
            flow = process.cache.flow
            left = {
                "callers": self._waiting(),
                "flights": [flight.key for flight in flow.flights.under_way()],
                "waits": len(flow.waits),
                "fences": flow.flights.fences,
                "overlaps": flow.flights._overlaps,
                "closed fences": flow.flights.closed_fences,
                "debts": len(process.l2.debts),
                "tasks": process.cache.asyncio._tasks,
                "leases renewed": self.keeper.leases(),
            }
            left = {name: value for name, value in left.items() if value}
            if left:
                raise Violation(f"{process.name} has left behind {left}")

    def show_ready(self) -> list[str]:
        """Name what is ready."""
        return [label(handle) for handle in self.loop.ready()]


def _modules_with(name: str, value: object) -> list[Any]:
    """Return the engine's modules that know something by a name; not those with threads."""
    others = ("tiercache.clock", "tiercache.coherence.keeper", "tiercache.tiers.", "tiercache.test")
    return [
        module
        for path, module in sorted(sys.modules.items())
        if path.startswith("tiercache.")
        and not path.startswith(others)
        and getattr(module, name, None) is value
    ]
