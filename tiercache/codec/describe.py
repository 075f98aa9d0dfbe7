"""The text and digest of a type: the same in every process that runs the same source.

An annotation is never evaluated and no ``repr`` of an unknown object is used: either could differ
between two processes (import order, memory addresses), which would part them for good.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable
from typing import Any, get_args, get_origin

from tiercache.codec.kinds import field_names, is_supported, raw_annotation


def name_of(cls: type) -> str:
    """Return the stable name of a class: its module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def digest(*texts: str) -> bytes:
    """Return eight bytes that stand for ``texts``, all below 0x80.

    So they are never mistaken for a header in the encoder's search for bytearrays.
    """
    import hashlib  # late: it loads OpenSSL

    hasher = hashlib.blake2b(digest_size=8)
    for text in texts:
        hasher.update(text.encode("utf-8", "surrogatepass") + b"\xff")
    return bytes(byte & 0x7F for byte in hasher.digest())


def class_digest(cls: type) -> bytes:
    """Return the identity of a class in bytes: its kind, its name, its fields and their types."""
    if issubclass(cls, enum.Flag):
        values = (f"{name}={member.value}" for name, member in cls.__members__.items())
        return digest("flag", name_of(cls), *values)
    if issubclass(cls, enum.Enum):
        return digest("enum", name_of(cls))  # told apart by name: new members do no harm
    names = field_names(cls) or ()
    return digest("fields", name_of(cls), *(field_text(cls, name) for name in names))


def field_text(cls: type, name: str) -> str:
    """Return a field's name and the text of its type as written in the source."""
    found = raw_annotation(cls, name)
    return name if found is None else f"{name}: {text_of(found[1], _short)}"


def text_of(annotation: object, class_text: Callable[[type], str] | None = None) -> str:
    """Return the text of an annotation; classes with fields appear with their identity."""
    return _Describer(class_text or _identified).text(annotation)


def _short(cls: type) -> str:
    return cls.__name__ if cls.__module__ == "builtins" else name_of(cls)


def _identified(cls: type) -> str:
    if not is_supported(cls):
        return _short(cls)
    return f"{_short(cls)}#{class_digest(cls).hex()}"


class _Describer:
    """One walk; remembers the typed dicts it is in, which may be recursive."""

    def __init__(self, class_text: Callable[[type], str]) -> None:
        self._class_text = class_text
        self._inside: set[int] = set()

    def text(self, annotation: object) -> str:
        if annotation is None or annotation is type(None):
            return "None"
        if isinstance(annotation, str):
            return annotation
        origin = get_origin(annotation)
        if origin is not None and origin is not annotation:  # Generic is its own
            return self._subscripted(origin, get_args(annotation))
        if isinstance(annotation, type):
            return self._class(annotation)
        return self._special(annotation)

    def _subscripted(self, origin: object, args: tuple[Any, ...]) -> str:
        if origin is typing.Annotated:
            return self.text(args[0])
        if origin is typing.Literal:
            return f"Literal[{', '.join(map(_literal_text, args))}]"
        if origin is typing.Union or origin is types.UnionType:
            return " | ".join(map(self.text, args))
        return f"{self.text(origin)}[{', '.join(map(self.text, args))}]"

    def _class(self, cls: type) -> str:
        if not typing.is_typeddict(cls) or id(cls) in self._inside:
            return self._class_text(cls)
        self._inside.add(id(cls))  # its values are plain dicts: only this text can tell versions
        fields: dict[str, Any] = cls.__annotations__
        texts = (f"{name}: {self.text(hint)}" for name, hint in fields.items())
        return f"{name_of(cls)}{{{', '.join(texts)}}}"

    def _special(self, annotation: Any) -> str:
        if isinstance(annotation, typing.ForwardRef):
            return annotation.__forward_arg__
        if isinstance(annotation, (list, tuple)):  # the parameters of a Callable
            return f"[{', '.join(map(self.text, annotation))}]"
        if annotation is ...:
            return "..."
        name = getattr(annotation, "__name__", None)  # Any, a NewType, TypeVar or type alias
        return name if isinstance(name, str) else type(annotation).__qualname__


def _literal_text(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{name_of(type(value))}.{value.name}"
    return repr(value)  # None, bool, int, str, bytes: PEP 586 allows no other
