"""What a forked child must not inherit: locks that a lost thread holds, loads that it runs."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """State of this process."""

    def after_fork(self) -> None:
        """Begin anew in a forked child."""


_all: weakref.WeakSet[Forkable] = weakref.WeakSet()


def heal_after_fork(state: Forkable) -> None:
    """Have state begin anew in every child that is forked from now on."""
    _all.add(state)


def _heal() -> None:
    for state in list(_all):
        state.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_heal)
