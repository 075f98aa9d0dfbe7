"""``@cache.invalidates``: what a call that succeeded makes outdated is forgotten, and only then."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import (
    LRU,
    MISS,
    Cache,
    ConfigurationError,
    Invalidation,
    UncacheableArguments,
)
from tiercache.testing import DictStore, FaultyStore


@dataclass
class User:
    """What the functions write."""

    id: Any
    team: str = "red"


@pytest.fixture(params=["l1", "l1+l2"])
def tiered(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Cache:
    """A cache of one tier, or both."""
    return make_cache(l2=DictStore() if "l2" in request.param else None)


@pytest.fixture
def told(kind: Kind, cache: Cache) -> Callable[..., Invalidation]:
    """Decorate a function, call it, and return what its hook was given."""

    def told(body: Callable[..., Any], *call: Any, key: Any = None, **options: Any) -> Invalidation:
        seen: list[Invalidation] = []
        kwargs = options.pop("kwargs", {})
        function = cache.invalidates(key, after=seen.append, **options)(kind.function(body))
        kind.call(function, *call, **kwargs)
        return seen[0]

    return told


# When


def test_forgets_after_the_write(kind: Kind, tiered: Cache) -> None:
    """What was cached before the write is loaded anew after it, and the result is returned."""
    rows = {1: "old"}
    get = tiered.cached("user:{user_id}")(kind.function(lambda user_id: rows[user_id]))

    def write(user: User, value: str) -> int:
        rows[user.id] = value
        return 7

    update = tiered.invalidates("user:{user.id}")(kind.function(write))
    assert kind.call(get, 1) == "old"
    assert kind.call(update, User(1), value="new") == 7
    assert kind.call(get, 1) == "new"


def test_not_before_the_function_has_succeeded(kind: Kind, cache: Cache) -> None:
    """While the function runs the value is still there."""
    during: list[Any] = []

    def write() -> None:
        during.append(cache.get("k"))

    kind.do(cache, "set", "k", 1)
    kind.call(cache.invalidates("k")(kind.function(write)))
    assert during == [1]
    assert cache.get("k", MISS) is MISS


def test_not_when_it_raises(kind: Kind, tiered: Cache) -> None:
    """A function that raises has written nothing: its exception passes, the value stays."""

    def fail() -> None:
        raise KeyError("no such user")

    kind.do(tiered, "set", "k", 1)
    with pytest.raises(KeyError, match="no such user"):
        kind.call(tiered.invalidates("k")(kind.function(fail)))
    assert kind.do(tiered, "get", "k") == 1


def test_detaches_a_load_under_way(make_cache: Callable[..., Cache]) -> None:
    """A load that read before the write is not kept, though it ends after the invalidation."""
    cache = make_cache(l2=DictStore())
    row = ["old"]
    has_read, may_return = threading.Event(), threading.Event()

    @cache.cached("row")
    def get() -> str:
        value = row[0]
        has_read.set()
        assert may_return.wait(10)
        return value

    @cache.invalidates("row")
    def update() -> None:
        row[0] = "new"

    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(get()))
    reader.start()
    assert has_read.wait(10)
    update()
    may_return.set()
    reader.join()
    assert (seen, get()) == (["old"], "new")


def test_inside_a_load_of_the_same_key(kind: Kind, cache: Cache) -> None:
    """A loader that writes what it is about to return does not wait for itself."""
    if kind.name == "blocking":
        touch = cache.invalidates("k")(lambda: None)

        def load() -> int:
            touch()
            return 1

        assert cache.get_or_load("k", load) == 1
        return
    atouch = cache.invalidates("k")(kind.function(lambda: None))

    async def aload() -> int:
        await atouch()
        return 1

    assert kind.do(cache, "get_or_load", "k", aload) == 1


def test_tags(kind: Kind, tiered: Cache) -> None:
    """What carries a tag is forgotten; what carries another stays."""
    for key, tag in [("a", "team:red"), ("b", "team:blue")]:
        kind.do(tiered, "set", key, 1, tags=[tag])
    update = tiered.invalidates(tags=["team:{user.team}"])(kind.function(lambda user: None))
    kind.call(update, User(1))
    assert kind.do(tiered, "get", "a", MISS) is MISS
    assert kind.do(tiered, "get", "b") == 1


def test_a_store_in_trouble_is_not_the_writers(
    kind: Kind, make_cache: Callable[..., Cache]
) -> None:
    """The write has succeeded; that L2 cannot be told now is no failure of it."""
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store)
    kind.do(cache, "set", "k", 1)
    store.fail()
    update = cache.invalidates("k", tags=["t"])(kind.function(lambda: "written"))
    assert kind.call(update) == "written"
    assert kind.do(cache, "get", "k", MISS) is MISS


# Cancellation


async def test_a_cancelled_caller_has_invalidated(make_cache: Callable[..., Cache]) -> None:
    """A writer cancelled during the invalidation is so after it: the write has happened."""
    cache = make_cache(l1=None, l2=DictStore())
    begun, go = asyncio.Event(), asyncio.Event()
    adelete = cache.adelete

    async def slowly(*keys: str) -> int:
        begun.set()
        await go.wait()
        return await adelete(*keys)

    cache.adelete = slowly  # type: ignore[method-assign]

    @cache.invalidates("k")
    async def update() -> None:
        """Write."""

    await cache.aset("k", 1)
    task = asyncio.create_task(update())
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.aget("k", MISS) is MISS
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Keys


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("user:{user.id}", [User(1)]),
        ("user:{user.id}", [User("a:b%c é")]),
        ("user:{user.id}:{user.team}", [User("a:b", "c")]),
        ("{user.id}{user.team}", [User("A", "F")]),
        ("{user.id!r:>8}|{user}", [User(True)]),
        ("{user[k]}", [{"k": ("x", 1.0, b"y")}]),
        ("{}", [frozenset({1, 2})]),
    ],
)
def test_keys_are_those_of_cached(
    told: Callable[..., Invalidation], cache: Cache, template: str, arguments: list[Any]
) -> None:
    """One template gives one text, whichever decorator it is given to."""
    cached = cache.cached(template)(lambda user: None)
    assert told(lambda user: None, *arguments, key=template).keys == (cached.key(*arguments),)


def test_keys_of_the_result(told: Callable[..., Invalidation]) -> None:
    """A template may name what the function returned."""
    found = told(lambda name: User(name.upper()), "ada", key=["user:{result.id}", "name:{name}"])
    assert found.keys == ("user:ADA", "name:ada")


def test_positions_keywords_and_defaults(told: Callable[..., Invalidation]) -> None:
    """However a call is written, it is one key."""

    def write(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> None:
        """Write."""

    key = "{a}-{b}-{c}"
    assert told(write, 1, key=key).keys == ("1-2-3",)
    assert told(write, key=key, kwargs={"c": 5, "a": 1, "b": 4}).keys == ("1-4-5",)
    assert told(write, 1, 2, 9, 8, key="{rest[1]}:{more[z]}", kwargs={"z": 7}).keys == ("8:7",)


def test_an_argument_named_result_wins(told: Callable[..., Invalidation]) -> None:
    """A function's own argument is what its name says."""
    found = told(lambda result: User(2), User(1), key="user:{result.id}", tags=["{result.team}!"])
    assert found.keys == ("user:1",)
    assert found.tags == ("red!",)
    assert found.arguments["result"] == User(1)
    assert told(lambda result: 2, 1, key=lambda result: f"k{result}").keys == ("k1",)


def test_a_keyword_named_result(told: Callable[..., Invalidation]) -> None:
    """Among ``**kwargs`` the name stays that of what was returned."""
    found = told(lambda **kwargs: 2, key="{result}", kwargs={"result": 1})
    assert found.keys == ("2",)
    assert found.arguments == {"kwargs": {"result": 1}, "result": 2}


@pytest.mark.parametrize(
    ("choose", "keys"),
    [
        (lambda user: f"user:{user.id}", ("user:1",)),
        (lambda user: [f"user:{user.id}", "users", "users"], ("user:1", "users")),
        (lambda user: (key for key in "ab"), ("a", "b")),
        (lambda user, result: f"{user.id}>{result}", ("1>done",)),
        (lambda user, *, result: f"{user.id}>{result}", ("1>done",)),
        (lambda *args, **kwargs: f"{args} {kwargs}", ("(User(id=1, team='red'),) {}",)),
        ([lambda user: "a", "b:{user.team}"], ("a", "b:red")),
    ],
)
def test_keys_by_a_function(
    told: Callable[..., Invalidation], choose: Any, keys: tuple[str, ...]
) -> None:
    """A function of the arguments, and of the result if it asks for it, returns key or keys."""
    assert told(lambda user: "done", User(1), key=choose).keys == keys


def test_keys_of_a_cached_function(told: Callable[..., Invalidation], cache: Cache) -> None:
    """The key tool of a cached function serves as the function, without a template too."""
    get = cache.cached(lambda user_id, lang="en": None)
    assert told(lambda user_id: None, 5, key=get.key).keys == (get.key(5, "en"),)


def test_nothing_chosen_is_nothing_done(kind: Kind, cache: Cache) -> None:
    """A function that returns None or nothing invalidates nothing, and no hook is called."""
    hooks: list[Any] = []
    for key, tags in [(lambda: None, ()), (list, lambda: None)]:
        kind.call(cache.invalidates(key, tags=tags, after=hooks.append)(kind.function(lambda: 1)))
    assert hooks == []


# Tags


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["users", "team:{user.team}", "result:{result}"], ("users", "team:a:b", "result:3")),
        (("{}", "{user.id!r:>3}{user.id}"), ("User(id='x', team='a:b')", "'x'x")),
        (["{{literal}}"], ("{literal}",)),
        (lambda user: [f"team:{user.team}"], ("team:a:b",)),
        (lambda user, result: {f"n:{result}"}, ("n:3",)),
    ],
)
def test_tags_are_plain_texts(
    told: Callable[..., Invalidation], tags: Any, expected: tuple[str, ...]
) -> None:
    """Tags render as an f-string does, so that they meet those that values are stored with."""
    assert told(lambda user: 3, User("x", "a:b"), tags=tags).tags == expected


# Kinds of functions


class Repo:
    """Methods of every kind; ``cache`` is replaced for each test."""

    cache = Cache("repo")

    def __init__(self, name: str) -> None:
        self.name = name

    @cache.invalidates("{self.name}:{x}")
    def method(self, x: int) -> str:
        """Write."""
        return f"{self.name} {x}"

    @cache.invalidates("{self.name}:{x}")
    async def awaited(self, x: int) -> str:
        return f"{self.name} {x}"

    @classmethod
    @cache.invalidates("{cls.__name__}:{x}")
    def of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @cache.invalidates("{cls.__name__}:{x}")
    @classmethod
    async def outer_of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @staticmethod
    @cache.invalidates("static:{x}")
    def static(x: int) -> str:
        return f"static {x}"

    @cache.invalidates("static:{x}")
    @staticmethod
    async def outer_static(x: int) -> str:
        return f"static {x}"


class Child(Repo):
    """Inherits them."""


@pytest.mark.parametrize(
    ("owner", "name", "who"),
    [
        (Repo("a"), "method", "a"),
        (Repo("a"), "awaited", "a"),
        (Child("b"), "method", "b"),
        (Repo, "of_class", "Repo"),
        (Child, "of_class", "Child"),
        (Child("b"), "outer_of_class", "Child"),
        (Repo, "static", "static"),
        (Repo("a"), "static", "static"),
        (Repo, "outer_static", "static"),
        (Child("b"), "outer_static", "static"),
    ],
)
def test_methods(owner: Any, name: str, who: str) -> None:
    """Methods of every kind, in either order of decorators, know their instance and class."""
    Repo.cache.set(f"{who}:1", 1)
    outcome = getattr(owner, name)(1)
    if inspect.isawaitable(outcome):
        outcome = asyncio.run(_awaited(outcome))
    assert outcome == f"{who} 1"
    assert Repo.cache.get(f"{who}:1", MISS) is MISS


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def test_looks_like_the_function(kind: Kind, cache: Cache) -> None:
    """Signature, name, docstring, kind and __wrapped__ are the function's."""

    def update(user: User, *, force: bool = False) -> User:
        """Write a user."""
        return user

    function = kind.function(update)
    decorated = cache.invalidates("user:{user.id}")(function)
    assert inspect.signature(decorated) == inspect.signature(update)
    assert (decorated.__name__, decorated.__doc__) == ("update", "Write a user.")
    assert decorated.__wrapped__ is function
    assert inspect.iscoroutinefunction(decorated) is (kind.name == "asyncio")
    assert Repo.method.__doc__ == "Write."


def test_several_caches(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """The decorator stacks: one write, several caches."""
    one, two = make_cache("one"), make_cache("two")
    update = two.invalidates("b:{x}")(one.invalidates("a:{x}")(kind.function(lambda x: x)))
    for cache in (one, two):
        kind.do(cache, "set_many", {"a:1": 1, "b:1": 1})
    kind.call(update, 1)
    assert (one.get("a:1"), one.get("b:1")) == (None, 1)
    assert (two.get("a:1"), two.get("b:1")) == (1, None)


def test_over_a_cached_function(kind: Kind, cache: Cache) -> None:
    """It may stand over a function that is cached itself."""
    kind.do(cache, "set", "k", 1)
    function = cache.invalidates("k")(cache.cached("f:{x}")(kind.function(lambda x: x * 2)))
    assert kind.call(function, 4) == 8
    assert cache.get("k", MISS) is MISS


# The hook


def test_a_hook_decides_when(kind: Kind, cache: Cache) -> None:
    """Nothing is forgotten until the hook's owner calls what the hook was given."""
    later: list[Invalidation] = []
    update = cache.invalidates("user:{user.id}", after=later.append)(
        kind.function(lambda user, loud=False: user.team)
    )
    kind.do(cache, "set", "user:1", 1)
    kind.call(update, User(1))
    assert cache.get("user:1") == 1
    (invalidation,) = later
    assert invalidation.keys == ("user:1",)
    assert invalidation.arguments == {"user": User(1), "loud": False, "result": "red"}
    assert invalidation.is_async is (kind.name == "asyncio")
    kind.call(invalidation.acall if invalidation.is_async else invalidation)
    assert cache.get("user:1", MISS) is MISS


def test_a_hook_that_takes_a_function_of_nothing(cache: Cache) -> None:
    """The on_commit of Django is a hook as it is: it calls what it is given."""

    def on_commit(func: Callable[[], Any], using: str | None = None, robust: bool = False) -> None:
        func()

    cache.set("k", 1)
    cache.invalidates("k", after=on_commit)(lambda: None)()
    assert cache.get("k", MISS) is MISS
    cache.set("k", 1)
    cache.invalidates("k", after=functools.partial(on_commit, using="other"))(lambda: None)()
    assert cache.get("k", MISS) is MISS


async def test_an_async_function_awaits_what_its_hook_returns(cache: Cache) -> None:
    """A hook of an async function may be async, or return an awaitable."""

    async def hook(invalidation: Invalidation) -> None:
        await asyncio.sleep(0)
        await invalidation.acall()

    async def update() -> int:
        return 1

    for after in (hook, lambda invalidation: invalidation.acall()):
        await cache.aset("k", 1)
        assert await cache.invalidates("k", after=after)(update)() == 1
        assert cache.get("k", MISS) is MISS


def test_a_blocking_function_cannot_await_its_hook(cache: Cache) -> None:
    """An async hook of a blocking function is refused, at the latest when it is called."""

    async def hook(invalidation: Invalidation) -> None:
        """Is never awaited."""

    with pytest.raises(ConfigurationError, match=r"after of .*update.* is blocking and cannot"):
        cache.invalidates("k", after=hook)(_update)
    update = cache.invalidates("k", after=lambda invalidation: invalidation.acall())(_update)
    with pytest.raises(ConfigurationError, match="use a hook that is not async"):
        update(User(1))


def test_what_a_hook_raises_passes(kind: Kind, cache: Cache) -> None:
    """A hook's exception is the caller's."""

    def hook(invalidation: Invalidation) -> None:
        raise RuntimeError("no transaction")

    with pytest.raises(RuntimeError, match="no transaction"):
        kind.call(cache.invalidates("k", after=hook)(kind.function(lambda: 1)))


def test_an_invalidation_is_frozen(told: Callable[..., Invalidation], cache: Cache) -> None:
    """What a hook was given cannot be changed, and tells what it is without its arguments."""
    found = told(lambda secret: 1, "hunter2", key="k", tags=["t"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.keys = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.arguments["x"] = 1  # type: ignore[index]
    assert "hunter2" not in repr(found)
    assert "('k',)" in repr(found)
    assert found.cache is cache


# Bad input


def _update(user: User) -> User:
    return user


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"_update\(\) invalidates nothing; give a key, such as .* or tags="),
        ({"key": [], "tags": []}, "invalidates nothing"),
        ({"key": "user:{usr.id}"}, r"key template .* no argument for {usr.id}; it takes user, res"),
        ({"key": ["ok", "{resultt}"]}, "no argument for {resultt}"),
        ({"key": ""}, "is empty"),
        ({"key": "{user"}, "key template"),
        ({"key": 5}, "must be templates or a function, got 5"),
        ({"key": b"k"}, "must be templates or a function, got b'k'"),
        ({"key": ["a", 5]}, "must be a template or a function, got 5"),
        ({"tags": "users"}, r'tags must be several texts, got .users.; use \["users"\]'),
        ({"tags": ["users", 5]}, "a tag must be a text that is not empty, got 5"),
        ({"tags": [""]}, "a tag must be a text that is not empty, got ''"),
        ({"tags": 5}, "must be templates or a function, got 5"),
        ({"tags": ["team:{usr}"]}, r"tag template .* no argument for {usr}; it takes user, result"),
        ({"key": "k", "after": 5}, "after of .* must be a function that is given the invalidation"),
    ],
)
def test_refused_at_decoration(cache: Cache, options: dict[str, Any], message: str) -> None:
    """What cannot be meant is said where it is written."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        cache.invalidates(**options)(_update)
    assert str(caught.value).count("\n") <= 1


def test_functions_that_cannot_be_decorated(cache: Cache) -> None:
    """Classes and generators have no moment of success; choosers must not be async."""

    def generator() -> Any:
        yield 1

    async def choose(user: User) -> str:
        return "k"

    for function in (User, generator, 5):
        with pytest.raises(ConfigurationError, match="@invalidates"):
            cache.invalidates("k")(function)  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match=r"key of _update\(\) is blocking"):
        cache.invalidates(choose)(_update)


@pytest.mark.parametrize(
    ("options", "argument", "error", "message"),
    [
        ({"key": "user:{user.id}"}, {}, UncacheableArguments, "'user:{user.id}' .* AttributeError"),
        ({"key": "user:{user}"}, object(), UncacheableArguments, "object has no stable text"),
        ({"tags": ["t:{user.id}"]}, {}, UncacheableArguments, "'t:{user.id}' .* AttributeError"),
        ({"tags": ["t:{user}"]}, object(), UncacheableArguments, "has no stable text"),
        ({"key": lambda user: 5}, 1, UncacheableArguments, "returned 5; nothing was invalidated"),
        ({"key": lambda user: ["a", 5]}, 1, UncacheableArguments, r"returned \['a', 5\]"),
        ({"tags": lambda user: "t"}, 1, ConfigurationError, "(?s)not a list of texts.*several"),
        ({"tags": lambda user: [5]}, 1, ConfigurationError, "(?s)not a list of texts.*got 5"),
        ({"tags": lambda user: 5}, 1, ConfigurationError, "(?s)not a list of texts.*got 5"),
        ({"key": lambda user: user["id"]}, {}, KeyError, "id"),
    ],
)
def test_refused_after_the_write(
    kind: Kind,
    cache: Cache,
    options: dict[str, Any],
    argument: Any,
    error: type[Exception],
    message: str,
) -> None:
    """What cannot be rendered is said, with the template; the write has happened by then."""
    written: list[Any] = []
    update = cache.invalidates(**options)(kind.function(lambda user: written.append(user)))
    with pytest.raises(error, match=message) as caught:
        kind.call(update, argument)
    assert written == [argument]
    assert str(caught.value).count("\n") <= 1


def test_wrong_arguments_are_the_functions(kind: Kind, cache: Cache) -> None:
    """A call that the function does not take raises what it would without the decorator."""
    update = cache.invalidates("user:{user.id}")(kind.function(_update))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'user'"):
        kind.call(update)


def test_many_keys_in_one_round_trip(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """All keys of a call are deleted by one command."""
    deletes: list[Any] = []

    class Counting(DictStore):
        def namespace(self, name: str, origin: str = "") -> Any:
            space = super().namespace(name, origin)
            _count(space, "delete" if kind.name == "blocking" else "adelete", deletes)
            return space

    cache = make_cache(l1=LRU(10), l2=Counting())
    update = cache.invalidates(lambda: [f"k{i}" for i in range(100)])(kind.function(lambda: 1))
    kind.call(update)
    assert len(deletes) == 1


def _count(thing: Any, method: str, calls: list[Any]) -> None:
    original = getattr(thing, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    setattr(thing, method, counted)
