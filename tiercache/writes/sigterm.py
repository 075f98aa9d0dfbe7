"""On SIGTERM, where the user asks for it: write what is pending, then end as before.

The handler only starts a thread, so that whatever it interrupted can let go of its locks and an
event loop goes on. That thread closes the writers, puts the handler back that was there before, and
sends the signal again.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from tiercache.errors import ConfigurationError

if TYPE_CHECKING:
    from types import FrameType

    from tiercache.writes.behind import WriteBehind

_closed_on_sigterm: WeakSet[WriteBehind] = WeakSet()
_before: Any = None  # the handler that was there; None: ours is not installed


def close_on_sigterm(behind: WriteBehind) -> None:
    """Have a writer closed on SIGTERM.

    Raises:
        ConfigurationError: If this is not the main thread, which alone may say so.
    """
    global _before  # noqa: PLW0603 - as are handlers
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "on_sigterm=True needs the main thread; make the write-behind there, or call its "
            "close() when your server shuts down"
        )
    _closed_on_sigterm.add(behind)
    if signal.getsignal(signal.SIGTERM) is not _on_sigterm:
        _before = signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, _before or signal.SIG_DFL)
    threading.Thread(target=_close_all, args=(number,), name="tiercache-sigterm").start()


def _close_all(number: int) -> None:
    try:
        for behind in list(_closed_on_sigterm):
            behind.close()
    finally:
        os.kill(os.getpid(), number)
