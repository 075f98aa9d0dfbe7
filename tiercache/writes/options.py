"""The options of ``cache.write_behind``, checked together."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tiercache.errors import ConfigurationError
from tiercache.options import switch
from tiercache.ttl import Duration, seconds
from tiercache.writes.backoff import Backoff, backoff_of

if TYPE_CHECKING:
    from tiercache.writes.worker import Writer

#: By default eight attempts are spread over about a minute and a half.
BACKOFF: Final = ("100ms", "1m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was chosen; durations in seconds."""

    max_batch: int
    max_delay: float
    max_pending: int
    waits_when_full: bool
    max_wait: float
    max_attempts: int | None
    backoff: Backoff
    claim_seconds: float
    keeps_all: bool
    is_durable: bool
    on_sigterm: bool
    workers: int
    deleted: Any


def options_of(
    *,
    max_batch: int,
    max_delay: Duration,
    max_pending: int,
    when_full: str,
    max_wait: Duration,
    max_attempts: int | None,
    backoff: Duration | tuple[Duration, Duration],
    claim_timeout: Duration,
    merge: bool,
    durable: bool,
    on_sigterm: bool,
    workers: int,
    deleted: Any,
) -> Options:
    """Return what was chosen.

    Raises:
        ConfigurationError: If an option is illegal, or two do not go together.
    """
    _check_count("max_batch", max_batch, 1, "operations handed over at once")
    _check_count("max_pending", max_pending, 1, "operations that may wait")
    _check_count("workers", workers, 0, "threads of this process; 0: others write")
    if max_attempts is not None:
        _check_count("max_attempts", max_attempts, 1, "attempts; None: as many as it takes")
    for name, value in (("merge", merge), ("durable", durable), ("on_sigterm", on_sigterm)):
        switch(value, name)
    if when_full not in ("wait", "raise"):
        raise ConfigurationError(f'when_full must be "wait" or "raise", got {when_full!r}')
    if not workers and not durable:
        raise ConfigurationError(
            "workers=0 leaves writing to other processes, which see no journal in memory; "
            "use durable=True or workers=1"
        )
    return Options(
        max_batch=min(max_batch, max_pending),  # a batch that can never be full would only wait
        max_delay=seconds(max_delay, name="max_delay"),
        max_pending=max_pending,
        waits_when_full=when_full == "wait",
        max_wait=seconds(max_wait, name="max_wait"),
        max_attempts=max_attempts,
        backoff=backoff_of(backoff),
        claim_seconds=seconds(claim_timeout, name="claim_timeout"),
        keeps_all=not merge,
        is_durable=durable,
        on_sigterm=on_sigterm,
        workers=workers,
        deleted=deleted,
    )


def checked_writer(writer: Writer) -> Writer:
    """Return the writer, if it can be one.

    Raises:
        ConfigurationError: If it cannot.
    """
    if not callable(writer):
        raise ConfigurationError(
            f"the writer must be a function of a list of operations, got {writer!r}"
        )
    if inspect.isgeneratorfunction(writer) or inspect.isasyncgenfunction(writer):
        raise ConfigurationError(
            f"the writer {writer!r} is a generator, which would not run; remove its yield"
        )
    try:
        inspect.signature(writer).bind([])
    except TypeError:
        raise ConfigurationError(
            f"the writer {writer!r} must take one argument, a list of operations"
        ) from None
    except ValueError:  # it has no signature to look at
        pass
    return writer


def _check_count(name: str, value: object, least: int, meaning: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be at least {least}, got {value!r}; it is {meaning}")
