"""What the log may say of an error: where it was raised, and not what it says.

Keys and values of users are not in logs. The text of an exception may hold either, as a KeyError
does; so what failed in users' code, or for a reason unknown, is logged by its class and traceback.
"""

from __future__ import annotations

import traceback

from .errors import StoreError


def trace_of(error: BaseException) -> str:
    """Return the traceback of an error, in lines, with its class in place of its text."""
    lines = traceback.format_tb(error.__traceback__)
    return f"{''.join(lines)}{type(error).__qualname__}".strip()


def reason_of(error: BaseException) -> str:
    """Return what an error says, where it is a store's, who names servers; else its class."""
    return str(error) if isinstance(error, StoreError) else type(error).__qualname__
