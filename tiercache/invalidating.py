"""``@invalidates``: forget values once a function that changes what they are made of has succeeded.

An invalidation comes after the write, never before it. A value that somebody loads between the two
is removed with the rest, and a load under way is detached, so that nothing older than the write
outlives the call. Where the write is part of a transaction "after" means after its commit: the hook
``after=`` is given the invalidation, and calls it then.

Keys are made by the KeyMaker that makes those of ``@cached``, over the arguments of the call and
one more, ``result``: one template gives one text on both sides. Tags are plain texts, as those that
values are stored with; their templates render as an f-string does, so that ``"team:{user.team}"``
meets ``tags=lambda user: [f"team:{user.team}"]``.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from .canonical import NoCanonicalText, refuse_address
from .errors import ConfigurationError, UncacheableArguments
from .keys import KeyMaker, parse_template
from .options import checked_function, checked_tags, is_async, same_kind

if TYPE_CHECKING:
    from .cache import Cache

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, Any, Any] | staticmethod[Any, Any]")

#: What a template, or a function that chooses keys or tags, calls the function's result.
RESULT = "result"


@dataclass(frozen=True, eq=False, kw_only=True)
class Invalidation:
    """What a call that succeeded makes outdated. Calling it forgets that, in both tiers.

    It may be called later, from another thread, more than once, or never.
    """

    cache: Cache
    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    #: The call's arguments by name, defaults too, and its "result".
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Whether the function is async: then an awaitable that a hook returns is awaited.
    is_async: bool = False
    #: When the function was called, by ``time.monotonic``.
    called_at: float = field(default_factory=time.monotonic, repr=False)

    def __call__(self) -> None:
        """Forget the keys and what carries the tags."""
        if self.keys:
            self.cache.delete(*self.keys)
        if self.tags:
            self.cache.invalidate_tags(*self.tags)

    async def acall(self) -> None:
        """Do what calling it does, awaited.

        The write has happened, whatever becomes of the caller: if it is cancelled meanwhile, it
        is so once the invalidation is done.
        """
        await _to_the_end(self._forget())

    async def _forget(self) -> None:
        if self.keys:
            await self.cache.adelete(*self.keys)
        if self.tags:
            await self.cache.ainvalidate_tags(*self.tags)


#: A template, several, or a function of the call that returns one text, several, or None.
Keys = str | Sequence[str] | Callable[..., Any] | None
CallTags = Sequence[str] | Callable[..., Any]
After = Callable[[Invalidation], Any]


def decorate_invalidating(
    cache: Cache,
    function: Any,
    key: Keys,
    tags: CallTags = (),
    after: After | None = None,
    creates: bool = False,
) -> Any:
    """Return what stands in a function's place: see ``Cache.invalidates``."""
    if isinstance(function, classmethod | staticmethod):
        kept = type(function)
        return kept(decorate_invalidating(cache, function.__func__, key, tags, after, creates))
    plain = checked_function(function, "@invalidates")
    kind = AsyncInvalidating if is_async(plain) else BlockingInvalidating
    return functools.update_wrapper(kind(cache, plain, key, tags, after, creates).wrapper(), plain)


@dataclass(frozen=True)
class Call:
    """A call that has succeeded."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    with_result: dict[str, Any]  # kwargs, and the result
    arguments: Mapping[str, Any]  # all by name, and the result


Source = Callable[[Call], Iterable[str]]  # of some of the keys or tags of a call


class Invalidating:
    """One decorated function: what its calls make outdated."""

    is_async: bool

    def __init__(
        self,
        cache: Cache,
        function: Callable[..., Any],
        key: Keys,
        tags: CallTags,
        after: After | None,
        creates: bool = False,
    ) -> None:
        self.cache = cache
        self.function = function
        self.name = f"{function.__qualname__}()"
        self.signature = inspect.signature(function)
        self._has_own_result = RESULT in self.signature.parameters
        self._stand_in = _taking_result(function, self.signature)
        self._early_keys: list[Source] = []  # that can be told before the function has run
        self._keys = [self._key_source(each) for each in self._checked_key(key)]
        self._tags = [self._tag_source(each) for each in self._checked_tags(tags)]
        if not self._keys and not self._tags:
            raise ConfigurationError(
                f"@invalidates of {self.name} invalidates nothing; "
                'give a key, such as "user:{user.id}", or tags=["users"]'
            )
        self.after = self._checked_after(after)
        self._creates = self._checked_creates(creates)

    def announce(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have guards know of what this call creates before others can find it in the database.

        As far as its arguments tell; those that do not fit are the function's to complain of.
        """
        if self._creates and self._early_keys:
            with suppress(TypeError):
                call = self._call(args, kwargs, None)
                self.cache.know_of([key for source in self._early_keys for key in source(call)])

    def invalidation(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, called_at: float
    ) -> Invalidation | None:
        """Return what a call makes outdated; None for nothing."""
        call = self._call(args, kwargs, result)
        keys = tuple(dict.fromkeys(key for source in self._keys for key in source(call)))
        tags = tuple(dict.fromkeys(tag for source in self._tags for tag in source(call)))
        if not keys and not tags:
            return None
        if self._creates:  # now, and not only after a commit, where somebody may look at once
            self.cache.know_of(keys)
        return Invalidation(
            cache=self.cache,
            keys=keys,
            tags=tags,
            arguments=MappingProxyType(call.arguments),
            is_async=self.is_async,
            called_at=called_at,
        )

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Call:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if self._has_own_result:  # an argument of that name wins over what was returned
            return Call(args, kwargs, kwargs, bound.arguments)
        named = {RESULT: result}
        return Call(args, kwargs, kwargs | named, bound.arguments | named)

    # What the decorator was given

    def _checked_key(self, key: Keys) -> Sequence[Any]:
        if key is None:
            return ()
        return (key,) if isinstance(key, str) or callable(key) else _several(key, "key", self.name)

    def _checked_tags(self, tags: CallTags) -> Sequence[Any]:
        if callable(tags):
            return (tags,)
        return checked_tags(tags if isinstance(tags, str) else _several(tags, "tags", self.name))

    def _checked_after(self, after: After | None) -> After | None:
        if after is None:
            return None
        if not callable(after):
            raise ConfigurationError(
                f"after of {self.name} must be a function that is given the invalidation, such as "
                f"transaction.on_commit, got {after!r}"
            )
        if not self.is_async:
            same_kind(after, wants_async=False, where=f"after of {self.name}")
        return after

    def _checked_creates(self, creates: bool) -> bool:
        if not isinstance(creates, bool):
            raise ConfigurationError(
                f"creates of {self.name} must be True or False, got {creates!r}"
            )
        if creates and not self._keys:
            raise ConfigurationError(
                f"creates of {self.name} needs the keys that it creates; give key="
            )
        return creates

    # Where keys and tags come from

    def _key_source(self, key: Any) -> Source:
        if callable(key):
            return self._key_choice(key)
        if not isinstance(key, str):
            raise ConfigurationError(
                f"a key of @invalidates of {self.name} must be a template or a function, "
                f"got {key!r}"
            )
        maker = KeyMaker(self._stand_in, key)
        text = maker.text
        source = self._renderer(key, lambda call: text(*call.args, **call.with_result))
        if self._has_own_result or not maker.uses(RESULT):
            self._early_keys.append(source)
        return source

    def _tag_source(self, tag: Any) -> Source:
        if callable(tag):
            return self._tag_choice(tag)
        names = tuple(inspect.signature(self._stand_in).parameters)
        try:
            parse_template(tag, names, self.name)
        except ConfigurationError as error:
            message = str(error).replace("key template", "tag template", 1)
            raise ConfigurationError(message) from None

        def render(call: Call) -> str:
            text = tag.format(*[call.arguments[name] for name in names], **call.arguments)
            return refuse_address(text, text)

        return self._renderer(tag, render)

    def _key_choice(self, choose: Callable[..., Any]) -> Source:
        ask = self._asker(choose, "key")

        def keys(call: Call) -> Iterable[str]:
            chosen = ask(call)
            result = (chosen,) if isinstance(chosen, str) else _listed(chosen)
            if result is None or not all(isinstance(key, str) for key in result):
                raise UncacheableArguments(
                    f"{self.name} has succeeded, but the key of its @invalidates returned "
                    f"{chosen!r}; nothing was invalidated.\nReturn text, several texts, or None."
                )
            return result

        return keys

    def _tag_choice(self, choose: Callable[..., Any]) -> Source:
        ask = self._asker(choose, "tags")

        def tags(call: Call) -> Iterable[str]:
            chosen = ask(call)
            try:
                return checked_tags(() if chosen is None else chosen)
            except (ConfigurationError, TypeError) as error:
                reason = error if isinstance(error, ConfigurationError) else f"got {chosen!r}"
                raise ConfigurationError(
                    f"{self.name} has succeeded, but the tags of its @invalidates are not a list "
                    f"of texts, so that nothing was invalidated:\n{reason}"
                ) from None

        return tags

    def _asker(self, choose: Callable[..., Any], option: str) -> Callable[[Call], Any]:
        """Return what calls a user's function, with the result if it has an argument for that."""
        same_kind(choose, wants_async=False, where=f"{option} of {self.name}")
        if _takes_result(choose):
            return lambda call: choose(*call.args, **call.with_result)
        return lambda call: choose(*call.args, **call.kwargs)

    def _renderer(self, template: str, render: Callable[[Call], str]) -> Source:
        def rendered(call: Call) -> Iterable[str]:
            try:
                return (render(call),)
            except Exception as failure:
                raise self._unrendered(template, failure) from failure

        return rendered

    def _unrendered(self, template: str, failure: Exception) -> UncacheableArguments:
        if isinstance(failure, NoCanonicalText):
            reason = f"{type(failure.value).__qualname__} has no stable text"
        else:
            reason = f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
        return UncacheableArguments(
            f"{self.name} has succeeded, but {template!r} of its @invalidates cannot be rendered, "
            f"so that nothing was invalidated: {reason}.\n"
            "Name what the arguments or the result have by then, or give a function."
        )


class BlockingInvalidating(Invalidating):
    """A decorated blocking function."""

    is_async = False

    def wrapper(self) -> Callable[..., Any]:
        function = self.function

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            called_at = time.monotonic()
            self.announce(args, kwargs)
            result = function(*args, **kwargs)
            invalidation = self.invalidation(args, kwargs, result, called_at)
            if invalidation is not None:
                self._settle(invalidation)
            return result

        return wrapper

    def _settle(self, invalidation: Invalidation) -> None:
        if self.after is None:
            invalidation()
            return
        outcome = self.after(invalidation)
        if inspect.iscoroutine(outcome):
            outcome.close()
            raise ConfigurationError(
                f"after of {self.name} returned a coroutine, and {self.name} is blocking; "
                "use a hook that is not async"
            )


class AsyncInvalidating(Invalidating):
    """A decorated ``async def`` function."""

    is_async = True

    def wrapper(self) -> Callable[..., Any]:
        function = self.function

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            called_at = time.monotonic()
            self.announce(args, kwargs)
            result = await function(*args, **kwargs)
            invalidation = self.invalidation(args, kwargs, result, called_at)
            if invalidation is not None:
                await self._settle(invalidation)
            return result

        return wrapper

    async def _settle(self, invalidation: Invalidation) -> None:
        if self.after is None:
            await invalidation.acall()
            return
        outcome = self.after(invalidation)
        if inspect.isawaitable(outcome):
            await outcome


def _taking_result(
    function: Callable[..., Any], signature: inspect.Signature
) -> Callable[..., Any]:
    """Return what stands for a function where keys are made: it takes its result, too."""
    parameters = list(signature.parameters.values())
    if RESULT not in signature.parameters:
        is_last = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        place = len(parameters) - is_last
        parameters.insert(place, inspect.Parameter(RESULT, inspect.Parameter.KEYWORD_ONLY))

    def stand_in() -> None:
        """Is never called."""

    functools.update_wrapper(stand_in, function)
    stand_in.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return stand_in


def _takes_result(choose: Callable[..., Any]) -> bool:
    try:
        return RESULT in inspect.signature(choose).parameters
    except (TypeError, ValueError):  # one of C that does not say
        return False


def _several(given: Any, option: str, name: str) -> tuple[Any, ...]:
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping):
        raise ConfigurationError(
            f"{option} of @invalidates of {name} must be templates or a function, got {given!r}"
        )
    return tuple(given)


def _listed(chosen: Any) -> tuple[Any, ...] | None:
    """Return what a user's function chose as a tuple; None if it is not several things."""
    if chosen is None:
        return ()
    if not isinstance(chosen, Iterable) or isinstance(chosen, bytes | Mapping):
        return None
    return tuple(chosen)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Complete work in a task of its own, which no caller's cancellation reaches."""
    import asyncio

    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from None if task.cancelled() else task.exception()
    task.result()
