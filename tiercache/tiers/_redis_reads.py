"""Single reads of a namespace in Redis: concurrent ones share one MGET (``merging``).

They are most of what happens, so that their usual answer (small valid entries without tags, from
one node) is taken without driving a plan, and in asyncio without a task.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, ref

from tiercache.errors import StoreError
from tiercache.tiers._redis_link import Command
from tiercache.tiers._redis_plans import Plan, Plans
from tiercache.tiers.merging import MergedTasks, MergedThreads, Outcome, Tell
from tiercache.tiers.store import Stored

if TYPE_CHECKING:
    from tiercache.tiers._redis_link import Link
    from tiercache.tiers.redis import Redis

T = TypeVar("T")
Ask = tuple[str, tuple[str, ...]]  # a key, and the tags its entry is likely to carry

NO_LATEST: tuple[Callable[[], object], Any] = (lambda: None, None)


class MergedReads(ABC):
    """The part of a namespace that reads single keys."""

    plans: Plans
    _store: Redis

    def start_afresh(self) -> None:
        """Forget reads under way, in a forked child."""
        self._threads: MergedThreads[Ask, Stored] = MergedThreads(self._fetch, self._store.timeout)
        self._tasks: WeakKeyDictionary[asyncio.AbstractEventLoop, MergedTasks[Ask, Stored]] = (
            WeakKeyDictionary()
        )
        self._latest: tuple[Callable[[], object], Any] = NO_LATEST

    def read(self, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Return the valid entry of a key; concurrent calls share one MGET."""
        self._store.link()  # importing redis must not count against the followers' patience
        return self._threads.read((key, tuple(tags)))

    async def aread(self, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Return the valid entry of a key; concurrent calls in one loop share one MGET."""
        return await self._merged_tasks().read((key, tuple(tags)))

    def read_soon(self, key: str, tags: tuple[str, ...]) -> asyncio.Future[Stored | None]:
        """Return the future of what aread returns; to be awaited."""
        return self._merged_tasks().read((key, tags))

    def _merged_tasks(self) -> MergedTasks[Ask, Stored]:
        loop = asyncio.get_running_loop()
        latest, tasks = self._latest
        if latest() is loop and tasks is not None:
            return tasks  # type: ignore[no-any-return]
        found = self._tasks.get(loop)
        if found is None:
            timeout = self._store.timeout
            found = self._tasks[loop] = MergedTasks(self._afetch, timeout, self._start)
        self._latest = ref(loop), found
        return found

    def _fetch(self, asks: Sequence[Ask], budget: float | None) -> Sequence[Stored | None]:
        plans, (keys, tags) = self.plans, _merged(asks)
        if plans.is_cluster:
            return self._run("read", plans.read(keys, tags), budget)
        # Merged reads are most of what happens: their usual answer is taken without a plan.
        request, era = plans.question(keys, tags)
        commands = (Command(None, request),)
        (reply,) = self._exchange(self._store.link(), "read", commands, budget, None)
        found = plans.answer(reply, keys, tags, era)
        return self._run("read", found, budget) if isinstance(found, Generator) else found

    async def _afetch(self, asks: Sequence[Ask], budget: float | None) -> Sequence[Stored | None]:
        return await self._arun("read", self.plans.read(*_merged(asks)), budget)

    def _start(self, asks: Sequence[Ask], budget: float | None, tell: Tell[Stored]) -> bool:
        """Begin a read that needs no task, if it is the usual one."""
        plans = self.plans
        if plans.is_cluster or plans.clock.is_late:
            return False
        keys, tags = _merged(asks)
        request, era = plans.question(keys, tags)
        seconds = self._store.timeout if budget is None else budget
        deadline = time.monotonic() + seconds

        def done(outcome: list[Any] | StoreError | None) -> None:
            if isinstance(outcome, StoreError):
                tell(outcome)
            elif outcome is None:  # the connection was lost that had been idle
                tell(partial(self._afetch, asks, _left(deadline)))
            else:
                tell(self._answered(outcome[0], asks, era, deadline))

        return self._store.loop_link().start("read", request, 1, budget, done)

    def _answered(
        self, reply: Any, asks: Sequence[Ask], era: int, deadline: float
    ) -> Outcome[Stored]:
        """Return what a reply tells, or what a task is to await to find out."""
        try:
            found = self.plans.answer(reply, *_merged(asks), era)
        except StoreError as error:
            return error
        except Exception:  # a task will come to the same, and tell the readers
            return partial(self._afetch, asks, _left(deadline))
        if isinstance(found, Generator):
            return partial(self._arun, "read", found, _left(deadline))
        return found

    @abstractmethod
    def _run(self, operation: str, plan: Plan[T], budget: float | None = None) -> T:
        """Return what a plan results in."""

    @abstractmethod
    async def _arun(self, operation: str, plan: Plan[T], budget: float | None = None) -> T:
        """Await what _run does."""

    @abstractmethod
    def _exchange(
        self,
        link: Link,
        operation: str,
        commands: Sequence[Command],
        budget: float | None,
        node: Any,
    ) -> list[Any]:
        """Return the replies to commands."""


def _merged(asks: Sequence[Ask]) -> tuple[list[str], Sequence[str]]:
    """Return the keys of merged reads, and all their tags once."""
    if len(asks) == 1:
        key, tags = asks[0]
        return [key], tags
    return [key for key, _ in asks], list({tag: None for _, tags in asks for tag in tags})


def _left(deadline: float) -> float:
    """Return the seconds until then, hardly any if it is past."""
    return max(0.001, deadline - time.monotonic())
