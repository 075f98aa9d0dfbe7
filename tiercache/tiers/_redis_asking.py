"""Asking several servers the same, one after the other, until one gives an answer of use.

Sentinels are asked for the master, cluster nodes for the map of slots. Each gets a share of the
time that is left, so that those that are dead or frozen leave some for the rest, and a connection
of its own that is closed again: questions are rare, and must not wait for a pool.

`consult` decides and does no I/O; it is driven by `ask_in_turn` and `aask_in_turn`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers._redis_address import Address
from tiercache.tiers._redis_errors import is_timeout, reason

ASK_SHARE: Final = 0.5  # of the timeout, at most, is spent asking around

R = TypeVar("R")
Consultation: TypeAlias = Generator[tuple[Address, float], Any, R]


class Useless(Exception):
    """A server answered, and it does not help."""


def consult(
    places: Sequence[Address],
    seconds: float,
    understand: Callable[[Any, Address], R],
    complaint: str,
    secrets: Collection[str] = (),
) -> Consultation[R]:
    """Yield whom to ask and for how long; be sent the reply, or the exception; return the answer.

    Args:
        places: Whom to ask, in this order.
        seconds: For all of them together.
        understand: Makes the answer from a reply, or raises Useless.
        complaint: What to say when nobody could answer.
        secrets: Passwords, to be kept out of errors.
    """
    deadline = time.monotonic() + seconds
    replies: list[str] = []
    is_silent = True
    for number, place in enumerate(places):
        left = max(0.001, deadline - time.monotonic())
        reply = yield place, left / (len(places) - number)
        if isinstance(reply, Exception):
            is_silent = is_silent and is_timeout(reply)
            replies.append(f"{place}: {reason(reply, secrets)}")
            continue
        is_silent = False
        try:
            return understand(reply, place)
        except Useless as why:
            replies.append(f"{place}: {why}")
    kind = StoreTimeout if is_silent else StoreError
    raise kind(f"{complaint} ({'; '.join(replies)})")


def ask_in_turn(steps: Consultation[R], connect: Callable[..., Any], question: bytes) -> R:
    """Drive a consultation; connect makes connections from host and port."""
    try:
        place, seconds = next(steps)
        while True:
            place, seconds = steps.send(_ask(connect, place, seconds, question))
    except StopIteration as answer:
        return answer.value  # type: ignore[no-any-return]


def _ask(connect: Callable[..., Any], place: Address, seconds: float, question: bytes) -> Any:
    """Return the reply of one server, or the exception that it came to."""
    connection = None
    try:
        connection = connect(host=place.host, port=place.port)
        connection.socket_timeout = connection.socket_connect_timeout = seconds
        connection.send_packed_command((question,), check_health=False)
        return connection.read_response(True)
    except Exception as error:
        return error
    finally:
        if connection is not None:
            connection.disconnect()


async def aask_in_turn(steps: Consultation[R], connect: Callable[..., Any], question: bytes) -> R:
    """Drive a consultation as ask_in_turn does."""
    try:
        place, seconds = next(steps)
        while True:
            place, seconds = steps.send(await _aask(connect, place, seconds, question))
    except StopIteration as answer:
        return answer.value  # type: ignore[no-any-return]


async def _aask(
    connect: Callable[..., Any], place: Address, seconds: float, question: bytes
) -> Any:
    connection = None
    try:
        connection = connect(host=place.host, port=place.port)
        async with asyncio.timeout(seconds):
            await connection.send_packed_command(question, check_health=False)
            return await connection.read_response(True)
    except Exception as error:
        return error
    finally:
        if connection is not None:
            await connection.disconnect(nowait=True)
