"""From redis-py's exceptions to ours; nothing of redis-py leaves the store.

An error is raised without the chain that led to it: the frames and texts of redis-py's exceptions
may hold what it logged in with. What they say goes into ours, less the secrets: a server may send
back what it was sent, as one does that does not know AUTH.
"""

from __future__ import annotations

from collections.abc import Collection

from tiercache.errors import StoreError, StoreTimeout

_UNFIT = ("CLUSTERDOWN ", "MASTERDOWN ", "TRYAGAIN ")
_ECHO = ", with args beginning with"  # before what a server repeats of a command: keys, values
_NOT_REDIS = "something that is not Redis protocol"


def translate(
    error: BaseException, label: str, operation: str, timeout: float, secrets: Collection[str] = ()
) -> StoreError:
    """Return the StoreError that says what failed where; to be raised outside of ``except``.

    Anything unknown is taken for a reply that is not Redis's protocol: the parsers raise
    ValueError, IndexError and the like on garbage.
    """
    if isinstance(error, StoreError):
        return error
    if is_timeout(error):
        return StoreTimeout(f"{label} did not answer {operation} within {timeout:g} s")
    if is_garbage(error):
        return StoreError(f"{label} answered {operation} with {_NOT_REDIS}")
    return StoreError(f"{label} failed {operation}: {reason(error, secrets)}")


def reason(error: BaseException, secrets: Collection[str] = ()) -> str:
    """Return in one line why a server was of no use, without secrets."""
    if is_timeout(error):
        return "no answer in time"
    if is_garbage(error):
        return _NOT_REDIS
    text = (str(error) or type(error).__name__).splitlines()[0]
    text = text.partition(_ECHO)[0]
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[:200]


def refusal_text(reply: Exception) -> str:
    """Return what a server said that refused a command, without what it repeats of it."""
    return str(reply).partition(_ECHO)[0][:200]


def is_timeout(error: BaseException) -> bool:
    """Tell whether nobody answered in time."""
    import redis.exceptions as theirs

    return isinstance(error, (TimeoutError, theirs.TimeoutError))


def is_garbage(error: BaseException) -> bool:
    """Tell whether the answer was no reply in Redis's protocol."""
    import redis.exceptions as theirs

    known = isinstance(error, (theirs.RedisError, StoreError, OSError))
    return not known or isinstance(error, theirs.InvalidResponse)


class Unfit(OSError):
    """A server said that it can serve nobody now; as good as a lost connection."""


def check_fit(refusal: Exception) -> None:
    """Let an error reply pass that is about the command; raise one that is about the server.

    LOADING does not get here: redis-py raises it as a lost connection.

    Raises:
        Unfit: If the server should not be asked.
    """
    import redis.exceptions as theirs

    # A kind of CLUSTERDOWN is MASTERDOWN. Before redis-py 6 most of these were plain errors.
    classes = theirs.ReadOnlyError, theirs.ClusterDownError, theirs.TryAgainError
    if isinstance(refusal, classes) or str(refusal).startswith(_UNFIT):
        raise Unfit(str(refusal))


def is_wrong_type(reply: object) -> bool:
    """Tell whether Redis refused because a value of another type stands under the key."""
    return isinstance(reply, Exception) and str(reply).startswith("WRONGTYPE")
