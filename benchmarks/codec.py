"""What the envelope costs above raw msgpack, side by side in one run.

``python benchmarks/codec.py [--json]``. For each kind of value: the codec's encode and decode,
next to ``msgpack.packb`` and ``unpackb`` of the same data with the same key beside it, and for a
class, next to what one would write by hand for it.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import timeit
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from tiercache.codec import Codec

KEY = "users:user:42"
ROUNDS = 300
BATCH_SECONDS = 100e-6  # short, so that some batches fall between other processes' turns


@dataclasses.dataclass
class User:
    id: int
    name: str
    email: str
    age: int
    is_active: bool


class Case(NamedTuple):
    """A value, and the same by hand over msgpack."""

    name: str
    value: object
    pack: Callable[[], object]
    unpack: Callable[[], object]


class Row(NamedTuple):
    """Nanoseconds per call; the best of the rounds, each round timing all four in turn."""

    name: str
    encode: float
    pack: float
    decode: float
    unpack: float


def plain(name: str, value: object) -> Case:
    packed = msgpack.packb(value)
    return Case(name, value, lambda: msgpack.packb(value), lambda: msgpack.unpackb(packed))


def users(name: str, count: int) -> Case:
    value = [User(number, "Ada", "ada@example.org", 36, True) for number in range(count)]
    if count == 1:
        return _one_user(name, value[0])
    packed = msgpack.packb([_row(user) for user in value])
    return Case(
        name,
        value,
        lambda: msgpack.packb([_row(user) for user in value]),
        lambda: [User(*row) for row in msgpack.unpackb(packed)],
    )


def _one_user(name: str, user: User) -> Case:
    packed = msgpack.packb(_row(user))
    return Case(
        name, user, lambda: msgpack.packb(_row(user)), lambda: User(*msgpack.unpackb(packed))
    )


def _row(user: User) -> list[Any]:
    return [user.id, user.name, user.email, user.age, user.is_active]


CASES = (
    plain("int", 42),
    plain("str", "Reykjavik"),
    plain("dict of 4", {"id": 42, "name": "Ada", "tags": ["a", "b"], "is_active": True}),
    plain("list of 1,000 int", list(range(1_000))),
    plain("list of 1,000 float", [number / 7 for number in range(1_000)]),
    users("dataclass", 1),
    users("list of 100 dataclasses", 100),
)


def measure(case: Case) -> Row:
    codec = Codec()
    schema = codec.schema(type(case.value))
    payload = codec.encode(KEY, case.value, schema=schema)
    calls = (
        lambda: codec.encode(KEY, case.value, schema=schema),
        case.pack,
        lambda: codec.decode(KEY, payload, schema=schema),
        case.unpack,
    )
    counts = [
        max(1, round(BATCH_SECONDS / min(timeit.repeat(call, number=5)) * 5)) for call in calls
    ]
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for index, (call, count) in enumerate(zip(calls, counts, strict=True)):
            best[index] = min(best[index], timeit.timeit(call, number=count) / count * 1e9)
    return Row(case.name, *best)


def main() -> None:
    rows = [measure(case) for case in CASES]
    if "--json" in sys.argv[1:]:
        about = {
            "python": platform.python_version(),
            "msgpack": ".".join(map(str, msgpack.version)),
        }
        print(json.dumps({**about, "ns": [row._asdict() for row in rows]}, indent=2))
        return
    print(f"{'ns per call':26}{'encode':>9}{'by hand':>9}{'ratio':>7}"
          f"{'decode':>10}{'by hand':>9}{'ratio':>7}")  # fmt: skip
    for row in rows:
        print(
            f"{row.name:26}{row.encode:9.0f}{row.pack:9.0f}{row.encode / row.pack:7.2f}"
            f"{row.decode:10.0f}{row.unpack:9.0f}{row.decode / row.unpack:7.2f}"
        )


if __name__ == "__main__":
    main()
