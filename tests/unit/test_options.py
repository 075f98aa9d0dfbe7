"""Bad input is refused where it is given, with the value and the remedy."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tiercache import LRU, Cache, ConfigurationError, Redis, SQLite
from tiercache.options import fixed_ttl
from tiercache.testing import DictStore
from tiercache.ttl import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (5, 5.0),
        (0.25, 0.25),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("100ms", 0.1),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
        ("1w", 604800.0),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_durations(text: Any, expected: float) -> None:
    """A duration is seconds, a timedelta, or text."""
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "ttl must be positive, got 0; use ttl=None for no expiry"),
        (-5, "ttl must be positive, got -5; use ttl=None for no expiry"),
        ("0s", "ttl must be positive"),
        (timedelta(-1), "ttl must be positive"),
        (float("nan"), "ttl must be finite"),
        ("soon", "ttl is not a duration: 'soon'"),
        ("5", "ttl is not a duration: '5'"),
        ("5 parsecs", "is not a duration"),
        (True, "ttl must be a duration, got True"),
        ([], "ttl must be a duration"),
    ],
)
def test_bad_ttl(cache: Cache, value: Any, message: str) -> None:
    """A ttl that is none is refused by the cache, the decorator and the call alike."""
    for use in (
        lambda: Cache("bad", ttl=value),
        lambda: cache.cached(ttl=value)(lambda x: x),
        lambda: cache.set("k", 1, ttl=value),
    ):
        with pytest.raises(ConfigurationError) as caught:
            use()
        assert message in str(caught.value)


def test_no_expiry() -> None:
    """None and infinity mean no expiry."""
    assert fixed_ttl(None) is None
    assert fixed_ttl(float("inf")) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": 1}, "jitter must be in [0, 1), got 1"),
        ({"jitter": -0.1}, "jitter must be in"),
        ({"jitter": "5%"}, "jitter must be in"),
        ({"l1": 100}, "l1 must be LRU(maxsize), S3FIFO(maxsize) or None, got 100"),
        ({"l1": LRU}, "l1 must be"),
        ({"l2": "redis://localhost"}, "l2 must be Redis(url)"),
        ({"negative_ttl": 0}, "negative_ttl must be positive"),
        ({"load_timeout": 0}, "load_timeout must be positive"),
        ({"copy": "yes"}, "copy must be True, False or a function"),
        ({"clock": 5}, "clock must be a callable"),
        ({"codec": "json"}, "codec must be"),
        ({"plugins": [object()]}, "plugins takes a tiercache.Plugin"),
    ],
)
def test_bad_cache_options(options: dict[str, Any], message: str) -> None:
    """Each option of a cache says what it takes."""
    with pytest.raises(ConfigurationError) as caught:
        Cache("bad", **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["", "a:b", 5, None])
def test_bad_name(name: Any) -> None:
    """A cache's name is a text without a colon."""
    with pytest.raises(ConfigurationError, match="the name of a cache"):
        Cache(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": "users"}, "tags must be several texts, got 'users'; use [\"users\"]"),
        ({"tags": [1]}, "a tag must be a text"),
        ({"when": 5}, "must be a function of the value"),
        ({"timeout": -1}, "must be positive"),
        ({"negative_errors": [int]}, "takes exception classes"),
        ({"negative_errors": [KeyError]}, "needs negative_ttl"),
        ({"batch": 5}, "must be a function of many arguments"),
    ],
)
def test_bad_decorator_options(cache: Cache, options: dict[str, Any], message: str) -> None:
    """Each option of @cached says what it takes, at decoration."""
    with pytest.raises(ConfigurationError) as caught:
        cache.cached(**options)(lambda x: x)
    assert message in str(caught.value)


def test_what_cannot_be_decorated(cache: Cache) -> None:
    """Classes, generators and nameless things are refused with the remedy."""

    def generator(x: int) -> Iterator[int]:
        yield x

    async def agenerator(x: int) -> Any:
        yield x

    class Service:
        pass

    for thing, message in [
        (generator, "generator .* return a list instead"),
        (agenerator, "generator"),
        (Service, "class .*Service"),
        (5, "decorates functions, got 5"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            cache.cached()(thing)
    with pytest.raises(ConfigurationError, match="class"):
        cache.cached(Service)


def test_two_keys(cache: Cache) -> None:
    """A template and key= at once are refused."""
    with pytest.raises(ConfigurationError, match="two keys"):
        cache.cached("a", key="b")


def test_unknown_option(cache: Cache) -> None:
    """An option that does not exist is a TypeError, as for any function."""
    with pytest.raises(TypeError, match="nope"):
        cache.cached(nope=1)(lambda x: x)


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost", "redis://host:port/0"])
def test_bad_redis_url(url: str) -> None:
    """A URL that does not parse is refused at construction."""
    with pytest.raises(ConfigurationError):
        Redis(url)


def test_bad_sqlite_path(tmp_path: Any) -> None:
    """A path that cannot be written is refused at construction."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        SQLite(tmp_path / "nowhere" / "deep" / "l2.db" / "x")
    file = tmp_path / "file"
    file.write_text("this is no database, and precious")
    with pytest.raises(ConfigurationError):
        SQLite(file)
    assert file.read_text() == "this is no database, and precious"


def test_one_name_two_settings(make_cache: Callable[..., Cache]) -> None:
    """Two open caches of one name on one store must have the same settings."""
    store = DictStore()
    first = make_cache("users", l2=store, ttl=60)
    make_cache("users", l2=store, ttl=60)
    make_cache("others", l2=store, ttl=300)
    with pytest.raises(ConfigurationError, match="ttl=300 and 60.*another name"):
        make_cache("users", l2=store, ttl=300)
    first.close()


class Repo:
    """Holds what is pickled below."""


cache_at_module_level = Cache("module")


@cache_at_module_level.cached
def picklable(x: int) -> int:
    """Add one."""
    return x + 1


def test_decorated_function_looks_like_itself() -> None:
    """Name, docstring, signature, kind and pickling are those of the function."""
    assert picklable.__name__ == "picklable"
    assert picklable.__doc__ == "Add one."
    assert str(inspect.signature(picklable)) == "(x: 'int') -> 'int'"
    assert pickle.loads(pickle.dumps(picklable)) is picklable
    assert picklable.__wrapped__(1) == 2
    assert not inspect.iscoroutinefunction(picklable)

    @cache_at_module_level.cached
    async def af(x: int) -> int:
        return x

    assert inspect.iscoroutinefunction(af)
    assert asyncio.run(af(1)) == 1


def test_no_keyword_is_reserved(cache: Cache) -> None:
    """Arguments may have any name, those of the machinery included."""

    @cache.cached
    def f(entry: int, value: int, table: int, key: int = 4, self: int = 5, cls: int = 6) -> int:
        return entry + value + table + key + self + cls

    assert f(1, 2, 3) == f(1, 2, 3, key=4) == f(entry=1, value=2, table=3) == 21


@pytest.mark.parametrize("blind_ttl", [0, -1, "soon", True, None])
def test_blind_ttl(blind_ttl: Any) -> None:
    """How long L1 may be served unwatched is a positive duration."""
    with pytest.raises(ConfigurationError, match="blind_ttl"):
        Cache("blind", blind_ttl=blind_ttl)


@pytest.mark.parametrize("lease", [0, 1, None, "yes"])
def test_lease(lease: Any) -> None:
    """Whether one process loads at a time is a yes or a no."""
    with pytest.raises(ConfigurationError, match="lease of .* must be True or False"):
        Cache("lease").cached(lease=lease)(lambda x: x)
