"""Processes of tests/writes/service.py, seen from outside."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any


class Process:
    """A process that says lines and can be killed, frozen and thawed."""

    def __init__(self, role: str, *args: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.writes.service", json.dumps([role, *args])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), "plugins"])},
        )
        self._text = b""
        self._is_over = False

    def read(self, seconds: float) -> None:
        """Take in what it says for so long."""
        deadline = time.monotonic() + seconds
        while not self._is_over and (left := deadline - time.monotonic()) > 0:
            self._read_once(left)

    def _read_once(self, seconds: float) -> None:
        assert self._process.stdout is not None
        if select.select([self._process.stdout], [], [], seconds)[0]:
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            self._is_over = not chunk
            self._text += chunk

    def lines(self) -> list[list[str]]:
        """Return the whole lines said so far, as words."""
        return [line.split() for line in self._text.decode().split("\n")[:-1]]

    def wait_for(self, word: str, seconds: float = 20.0) -> list[str]:
        """Return the first line that begins with a word, once it is said."""
        deadline = time.monotonic() + seconds
        while True:
            for line in self.lines():
                if line and line[0] == word:
                    return line
            assert time.monotonic() < deadline, f"it never said {word!r}: {self.lines()[-3:]}"
            assert not self._is_over, f"it ended without saying {word!r}"
            self._read_once(0.1)

    def tell(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def freeze(self) -> None:
        """Stop it where it is."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on as if nothing had happened."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it at once, and take in what it still had said."""
        self._process.kill()
        while not self._is_over:
            self._read_once(5.0)
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
