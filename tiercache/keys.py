"""From a call to its key.

A key is a text. With a template (``"user:{user_id}"``) it is the author's; without one it is the
function's module and qualified name, and the arguments in a form that keeps types apart.

For each function two small functions are generated with its own signature, so that defaults,
keywords and positions are sorted out by the interpreter: ``text`` gives the key, ``parts`` the
values it is made of. ``f(1)``, ``f(user_id=1)`` and a default equal to them are one key for free.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from .canonical import NoCanonicalText, canonical, plain_text, refuse_address
from .errors import ConfigurationError, UncacheableArguments

Key = str | Callable[..., Any] | None

_FIELD = re.compile(r"(?P<argument>\w*)(?P<path>(?:\.[^\W\d]\w*|\[[^\[\]]+\])*)")
_STEP = re.compile(r"\.(?P<attribute>\w+)|\[(?P<item>[^\[\]]+)\]")
#: Always escaped in a field: what separates the parts of a key by convention, and the escape.
_ALWAYS_ESCAPED = "%:"
_CONVERSIONS = {"r": "repr", "s": "str", "a": "ascii"}
_CONVERTERS = {
    "_tc_repr": repr,
    "_tc_str": str,
    "_tc_ascii": ascii,
    "_tc_format": format,
    "_tc_refuse_address": refuse_address,
}
#: Classes whose instances' repr is their text: in any key, and in a field of a template.
_PLAIN_IN_DEFAULT, _PLAIN_IN_TEMPLATE = ("int", "str"), ("int",)
_HEX_DIGITS = frozenset("0123456789ABCDEF")


@dataclass(frozen=True)
class Part:
    """One value that a key is made of."""

    source: str  # an expression over the arguments
    argument: str  # the argument it comes from
    before: str = ""  # literal text in front of it
    conversion: str = ""  # of a template: "", "r", "s" or "a"
    spec: str = ""  # of a template: a format specification


@dataclass(frozen=True)
class Signature:
    """A function's parameters as source text, to generate functions that take the same."""

    parameters: str
    arguments: str  # that pass the parameters on to a function of the same signature
    names: tuple[str, ...]
    defaults: dict[str, Any] = field(default_factory=dict)
    has_variadic: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        parameters = list(inspect.signature(function).parameters.values())
        defaults = {
            f"_tc_default_{p.name}": p.default for p in parameters if p.default is not p.empty
        }
        return cls(
            parameters=_parameters_source(parameters),
            arguments=", ".join(map(_argument_source, parameters)),
            names=tuple(p.name for p in parameters),
            defaults=defaults,
            has_variadic=any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters),
        )


class KeyMaker:
    """How the calls of one function become keys.

    Args:
        function: The function whose calls these are.
        key: A template, a function of the call's arguments, or None for the default key.
        ignore: Arguments that are no part of the default key.
        prefix: What the default key begins with; None for module and qualified name.

    Raises:
        ConfigurationError: If the template or ``ignore`` names what the function does not take.
    """

    text: Callable[..., str]
    parts: Callable[..., tuple[Any, ...]]

    def __init__(
        self,
        function: Callable[..., Any],
        key: Key = None,
        *,
        ignore: Collection[str] = (),
        prefix: str | None = None,
    ) -> None:
        self.function = function
        self.signature = Signature.of(function)
        self.ignore = _checked_ignore(function, self.signature, ignore)
        self.tail = ""
        self.has_parts = True  # whether equal parts mean equal keys
        self.is_template = isinstance(key, str)
        prefix = prefix or f"{function.__module__}.{function.__qualname__}"
        if key is None:
            self._build_default(prefix)
        elif isinstance(key, str):
            self._build_template(key)
        elif callable(key):
            self._build_from_callable(key, prefix)
        else:
            raise ConfigurationError(
                f"key of {self.name} must be a template, a function or None, got {key!r}"
            )

    @property
    def name(self) -> str:
        """The function's name in messages."""
        return f"{self.function.__qualname__}()"

    def uses(self, argument: str) -> bool:
        """Whether the key depends on an argument."""
        return not self.has_parts or any(p.argument == argument for p in self.fields)

    @property
    def pattern(self) -> re.Pattern[str]:
        """What every key of this function matches; with a template, no key of another does.

        But for templates that differ in the names of their fields only. A key that is made by a
        function may be anything.
        """
        if not self.has_parts:
            return re.compile("(?s:.*)")
        if self.is_template:
            inside = f"(?:[^{re.escape(_separators(self.fields))}]|%[0-9A-F]{{2}})*"
        else:
            inside = "(?s:.*)"
        pieces = (re.escape(part.before) + inside for part in self.fields)
        return re.compile("".join(pieces) + re.escape(self.tail))

    def of(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the key of a call.

        Raises:
            UncacheableArguments: If an argument cannot be part of a key.
        """
        try:
            return self.text(*args, **kwargs)
        except NoCanonicalText as failure:
            raise self._uncacheable(failure.value, args, kwargs) from None
        except (AttributeError, LookupError, TypeError, ValueError) as failure:
            if not self.fields:
                raise
            raise self._unreadable(failure, args, kwargs) from failure

    def _build_default(self, prefix: str) -> None:
        names = [name for name in self.signature.names if name not in self.ignore]
        self.fields = tuple(
            Part(name, name, before="," if number else f"{prefix}(")
            for number, name in enumerate(names)
        )
        self.tail = ")" if names else f"{prefix}()"
        self._generate(canonical, _PLAIN_IN_DEFAULT)

    def _build_template(self, template: str) -> None:
        self.fields, self.tail = parse_template(template, self.signature.names, self.name)
        separators = _separators(self.fields)
        self._generate(_renderer(separators), () if "-" in separators else _PLAIN_IN_TEMPLATE)

    def _build_from_callable(self, key: Callable[..., Any], prefix: str) -> None:
        self.fields = ()
        self.has_parts = False

        def text(*args: Any, **kwargs: Any) -> str:
            result = key(*args, **kwargs)
            return result if type(result) is str else f"{prefix}({canonical(result)})"

        self.text = text

    def _generate(self, render: Callable[[Any], str], plain: Sequence[str]) -> None:
        pieces = [
            piece
            for part in self.fields
            for piece in (repr(part.before), _rendered(part, plain))
            if piece != "''"
        ]
        if self.tail or not pieces:
            pieces.append(repr(self.tail))
        sources = "".join(f"{part.source}, " for part in self.fields)
        namespace = {
            "_tc_render": render,
            "_tc_int": int,
            **_CONVERTERS,
            **self.signature.defaults,
        }
        exec(  # noqa: S102 - made of checked identifiers and repr() of text
            f"def text({self.signature.parameters}): return {' + '.join(pieces)}\n"
            f"def parts({self.signature.parameters}): return ({sources})\n",
            namespace,
        )
        self.text = namespace["text"]
        self.parts = namespace["parts"]

    def _uncacheable(
        self, value: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> UncacheableArguments:
        argument = self._argument_of(value, args, kwargs)
        remedy = (
            f'key=, ignore=("{argument}",), or a __cache_key__ method'
            if argument
            else "key= that returns text"
        )
        inside = f"{argument!r}" if argument else "the result of key="
        return UncacheableArguments(
            f"{self.name}: argument {inside} cannot be part of a key: "
            f"{type(value).__module__}.{type(value).__qualname__} has no stable text.\n"
            f"Use {remedy}."
        )

    def _argument_of(
        self, value: object, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        if not self.has_parts:
            return None
        for part, candidate in zip(self.fields, self.parts(*args, **kwargs), strict=True):
            if candidate is value or _fails(candidate):
                return part.argument
        return self.fields[0].argument

    def _unreadable(
        self, failure: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> UncacheableArguments:
        bound = inspect.signature(self.function).bind(*args, **kwargs).arguments
        shown = ", ".join(f"{name}: {type(value).__name__}" for name, value in bound.items())
        wanted = ", ".join("{" + part.source + "}" for part in self.fields)
        return UncacheableArguments(
            f"{self.name}: the key's {wanted} cannot be read from ({shown}): {failure}.\n"
            "Use arguments that have it, or another key=."
        )


def parse_template(template: str, names: Sequence[str], owner: str) -> tuple[tuple[Part, ...], str]:
    """Split a template into its fields, each with the text before it, and the text after.

    Raises:
        ConfigurationError: If it is not a template over ``names``.
    """
    parts: list[Part] = []
    before = ""
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(f"key template {template!r} of {owner}: {error}") from None
    for literal, expression, spec, conversion in pieces:
        before += literal
        if expression is None:
            continue
        argument, source = _field_source(expression, names, len(parts), template, owner)
        if conversion not in (None, *_CONVERSIONS):
            raise ConfigurationError(
                f"key template {template!r} of {owner}: unknown conversion !{conversion}; "
                "use !r, !s or !a"
            )
        if spec and "{" in spec:
            raise ConfigurationError(
                f"key template {template!r} of {owner}: a field inside the format of "
                f"{{{expression}}} is not supported; use key= with a function"
            )
        parts.append(Part(source, argument, _parted(before, parts), conversion or "", spec or ""))
        before = ""
    if not template:
        raise ConfigurationError(f"key template of {owner} is empty; leave key= out instead")
    return tuple(parts), before


def _parted(before: str, earlier: Sequence[Part]) -> str:
    """Make sure that text between two fields begins with what an escape cannot contain."""
    if earlier and (not before or before[0] in _HEX_DIGITS):
        return "|" + before
    return before


def _field_source(
    expression: str, names: Sequence[str], number: int, template: str, owner: str
) -> tuple[str, str]:
    match = _FIELD.fullmatch(expression)
    argument = match["argument"] if match else expression
    if argument == "" or argument.isdecimal():  # "{}" and "{0}": by position
        position = int(argument or number)
        argument = names[position] if position < len(names) else expression or "{}"
    if match is None or argument not in names:
        raise ConfigurationError(
            f"key template {template!r} of {owner}: no argument for {{{expression}}}; "
            f"it takes {', '.join(names) or 'none'}"
        )
    return argument, argument + "".join(map(_step_source, _STEP.finditer(match["path"])))


def _step_source(step: re.Match[str]) -> str:
    if step["attribute"]:
        return f".{step['attribute']}"
    item = step["item"]
    return f"[{item}]" if item.isdecimal() else f"[{item!r}]"


def _rendered(part: Part, plain: Sequence[str]) -> str:
    """Return the source of a field's text; of plain classes that is in place, without a call."""
    rendered = f"_tc_render({_converted(part)})"
    if part.conversion or part.spec or not plain or not part.source.isidentifier():
        return rendered
    is_plain = " or ".join(f"{part.source}.__class__ is _tc_{kind}" for kind in plain)
    return f"(f'{{{part.source}!r}}' if {is_plain} else {rendered})"


def _converted(part: Part) -> str:
    if not part.conversion and not part.spec:
        return part.source
    source = part.source
    if part.conversion:
        source = f"_tc_{_CONVERSIONS[part.conversion]}({source})"
    if part.spec:
        source = f"_tc_format({source}, {part.spec!r})"
    return f"_tc_refuse_address({source}, {part.source})"


def _separators(fields: Sequence[Part]) -> str:
    """Return the characters that may not stand in a field: those a following text begins with."""
    return _ALWAYS_ESCAPED + "".join(part.before[0] for part in fields[1:])


def _renderer(separators: str) -> Callable[[Any], str]:
    """Return what renders a field: its text, separators escaped as in a URL.

    Read from the left, a field ends at the first character of the text that follows it, since
    the field itself holds none: so two different calls never make one key.
    """
    special = re.compile(f"[{re.escape(separators)}]")
    search, substitute = special.search, special.sub

    def render(value: Any) -> str:
        if value.__class__ is int:
            text = int.__repr__(value)
        elif value.__class__ is str:
            text = value
        else:
            text = plain_text(value)
        return substitute(_escape, text) if search(text) else text

    return render


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _fails(value: object) -> bool:
    try:
        canonical(value)
    except NoCanonicalText:
        return True
    return False


def _checked_ignore(
    function: Callable[..., Any], signature: Signature, ignore: Collection[str]
) -> frozenset[str]:
    names = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    for name in names:
        if name not in signature.names:
            raise ConfigurationError(
                f"ignore of {function.__qualname__}(): it has no argument {name!r}; "
                f"it takes {', '.join(signature.names) or 'none'}"
            )
    return frozenset(names)


def _parameters_source(parameters: Sequence[inspect.Parameter]) -> str:
    pieces: list[str] = []
    for number, p in enumerate(parameters):
        previous = parameters[number - 1].kind if number else None
        if previous is p.POSITIONAL_ONLY and p.kind is not p.POSITIONAL_ONLY:
            pieces.append("/")
        if p.kind is p.KEYWORD_ONLY and previous not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            pieces.append("*")
        stars = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
        default = "" if p.default is p.empty else f"=_tc_default_{p.name}"
        pieces.append(f"{stars}{p.name}{default}")
    if parameters and parameters[-1].kind is inspect.Parameter.POSITIONAL_ONLY:
        pieces.append("/")
    return ", ".join(pieces)


def _argument_source(p: inspect.Parameter) -> str:
    if p.kind is p.VAR_POSITIONAL:
        return f"*{p.name}"
    if p.kind is p.VAR_KEYWORD:
        return f"**{p.name}"
    return f"{p.name}={p.name}" if p.kind is p.KEYWORD_ONLY else p.name
