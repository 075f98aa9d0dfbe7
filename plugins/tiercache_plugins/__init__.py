"""First-party extensions of tiercache. They use its public names only.

Each is imported with its first use: some bring libraries that a program without it need not load.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adaptive_ttl import AdaptiveTTL
    from .bloom import BloomGuard
    from .breaker import LoaderBreaker
    from .bulkhead import Bulkhead
    from .error_memory import ErrorMemory
    from .warming import HotKeys

__all__ = ["AdaptiveTTL", "BloomGuard", "Bulkhead", "ErrorMemory", "HotKeys", "LoaderBreaker"]

_MODULES = {
    "AdaptiveTTL": "adaptive_ttl",
    "BloomGuard": "bloom",
    "Bulkhead": "bulkhead",
    "ErrorMemory": "error_memory",
    "HotKeys": "warming",
    "LoaderBreaker": "breaker",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
