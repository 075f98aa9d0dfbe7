"""diskcache: SQLite and files in a folder of this machine; values are pickled. It has no Redis."""

from __future__ import annotations

import atexit
import shutil
import tempfile

from diskcache import Cache

from benchmarks.rivals import TTL_SECONDS, Function, Rival


def stored(function: Function, url: str) -> Function:
    del url  # the cache is a folder
    folder = tempfile.mkdtemp(prefix="diskcache-")
    cache = Cache(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(cache.close)  # before the folder goes
    return cache.memoize(expire=TTL_SECONDS)(function)


RIVAL = Rival(distribution="diskcache", features=("ttl", "bounded", "threads"), stored=stored)
