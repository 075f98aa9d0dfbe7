"""From an annotation to what the codec needs of it: a fingerprint, and the classes it reaches."""

from __future__ import annotations

import contextlib
import inspect
import sys
import typing
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

from tiercache.codec.describe import digest, text_of
from tiercache.codec.kinds import field_names, is_supported, raw_annotation
from tiercache.codec.locate import short
from tiercache.codec.quick import Habits
from tiercache.codec.registry import Registry
from tiercache.codec.scalars import Unsupported

_MAX_TYPES: Final = 10_000  # visited for one annotation; none written by hand comes near
_MAX_QUOTES: Final = 3  # a quoted name is a text within a text where annotations are texts
_SAYS_NOTHING: Final = (inspect.Signature.empty, typing.Any, object)


class Schema:
    """What a function's return annotation says of its payloads.

    Make one with ``Codec.schema``, at decoration; it is read on every call.

    Attributes:
        fingerprint: Stands for the annotated type in the envelope; 0 if nothing is known of it.
        habits: What the function's values have been like.
    """

    __slots__ = ("_annotation", "_registry", "fingerprint", "habits", "is_complete")

    def __init__(self, annotation: object, registry: Registry) -> None:
        self._annotation = annotation
        self._registry = registry
        self.habits = Habits()
        self.fingerprint = 0
        self.is_complete = True  # no name in the annotation is left to be resolved
        # An annotation may be any object, with any behaviour; decorating must not fail for it.
        with contextlib.suppress(Exception):
            self.fingerprint = _fingerprint(annotation)
            self.register()

    def register(self) -> bool:
        """Register every class the annotation reaches; names unknown as yet are left out.

        Returns whether a class was found that was not known.
        """
        known = len(self._registry.writers)
        walk = _Walk()
        for cls in walk.classes(self._annotation):
            with contextlib.suppress(Unsupported):
                self._registry.add(cls)
        self.is_complete = not walk.has_unresolved
        return len(self._registry.writers) > known

    def __repr__(self) -> str:
        return f"Schema({short(self._annotation)}, {self.fingerprint:#x})"


def _fingerprint(annotation: object) -> int:
    if isinstance(annotation, (str, typing.ForwardRef)):
        return 0
    if any(annotation is nothing for nothing in _SAYS_NOTHING):
        return 0
    return int.from_bytes(digest(text_of(annotation)), "big")


class _Walk:
    """A walk over everything one annotation reaches; ends on recursive types."""

    def __init__(self) -> None:
        self.has_unresolved = False
        self._seen: dict[int, object] = {}  # by id; held, so that no id is used twice
        self._pending: list[tuple[object, type | None]] = []

    def classes(self, annotation: object) -> Iterator[type]:
        """Yield the classes with fields or members, each once."""
        self._pending.append((annotation, None))
        while self._pending and len(self._seen) < _MAX_TYPES:
            found, owner = self._pending.pop()
            resolved = self._resolve(found, owner)
            if id(resolved) in self._seen:
                continue
            self._seen[id(resolved)] = resolved
            self._expand(resolved, owner)
            if isinstance(resolved, type) and is_supported(resolved):
                yield resolved

    def _resolve(self, annotation: object, owner: type | None) -> object:
        """Evaluate a name written in the source of ``owner``; None where that is not possible."""
        for _ in range(_MAX_QUOTES):
            if isinstance(annotation, typing.ForwardRef):
                annotation = annotation.__forward_arg__
            if not isinstance(annotation, str):
                return annotation
            try:
                annotation = _evaluate(annotation, owner)
            except Exception:  # arbitrary source: any name, call or subscript may fail
                break
        self.has_unresolved = True
        return None

    def _expand(self, annotation: Any, owner: type | None) -> None:
        origin = get_origin(annotation)
        if origin is annotation:
            return  # Generic
        if origin is typing.Literal:
            self._push(map(type, get_args(annotation)), owner)  # enum members
        elif origin is typing.Annotated:
            self._push(get_args(annotation)[:1], owner)
        elif origin is not None:
            self._push((origin, *get_args(annotation)), owner)
        elif isinstance(annotation, (list, tuple)):  # the parameters of a Callable
            self._push(annotation, owner)
        elif isinstance(annotation, type):
            self._expand_class(annotation)
        elif isinstance(annotation, typing.TypeVar):
            self._push((annotation.__bound__, *annotation.__constraints__), owner)
        else:  # a NewType, a type alias
            for attribute in ("__supertype__", "__value__"):
                with contextlib.suppress(Exception):  # an alias evaluates its source when asked
                    self._push((getattr(annotation, attribute),), owner)

    def _expand_class(self, cls: type) -> None:
        names = tuple(cls.__annotations__) if typing.is_typeddict(cls) else field_names(cls)
        for name in names or ():
            found = raw_annotation(cls, name)
            if found is not None:
                owner, annotation = found
                self._push((annotation,), owner)

    def _push(self, annotations: Any, owner: type | None) -> None:
        self._pending.extend((annotation, owner) for annotation in annotations)


def _evaluate(source: str, owner: type | None) -> object:
    if owner is None:
        raise NameError(source)
    scope = vars(sys.modules[owner.__module__])
    local = {owner.__name__: owner, **vars(owner)}
    return eval(source, scope, local)  # noqa: S307 - an annotation in the user's own source
