"""What the cases of the store contract share: namespaces of both kinds of callers, and an ear."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import pytest

from tiercache.tiers.store import (
    Fill,
    Kind,
    Lease,
    LeaseMode,
    Message,
    Namespace,
    Store,
    Stored,
    Tail,
)

PATIENCE = 10.0  # seconds until a test that waits for something gives up

ODD_TEXTS = [
    "",
    "with space",
    "line\nbreak\r\n",
    "nul\0byte",
    "{braces}",
    "}{",
    "*?[a]\\",
    "é漢字🎈",
    "lone\ud800surrogate",
    "long" * 500,
    "'; DROP TABLE entry; --",
]


class Calls(Protocol):
    """A store, the methods of its namespaces all blocking."""

    def namespace(self, name: str, origin: str = "") -> Namespace: ...
    def close(self) -> None: ...


class _AsyncioNamespace:
    """The asyncio twins of a namespace's methods, each completed in one loop of its own."""

    def __init__(self, inner: Namespace, runner: asyncio.Runner) -> None:
        self._inner = inner
        self._runner = runner

    def tail(self, position: str | None) -> Tail:
        return self._inner.tail(position)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        twin = getattr(self._inner, f"a{name}")

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await twin(*args, **kwargs)

        return lambda *args, **kwargs: self._runner.run(call(*args, **kwargs))


class _AsyncioCalls:
    def __init__(self, store: Store, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def namespace(self, name: str, origin: str = "") -> Namespace:
        inner = self._store.namespace(name, origin)
        return cast(Namespace, _AsyncioNamespace(inner, self._runner))

    def close(self) -> None:
        self._runner.run(self._store.aclose())


class ContractBase:
    """Fixtures and helpers; no cases."""

    short_ttl = 0.1

    @pytest.fixture
    def short_log_store(self) -> Store:
        """Return a store that keeps at most a few hundred messages for each namespace."""
        pytest.skip("the class has no fixture short_log_store")

    @pytest.fixture
    def lose_tag(self) -> Callable[[str, str], None]:
        """Return what makes the store lose a tag's token: of a namespace's name, and a tag."""
        pytest.skip("the class has no fixture lose_tag")

    @pytest.fixture(params=["blocking", "asyncio"])
    def calls(self, request: pytest.FixtureRequest, store: Store) -> Iterator[Calls]:
        """Return the store as one kind of callers uses it or the other, to be called blocking."""
        if request.param == "blocking":
            yield store
            return
        with asyncio.Runner() as runner:
            calls = _AsyncioCalls(store, runner)
            yield calls
            calls.close()

    @pytest.fixture
    def name(self) -> str:
        """Return the name of a namespace that is new to the store."""
        return f"contract-{secrets.token_hex(8)}"

    @pytest.fixture
    def space(self, calls: Calls, name: str) -> Namespace:
        """Return a new namespace as this process sees it."""
        return calls.namespace(name, "this")

    @pytest.fixture
    def peer(self, calls: Calls, name: str) -> Namespace:
        """Return the same namespace as another process would see it."""
        return calls.namespace(name, "peer")

    @pytest.fixture
    def tail(self, space: Namespace) -> Iterator[Tail]:
        """Return a reader of all that is said in the namespace from now on."""
        tail = space.tail(space.log_end())
        yield tail
        tail.close()

    def claim(
        self,
        space: Namespace,
        key: str,
        *,
        seconds: float = 60,
        tags: Sequence[str] = (),
        mode: LeaseMode = LeaseMode.EXCLUSIVE,
        anew: bool = False,
    ) -> Lease:
        """Look, as every load begins, then ask for the lease, which must be free; return it."""
        space.read(key, tags)
        (claim,) = space.claim(
            [key], [new_nonce()], seconds=seconds, tags=tags, mode=mode, anew=anew
        )
        assert claim.lease is not None
        return claim.lease

    def claim_in_vain(self, space: Namespace, key: str) -> float:
        """Ask for a lease that is held; return for how long."""
        (claim,) = space.claim([key], [new_nonce()], seconds=60)
        assert claim.lease is None
        assert claim.stored is None
        assert claim.held_for is not None
        return claim.held_for

    def is_free(self, space: Namespace, key: str) -> bool:
        """Tell whether the lease of a key could be had; it then is held."""
        (claim,) = space.claim([key], [new_nonce()], seconds=60, anew=True)
        return claim.lease is not None

    def fill(
        self,
        space: Namespace,
        key: str,
        lease: Lease,
        payload: bytes = b"loaded",
        *,
        ttl: float | None = 60,
        tags: tuple[str, ...] = (),
        replaces: bool = False,
    ) -> bool:
        """Fill one key; tell whether the value was taken."""
        (taken,) = space.fill([Fill(key, lease, payload, ttl, tags, replaces)])
        return taken

    def is_refused(
        self, space: Namespace, key: str, lease: Lease, tags: tuple[str, ...] = ()
    ) -> bool:
        """Fill one key; tell whether the value was refused, or is not valid."""
        taken = self.fill(space, key, lease, b"outdated", tags=tags)
        stands = payload_of(space.read(key)) == b"outdated"
        assert taken or not stands
        return not stands

    def told(self, space: Namespace, tail: Tail) -> list[Message]:
        """Return what was said until now and not yet read.

        A store may say things without names, to itself.
        """
        mark = secrets.token_hex(8)
        space.announce(Kind.NEWS, [mark])
        heard: list[Message] = []
        deadline = time.monotonic() + PATIENCE
        while not any(mark in message.names for message in heard):
            assert time.monotonic() < deadline, f"{heard} and no end"
            heard += tail.read(0.2)
        assert heard[-1].names == (mark,)
        return [message for message in heard[:-1] if message.names]

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Wait until something has happened; fail if it does not."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(self.short_ttl / 20)

    def let_pass(self, seconds: float) -> None:
        """Let a time pass, and a little more: a store's clock may differ by a moment."""
        time.sleep(seconds + self.short_ttl / 2)


def new_nonce() -> bytes:
    """Return what marks a lease or a lock as the caller's."""
    return secrets.token_bytes(8)


def payload_of(stored: Stored | None) -> bytes | None:
    """Return a copy of a payload, if there is one."""
    return None if stored is None else bytes(stored.payload)


def remaining_of(stored: Stored | None) -> float:
    """Return the seconds that an entry has left; it must stand, and have an end."""
    assert stored is not None
    assert stored.remaining is not None
    return stored.remaining


def names_of(messages: Iterable[Message], kind: Kind) -> list[str]:
    """Return the names of all messages of a kind, in order: a store may split what is long."""
    return [name for message in messages if message.kind is kind for name in message.names]
