"""The codec: from a value and its key to a payload, and back without trusting the bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

from msgpack import unpackb

from tiercache.codec.compress import Zstd, zstd_for_reading, zstd_for_writing
from tiercache.codec.describe import name_of
from tiercache.codec.head import Decoded, checked_tags, milliseconds, read_lasting, written_record
from tiercache.codec.locate import describe_error, locate, short
from tiercache.codec.lookalikes import has_lookalikes, shows_bytes
from tiercache.codec.many import decode_usual
from tiercache.codec.quick import LONG, Habits, is_document, quick_way
from tiercache.codec.reading import Read, new_reader
from tiercache.codec.registry import Registry, UnknownType
from tiercache.codec.scalars import SCALARS, Unsupported
from tiercache.codec.schema import Schema
from tiercache.codec.wire import COMPRESSED, EMPTY_HOLDS, UNCHECKED_BYTES, VERSION, unpack
from tiercache.codec.writing import CarefulWriter, Unencodable, Writer, careful
from tiercache.entry import Record
from tiercache.errors import ConfigurationError, DecodeError, EncodeError

_KEEP_BUFFER_BELOW: Final = 2**20  # a packer's buffer grows and never shrinks
_new_tuple: Any = tuple.__new__  # half the cost of a named tuple's own


class Codec:
    """Turns values into bytes and back, exactly, whatever their nesting.

    Args:
        types: Classes to register, besides those that annotations name.
        compress_above: Bytes of body above which zstd is tried; None for never.
        max_bytes: Largest payload, and largest body once decompressed.

    Raises:
        ConfigurationError: If a size is not positive, a class is of no supported kind, or
            compress_above is set and zstandard is not installed.

    Safe for threads: a writer or reader belongs to one call at a time and waits in a list for the
    next, which also lets user code that runs during a call use the codec.
    """

    def __init__(
        self,
        *,
        types: Iterable[type] = (),
        compress_above: int | None = None,
        max_bytes: int = 16 * 2**20,
    ) -> None:
        if max_bytes <= 0:
            raise ConfigurationError(f"max_bytes must be positive, got {max_bytes}")
        if compress_above is not None and compress_above < 0:
            raise ConfigurationError(
                f"compress_above must not be negative, got {compress_above}; use None for never"
            )
        self._max_bytes = max_bytes
        self._short = min(max_bytes, UNCHECKED_BYTES)
        self._compress_above = compress_above
        self._registry = Registry()
        self._habits = Habits()  # of values that no function made
        self._writers: list[Writer] = []  # idle ones; list.pop and append are atomic
        self._zstds: list[Zstd] = [] if compress_above is None else [zstd_for_writing()]
        self._read_scalar = self._registry.read_scalar
        self._readers: list[Read] = []
        quick_way()  # found before there are values of its own classes
        self.register(*types)

    def register(self, *types: type) -> None:
        """Let values of these classes be read before this process has written any.

        Raises:
            ConfigurationError: If one is no dataclass, attrs class, pydantic 2 model, named tuple
                or enum.
        """
        for cls in types:
            try:
                self._registry.add(cls)
            except Unsupported as error:
                raise ConfigurationError(f"cannot register {cls!r}: {error}") from None

    def schema(self, annotation: object) -> Schema:
        """Return what a return annotation says, and register the classes it reaches.

        Never raises: an annotation that says nothing gives a schema that checks nothing.
        """
        return Schema(annotation, self._registry)

    def encode(
        self,
        key: str,
        value: object,
        *,
        schema: Schema | None = None,
        stale_for: float = 0.0,
        tags: tuple[str, ...] = (),
        record: Record | None = None,
    ) -> bytes:
        """Return the payload of ``value``.

        Args:
            key: Must be given again to ``decode``.
            value: Anything of the supported types, nested at will; shared parts are written twice.
            schema: Of the function that made it, if any.
            stale_for: Seconds, rounded to milliseconds.
            tags: Kept beside the value.
            record: How the value came about, kept beside it.

        Raises:
            EncodeError: If a part of it is of another type, or it is too large or too deep.
        """
        if schema is None:
            fingerprint, habits = 0, self._habits
        else:
            fingerprint, habits = schema.fingerprint, schema.habits
        stale: Any = milliseconds(stale_for) if stale_for else 0
        if record is not None:
            stale = [stale, *written_record(record)]
        head = [VERSION, key, fingerprint, stale, checked_tags(tags) if tags else None]
        try:
            if self._compress_above is None:
                payload = self._pack(value, head, habits)
            else:
                payload = self._pack_compressed(value, head, self._compress_above, habits)
        except EncodeError:
            raise
        except Exception as error:
            raise _explain(error, value) from error
        if len(payload) > self._max_bytes:
            raise _too_large(value, len(payload), self._max_bytes)
        return payload

    def _pack(self, value: object, head: list[Any], habits: Habits) -> bytes:
        """Pack ``[*head, value, holds]`` in one go."""
        if habits.packed >= LONG and (quick := quick_way()) is not None:
            packed = quick.pack([*head, value, []], habits)
            if packed is not None:
                return packed
        try:
            writer = self._writers.pop()
        except IndexError:
            writer = Writer(self._registry)
        try:
            payload = writer.pack([*head, value, writer.holds])
        except UnicodeEncodeError:
            return self._pack_carefully(value, head)
        if len(payload) < _KEEP_BUFFER_BELOW:
            writer.holds.clear()
            self._writers.append(writer)
        if type(value) not in SCALARS:
            habits.packed = len(payload)
            if shows_bytes(payload) and has_lookalikes(value, self._registry.writers):
                return self._pack_carefully(value, head)
        return payload

    def _pack_carefully(self, value: object, head: list[Any]) -> bytes:
        writer = CarefulWriter(self._registry)
        return writer.pack([*head, careful(value), writer.holds])

    def _pack_compressed(self, value: object, head: list[Any], above: int, habits: Habits) -> bytes:
        inner = self._pack(value, [], habits)
        if len(inner) > self._max_bytes:
            raise _too_large(value, len(inner), self._max_bytes)
        if len(inner) > above:
            frame = self._compress(inner)
            if len(frame) < len(inner):
                return self._pack(frame, head, habits)[:-1] + bytes([COMPRESSED])
        outer = self._pack(None, head, habits)
        return outer[:-2] + inner[1:]  # for its last two elements, of a byte each

    def _compress(self, data: bytes) -> bytes:
        zstd = self._take_zstd(zstd_for_writing)
        frame = zstd.compress(data)
        self._zstds.append(zstd)
        return frame

    def _take_zstd(self, make: Callable[[], Zstd]) -> Zstd:
        try:
            return self._zstds.pop()
        except IndexError:
            return make()

    def decode(
        self, key: str, payload: bytes | memoryview, *, schema: Schema | None = None
    ) -> Decoded:
        """Return what was encoded under ``key``.

        Args:
            key: The one that the payload must have been written for.
            payload: Untrusted bytes.
            schema: If given, payloads of functions with another return type are refused; those
                written without one are accepted.

        Raises:
            DecodeError: If it is anything but such a payload. Nothing else is raised.
        """
        try:
            if (
                type(payload) is bytes
                and len(payload) <= self._short
                and payload[-1] == EMPTY_HOLDS
            ):
                parts = unpackb(  # what wire.unpack does; calling that shows with a small value
                    payload,
                    ext_hook=self._read_scalar,
                    strict_map_key=False,
                    unicode_errors="surrogatepass",
                )
            else:
                parts = self._parts(payload, self._habits if schema is None else schema.habits)
            version, stored_key, fingerprint, stale, tags, value, _ = parts
            if version != VERSION or stored_key != key:
                _refuse_foreign(version, stored_key, key)
            if schema is not None and fingerprint != schema.fingerprint:
                _check_fingerprint(fingerprint, schema)
            if stale or tags:
                return read_lasting(value, stale, tags)
            decoded: Decoded = _new_tuple(Decoded, (value, 0.0, (), None))
        except UnknownType as error:
            # A class may have been defined since decoration. Ends, as each turn adds classes.
            if schema is not None and not schema.is_complete and schema.register():
                return self.decode(key, payload, schema=schema)
            raise self._name_unknown(bytes(payload), error) from None
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(f"malformed payload: {describe_error(error)}") from error
        return decoded

    def decode_many(
        self,
        keys: Sequence[str],
        payloads: Sequence[bytes | memoryview],
        *,
        schema: Schema | None = None,
    ) -> Sequence[object] | None:
        """Return the values of payloads without tags, record and stale end; None: decode each.

        Never raises, and says nothing of what is the matter with a payload.
        """
        habits = self._habits if schema is None else schema.habits
        if habits.reads_documents and max(map(len, payloads)) > UNCHECKED_BYTES:
            return None  # one by one they are read by ormsgpack
        fingerprint = None if schema is None else schema.fingerprint
        return decode_usual(keys, payloads, self._read_scalar, fingerprint, self._max_bytes)

    def _parts(self, payload: bytes | memoryview, habits: Habits) -> Any:
        """Return the elements of a payload, its value among them."""
        data = payload if type(payload) is bytes else self._copy(payload)
        if len(data) > self._max_bytes:
            _refuse_long(len(data), self._max_bytes)
        if data[-1] == EMPTY_HOLDS:
            return self._unpack_plain(data, habits)
        return self._unpack(data)

    def _copy(self, payload: bytes | memoryview) -> bytes:
        size = memoryview(payload).nbytes
        if size > self._max_bytes:
            _refuse_long(size, self._max_bytes)
        return bytes(payload)

    def _unpack(self, data: bytes) -> list[Any]:
        """Unpack a payload that holds shapes or is compressed."""
        parts = self._read(data)
        if type(parts) is not list:
            raise DecodeError("the envelope is no array")
        if parts[-1] is True:
            parts[-2] = self._unpack_frame(parts[-2])
        return parts

    def _unpack_plain(self, data: bytes, habits: Habits) -> Any:
        """Unpack a text that holds no shapes, quickly if that is likely to be quicker."""
        if len(data) <= UNCHECKED_BYTES:
            return unpack(data, self._read_scalar)
        if habits.unpack_rest:
            habits.unpack_rest -= 1
            return unpack(data, self._read_scalar)
        if habits.reads_documents and (quick := quick_way()) is not None:
            parts = quick.unpack(data, habits)
            if parts is None:
                return unpack(data, self._read_scalar)
        else:
            parts = unpack(data, self._read_scalar)
        habits.reads_documents = is_document(parts[-2])
        return parts

    def _read(self, data: bytes) -> Any:
        try:
            read = self._readers.pop()
        except IndexError:
            read = new_reader(self._registry)
        value = read(data)
        self._readers.append(read)
        return value

    def _unpack_frame(self, frame: bytes) -> object:
        zstd = self._take_zstd(zstd_for_reading)
        data = zstd.decompress(frame, self._max_bytes)
        self._zstds.append(zstd)
        if data[-1] == EMPTY_HOLDS:
            parts = self._unpack_plain(data, self._habits)
        elif data[-1] != COMPRESSED:
            parts = self._unpack(data)
        else:
            raise DecodeError("a compressed body within a compressed body")
        value, _ = parts
        return value

    def _name_unknown(self, data: bytes, error: UnknownType) -> UnknownType:
        """Say which class it was, from what the payload itself says it holds."""
        with contextlib.suppress(Exception):
            holds = unpack(data, lambda code, _: code)[-1]
            if not holds or holds is True:
                return error
            unknown = [name for name in holds if not self._registry.knows(name)]
            return UnknownType(f"{error}: one of {short(unknown or holds)}")
        return error


def _check_fingerprint(fingerprint: object, schema: Schema) -> None:
    """Raise unless one side knows nothing of the type: ``set`` without a function, or Any."""
    if fingerprint != 0 and schema.fingerprint != 0:
        raise DecodeError("the payload was written for another return type")


def _refuse_foreign(version: object, stored_key: object, key: str) -> NoReturn:
    if version != VERSION:
        raise DecodeError(f"wire version {short(version)}, this codec reads {VERSION}")
    raise DecodeError(f"the payload is of key {short(stored_key)}, not of {short(key)}")


def _refuse_long(size: int, max_bytes: int) -> NoReturn:
    raise DecodeError(f"a payload of {size} bytes, max_bytes is {max_bytes}")


def _too_large(value: object, size: int, max_bytes: int) -> EncodeError:
    return EncodeError(
        f"a {type(value).__qualname__} of {size} bytes is over max_bytes={max_bytes}; "
        "raise max_bytes, or cache less at once"
    )


def _explain(error: Exception, value: object) -> EncodeError:
    """Return an EncodeError that says which part of ``value`` was at fault."""
    if isinstance(error, Unencodable):
        kind = type(error.culprit)
        path = locate(value, error.culprit) or f"inside a {type(value).__qualname__}"
        return EncodeError(f"{path}: cannot encode a {name_of(kind)}: {error}")
    if isinstance(error, RecursionError) or "recursion limit" in str(error):
        return EncodeError(
            f"a {type(value).__qualname__} contains itself or is nested too deep; "
            "cache it without its back references"
        )
    return EncodeError(f"encoding a {type(value).__qualname__} raised {describe_error(error)}")
