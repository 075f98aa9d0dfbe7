"""A process of a service that writes behind, to be killed: ``python -m tests.writes.service``.

Reads nothing; says on stdout what it puts, before (``t item value``) and after (``a item value``).
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from typing import Any

from tests.writes.database import Database
from tiercache import Cache, Redis, SQLite


def store(address: str) -> Any:
    """Return the L2 at an address."""
    return Redis(address, timeout=5) if address.startswith("redis:") else SQLite(address, timeout=5)


def say(*words: object) -> None:
    """Write one line at once: what was said before a kill is heard after it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def put_for_ever(first: int, items: int, address: str, table: str, options: dict[str, Any]) -> None:
    """Put growing values to random items, until killed."""
    cache = Cache("users", l2=store(address), jitter=0)
    database = Database(table, os.getpid())
    behind = cache.write_behind(database.write, key="user:{}", backoff="5ms", **options)
    draw = random.Random(first)
    say("ready")
    for value in itertools.count(first):
        item = draw.randrange(items)
        say("t", item, value)
        behind.put(item, value)
        say("a", item, value)
        if value % 50 == 0:
            time.sleep(0.001)


def hold_one_batch(address: str, table: str, options: dict[str, Any]) -> None:
    """Take a batch, and go on with it when told by a line on stdin; then say what was lost."""
    cache = Cache("users", l2=store(address), jitter=0)
    database = Database(table, os.getpid())

    def write(operations: list[Any]) -> None:
        say("writing", *(f"{each.item}={each.value}" for each in operations))
        sys.stdin.readline()
        database.write(operations)

    behind = cache.write_behind(write, key="user:{}", **options)
    say("ready")
    while not behind.stats().lost_claims:
        time.sleep(0.01)
    time.sleep(0.05)
    say("lost", behind.stats().lost_claims)
    sys.stdin.readline()


if __name__ == "__main__":
    role, *args = json.loads(sys.argv[1])
    {"put": put_for_ever, "hold": hold_one_batch}[role](*args)
