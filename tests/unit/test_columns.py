"""Many entries by column: a list of them to whoever wants one."""

from __future__ import annotations

import pytest

from tiercache.tiers.columns import Columns
from tiercache.tiers.store import Stored

ROWS = [Stored(b"1", 1.0), None, Stored(b"2", 2.0), None]


@pytest.fixture
def gaps() -> Columns:
    """Two of four keys have an entry."""
    return Columns([b"1", b"2"], [1.0, 2.0], [True, False, True, False])


def test_like_a_list(gaps: Columns) -> None:
    """It has the length, the elements, the slices and the equality of one."""
    assert len(gaps) == 4
    assert list(gaps) == ROWS
    assert [gaps[0], gaps[1], gaps[-1]] == [ROWS[0], None, None]
    assert gaps[1:3] == ROWS[1:3]
    assert gaps == ROWS
    assert gaps == Columns([b"1", b"2"], [1.0, 2.0], [True, False, True, False])
    assert gaps != ROWS[:3]
    assert None in gaps


def test_which_keys_are_there(gaps: Columns) -> None:
    """``held`` names those that the payloads and lives are of."""
    assert gaps.held(["a", "b", "c", "d"]) == ["a", "c"]


def test_without_gaps() -> None:
    """Where every key has an entry."""
    full = Columns([b"1", b"2"], [1.0, 2.0])
    assert len(full) == 2
    assert full == [ROWS[0], ROWS[2]]
    assert full.held(["a", "b"]) == ["a", "b"]
    assert None not in full
