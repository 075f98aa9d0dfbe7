"""Write the golden payloads of the codec's wire version: ``python -m tests.golden.make``.

Run it for a new wire version only. Files of a released version are never written again: a test
reads them for as long as the codec reads that version.
"""

from __future__ import annotations

from pathlib import Path

from tests.golden import models
from tiercache.codec import Codec
from tiercache.codec.wire import VERSION

FOLDER = Path(__file__).parent / f"wire{VERSION}"


def payloads() -> dict[str, bytes]:
    """Return the payload of each golden value by file name."""
    codec = Codec()
    made = {
        name: codec.encode(models.KEY, value, stale_for=models.STALE_FOR, tags=models.TAGS)
        for name, value in models.VALUES.items()
    }
    user = models.VALUES["classes"][0]  # type: ignore[index]
    made["bare"] = codec.encode("k", 42)
    made["with_schema"] = codec.encode("k", user, schema=codec.schema(models.User))
    made["compressed"] = Codec(compress_above=0).encode("k", [user] * 20)
    return made


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, payload in payloads().items():
        path = FOLDER / f"{name}.msgpack"
        if path.exists():
            raise SystemExit(f"{path} exists; golden files are not written twice")
        path.write_bytes(payload)


if __name__ == "__main__":
    main()
