"""What tests of users need: a clock to move, stores that fail on demand, the store contract."""

from typing import TYPE_CHECKING, Any

from .clock import FakeClock
from .dict_store import DictStore
from .faulty_store import FaultyStore

if TYPE_CHECKING:
    from .contract import StoreContract

__all__ = ["DictStore", "FakeClock", "FaultyStore", "StoreContract"]


def __getattr__(name: str) -> Any:
    """Import the contract suite, and with it pytest, only where it is asked for."""
    if name == "StoreContract":
        from .contract import StoreContract

        return StoreContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
