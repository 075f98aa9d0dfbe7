"""What to send to Redis for leases and locks, and what its replies mean; see _redis_entry_plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_entry_plans import EntryPlans, Plan, Stamp
from tiercache.tiers._redis_scripts import Run, run_all
from tiercache.tiers.store import Claim, Fill, Grant, Kind, Lease, LeaseMode

__all__ = ["Plan", "Plans"]


class Plans(EntryPlans):
    """All operations of one namespace object."""

    # Leases

    def claim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        seconds: float,
        tags: Sequence[str],
        mode: LeaseMode,
        anew: bool,
    ) -> Plan[list[Claim]]:
        """Ask for leases."""
        stamp = yield from self._stamp(tags)
        known = [part for tag in tags for part in (wire.encode(tag), stamp.tokens[tag])]

        def run(index: int, seen: bytes = b"") -> Run:
            name = self.keys.entry(keys[index])
            return Run(
                "claim",
                [name, self.keys.lease(keys[index])],
                [
                    *(nonces[index], mode.encode(), b"%d" % wire.ttl_ms(seconds)),
                    *(stamp.generation, b"1" if anew else b"", seen, *known),
                ],
            )

        claims: list[Claim | None] = [None] * len(keys)
        runs = {index: run(index) for index in range(len(keys))}
        while runs:
            replies = yield from run_all(list(runs.values()))
            again: dict[int, Run] = {}
            for index, reply in zip(runs, replies, strict=True):
                claim = yield from self._claimed(reply, stamp)
                if claim is None:  # what stands there is not valid: ask once more, past it
                    again[index] = run(index, reply[1][: wire.HEADER_BYTES])
                claims[index] = claim
            runs = again
        return [claim for claim in claims if claim is not None]

    def _claimed(self, reply: Any, stamp: Stamp) -> Plan[Claim | None]:
        answer, *rest = self._list(reply, None, "claim")
        if answer == 0:
            return Claim(lease=Lease(rest[0], bool(rest[1]), stamp))
        if answer == 2:
            return Claim(held_for=max(0, rest[0]) / 1000)
        result = wire.unpack(rest[:1], stamp.generation, stamp.tokens, self.clock)
        if result.unsure:
            more = list(result.unsure)
            tokens = dict(zip(more, (yield from self._fetch_tokens(more)), strict=True))
            tokens = {**stamp.tokens, **tokens}
            result = wire.unpack(rest[:1], stamp.generation, tokens, self.clock)
        (stored,) = result.found
        return None if stored is None else Claim(stored=stored)

    def _stamp(self, tags: Sequence[str]) -> Plan[Stamp]:
        """Return the tokens as they are before a load, made where there are none.

        What a read has just seen will do; only what it has not is asked for.
        """
        generation, since = self._generation, self.heard
        tokens = {tag: token for tag in tags if (token := self._tokens.get(tag)) is not None}
        missing = [tag for tag in tags if tag not in tokens]
        if generation is None or since is None or missing:
            opened = yield from self._open(missing)
            return opened._replace(tokens={**tokens, **opened.tokens})
        return Stamp(generation, tokens, since)

    def fill(self, fills: Sequence[Fill]) -> Plan[list[bool]]:
        """Store loaded values where their leases still stand."""
        runs: list[Run | None] = []
        for fill in fills:
            run = yield from self._fill_run(fill)
            runs.append(run)
        replies = yield from run_all([run for run in runs if run is not None])
        self._check(replies, "fill")
        answers = iter(replies)
        taken = [0 if run is None else next(answers) for run in runs]
        landed = [fill.key for fill, n in zip(fills, taken, strict=True) if n == 2]
        replaced = {fill.key for fill in fills if fill.replaces}
        for kind, names in (
            (Kind.SET, [key for key in landed if key in replaced]),
            (Kind.LANDED, [key for key in landed if key not in replaced]),
        ):
            if names:
                self._check((yield self._messages(kind, names)), "fill")
        return [n > 0 for n in taken]

    def _fill_run(self, fill: Fill) -> Plan[Run | None]:
        """Return the script that stores a value; None where a tag's invalidation forbids it."""
        stamp: Stamp = fill.lease.stamp
        tokens = stamp.tokens
        announce = Kind.SET.encode() if fill.replaces else b""
        since = stamp.since.encode()
        if any(tag not in tokens for tag in fill.tags):
            if not self._is_cluster:
                return self._store_run(
                    fill,
                    nonce=fill.lease.nonce,
                    generation=stamp.generation,
                    since=since,
                    announce=announce,
                )
            current = yield from self._tokens_run(fill.tags, since, fill.ttl)
            if current is None:
                yield from self.release([(fill.key, fill.lease.nonce)], Kind.LANDED)
                return None
            tokens = {**current[1], **tokens}
        name = self.keys.entry(fill.key)
        log = () if self._is_cluster else (self.keys.log,)
        return Run(
            "fill",
            [name, self.keys.lease(fill.key), *log],
            [
                *(fill.lease.nonce, wire.life_arg(fill.ttl)),
                self._frame(fill, stamp.generation, tokens),
                *(announce, *self._log_args, wire.encode(fill.key)),
            ],
        )

    def renew(self, names: Sequence[tuple[bytes, bytes]], seconds: float) -> Plan[list[bool]]:
        """Prolong leases or locks: Redis keys and nonces."""
        life = b"%d" % wire.ttl_ms(seconds)
        replies = yield from run_all([Run("renew", [name], [nonce, life]) for name, nonce in names])
        self._check(replies, "renew")
        return [reply == 1 for reply in replies]

    def release(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> Plan[None]:
        """End leases without a fill."""
        log = () if self._is_cluster else (self.keys.log,)
        replies = yield from run_all(
            [
                self._release_run(self.keys.lease(key), key, nonce, kind, log)
                for key, nonce in leases
            ]
        )
        self._check(replies, "release")
        told = [key for (key, _), n in zip(leases, replies, strict=True) if n == 2]
        if told:
            self._check((yield self._messages(kind, told)), "release")

    def _release_run(
        self, lease: bytes, name: str, nonce: bytes, kind: Kind, log: Sequence[bytes]
    ) -> Run:
        return Run(
            "release", [lease, *log], [nonce, kind.encode(), *self._log_args, wire.encode(name)]
        )

    # Locks

    def lock(self, name: str, nonce: bytes, seconds: float) -> Plan[Grant]:
        """Ask for a lock."""
        args = [nonce, b"%d" % wire.ttl_ms(seconds)]
        (reply,) = yield from run_all([Run("lock", [self.keys.lock(name), self.keys.fence], args)])
        answer, value = self._list(reply, 2, "lock")
        if answer == 1:
            return Grant(fence=int(value))
        return Grant(held_for=max(0, value) / 1000)

    def unlock(self, name: str, nonce: bytes) -> Plan[bool]:
        """End a lock."""
        lock = self.keys.lock(name)
        run = self._release_run(lock, name, nonce, Kind.UNLOCKED, (self.keys.log,))
        replies = yield from run_all([run])
        self._check(replies, "unlock")
        return bool(replies[0] == 1)
