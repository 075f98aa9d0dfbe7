"""What a process leaves behind that dies: the last rows of the table in docs/strategies.md."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.strategies.__main__ import STRATEGIES
from examples.strategies.database import Stock
from examples.strategies.meter import Meter
from tests.waiting import until
from tiercache import MISS, Cache, SQLite

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where the table is."""
    return f"sqlite:///{tmp_path}/stock.db"


def die(name: str, moment: str, url: str, l2: Path) -> None:
    """Have a process die while it writes 7 in place of 0."""
    command = [sys.executable, "-m", "tests.examples.dying", name, moment, url, str(l2)]
    done = subprocess.run(command, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "moment", "row", "cached"),
    [
        ("cache-aside", "after", 7, 0),  # older than the database, for a TTL
        ("read-through", "before", 0, 0),
        ("read-through", "after", 7, 0),  # likewise
        ("read-through", "returned", 7, MISS),
        ("write-through", "before", 0, 0),
        ("write-through", "after", 7, 0),  # likewise
        ("write-through", "returned", 7, 7),
    ],
)
def test_the_process_dies(
    url: str, tmp_path: Path, name: str, moment: str, row: int, cached: Any
) -> None:
    """Between the database and the cache nobody is there to tell L2, which has the old value."""
    l2 = tmp_path / "l2.db"
    die(name, moment, url, l2)
    with (
        Cache("stock", l2=SQLite(str(l2), timeout=5)) as cache,
        closing(Stock(url, Meter(), create=False)) as stock,
    ):
        assert stock.rows()[1] == row
        assert cache.get("stock:1", MISS) == cached


def test_the_process_dies_with_a_write_behind(url: str, tmp_path: Path) -> None:
    """What was accepted is seen by the next process, which writes it."""
    l2 = tmp_path / "l2.db"
    die("write-behind", "returned", url, l2)
    with (
        closing(Stock(url, Meter(), create=False)) as stock,
        Cache("stock", l2=SQLite(str(l2), timeout=5)) as cache,
    ):
        strategy = STRATEGIES["write-behind"](cache, stock)
        assert strategy.read(1) == 7
        until(lambda: stock.rows()[1] == 7, 60)


@pytest.mark.parametrize("name", ["cache-aside", "read-through"])  # the others load as the latter
def test_the_process_dies_while_it_loads(url: str, tmp_path: Path, name: str) -> None:
    """Its lease ends by itself, and another process loads."""
    l2 = tmp_path / "l2.db"
    with (
        closing(Stock(url, Meter(), 10)) as stock,
        Cache("stock", l2=SQLite(str(l2), timeout=5)) as cache,
    ):
        die(name, "loading", url, l2)
        died = time.monotonic()
        assert STRATEGIES[name](cache, stock).read(1) == 0
        assert time.monotonic() - died < 5  # three seconds, and two for a busy machine
