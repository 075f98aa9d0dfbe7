"""The demo as a whole, shortened: what its report claims, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.city_service.acts import ACTS
from tests.servers import RedisServer, binaries
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SECONDS = "3"  # of traffic; the database is down for two more
MARK = "TIERCACHE_DEMO_MARK"  # in the environment, which all processes of a demo inherit

pytestmark = pytest.mark.slow

with_server = pytest.param(
    "--own",
    marks=pytest.mark.skipif(not binaries(), reason="no Redis server on this machine"),
    id="redis",
)


@dataclass(frozen=True)
class Played:
    """A demo that has ended."""

    code: int
    printed: str
    errors: str
    report: dict[str, Any]
    left: list[int]  # processes that outlived it
    is_redis: bool

    def facts(self, act: str) -> dict[str, Any]:
        return self.report[act]["facts"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "examples.city_service", "--seconds", SECONDS, *arguments]


def marked(mark: str) -> dict[str, str]:
    return {**os.environ, MARK: mark}


def processes(mark: str) -> list[int]:
    """Return the processes that have inherited a mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


@pytest.fixture(scope="module", params=[with_server, pytest.param("--sqlite", id="sqlite")])
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """The demo, played once with each L2."""
    path, mark = tmp_path_factory.mktemp("demo") / "report.json", uuid.uuid4().hex
    where = [request.param] if request.param == "--sqlite" else []
    done = subprocess.run(
        command("--json", str(path), *where),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=marked(mark),
    )
    report = json.loads(path.read_text()) if path.exists() else {}
    return Played(done.returncode, done.stdout, done.stderr, report, processes(mark), not where)


def test_ends_well(played: Played) -> None:
    """It ends by itself with 0, every promise kept, no traceback, and no process left."""
    assert played.code == 0, played.printed + played.errors
    assert played.errors == ""
    assert "promises that were checked were kept" in played.printed
    assert all(all(act["promises"].values()) for act in played.report.values())
    assert played.left == []


def test_prints_every_act(played: Played) -> None:
    """Each act has a heading, in order, and the comparison is a table of both."""
    headings = [f"{number}. {act.title}" for number, act in enumerate(ACTS.values(), 1)]
    assert [line for line in played.printed.splitlines() if line in headings] == headings
    assert "reads per second" in played.printed
    assert "errors seen by callers 0" in played.printed


def test_without_a_cache(played: Played) -> None:
    """Every call is a query, so that the comparison is one."""
    facts = played.facts("alone")
    assert facts["calls"] == facts["queries"] > 50


def test_warming_is_shared(played: Played) -> None:
    """Each page is warmed by a load, and the guard knows every city; one process reads for all."""
    facts = played.facts("warming")
    assert facts["failed"] == 0
    assert facts["guards_ready"] == 4
    assert facts["ids_known"] > 33_500
    if played.is_redis:
        assert facts["loads"] == facts["pages"] > 700
        assert 34_000 < facts["ids_read"] < 35_000
    else:
        assert facts["ids_read"] > 4 * 34_000


def test_stampede_is_one_load(played: Played) -> None:
    """A hundred callers in four processes, for each page: one load."""
    facts = played.facts("stampede")
    assert facts["calls"] == 100 * facts["pages"]
    assert facts["loads"] == facts["pages"] == 5
    assert facts["joined"] > 100
    assert facts["links"] > 0


def test_serving(played: Played) -> None:
    """Far fewer loads than calls, lookups saved, updates seen, spans made."""
    facts = played.facts("serving")
    assert facts["errors"] == {}
    assert facts["loads"] < facts["calls"] / 2
    assert facts["l1_share"] > 0.2
    assert facts["l2_share"] > 0
    assert 0 < facts["saved_lookups"] <= facts["absent"]
    assert facts["spans"] > facts["loads"]
    assert facts["reads_of_own_updates"] > 0
    if played.is_redis:
        assert facts["cold_loads"] == facts["cold_pages"] > 20


def test_learning(played: Played) -> None:
    """What never changes is kept longest, what changes often shortest; few calls take a load."""
    facts = played.facts("learning")
    assert facts["loads"] < facts["calls"] / 5
    assert facts["refreshes"] > 0
    assert facts["ttls"]["stormy"] < facts["ttls"]["settled"]
    assert min(facts["ttls"].values()) >= 0.05 and max(facts["ttls"].values()) <= 60
    assert facts["outdated_share"] < 0.5


def test_outage(played: Played) -> None:
    """While the database is down it is left alone, and known pages are served all the same."""
    facts = played.facts("outage")
    assert facts["calls"] > 1_000
    assert facts["errors"] == 0
    assert facts["stale_served"] > 0
    assert facts["breakers_opened"] == facts["breakers_closed"] == 4
    # Three failures open each breaker; then it lets a probe through every 0.3 s.
    assert 4 * 3 <= facts["refused_queries"] < 150
    assert set(facts["cold_errors"]) <= {"CircuitOpen", "DatabaseDown"}
    assert facts["cold_errors"]["CircuitOpen"] > facts["cold_errors"].get("DatabaseDown", 0)
    assert played.printed.count("breaker of database opened") >= 4


def test_deploy(played: Played) -> None:
    """New processes begin with hot keys and, over Redis, with the filter of the old ones."""
    facts = played.facts("deploy")
    assert facts["restored"] > 100
    assert facts["guards_ready"] == 4
    assert facts["errors"] == {}
    assert facts["loads_at_start"] < facts["restored"]
    if played.is_redis:
        assert facts["ids_read"] == 0


def test_traces(played: Played) -> None:
    """Each kind of call has the spans that docs/tracing.md tells of."""
    cold, l2_hit, three, stale, absent, update, heard, down, is_open = played.facts("traces")[
        "spans"
    ].values()
    assert cold == [
        "request crowded(IS)",
        "tiercache.get",
        "tiercache.l2.get",
        "tiercache.load",
        "SELECT crowded",
        "tiercache.l2.set",
    ]
    assert l2_hit[1:] == ["tiercache.get", "tiercache.l2.get"]
    assert (three.count("tiercache.wait"), three.count("tiercache.load")) == (2, 1)
    assert stale[:2] == ["request crowded(IE)", "tiercache.get"]
    assert {"tiercache.refresh", "tiercache.load"} < set(stale)
    assert absent[1:] == ["tiercache.get"]
    assert {"UPDATE city", "tiercache.invalidate"} < set(update)
    assert "tiercache.bus.apply" in heard
    assert "SELECT crowded" in down and "SELECT crowded" not in is_open
    tree = played.printed[played.printed.index("three callers at once") :]
    assert tree.count("tiercache.wait → link to tiercache.load") == 2
    assert "tiercache.refresh" in tree and "→ link to tiercache.get" in tree
    assert "guard=BloomGuard outcome=absent" in tree
    assert "breaker.state=open error: CircuitOpen" in tree


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that is not the demo's."""
    if not binaries():
        pytest.skip("no Redis server on this machine")
    with RedisServer() as server:
        yield server


def test_leaves_nothing_in_another_redis(server: RedisServer) -> None:
    """A Redis that was given has its own keys afterwards, and no others."""
    server.command("SET", "mine", "1")
    done = subprocess.run(
        [*command("--redis", server.url), "--seconds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.command_calls()["evalsha"] > 100
    assert server.command("DBSIZE").strip() == b":1"


def test_says_that_redis_does_not_answer(server: RedisServer) -> None:
    """A Redis that was given and is not there is an error at once, not a demo without."""
    server.kill()
    done = subprocess.run(
        command("--redis", server.url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "REDIS does not answer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the server outlives a kill -9")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_leaves_no_process_when_it_is_ended(number: signal.Signals) -> None:
    """After Ctrl-C, and even after kill -9, its processes and its server end by themselves."""
    mark = uuid.uuid4().hex
    demo = subprocess.Popen(
        command(), cwd=ROOT, env=marked(mark), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with demo:
        assert demo.stdout is not None
        until(lambda: b"2. " in demo.stdout.readline() or demo.poll() is not None, 60)
        assert demo.poll() is None
        assert len(processes(mark)) >= 5
        demo.send_signal(number)
        code = demo.wait(60)
    assert code == (130 if number is signal.SIGINT else -signal.SIGKILL)
    until(lambda: processes(mark) == [], 60)
