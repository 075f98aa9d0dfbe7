"""SQLite answers as the store in dicts does, whatever is done in whatever order."""

from __future__ import annotations

import random
from contextlib import closing

import pytest

from tiercache.testing import DictStore
from tiercache.tiers.sqlite import SQLite
from tiercache.tiers.store import Fill, Item, Kind, LeaseMode

KEYS = ["a", "ab", "b", "c"]
TAGS = ["t", "u", "v"]
LOCKS = ["l", "m"]


class Story:
    """A random sequence of operations, the same for each store that it is told to."""

    def __init__(self, seed, store):
        self.chance = random.Random(seed)
        self.spaces = [store.namespace("one", "1"), store.namespace("one", "2")]
        self.leases = []  # key and lease, the latest few
        self.nonces = []  # of locks
        self.tail = self.spaces[0].tail(self.spaces[0].log_end())

    def some(self, names):
        return tuple(self.chance.sample(names, self.chance.randrange(len(names) + 1)))

    def step(self):
        """Do one thing; return what came of it, and what was said, however it was put."""
        do = self.chance.choice(
            [
                self.read,
                self.write,
                self.delete,
                self.invalidate,
                self.clear,
                self.lock,
                self.expire,
            ]
            + [self.claim, self.fill] * 4
            + [self.renew, self.release, self.unlock]
        )
        answer = do(self.chance.choice(self.spaces))
        said = sorted(
            (message.kind, message.origin, name)
            for message in self.tail.read(0)
            for name in message.names
        )
        return do.__name__, answer, said

    def read(self, space):
        found = space.read_many(self.chance.choices(KEYS, k=3), self.some(TAGS))
        return [each and (bytes(each.payload), each.tags, each.remaining is None) for each in found]

    def item(self):
        ttl = self.chance.choice([None, 600])
        return self.chance.choice(KEYS), self.chance.randbytes(3), ttl, self.some(TAGS)

    def write(self, space):
        return space.write_many([Item(*self.item()) for _ in range(self.chance.randrange(3))])

    def delete(self, space):
        return space.delete(self.some(KEYS), self.chance.choice([Kind.DELETE, Kind.EXPIRE]))

    def expire(self, space):
        keys = self.some(KEYS)
        return space.expire(keys, [self.chance.choice([-1, 0, 300, 1200]) for _ in keys])

    def invalidate(self, space):
        return space.invalidate_tags(self.some(TAGS))

    def clear(self, space):
        return space.clear(self.chance.choice(["a", "b", "x", ""]))

    def claim(self, space):
        keys = self.chance.choices(KEYS, k=2)
        claims = space.claim(
            keys,
            [self.chance.randbytes(8) for _ in keys],
            seconds=600,
            tags=self.some(TAGS),
            mode=self.chance.choice([*LeaseMode, LeaseMode.EXCLUSIVE, LeaseMode.EXCLUSIVE]),
            anew=self.chance.random() < 0.7,
        )
        self.leases += [
            (key, claim.lease)
            for key, claim in zip(keys, claims, strict=True)
            if claim.lease is not None
        ]
        del self.leases[:-8]
        return [
            (
                claim.lease and (claim.lease.nonce, claim.lease.is_shared),
                claim.stored and bytes(claim.stored.payload),
                claim.held_for is None,
            )
            for claim in claims
        ]

    def fill(self, space):
        fills = []
        for key, lease in self.chance.sample(self.leases, min(2, len(self.leases))):
            _, payload, ttl, tags = self.item()
            fills.append(Fill(key, lease, payload, ttl, tags, self.chance.random() < 0.3))
        return space.fill(fills)

    def held(self):
        leases = self.chance.sample(self.leases, min(3, len(self.leases)))
        return [(key, lease.nonce) for key, lease in leases]

    def renew(self, space):
        return space.renew(self.held(), 600)

    def release(self, space):
        return space.release(self.held(), self.chance.choice([Kind.LANDED, Kind.FAILED]))

    def lock(self, space):
        self.nonces = [*self.nonces[-2:], self.chance.randbytes(8)]
        grant = space.lock(self.chance.choice(LOCKS), self.chance.choice(self.nonces), 600)
        return grant.fence is None, grant.held_for is None

    def unlock(self, space):
        name, nonce = self.chance.choice(LOCKS), self.chance.choice([*self.nonces, b"n" * 8])
        return space.renew_lock(name, nonce, 600), space.unlock(name, nonce)


@pytest.mark.parametrize("seed", range(20))
def test_both_tell_the_same_story(seed, tmp_path):
    """Answers and messages are equal at every step."""
    store = SQLite(tmp_path / "cache.db")
    told, expected = Story(seed, store), Story(seed, DictStore())
    with closing(told.tail):
        for number in range(300):
            assert (number, *told.step()) == (number, *expected.step())
    store.close()
