"""How much tests do of what could go on for ever: less where ``CI_FURTHER`` is set.

``.ci/run`` sets it on all Pythons but the main one, where the same is looked for at length.
"""

from __future__ import annotations

import os

_SHARE = 4 if os.environ.get("CI_FURTHER") else 1


def part_of(count: int) -> int:
    """Return so many, or on a further Python a quarter."""
    return max(1, count // _SHARE)
