"""The default cache works without configuration, and takes it later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tiercache import ConfigurationError
from tiercache.default import store_from_url


def run(code: str, **env: str) -> str:
    """Run code in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_zero_configuration() -> None:
    """`from tiercache import cached` is enough."""
    code = """
from tiercache import cached
loads = []
@cached
def f(x): loads.append(x); return x
@cached("g:{x}", ttl="1h")
async def g(x): loads.append(x); return x
import asyncio
print(f(1), f(1), asyncio.run(g(2)), asyncio.run(g(2)), loads)
"""
    assert run(code) == "1 1 2 2 [1, 2]\n"


def test_configure_after_decoration(tmp_path: Path) -> None:
    """Functions decorated at import get the tiers that are configured at start."""
    code = f"""
import tiercache
from tiercache import cached, SQLite, LRU
loads = []
@cached("f:{{x}}")
def f(x): loads.append(x); return x
f(1); f(1)
import time
cache = tiercache.configure(l1=LRU(5), l2=SQLite({str(tmp_path / "l2.db")!r}), ttl=60, copy=True,
                            clock=time.monotonic)
print(f(1), f(1), f(1), loads, cache.stats().entries)
cache.memory.clear()
print(f(1), cache.stats().hits_l2, f.cache_info().hits_l2)
cache.close()
"""
    assert run(code) == "1 1 1 [1, 1] 1\n1 1 1\n"


def test_url_from_the_environment(tmp_path: Path) -> None:
    """TIERCACHE_URL gives the default cache its L2."""
    code = "import tiercache; print(tiercache.default_cache())"
    out = run(code, TIERCACHE_URL=f"sqlite:///{tmp_path}/l2.db")
    assert out == "<Cache 'default' over LRU and SQLite>\n"


def test_urls() -> None:
    """A URL of no store is refused, naming those that are."""
    assert "6379" in store_from_url("redis://localhost:6379/0").label
    with pytest.raises(ConfigurationError, match="memcached.*sqlite:///path"):
        store_from_url("memcached://localhost")


def test_import_is_light() -> None:
    """`import tiercache` imports neither redis nor what else only some need."""
    code = """
import sys, tiercache
heavy = {"redis", "pydantic", "attr", "attrs", "zstandard", "opentelemetry",
         "pytest", "sqlite3", "tiercache_plugins"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run(code) == "[]\n"
