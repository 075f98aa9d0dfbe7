"""The log names no key and no value, and says of an outage when it begins and when it ends."""

from __future__ import annotations

import ast
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kinds import Kind
from tests.servers import RedisServer
from tests.waiting import until
from tiercache import LRU, Cache, Plugin, Redis
from tiercache.logs import trace_of
from tiercache.testing import DictStore, FaultyStore

MakeCache = Callable[..., Cache]
ROOT = Path(__file__).parents[2]
SECRET_KEY, SECRET_VALUE = "k3y-of-alice", "v4lue-of-alice"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Collect what the engine and the plugins log, down to DEBUG; return it as text."""
    caplog.set_level(logging.DEBUG, logger="tiercache")
    caplog.set_level(logging.DEBUG, logger="tiercache_plugins")
    handler = logging.Formatter("%(name)s %(levelname)s %(message)s")
    return lambda: "\n".join(
        handler.format(r) for r in caplog.records if r.name.startswith("tiercache")
    )


def is_discreet(text: str) -> bool:
    """Whether a text has neither secret in it."""
    return SECRET_KEY not in text and SECRET_VALUE not in text


class Telling(Plugin):
    """Raises, in every hook that may, what it was given."""

    def admits(self, key: str) -> bool:
        raise KeyError(key)

    def ttl(self, load: Any) -> float | None:
        raise ValueError(load.key, load.value)

    def on_event(self, event: Any) -> None:
        raise LookupError(event.key)

    def on_write(self, keys: Any) -> None:
        raise LookupError(keys)

    def measures(self) -> Any:
        raise LookupError(SECRET_KEY)


def heavy(key: str, value: object) -> float:
    """Fail to weigh."""
    raise TypeError(f"{key} {value}")


def test_plugins_that_fail(kind: Kind, make_cache: MakeCache, log: Callable[[], str]) -> None:
    """What a plugin, or weigh=, raises is logged with where, and without what it says."""
    cache = make_cache(l1=LRU(10, weigh=heavy), l2=DictStore(), plugins=[Telling()])
    get = cache.cached("{key}")(kind.function(lambda key: SECRET_VALUE))
    assert kind.call(get, SECRET_KEY) == SECRET_VALUE
    kind.do(cache, "delete", SECRET_KEY)
    list(cache.hooks.measures())
    said = log()
    assert is_discreet(said)
    for hook in ("admits", "ttl", "on_event", "on_write", "measures"):
        assert f"a plugin failed in {hook}()" in said
        assert f"in {hook}\n" in said
    assert "KeyError" in said and "weigh failed" in said and "in heavy" in said


def test_failing_loads(kind: Kind, make_cache: MakeCache, log: Callable[[], str]) -> None:
    """A loader's error is its caller's to log."""

    def fail(key: str) -> str:
        raise LookupError(key, SECRET_VALUE)

    get = make_cache(l2=DictStore()).cached("{key}")(kind.function(fail))
    with pytest.raises(LookupError):
        kind.call(get, SECRET_KEY)
    assert is_discreet(log())


def test_unreadable_payloads(kind: Kind, make_cache: MakeCache, log: Callable[[], str]) -> None:
    """Bytes that are not readable count as a miss; the log says of which function they were."""
    store = DictStore()
    cache = make_cache(l2=store)
    get = cache.cached("{key}")(kind.function(lambda key: 1))
    port = cache.blocking
    codec = cache.codec
    foreign = codec.encode(SECRET_KEY, SECRET_VALUE)
    from tiercache.runtime import run
    from tiercache.tiers.store import Item

    assert cache.flow.l2 is not None
    for payload in (foreign, b"\xc1" + SECRET_VALUE.encode(), foreign[:-3]):
        for key in ("other", SECRET_KEY):
            run(cache.flow.l2.write(port, [Item(key, payload, 60.0, ())]))
            if (payload, key) != (foreign, SECRET_KEY):
                assert kind.call(get, key) == 1
                kind.do(cache, "delete", key)
    assert cache.stats().decode_errors >= 4
    assert "is not readable and counts as a miss" in log()
    assert is_discreet(log())


def test_stores_that_fail(kind: Kind, make_cache: MakeCache, log: Callable[[], str]) -> None:
    """A store that raises what it was asked for is logged by the class of what it raised."""
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store)
    get = cache.cached("{key}")(kind.function(lambda key: SECRET_VALUE))
    kind.call(get, "warm")
    store.fail(error=KeyError(SECRET_KEY, SECRET_VALUE))  # type: ignore[arg-type] - a bug of its
    for number in range(20):
        kind.call(get, f"{SECRET_KEY}{number}")
    kind.do(cache, "delete", SECRET_KEY)
    store.heal()
    said = log()
    assert "goes on without L2" in said
    assert is_discreet(said)


def test_a_real_outage(
    kind: Kind,
    make_cache: MakeCache,
    own_server: RedisServer,
    log: Callable[[], str],
) -> None:
    """An outage of Redis is one line when it begins and one when it ends, with a count."""
    cache = make_cache(l2=Redis(own_server.url, timeout=5))
    get = cache.cached("{key}")(kind.function(lambda key: SECRET_VALUE))
    kind.call(get, SECRET_KEY)
    own_server.kill()
    for number in range(50):
        kind.call(get, f"{SECRET_KEY}{number}")
    own_server.start()
    numbers = iter(range(1000, 10**9))

    def is_back() -> bool:
        kind.call(get, f"{SECRET_KEY}{next(numbers)}")
        time.sleep(0.005)
        return "is back" in log()

    until(is_back, 30)
    lines = [line for line in log().splitlines() if line.startswith("tiercache.health")]
    assert len(lines) == 2
    assert "goes on without L2" in lines[0] and "operations that failed: " in lines[1]
    assert is_discreet(log())


def test_a_server_that_repeats_what_it_was_sent(
    kind: Kind, make_cache: MakeCache, log: Callable[[], str]
) -> None:
    """A refusal that repeats the command, keys included, is cut before it does."""
    from tiercache.tiers._redis_errors import reason, refusal_text

    refusal = RuntimeError(
        f"ERR unknown command 'EVALSHA', with args beginning with: '1' '{SECRET_KEY}'"
    )
    assert is_discreet(refusal_text(refusal))
    assert refusal_text(refusal) == "ERR unknown command 'EVALSHA'"
    import redis.exceptions

    assert is_discreet(reason(redis.exceptions.ResponseError(str(refusal))))


def test_trace_of() -> None:
    """The traceback of an error names files, lines, functions and its class."""

    def fail() -> None:
        raise KeyError(SECRET_KEY)

    with pytest.raises(KeyError) as raised:
        fail()
    trace = trace_of(raised.value)
    assert is_discreet(trace)
    assert "in fail" in trace and trace.endswith("KeyError")


@pytest.mark.parametrize("package", ["tiercache", "plugins/tiercache_plugins"])
def test_no_traceback_is_logged_as_it_is(package: str) -> None:
    """``log.exception`` and ``exc_info`` write down what an exception says: neither is used."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            names = {keyword.arg for keyword in node.keywords}
            assert "exc_info" not in names, f"{path}:{node.lineno}"
            is_log = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "log"
            assert not (is_log and node.func.attr == "exception"), f"{path}:{node.lineno}"  # type: ignore[attr-defined]
