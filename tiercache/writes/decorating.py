"""``@write_through``: a function that writes the database, and leaves its value in the cache."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from tiercache.calls import RESULT, Calls
from tiercache.current import loading
from tiercache.errors import ConfigurationError
from tiercache.options import checked_function, is_async, same_kind
from tiercache.runtime import run
from tiercache.spec import Spec
from tiercache.writes.publishing import AfterCommit, Publication, checked_choice, write_failed
from tiercache.writes.through import KeyWrite, Outcome

if TYPE_CHECKING:
    from tiercache.cache import Cache

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, Any, Any] | staticmethod[Any, Any]")
Value = Callable[..., Any] | None


@dataclass(frozen=True)
class Choices:
    """What ``@write_through`` was given."""

    key: Any
    value: Value
    spec: Spec
    after: AfterCommit | None
    on_cache_failure: str


def decorate_writing(cache: Cache, function: Any, choices: Choices) -> Any:
    """Return what stands in a function's place: see ``Cache.write_through``."""
    if isinstance(function, classmethod | staticmethod):
        return type(function)(decorate_writing(cache, function.__func__, choices))
    plain = checked_function(function, "@write_through")
    writing = WritingThrough(cache, plain, choices)
    wrapper = writing.async_wrapper() if is_async(plain) else writing.blocking_wrapper()
    return functools.update_wrapper(wrapper, plain)


class WritingThrough:
    """One decorated function: what its calls write."""

    def __init__(self, cache: Cache, function: Callable[..., Any], choices: Choices) -> None:
        self.cache = cache
        self.function = function
        key = choices.key
        self.calls = Calls(function, "@write_through", "written to the cache")
        if not isinstance(key, str) and not callable(key):
            raise ConfigurationError(
                f"@write_through of {self.calls.name} needs a key of one value, such as "
                f'"user:{{user_id}}" or a function of the arguments, got {key!r}'
            )
        self.spec = replace(choices.spec, name=self.calls.name, has_warned=False)
        self.after = choices.after
        self.raises = checked_choice(choices.on_cache_failure, choices.after)
        self._keys_of = self.calls.key_source(key)
        self._is_early = bool(self.calls.early_keys) or (callable(key) and not _takes(key, RESULT))
        self._value_of = self._checked_value(choices.value)

    def _checked_value(self, value: Value) -> Callable[[Any], Any]:
        if value is None:
            return lambda call: call.result
        if not callable(value):
            raise ConfigurationError(
                f"value of @write_through of {self.calls.name} must be a function of the "
                f"arguments (and the result), got {value!r}"
            )
        same_kind(value, wants_async=False, where=f"value of {self.calls.name}")
        return self.calls.asker(value, "value")

    def blocking_wrapper(self) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            port = self.cache.blocking
            write = self._early(args, kwargs)
            if write is not None:
                run(write.begin(port))
            try:
                with loading([] if write is None else [write.flight]):
                    result = self.function(*args, **kwargs)
                value, told = self._told(args, kwargs, result, write)
            except BaseException:
                if write is not None:
                    run(write.abandon(port))
                raise
            if write is None:
                run(told.begin(port))
            self._end(told, value)
            return result

        return wrapper

    def _end(self, write: KeyWrite, value: Any) -> None:
        port = self.cache.blocking
        if self.after is None:
            self._judge(run(write.finish(port, value)))
        else:
            self._check(reaches=run(write.pause(port)))
            self.after(Publication(self.cache, write, value, is_async=False))

    def async_wrapper(self) -> Callable[..., Any]:
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            port = self.cache.asyncio
            write = self._early(args, kwargs)
            if write is not None:
                await write.begin(port)
            try:
                with loading([] if write is None else [write.flight]):
                    result = await self.function(*args, **kwargs)
                value, told = self._told(args, kwargs, result, write)
            except BaseException:
                if write is not None:
                    await port.to_the_end(write.abandon(port))
                raise
            # The database has it: whoever is cancelled from here on, the cache is told.
            await port.to_the_end(self._aend(told, value, begins=write is None))
            return result

        return wrapper

    async def _aend(self, write: KeyWrite, value: Any, *, begins: bool) -> None:
        port = self.cache.asyncio
        if begins:
            await write.begin(port)
        if self.after is None:
            self._judge(await write.finish(port, value))
            return
        self._check(reaches=await write.pause(port))
        outcome = self.after(Publication(self.cache, write, value, is_async=True))
        if inspect.isawaitable(outcome):
            await outcome

    def _early(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> KeyWrite | None:
        """Return the write of a call whose arguments tell its key."""
        if not self._is_early:
            return None
        try:
            call = self.calls.call(args, kwargs, None)
        except TypeError:
            return None  # the function will say so
        return self._write(self._keys_of(call))

    def _told(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, write: KeyWrite | None
    ) -> tuple[Any, KeyWrite]:
        """Return the value of a call that has succeeded, and its write."""
        call = self.calls.call(args, kwargs, result)
        return self._value_of(call), write or self._write(self._keys_of(call))

    def _write(self, keys: Any) -> KeyWrite:
        (key,) = self._checked_one(tuple(keys))
        return KeyWrite(self.cache.flow, self.spec, key)

    def _checked_one(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        if len(keys) != 1:
            raise ConfigurationError(
                f"{self.calls.name}: @write_through writes one key, and its key gave {keys!r}; "
                "use @invalidates for several"
            )
        return keys

    def _judge(self, outcome: Outcome) -> None:
        self._check(reaches=outcome is not Outcome.FAILED)

    def _check(self, *, reaches: bool) -> None:
        if not reaches and self.raises:
            raise write_failed(self.cache.store)


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
