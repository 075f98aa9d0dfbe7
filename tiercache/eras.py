"""When names last changed, in eras, which order changes without a clock."""

from __future__ import annotations

from collections import OrderedDict


class Eras:
    """The era of the last change of each of many names, in bounded memory.

    Of a name that is not remembered, the era is that of the newest one forgotten: too late rather
    than too early.
    """

    __slots__ = ("_eras", "_forgotten", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._eras: OrderedDict[str, int] = OrderedDict()  # oldest first
        self._forgotten = 0

    def of(self, name: str) -> int:
        """Return the era of a name's last change, or a later one."""
        era = self._eras.get(name)
        return self._forgotten if era is None else era  # looked at after: see note()

    def note(self, name: str, era: int) -> None:
        """Note a change, in an era not before those noted so far."""
        eras = self._eras
        eras[name] = era
        eras.move_to_end(name)
        if len(eras) > self._most:
            # Forgets before it removes: a reader without the lock finds the one or the other.
            oldest = next(iter(eras))
            self._forgotten = eras[oldest]
            del eras[oldest]

    def note_all(self, era: int) -> None:
        """Note a change of every name."""
        self._forgotten = era
        self._eras = OrderedDict()
