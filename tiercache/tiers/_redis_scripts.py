"""The Lua scripts, each run by its digest and sent whole where the server does not know it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

from tiercache.tiers._redis_link import Command
from tiercache.tiers._redis_wire import pack

#: For each script, the files that it is made of, in order.
_PARTS: Final = {
    "claim": ("lease", "claim"),
    "fill": ("lease", "fill"),
    "expire": ("expire",),
    "store": ("lease", "seal", "store"),
    "tokens": ("seal", "tokens"),
    "tags": ("tags",),
    "renew": ("lease", "renew"),
    "release": ("lease", "release"),
    "lock": ("lease", "lock"),
    "journal_put": ("journal", "journal_put"),
    "journal_put_tagged": ("seal", "journal", "journal_put"),
    "journal_take": ("journal", "journal_tickets", "journal_take"),
    "journal_done": ("lease", "mend", "journal", "journal_tickets", "journal_done"),
    "mend_entry": ("lease", "mend", "mend_entry"),
    "journal_retry": ("journal", "journal_tickets", "journal_retry"),
    "journal_bury": ("journal", "journal_tickets", "journal_bury"),
    "journal_revive": ("journal", "journal_tickets", "journal_revive"),
    "journal_discard": ("journal", "journal_tickets", "journal_discard"),
    "journal_leave": ("journal", "journal_tickets", "journal_leave"),
}


@dataclass(frozen=True)
class Script:
    """A script as it goes over the wire."""

    text: bytes
    digest: bytes


@cache
def script(name: str) -> Script:
    """Return a script by its name."""
    folder = files("tiercache.tiers") / "lua"
    text = b"\n".join((folder / f"{part}.lua").read_bytes() for part in _PARTS[name])
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a script: its keys, which are of one slot, and its arguments."""

    name: str
    keys: Sequence[bytes]
    args: Sequence[bytes]

    def by_digest(self) -> Command:
        return self._command(b"EVALSHA", script(self.name).digest)

    def by_text(self) -> Command:
        return self._command(b"EVAL", script(self.name).text)

    def _command(self, verb: bytes, what: bytes) -> Command:
        count = b"%d" % len(self.keys)
        return Command(self.keys[0], pack(verb, what, count, *self.keys, *self.args))


Step = Generator[Sequence[Command], list[Any], list[Any]]


def run_all(runs: Sequence[Run], after: Sequence[Command] = ()) -> Step:
    """Yield scripts, and commands to follow them; return all replies.

    A server that does not know a script is sent its text: once after each of its restarts. What
    follows is sent again then, so it must bear that.
    """
    replies = yield [*(run.by_digest() for run in runs), *after]
    if not any(map(is_unknown, replies[: len(runs)])):
        return replies
    known = {
        index: reply for index, reply in enumerate(replies[: len(runs)]) if not is_unknown(reply)
    }
    rest = [index for index in range(len(runs)) if index not in known]
    again = yield [*(runs[index].by_text() for index in rest), *after]
    known.update(zip(rest, again, strict=False))
    return [*(known[index] for index in range(len(runs))), *again[len(rest) :]]


def is_unknown(reply: object) -> bool:
    """Whether a server does not know the script that it was to run."""
    return isinstance(reply, Exception) and "NOSCRIPT" in f"{type(reply).__name__} {reply}".upper()
