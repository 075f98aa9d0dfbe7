"""The database of the chaos test: a version for each key, in a file that all processes map.

A version is raised under a lock of its key, and read in one machine instruction. ``held`` is the
transaction of a key: who writes it to the cache as well holds it from the change of the version to
the end of the write, since which of two unordered writes is the newer one no cache can tell.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

WIDTH = 8  # bytes of a version

COUNTS = {"plain": 8, "static": 4, "valued": 6, "written": 4, "calm": 10}
KEYS = [f"{name}:{number}" for name, count in COUNTS.items() for number in range(count)]
GROUPS = 3  # tags that values choose from


def tags_of(key: str) -> tuple[str, ...]:
    """Return the tags of a key's values."""
    name, _, number = key.partition(":")
    if name == "static":
        return ("all",)
    return (f"group {int(number) % GROUPS}",) if name == "valued" else ()


class Database:
    """Versions by key.

    Args:
        path: A file, made where there is none.
    """

    def __init__(self, path: Path) -> None:
        self._places = {key: place for place, key in enumerate(KEYS)}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self._file, WIDTH * len(KEYS))
        self._map = mmap.mmap(self._file, WIDTH * len(KEYS))
        self._versions = memoryview(self._map).cast("Q")
        self._raising = threading.Lock()  # file locks do not part threads
        self._held = {key: threading.Lock() for key in KEYS}

    def version(self, key: str) -> int:
        """Return the version of a key."""
        return self._versions[self._places[key]]

    def versions(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the versions of keys, one after the other."""
        return {key: self.version(key) for key in keys}

    def raise_version(self, key: str) -> int:
        """Give a key its next version, and return that."""
        place = self._places[key]
        with self._raising:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, place)
            try:
                self._versions[place] += 1
                return self._versions[place]
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    @contextmanager
    def held(self, key: str) -> Iterator[bool]:
        """Hold a key's transaction; say whether it was to be had at once."""
        lock, place = self._held[key], len(KEYS) + self._places[key]
        if not lock.acquire(blocking=False):
            yield False
            return
        try:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except OSError:
                yield False
                return
            try:
                yield True
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        finally:
            lock.release()

    def close(self) -> None:
        """Unmap and close the file."""
        self._versions.release()
        self._map.close()
        os.close(self._file)
