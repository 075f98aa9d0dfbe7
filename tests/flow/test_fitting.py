"""A function that chooses keys, tags or values takes what the decorated one is called with."""

from __future__ import annotations

import pytest

from tiercache import Cache, ConfigurationError


def function(user_id, /, name, lang="en", *, dry=False, note):
    """Have an argument of each kind."""


FITTING = [
    lambda user_id, name, note: "k",
    lambda a, b, *, note: "k",
    lambda a, name, note, result: "k",
    lambda *args, **kwargs: "k",
    lambda a, b, c="x", *, result, note, dry: "k",
    lambda a, name, lang, note: "k",
    lambda a, x=1, **rest: "k",
]
MISFITS = [
    lambda: "k",
    lambda result: "k",
    lambda user_id, name: "k",
    lambda user_id, name, note, other: "k",
    lambda *args: "k",
    lambda **kwargs: "k",
    lambda note: "k",
]


@pytest.mark.parametrize("choose", FITTING)
def test_what_may_fit_is_taken(choose):
    """Whatever some call can be passed on to."""
    with Cache("fit", l2=None) as cache:
        cache.invalidates(choose)(function)
        cache.invalidates(tags=choose)(function)
        cache.write_through(choose, value=choose)(function)


@pytest.mark.parametrize("choose", MISFITS)
@pytest.mark.parametrize("option", ["key", "tags", "value"])
def test_what_never_fits_is_refused(choose, option):
    """At once, and not after the database was written; the message has both signatures."""
    with Cache("fit", l2=None) as cache:
        decorators = {
            "key": lambda: cache.invalidates(choose),
            "tags": lambda: cache.invalidates(tags=choose),
            "value": lambda: cache.write_through("k:{user_id}", value=choose),
        }
        with pytest.raises(
            ConfigurationError, match=rf"{option}= of .*function.* takes \("
        ) as info:
            decorators[option]()(function)
        assert "function(user_id, /, name, lang='en'" in str(info.value)


def test_one_that_takes_anything_is_believed():
    """Nobody knows what it will be called with."""
    with Cache("fit", l2=None) as cache:
        cache.invalidates(lambda user_id: f"u:{user_id}")(lambda *args, **kwargs: None)
