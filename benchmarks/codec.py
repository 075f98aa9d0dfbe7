"""What the envelope costs above raw msgpack, side by side in one run.

For each kind of value: the codec's encode and decode, next to ``msgpack.packb`` and ``unpackb`` of
the same data, and for a class, next to what one would write by hand for it. The envelope's own cost
(version, key, fingerprint of the type) is fixed, so small values show it most. With ormsgpack
installed, long plain values go its way; ``--msgpack`` leaves it out.

Run as ``python -m benchmarks.codec``.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import repeat
from time import perf_counter
from typing import Any, NamedTuple

import msgpack

from benchmarks.measure import Row, Sample, circumstances, interleave
from benchmarks.report import OURS, print_table, publish
from benchmarks.rivals import rival
from tiercache.codec import Codec, envelope
from tiercache.codec.quick import quick_way

KEY = "users:user:42"
BY_HAND = "msgpack by hand"


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


def document(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"user {number}",
        "score": number / 7,
        "tags": ["a", "b", "c"],
        "address": {"street": "Laugavegur", "zip": "101", "at": [64.1, -21.9]},
        "note": None,
    }


CASES = (
    plain("int", 42),
    plain("str", "Reykjavik"),
    plain("dict of 4", {"id": 42, "name": "Ada", "tags": ["a", "b"], "is_active": True}),
    plain("list of 1,000 int", list(range(1_000))),
    plain("list of 1,000 float", [number / 7 for number in range(1_000)]),
    plain("list of 20 documents", [document(number) for number in range(20)]),
    users("dataclass", 1),
    users("list of 100 dataclasses", 100),
)


def measure(case: Case, rounds: int) -> Iterator[Row]:
    codec = Codec()
    schema = codec.schema(type(case.value))
    for _ in range(2):  # from the first it learns which way suits the second
        payload = codec.encode(KEY, case.value, schema=schema)
        assert codec.decode(KEY, payload, schema=schema).value == case.value
    for way, ours, by_hand in (
        ("encode", lambda: codec.encode(KEY, case.value, schema=schema), case.pack),
        ("decode", lambda: codec.decode(KEY, payload, schema=schema), case.unpack),
    ):
        subjects = {OURS: _sample(ours), BY_HAND: _sample(by_hand)}
        yield Row(
            name=f"{way}_{case.name}".replace(" ", "_").replace(",", ""),
            question=f"{way}: {case.name}",
            unit="ns per call",
            baseline=BY_HAND,
            subjects=interleave(subjects, baseline=BY_HAND, rounds=rounds),
        )


def _sample(call: Callable[[], object]) -> Sample:
    def sample(calls: int) -> float:
        began = perf_counter()
        for _ in repeat(None, calls):
            call()
        return perf_counter() - began

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--msgpack", action="store_true", help="without ormsgpack, to look at")
    options = parser.parse_args()
    if options.msgpack:
        envelope.quick_way = lambda: None
    rounds = 9 if options.quick else 31
    rows = [row for case in CASES for row in measure(case, rounds)]
    made = circumstances({OURS: rival(OURS)}, {})
    made["versions"]["msgpack"] = ".".join(map(str, msgpack.version))
    if not options.msgpack and quick_way() is not None:
        made["versions"]["ormsgpack"] = version("ormsgpack")
    if options.msgpack:
        print_table("codec by msgpack alone", rows)
    else:
        publish("codec", made, rows)


if __name__ == "__main__":
    main()
