"""What ErrorMemory says of a load to the plugins around it."""

from __future__ import annotations

from tiercache import Load

REMEMBERED = "error_memory.remembered"  # an attribute of the load's span, too


def note_remembered(load: Load) -> None:
    """Say that a load raises an error of an earlier one, without having loaded."""
    load.notes[REMEMBERED] = True


def is_remembered(load: Load) -> bool:
    """Whether the error that a load raised is one of an earlier load."""
    return REMEMBERED in load.notes
