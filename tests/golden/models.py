"""The classes of the golden payloads. Part of the files: changing one makes them undecodable."""

from __future__ import annotations

import collections
import dataclasses
import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pydantic


@dataclasses.dataclass
class User:
    id: int
    name: str
    tags: tuple[str, ...] = ()


@dataclasses.dataclass
class Loose:
    id: int

    def __post_init__(self) -> None:
        self.note = "no field"


@attrs.frozen
class Money:
    amount: Decimal
    currency: str


class Order(pydantic.BaseModel):
    id: int
    user: Any
    lines: list[Any] = []


class Point(NamedTuple):
    x: float
    y: float


Pair = collections.namedtuple("Pair", ["left", "right"])


class Colour(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


CLASSES: tuple[Any, ...] = (User, Loose, Money, Order, Point, Pair, Colour, Access)
for _cls in CLASSES:
    _cls.__module__ = "golden"  # whatever the tests are imported as

VALUES: dict[str, object] = {
    "none": None,
    "scalars": [
        True,
        False,
        0,
        -1,
        2**63,
        -(2**63),
        1.5,
        -0.0,
        "é",
        "\ud800",
        b"\x00\xff",
        bytearray(b"b"),
    ],
    "long_ints": [2**64, -(2**64), 10**40],
    "containers": [
        [],
        {},
        (),
        (1, (2,)),
        {1: "int", "1": "str", (1, 2): None},
        {3},
        frozenset({4}),
    ],
    "times": [
        datetime(2024, 10, 27, 2, 30, 1, 7, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
        datetime(2024, 1, 1),
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "named")),
        date(2024, 2, 29),
        time(1, 2, 3, 4),
        time(1, tzinfo=UTC),
        timedelta(days=-1, microseconds=1),
    ],
    "numbers": [Decimal("0.10"), Decimal("-Infinity"), UUID(int=2**127), complex(1, -0.0)],
    "enums": [Colour.RED, Access(3), Access(0)],
    "classes": [
        User(1, "Ada", ("a", "b")),
        Loose(2),
        Money(Decimal("9.90"), "EUR"),
        Point(1.0, 2.0),
        Pair([1], (2,)),
        Order(id=7, user=User(1, "Ada"), lines=[Money(Decimal(1), "EUR")]),
    ],
}
KEY = "golden:é"
TAGS = ("users", "golden")
STALE_FOR = 90.5
