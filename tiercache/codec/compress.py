"""zstd frames around large bodies: an optional extra, imported only where it is asked for."""

from __future__ import annotations

from typing import Any, Final

from tiercache.errors import ConfigurationError, DecodeError

_INSTALL: Final = "pip install 'tiercache-toolkit[zstd]'"


class Zstd:
    """Compresses and decompresses; one caller at a time, as zstandard's contexts demand."""

    __slots__ = ("_compressor", "_decompressor", "_size_of")

    def __init__(self) -> None:
        import zstandard

        self._compressor: Any = zstandard.ZstdCompressor()
        self._decompressor: Any = zstandard.ZstdDecompressor()
        self._size_of: Any = zstandard.frame_content_size

    def compress(self, data: bytes) -> bytes:
        """Return a frame that declares its content's size."""
        frame: bytes = self._compressor.compress(data)
        return frame

    def decompress(self, frame: bytes, max_bytes: int) -> bytes:
        """Return what ``frame`` holds, never more than ``max_bytes``. Raises DecodeError.

        zstandard allocates the size that a frame declares, so a frame has to declare one, within
        the bound; that no more comes out is checked there.
        """
        size = self._size_of(frame)
        if not 0 <= size <= max_bytes:
            raise DecodeError(f"a compressed body declares {size} bytes, max_bytes is {max_bytes}")
        data: bytes = self._decompressor.decompress(
            frame, max_output_size=max_bytes, allow_extra_data=False
        )
        return data


def zstd_for_writing() -> Zstd:
    """Return a Zstd. Raises ConfigurationError where zstandard is not installed."""
    try:
        return Zstd()
    except ImportError:
        raise ConfigurationError(f"compress_above needs zstandard; {_INSTALL}") from None


def zstd_for_reading() -> Zstd:
    """Return a Zstd. Raises DecodeError where zstandard is not installed."""
    try:
        return Zstd()
    except ImportError:
        raise DecodeError(f"the body is compressed, zstandard is missing; {_INSTALL}") from None
