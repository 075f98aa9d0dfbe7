"""Methods, classmethods and staticmethods, and their tools."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from abc import ABC, abstractmethod
from typing import Any

import pytest

from tiercache import Cache

cache = Cache("methods")


class Repo:
    """A class of every kind of method."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    @cache.cached
    def keyed(self, x: int) -> str:
        """Say who."""
        return f"{self.name} {x}"

    @cache.cached(ignore=("self",))
    def shared(self, x: int, y: int = 2) -> str:
        return f"{self.name} {x} {y}"

    @cache.cached("repo:{self.name}:{x}")
    async def awaited(self, x: int) -> str:
        return f"{self.name} {x}"

    @classmethod
    @cache.cached
    def of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @cache.cached
    @classmethod
    def outer_of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @staticmethod
    @cache.cached
    def static(x: int) -> int:
        return x

    @cache.cached
    @staticmethod
    def outer_static(x: int) -> int:
        return -x


class Child(Repo):
    """Inherits them."""


@pytest.fixture(autouse=True)
def _empty() -> None:
    cache.clear()


def test_instances_by_their_key() -> None:
    """Instances with one __cache_key__ share values, others do not."""
    for _ in range(3):
        assert Repo("a").keyed(1) == "a 1"
        assert Repo("b").keyed(1) == "b 1"
    assert Repo("a").keyed.cache_info().loads >= 2


def test_ignored_self_is_shared() -> None:
    """With self ignored, what one instance loaded serves the others."""
    assert Repo("a").shared(1) == "a 1 2"
    assert Repo("b").shared(1) == Repo("b").shared(x=1, y=2) == "a 1 2"


def test_tools_of_a_bound_method() -> None:
    """Every tool of obj.method has obj as its first argument."""
    repo = Repo("a")
    repo.keyed(1)
    assert repo.keyed.peek(1) == "a 1"
    assert repo.keyed.key(1) == Repo.keyed.key(repo, 1)
    repo.keyed.invalidate(1)
    assert not repo.keyed.peek(1)
    repo.keyed.set("given", 1)
    assert repo.keyed(1) == "given"
    assert repo.keyed.refresh(1) == "a 1"
    assert repo.keyed.many([1, 2]) == {1: "a 1", 2: "a 2"}
    assert Repo.keyed.peek(repo, 2) == "a 2"
    repo.keyed.cache_clear()
    assert not repo.keyed.peek(2)


def test_tools_of_an_async_method() -> None:
    """An async method's tools are awaited and bound, too."""

    async def main() -> None:
        repo = Repo("a")
        assert await repo.awaited(1) == "a 1"
        assert repo.awaited.key(1) == "repo:a:1"
        await repo.awaited.set("given", 1)
        assert await repo.awaited(1) == "given"
        assert await repo.awaited.many([1, 2]) == {1: "given", 2: "a 2"}
        await repo.awaited.invalidate(1)
        assert not await repo.awaited.peek(1)

    asyncio.run(main())


@pytest.mark.parametrize("name", ["of_class", "outer_of_class"])
def test_classmethods(name: str) -> None:
    """A class method's value is its class's, in either order of decorators."""
    for _ in range(3):
        assert getattr(Repo, name)(1) == "Repo 1"
        assert getattr(Child, name)(1) == "Child 1"
        assert getattr(Repo("a"), name)(1) == "Repo 1"


def test_tools_of_a_classmethod() -> None:
    """With @cached outermost a class method's tools are bound to the class."""
    Child.outer_of_class(1)
    assert Child.outer_of_class.peek(1) == "Child 1"
    assert not Repo.outer_of_class.peek(1)
    Child.outer_of_class.invalidate(1)
    assert not Child.outer_of_class.peek(1)


def test_staticmethods() -> None:
    """A static method is a function, in either order of decorators."""
    for _ in range(3):
        assert Repo.static(1) == Repo("a").static(1) == 1
        assert Repo.outer_static(1) == Repo("a").outer_static(1) == -1
    Repo.static.invalidate(1)
    assert not Repo.static.peek(1)
    assert Repo.outer_static.peek(1) == -1


def test_looks_like_a_method() -> None:
    """inspect sees signature, docstring and kind through it."""
    repo = Repo("a")
    assert str(inspect.signature(repo.keyed)) == "(x: 'int') -> 'str'"
    assert repo.keyed.__doc__ == "Say who."
    assert repo.keyed.__name__ == "keyed"
    assert repo.keyed.__self__ is repo
    assert inspect.iscoroutinefunction(repo.awaited)
    assert inspect.iscoroutinefunction(Repo.awaited)
    assert not inspect.iscoroutinefunction(repo.keyed)


def test_pickles() -> None:
    """A bound method pickles as its instance does."""
    bound = pickle.loads(pickle.dumps(Repo("a").keyed))
    assert bound(7) == "a 7"
    assert bound.key(7) == Repo("a").keyed.key(7)


def test_super_and_override() -> None:
    """An override may call what it overrides; their values stay apart."""

    class Base:
        @cache.cached(ignore=("self",))
        def get(self, x: int) -> str:
            return f"base {x}"

    class Derived(Base):
        @cache.cached(ignore=("self",))
        def get(self, x: int) -> str:
            return f"derived {super().get(x)}"

    for _ in range(3):
        assert Derived().get(1) == "derived base 1"
        assert Base().get(1) == "base 1"


def test_abstract() -> None:
    """An abstract method stays abstract."""

    class Base(ABC):
        @cache.cached(ignore=("self",))
        @abstractmethod
        def get(self, x: int) -> int: ...

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]


def test_a_decorator_above() -> None:
    """Another decorator above finds a plain callable."""

    def doubled(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any) -> Any:
            return function(*args) * 2

        return inner

    class Service:
        @doubled
        @cache.cached(ignore=("self",))
        def get(self, x: int) -> int:
            return x

    assert [Service().get(3) for _ in range(3)] == [6, 6, 6]
