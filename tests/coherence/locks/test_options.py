"""The name, ttl and wait of a lock, and how it shows them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tiercache.errors import ConfigurationError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "the name of a lock must be a text that is not empty, got ''"),
        ({"name": None}, "must be a text that is not empty, got None"),
        ({"name": b"job"}, "got b'job'"),
        ({"ttl": 0.01}, "ttl of a lock must be at least 50 ms, got 0.01: it would end within"),
        ({"ttl": "49ms"}, "at least 50 ms, got '49ms'"),
        ({"ttl": 0}, "at least 50 ms, got 0"),
        ({"ttl": "0s"}, "at least 50 ms, got '0s'"),
        ({"ttl": -1}, "at least 50 ms, got -1"),
        ({"ttl": timedelta(seconds=-1)}, "at least 50 ms"),
        ({"ttl": float("nan")}, "at least 50 ms, got nan"),
        ({"ttl": float("inf")}, "at least 50 ms, got inf"),
        ({"ttl": None}, "ttl must be a duration, got None"),
        ({"ttl": "soon"}, "ttl is not a duration: 'soon'"),
        ({"ttl": True}, "ttl must be a duration, got True"),
        ({"wait": -1}, "wait must be 0 or a positive duration, got -1; use wait=0 to try once"),
        ({"wait": "-1s"}, "wait is not a duration: '-1s'"),
        ({"wait": float("inf")}, "use wait=0 to try once, wait=None to wait as long"),
        ({"wait": "m"}, "wait is not a duration: 'm'"),
    ],
)
def test_bad_input(any_locks, user, options, message):
    """An illegal option is a ConfigurationError where the lock is made."""
    with pytest.raises(ConfigurationError) as caught:
        user.make(any_locks, **options)
    assert message in str(caught.value)
    assert str(caught.value).count("\n") <= 1


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(0.05, 0.05), ("50ms", 0.05), ("1m", 60), (10, 10), (timedelta(seconds=1), 1)],
)
def test_durations(any_locks, user, ttl, seconds):
    """A ttl is written as any duration."""
    assert user.make(any_locks, ttl=ttl)._ttl == seconds


def test_repr_says_how_it_stands(any_locks, user):
    """A lock shows its name and whether it is held."""
    lock = user.make(any_locks)
    assert "'job' of cache 'test': not held" in repr(lock)
    user.inside(lock, lambda: None)
    user.acquire(lock)
    assert repr(lock).endswith("held>") and "not held" not in repr(lock)
    user.release(lock)
