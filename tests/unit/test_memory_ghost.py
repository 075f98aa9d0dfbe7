"""The memory of departed keys: what it recalls, for how long, and how much it forgets too soon."""

from __future__ import annotations

import pytest

from tiercache.tiers._ghost import FROM_MAIN, FROM_SMALL, NOT, Ghost


def test_a_key_is_recalled_once_with_how_it_left() -> None:
    """To recall a key is to forget it."""
    ghost = Ghost(0.9)
    ghost.note("a", FROM_MAIN, 10)
    ghost.note("b", FROM_SMALL, 10)
    assert ghost.recall("a") == FROM_MAIN
    assert ghost.recall("a") == NOT
    assert ghost.recall("b") == FROM_SMALL
    assert ghost.recall("never") == NOT


def test_the_window_is_of_departures_of_the_same_kind() -> None:
    """A key is remembered until so many of its kind have left after it."""
    ghost = Ghost(0.5)
    ghost.note("old", FROM_SMALL, 10)
    ghost.note("other", FROM_MAIN, 10)
    for number in range(5):
        ghost.note(str(number), FROM_SMALL, 10)
    assert ghost.recall("old") == NOT
    assert ghost.recall("other") == FROM_MAIN
    assert ghost.recall("0") == FROM_SMALL


@pytest.mark.parametrize(("entries", "most"), [(4097, 0.12), (8192, 0.28)])
def test_little_is_forgotten_too_soon(entries: int, most: float) -> None:
    """Filled with both kinds, few are lost; how few depends on how near a power of two it is."""
    ghost = Ghost(0.9)
    for number in range(6 * entries):
        ghost.note(f"key-{number}", (FROM_SMALL, FROM_MAIN)[number % 2], entries)
    window = range(6 * entries - int(1.8 * entries), 6 * entries)
    lost = sum(ghost.recall(f"key-{number}") == NOT for number in window)
    assert lost / len(window) < most


def test_keys_that_never_left_are_not_recalled() -> None:
    """Thirty bits of the hash are compared: 200,000 strangers meet no acquaintance."""
    ghost = Ghost(0.9)
    for number in range(10_000):
        ghost.note(f"key-{number}", FROM_SMALL, 10_000)
    assert all(ghost.recall(f"stranger-{n}") == NOT for n in range(200_000))


def test_memory_is_bounded_by_the_entries_not_by_time() -> None:
    """Eight bytes a slot, and at most four slots for each entry there ever was."""
    ghost = Ghost(0.9)
    for number in range(50_000):
        ghost.note(str(number), FROM_SMALL, 1000)
    assert len(ghost._slots) * ghost._slots.itemsize == 2048 * 8


def test_counts_of_departures_may_wrap() -> None:
    """Ages are differences modulo 2**32: the four billionth departure is like any other."""
    ghost = Ghost(0.9)
    ghost._departures[FROM_SMALL] = 2**32 - 3
    for number in range(6):
        ghost.note(str(number), FROM_SMALL, 10)
    assert all(ghost.recall(str(number)) == FROM_SMALL for number in range(6))
