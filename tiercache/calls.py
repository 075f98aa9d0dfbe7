"""The calls of a decorated function, and the keys and tags that they are about.

Keys are made by the KeyMaker that makes those of ``@cached``, over the arguments of the call and
one more, ``result``: one template gives one text on both sides. Tags are plain texts, as those that
values are stored with; their templates render as an f-string does, so that ``"team:{user.team}"``
meets ``tags=lambda user: [f"team:{user.team}"]``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .canonical import NoCanonicalText, refuse_address
from .errors import ConfigurationError, UncacheableArguments
from .keys import KeyMaker, parse_template
from .options import checked_tags, same_kind

#: What a template, or a function that chooses keys or tags, calls the function's result.
RESULT = "result"


@dataclass(frozen=True)
class Call:
    """A call that has succeeded."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    with_result: dict[str, Any]  # kwargs, and the result
    arguments: Mapping[str, Any]  # all by name, and the result
    result: Any


Source = Callable[[Call], Iterable[str]]  # of some of the keys or tags of a call


class Calls:
    """How the calls of one function give keys and tags.

    Args:
        function: The decorated function.
        decorator: Its name in messages.
        undone: What was not done where a key or tag cannot be told, in messages.
    """

    def __init__(self, function: Callable[..., Any], decorator: str, undone: str) -> None:
        self.name = f"{function.__qualname__}()"
        self.decorator = decorator
        self.undone = undone
        self.signature = inspect.signature(function)
        self.early_keys: list[Source] = []  # that can be told before the function has run
        self._has_own_result = RESULT in self.signature.parameters
        self._stand_in = _taking_result(function, self.signature)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Call:
        """Return a call that has succeeded.

        Raises:
            TypeError: If the arguments do not fit the function.
        """
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if self._has_own_result:  # an argument of that name wins over what was returned
            return Call(args, kwargs, kwargs, bound.arguments, result)
        named = {RESULT: result}
        return Call(args, kwargs, kwargs | named, bound.arguments | named, result)

    def key_source(self, key: Any) -> Source:
        """Return what gives the keys of a call, of a template or a function."""
        if callable(key):
            return self._key_choice(key)
        if not isinstance(key, str):
            raise ConfigurationError(
                f"a key of {self.decorator} of {self.name} must be a template or a function, "
                f"got {key!r}"
            )
        maker = KeyMaker(self._stand_in, key)
        text = maker.text
        source = self._renderer(key, lambda call: text(*call.args, **call.with_result))
        if self._has_own_result or not maker.uses(RESULT):
            self.early_keys.append(source)
        return source

    def tag_source(self, tag: Any) -> Source:
        """Return what gives the tags of a call, of a template or a function."""
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
        ask = self.asker(choose, "key")

        def keys(call: Call) -> Iterable[str]:
            chosen = ask(call)
            result = (chosen,) if isinstance(chosen, str) else _listed(chosen)
            if result is None or not all(isinstance(key, str) for key in result):
                raise UncacheableArguments(
                    f"{self.name} has succeeded, but the key of its {self.decorator} returned "
                    f"{chosen!r}; nothing was {self.undone}.\nReturn text, several texts, or None."
                )
            return result

        return keys

    def _tag_choice(self, choose: Callable[..., Any]) -> Source:
        ask = self.asker(choose, "tags")

        def tags(call: Call) -> Iterable[str]:
            chosen = ask(call)
            try:
                return checked_tags(() if chosen is None else chosen)
            except (ConfigurationError, TypeError) as error:
                reason = error if isinstance(error, ConfigurationError) else f"got {chosen!r}"
                raise ConfigurationError(
                    f"{self.name} has succeeded, but the tags of its {self.decorator} are not a "
                    f"list of texts, so that nothing was {self.undone}:\n{reason}"
                ) from None

        return tags

    def asker(self, choose: Callable[..., Any], option: str) -> Callable[[Call], Any]:
        """Return what calls a user's function, with the result if it has an argument for that."""
        same_kind(choose, wants_async=False, where=f"{option} of {self.name}")
        self._check_fit(choose, option)
        if _takes_result(choose):
            return lambda call: choose(*call.args, **call.with_result)
        return lambda call: choose(*call.args, **call.kwargs)

    def _check_fit(self, choose: Callable[..., Any], option: str) -> None:
        """Raise if no call of the function can be passed on to a user's function."""
        signature = _signature_of(choose)
        if signature is not None and not _fits(self.signature, signature):
            raise ConfigurationError(
                f"{option}= of {self.decorator} of {self.name} takes {signature}, which no call of "
                f"{self.name[:-2]}{self.signature} fits;\n"
                "have it take the same arguments, and result if it needs that"
            )

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
            f"{self.name} has succeeded, but {template!r} of its {self.decorator} cannot be "
            f"rendered, so that nothing was {self.undone}: {reason}.\n"
            "Name what the arguments or the result have by then, or give a function."
        )


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
    signature = _signature_of(choose)
    return signature is not None and RESULT in signature.parameters


def _signature_of(choose: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(choose)
    except (TypeError, ValueError):  # one of C that does not say
        return None


def _fits(function: inspect.Signature, choose: inspect.Signature) -> bool:
    """Whether some call of a function can be passed on to another, its result too if that has it.

    Of a function that takes anything nobody knows what it will be called with.
    """
    given = list(function.parameters.values())
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in given):
        return True
    count = sum(each.kind is not each.KEYWORD_ONLY for each in given)
    return any(_binds(given, placed, choose) for placed in range(count + 1))


def _binds(given: Sequence[inspect.Parameter], placed: int, choose: inspect.Signature) -> bool:
    """Whether a call fits that gives so many arguments by their place, and the rest by name.

    What may be left out is given where it is asked for by its name.
    """
    own = list(choose.parameters.values())
    in_place = [each.name for each in own[:placed] if each.kind is not each.KEYWORD_ONLY]
    asked = {each.name for each in own if each.kind is not each.POSITIONAL_ONLY} - {*in_place}
    named = {
        each.name for each in given[placed:] if each.default is each.empty or each.name in asked
    }
    if any(each.kind is each.POSITIONAL_ONLY and each.name in named for each in given[placed:]):
        return False
    if RESULT in choose.parameters and all(each.name != RESULT for each in given):
        named.add(RESULT)
    try:
        choose.bind(*given[:placed], **dict.fromkeys(named))
    except TypeError:
        return False
    return True


def _listed(chosen: Any) -> tuple[Any, ...] | None:
    """Return what a user's function chose as a tuple; None if it is not several things."""
    if chosen is None:
        return ()
    if not isinstance(chosen, Iterable) or isinstance(chosen, bytes | Mapping):
        return None
    return tuple(chosen)
