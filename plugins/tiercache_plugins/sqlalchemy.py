"""Invalidate when a transaction of SQLAlchemy 2 has committed, not when a function returned.

What is invalidated before the commit can be loaded again, in its old state, before the commit: so
what ``@cache.invalidates(..., after=after_commit("session"))`` collects waits for the end of the
session's transaction.

- It waits in the ``info`` of the session, under the innermost transaction or SAVEPOINT at the time,
  and is gone with either. Nothing else refers to a session.
- A SAVEPOINT that is released hands on what waits to the one around it; one that is rolled back
  drops it.
- When the outermost transaction has committed and given its connection back, the keys and tags that
  were collected are invalidated, all of a cache at once; then the callbacks of ``on_commit`` run,
  in their order.
- A commit may fail, or be cancelled, when the database has it already. Who has sent COMMIT and does
  not know what became of it invalidates all the same: a load too many does no harm, a value too old
  does. Callbacks run only after a commit that is known.
- Outside a transaction, and where the function itself has committed, it is done at once.

An AsyncSession works inside a greenlet, from which the listeners here await: the event loop is not
blocked. The listeners are registered once, for all sessions, when this module is imported.
"""

from __future__ import annotations

import inspect
import sys
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import event
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

from tiercache import Cache, ConfigurationError, Invalidation, Publication

try:
    from sqlalchemy.util import await_
except ImportError:  # before SQLAlchemy 2.1
    from sqlalchemy.util import await_only as await_

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["after_commit", "on_commit"]

AnySession: TypeAlias = "Session | AsyncSession"

# Under these names the ``info`` of a session holds
_WAITING = "tiercache.waiting"  # dict[SessionTransaction, _Waiting], while there are any
_COMMITTED_AT = "tiercache.committed_at"  # when it last committed, by time.monotonic


def after_commit(
    session: str | Callable[[], AnySession],
) -> Callable[[Invalidation | Publication], Any]:
    """Return a hook for ``after=`` that invalidates once a session's transaction has committed.

    Or, of ``write_through`` and ``writing``, makes the value visible then.

    Args:
        session: The name of the function's argument that is the Session or AsyncSession, or an
            attribute of one (``"self.session"``); or a scoped_session, or a function that
            returns the current session.

    Raises:
        ConfigurationError: If it is none of these; when it is used, if it leads to no session.
    """
    find = _finder(session)

    def hook(invalidation: Invalidation | Publication) -> Any:
        found = _sync_session(find(invalidation))
        transaction = _innermost(found)
        if transaction is not None:
            _waiting(found, transaction).add(invalidation)
        if transaction is None or found.info.get(_COMMITTED_AT, -1.0) >= invalidation.called_at:
            return _now(invalidation)
        return None

    return hook


def on_commit(
    session: AnySession | Callable[[], AnySession], callback: Callable[[], object]
) -> None:
    """Call a function once the session's transaction has committed; never if it is rolled back.

    Outside a transaction it is called at once. It should not use the session; what it raises is
    raised by the commit, once all others have run. With an AsyncSession it may be async.

    Raises:
        ConfigurationError: If nobody could await an async function.
    """
    found = _called(session)
    target = _sync_session(found)
    transaction = _innermost(target)
    if inspect.iscoroutinefunction(callback):
        _check_awaitable(callback, found is not target and transaction is not None)
    if transaction is None:
        _complete(callback)
    else:
        _waiting(target, transaction).add(callback)


# What waits


class _Waiting:
    """What waits for the end of one transaction, or of one SAVEPOINT."""

    def __init__(self) -> None:
        self.keys: dict[Cache, dict[str, None]] = {}
        self.tags: dict[Cache, dict[str, None]] = {}
        self.callbacks: list[Callable[[], object]] = []
        self.has_committed = False
        self.is_in_doubt = False  # COMMIT may have been sent

    def add(self, work: Callable[[], object]) -> None:
        if isinstance(work, Invalidation):
            self.keys.setdefault(work.cache, {}).update(dict.fromkeys(work.keys))
            self.tags.setdefault(work.cache, {}).update(dict.fromkeys(work.tags))
        else:
            self.callbacks.append(work)

    def settle(self) -> list[Callable[[], object]]:
        """Return what is to be done, now that the transaction has ended."""
        if not self.has_committed and not self.is_in_doubt:
            return []
        invalidations: list[Callable[[], object]] = [
            Invalidation(cache=cache, keys=tuple(keys), tags=tuple(self.tags[cache]))
            for cache, keys in self.keys.items()
        ]
        if self.has_committed:
            return invalidations + self.callbacks
        published = [each for each in self.callbacks if isinstance(each, Publication)]
        return invalidations + [each.in_doubt for each in published]


def _waiting(session: Session, transaction: SessionTransaction) -> _Waiting:
    everything: dict[SessionTransaction, _Waiting] = session.info.setdefault(_WAITING, {})
    return everything.setdefault(transaction, _Waiting())


def _innermost(session: Session) -> SessionTransaction | None:
    """Return the SAVEPOINT or transaction that what is written now is part of."""
    return session.get_nested_transaction() or session.get_transaction()


def _waiting_in(session: Session) -> _Waiting | None:
    everything: dict[SessionTransaction, _Waiting] | None = session.info.get(_WAITING)
    transaction = _innermost(session) if everything else None
    return None if not everything or transaction is None else everything.get(transaction)


# What SQLAlchemy tells


@event.listens_for(Session, "before_commit")
def _begin_commit(session: Session) -> None:
    waiting = _waiting_in(session)
    if waiting is not None:
        waiting.is_in_doubt = True


@event.listens_for(Session, "after_soft_rollback")
def _fail_flush(session: Session, previous: SessionTransaction) -> None:
    """A flush that fails, also as the first part of a commit, has kept COMMIT from being sent."""
    if previous.parent is not None and not previous.nested:
        waiting = _waiting_in(session)
        if waiting is not None:
            waiting.is_in_doubt = False


@event.listens_for(Session, "after_commit")
def _end_commit(session: Session) -> None:
    waiting = _waiting_in(session)
    if waiting is not None:
        waiting.has_committed = True
    if not session.in_nested_transaction():
        session.info[_COMMITTED_AT] = time.monotonic()


@event.listens_for(Session, "after_transaction_end")
def _end_transaction(session: Session, transaction: SessionTransaction) -> None:
    everything: dict[SessionTransaction, _Waiting] | None = session.info.get(_WAITING)
    waiting = None if everything is None else everything.pop(transaction, None)
    if waiting is None:
        return
    if not everything:
        del session.info[_WAITING]
    work = waiting.settle()
    around = _innermost(session)
    if around is None:
        _complete_all(work)
        return
    for each in work:
        _waiting(session, around).add(each)


# Doing it


def _now(invalidation: Invalidation | Publication) -> Any:
    """Invalidate, or return what the async function is to await for that."""
    return invalidation.acall() if invalidation.is_async else _complete(invalidation)


def _complete_all(work: list[Callable[[], object]]) -> None:
    """Do everything, whatever some of it raises; the transaction has committed for all."""
    failures: list[BaseException] = []
    for each in work:
        try:
            _complete(each)
        except (Exception, CancelledError) as failure:
            failures.append(failure)
    for error in failures:
        if len(failures) == 1 or isinstance(error, CancelledError):
            raise error
    if failures:
        raise BaseExceptionGroup("callbacks of on_commit() failed after the commit", failures)


def _complete(work: Callable[[], object]) -> None:
    """Do one thing; in a greenlet of SQLAlchemy without blocking its event loop."""
    if isinstance(work, Invalidation | Publication) and _in_greenlet():
        await_(work.acall())
        return
    outcome = work()
    if not inspect.isawaitable(outcome):
        return
    if not _in_greenlet():
        _refuse(outcome)
        _check_awaitable(work, can_await=False)
    await_(outcome)


class _Nothing:
    """An awaitable that is done at once."""

    def __await__(self) -> Any:
        return iter(())


def _in_greenlet() -> bool:
    """Whether SQLAlchemy can await here: we are inside a call of one of its asyncio classes."""
    if "greenlet" not in sys.modules:
        return False
    try:
        await_(_Nothing())
    except MissingGreenlet:
        return False
    return True


def _check_awaitable(callback: Callable[[], object], can_await: bool) -> None:
    if not can_await and not _in_greenlet():
        raise ConfigurationError(
            f"on_commit() has nobody to await {callback!r}: that takes an AsyncSession in a "
            "transaction.\nBegin one, await it yourself, or give a function that is not async."
        )


def _refuse(outcome: Awaitable[Any]) -> None:
    if inspect.iscoroutine(outcome):
        outcome.close()  # or Python warns that it was never awaited


# Finding the session


def _finder(session: Any) -> Callable[[Invalidation | Publication], Any]:
    if isinstance(session, str):
        return _argument_finder(session)
    if not callable(session) or _makes_sessions(session):
        raise ConfigurationError(
            "after_commit() takes the name of the argument that is the session, a scoped_session, "
            f"or a function that returns the current session, got {session!r}"
        )
    return lambda _: session()


def _argument_finder(path: str) -> Callable[[Invalidation | Publication], Any]:
    argument, _, attributes = path.partition(".")

    def find(invalidation: Invalidation | Publication) -> Any:
        if argument not in invalidation.arguments:
            raise ConfigurationError(
                f"after_commit({path!r}): the function has no argument {argument!r}; "
                f"it takes {', '.join(invalidation.arguments)}"
            )
        value = invalidation.arguments[argument]
        return _called(attrgetter(attributes)(value) if attributes else value)

    return find


def _makes_sessions(thing: object) -> bool:
    """Whether calling it gives a new session each time: none whose transaction is under way."""
    asyncio_part = sys.modules.get("sqlalchemy.ext.asyncio")
    return isinstance(thing, sessionmaker) or (
        asyncio_part is not None and isinstance(thing, asyncio_part.async_sessionmaker)
    )


def _called(session: Any) -> Any:
    """Return the session of a scoped_session, or of a function that returns the current one."""
    return session() if callable(session) and not _makes_sessions(session) else session


def _sync_session(session: Any) -> Session:
    """Return the Session inside an AsyncSession, or a Session as it is."""
    found = getattr(session, "sync_session", session)
    if not isinstance(found, Session):
        raise ConfigurationError(
            f"after_commit() and on_commit() need a Session or an AsyncSession, got {session!r}"
        )
    return found
