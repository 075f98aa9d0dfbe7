"""From redis-py's exceptions to ours; nothing of redis-py leaves the store."""

from __future__ import annotations

from tiercache.errors import StoreError, StoreTimeout


def translate(error: BaseException, label: str, operation: str, timeout: float) -> StoreError:
    """Return the StoreError that says what failed where; credentials never get into it.

    Anything unknown is taken for a reply that is not Redis's protocol: the parsers raise
    ValueError, IndexError and the like on garbage.
    """
    import redis.exceptions as theirs

    if isinstance(error, StoreError):
        return error
    if isinstance(error, (TimeoutError, theirs.TimeoutError)):
        return StoreTimeout(f"{label} did not answer {operation} within {timeout:g} s")
    if isinstance(error, (theirs.RedisError, OSError)):
        return StoreError(f"{label} failed {operation}: {_first_line(error)}")
    return StoreError(f"{label} answered {operation} with something that is not Redis protocol")


def is_wrong_type(reply: object) -> bool:
    """Tell whether Redis refused because a value of another type stands under the key."""
    return isinstance(reply, Exception) and str(reply).startswith("WRONGTYPE")


def _first_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:200]
