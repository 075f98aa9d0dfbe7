"""From a call to its key."""

from __future__ import annotations

import dataclasses
import enum
import functools
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import attrs
import pydantic
import pytest

from tiercache import Cache, ConfigurationError, UncacheableArguments
from tiercache.keys import KeyMaker


@dataclasses.dataclass
class User:
    id: int
    name: str = "x"


class Point(NamedTuple):
    x: int
    y: int


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@attrs.define
class Box:
    size: int


class Model(pydantic.BaseModel):
    size: int


class Keyed:
    def __init__(self, identity: int) -> None:
        self.identity = identity

    def __cache_key__(self) -> int:
        return self.identity


class UserId(int):
    pass


def default_key(value: Any) -> str:
    """Return the default key of a call with one argument."""
    return KeyMaker(lambda x: x).of(value)


def test_default_key_reads_well(cache: Cache) -> None:
    """The default key is the function's name and its arguments."""

    def f(a: int, b: str = "two", *rest: int, c: bool = True, **more: int) -> None: ...

    key = cache.cached(f).key(1, "x", 3, d=4)
    assert key == f"{f.__module__}.{f.__qualname__}(1,'x',(3),True,{{'d':4}})"


def test_values_that_differ_have_different_keys() -> None:
    """Types count, at every depth; so do datetimes of one instant with different offsets."""
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    values = [
        *(1, 1.0, True, "1", b"1", None, "None", Decimal(1), Decimal("1.0"), UserId(1), Level.LOW),
        *((1,), [1], {1}, frozenset({1}), {1: 1}, {1: True}, {True: 1}, ((1,),), (1.0,), (True,)),
        *("a,b", ("a", "b"), ("a,b",), "('a','b')", "'a'", 'it"s', "it's"),
        *(0.0, -0.0, float("inf"), 1j, 10**30, -1),
        *(User(1), User(1, "y"), Point(1, 2), (1, 2), Color.RED, Box(1), Model(size=1), Keyed(1)),
        *(
            date(2024, 1, 1),
            datetime(2024, 1, 1),
            noon,
            noon.astimezone(timezone(timedelta(hours=1))),
        ),
        *(
            datetime(2024, 1, 1, fold=1),
            timedelta(1),
            uuid.UUID(int=1),
            PurePosixPath("a"),
            range(3),
        ),
        *(int, str, User, bytearray(b"1")),
    ]
    keys = [default_key(value) for value in values]
    assert len(set(keys)) == len(keys)


def test_values_that_are_equal_share_a_key() -> None:
    """Order in dicts and sets does not count, nor which instance it is."""
    assert default_key({"a": 1, "b": 2}) == default_key({"b": 2, "a": 1})
    assert default_key({3, 1, 2}) == default_key({2, 3, 1})
    assert default_key(User(1)) == default_key(User(1))
    assert default_key(Keyed(7)) == default_key(Keyed(7))
    assert default_key(float("nan")) == default_key(-float("nan"))


def test_keys_do_not_depend_on_the_process() -> None:
    """Another process, with another hash seed, makes the same keys."""
    script = (
        "from tiercache.canonical import canonical\n"
        "print(canonical([{'a', 'b', 'c', 'd'}, {'x': {'p', 'q', 'r'}}, frozenset('hello')]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("template", "args", "key"),
    [
        ("user:{user_id}", (42,), "user:42"),
        ("user:{user_id}", ("42",), "user:42"),
        ("user:{user_id}", (None,), "user:None"),
        ("user:{user_id}:full", ("a:b",), "user:a%3Ab:full"),
        ("user:{user_id}", ("100%",), "user:100%25"),
        ("user:{}", (42,), "user:42"),
        ("user:{0}", (42,), "user:42"),
        ("user:{user_id:05d}", (42,), "user:00042"),
        ("user:{user_id!r}", ("x",), "user:'x'"),
        ("user:{user_id.id}", (User(7),), "user:7"),
        ("user:{user_id[name]}", ({"name": "bob"},), "user:bob"),
        ("user:{user_id[0]}", ((5, 6),), "user:5"),
        ("user:{user_id}", (uuid.UUID(int=1),), f"user:{uuid.UUID(int=1)}"),
        ("user:{user_id}", (date(2024, 1, 2),), "user:2024-01-02"),
        ("user:{user_id}", (Color.RED,), "user:Color.RED"),
        ("user:{user_id}", (Keyed(3),), "user:3"),
        ("user:{{{user_id}}}", (1,), "user:{1}"),
        ("constant", (1,), "constant"),
    ],
)
def test_templates(template: str, args: tuple[Any, ...], key: str) -> None:
    """A field renders as its text, with attributes, items, formats and escapes."""
    assert KeyMaker(lambda user_id: user_id, template).of(*args) == key


@pytest.mark.parametrize(
    "template", ["{a}:{b}", "{a}{b}", "{a}-{b}", "{a}%{b}", "{a}7{b}", "{a}x{b}"]
)
def test_fields_do_not_run_into_one_another(template: str) -> None:
    """Whatever stands between two fields, different pairs make different keys."""
    maker = KeyMaker(lambda a, b: None, template)
    texts = [
        "",
        "a",
        "b",
        ":",
        "a:b",
        "-",
        "%",
        "%2D",
        "7",
        "%37",
        "37",
        "x",
        "ax",
        "|",
        "a|b",
        "2D",
    ]
    pairs = [(a, b) for a in texts for b in texts]
    assert len({maker.of(*pair) for pair in pairs}) == len(pairs)


def test_callable_key(cache: Cache) -> None:
    """A function gives the key; what is no text is written so that it cannot clash."""
    loads: list[int] = []

    @cache.cached(key=lambda user, flag=False: f"u:{user.id}")
    def f(user: User, flag: bool = False) -> int:
        loads.append(user.id)
        return user.id

    assert [f(User(1)), f(User(1, "other")), f(User(2))] == [1, 1, 2]
    assert loads == [1, 2]
    assert f.key(User(1)) == "u:1"
    g = cache.cached(key=lambda x: (x, 1))(lambda x: x)
    assert g(1) == 1
    assert g(True) is True
    assert g.key(1).endswith("((1,1))")


def test_ignored_arguments(cache: Cache) -> None:
    """An ignored argument is passed on and is no part of the key."""
    seen: list[Any] = []

    @cache.cached(ignore=("session",))
    def f(session: object, x: int) -> int:
        seen.append(session)
        return x

    one, two = object(), object()
    assert f(one, 1) == f(two, 1) == f(session=two, x=1) == 1
    assert seen == [one]


class A:
    @staticmethod
    def make(cache: Cache) -> tuple[type, type]:
        class First:
            @cache.cached(ignore=("self",))
            def get(self, x: int) -> str:
                return f"first {x}"

        class Second:
            @cache.cached(ignore=("self",))
            def get(self, x: int) -> str:
                return f"second {x}"

        return First, Second


def test_methods_of_two_classes(cache: Cache) -> None:
    """Same-named methods of two classes never share."""
    first, second = A.make(cache)
    for _ in range(3):
        assert first().get(1) == "first 1"
        assert second().get(1) == "second 1"


def test_functions_of_a_factory_do_not_share(cache: Cache) -> None:
    """Closures made by one def over different values keep their values apart."""

    def make(n: Any) -> Callable[[int], Any]:
        @cache.cached
        def f(x: int) -> Any:
            return (x, n)

        return f

    plain = [make(1), make(2), make("1")]
    objects = [make([1]), make([2])]
    for _ in range(3):
        assert [f(5) for f in plain] == [(5, 1), (5, 2), (5, "1")]
        assert [f(5) for f in objects] == [(5, [1]), (5, [2])]
    assert make(1)(5) == (5, 1)


def test_redefinition_keeps_its_key(cache: Cache) -> None:
    """A function defined anew under its name, as in a notebook, has the same keys."""
    namespace: dict[str, Any] = {"cached": cache.cached, "__name__": "notebook"}
    source = "@cached\ndef f(x): return x\nkey = f.key(1)"
    exec(source, namespace)
    first = namespace["key"]
    exec(source + " ", namespace)
    assert namespace["key"] == first == "notebook.f(1)"


class Unhelpful:
    pass


@pytest.mark.parametrize(
    "value", [Unhelpful(), object(), [Unhelpful()], lambda: None, {1: object()}]
)
def test_what_cannot_be_a_key(cache: Cache, value: Any) -> None:
    """The error names the function, the argument, the type and the remedies."""

    @cache.cached
    def lookup(name: str, thing: Any) -> None: ...

    @cache.cached("x:{thing}")
    def lookup_by_template(thing: Any) -> None: ...

    for call in (lambda: lookup("n", value), lambda: lookup_by_template(value)):
        with pytest.raises(UncacheableArguments) as caught:
            call()
        message = str(caught.value)
        assert "lookup" in message
        assert "'thing'" in message
        assert 'ignore=("thing",)' in message
        assert "__cache_key__" in message
        assert isinstance(caught.value, TypeError)


def test_self_that_cannot_be_a_key(cache: Cache) -> None:
    """A method of an object without a key says how to make one."""

    class Service:
        @cache.cached
        def get(self, x: int) -> int:
            return x

    with pytest.raises(UncacheableArguments, match=r"'self'.*Service.*\n.*ignore=\(\"self\",\)"):
        Service().get(1)


def test_recursive_argument() -> None:
    """An argument that contains itself is refused, not followed for ever."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UncacheableArguments):
        default_key(loop)


def test_missing_attribute() -> None:
    """A template over an attribute that the argument lacks says so."""
    maker = KeyMaker(lambda user: None, "user:{user.id}")
    with pytest.raises(UncacheableArguments, match=r"\{user.id\}.*user: NoneType"):
        maker.of(None)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("user:{nope}", "no argument for {nope}; it takes user_id"),
        ("user:{user_id", "expected '}'"),
        ("user:{1}", "no argument"),
        ("user:{user_id!z}", "conversion"),
        ("user:{user_id:{nope}}", "a field inside the format"),
        ("user:{user_id()}", "no argument"),
        ("", "is empty"),
        (42, "must be a template, a function or None"),
    ],
)
def test_bad_templates(cache: Cache, template: Any, message: str) -> None:
    """A template that does not fit the function is refused at decoration."""
    with pytest.raises(ConfigurationError, match=message.replace("{", r"\{")):
        cache.cached(key=template)(lambda user_id: user_id)


def test_bad_ignore(cache: Cache) -> None:
    """Ignoring an argument that is not there is refused at decoration."""
    with pytest.raises(ConfigurationError, match="no argument 'nope'; it takes x"):
        cache.cached(ignore=("nope",))(lambda x: x)


def test_wrong_calls_fail_as_ever(cache: Cache) -> None:
    """A call that does not fit the signature is the same TypeError as without the cache."""

    @cache.cached
    def f(a: int, /, b: int = 2, *, c: int = 3) -> int:
        return a + b + c

    for call in (lambda: f(), lambda: f(a=1), lambda: f(1, 2, 3), lambda: f(1, d=2)):
        with pytest.raises(TypeError, match="argument"):
            call()
    assert f(1) == f(1, b=2, c=3) == 6


def test_partial_and_wraps(cache: Cache) -> None:
    """Functions wrapped by other decorators keep the wrapped one's signature and name."""

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    @logged
    @cache.cached
    @logged
    def f(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert f(1) == f(a=1, b=2) == 3
    assert f.__name__ == "f"
    assert f.__doc__ == "Add."
