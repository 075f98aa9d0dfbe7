"""What is still on its way to the database, for readers who find nothing in the tiers.

An entry may be evicted, or expire, while the write that made it is pending; the database would
answer with what was there before. So the journal is asked first, for keys of a writer's template
only: *after* the lease of the load is had. A write that comes later ends that lease, so what the
load brings is not kept.

While L2 is out of reach so is the journal, and the database answers. It does, too, where the
journal is of another format; what is loaded then may be older than what waits there, and is not
kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tiercache.errors import DecodeError, StoreError
from tiercache.nearby import UNKNOWN
from tiercache.tiers.journal import Journal, JournalMismatch, OpKind, Record
from tiercache.writes.operation import payload_of

if TYPE_CHECKING:
    from tiercache.codec import Codec
    from tiercache.key_template import KeyTemplate
    from tiercache.l2 import L2
    from tiercache.runtime import Port
    from tiercache.spec import Spec


log = logging.getLogger(__name__)


class Layer(NamedTuple):
    """One writer's part."""

    template: KeyTemplate
    journal: Journal
    deleted: Any  # what a key reads as whose row is to be deleted; an exception is raised


class Overlay:
    """The pending writes of one cache's writers."""

    def __init__(self, codec: Codec, l2: L2 | None) -> None:
        self._codec = codec
        self._l2 = l2
        self._layers: tuple[Layer, ...] = ()  # replaced as a whole
        self._mistrusted: list[Journal] = []  # of which the log has been told

    def add(self, layer: Layer) -> None:
        """Have a writer's pending writes seen."""
        self._layers = (*self._layers, layer)

    def remove(self, journal: Journal) -> None:
        """Take back ``add``."""
        self._layers = tuple(layer for layer in self._layers if layer.journal is not journal)

    async def values(
        self, port: Port, spec: Spec, keys: Sequence[str], *, for_load: bool
    ) -> dict[str, Any]:
        """Return what keys are to read as whose writes have not reached the database.

        For a load, deleted ones too: in the place of a value may stand an exception to be raised.
        """
        found: dict[str, Any] = {}
        for layer in self._layers:
            own = [key for key in keys if layer.template.matches(key)]
            records = await self._pending(port, spec, layer, own)
            if records is None:
                found.update(dict.fromkeys(own, UNKNOWN) if for_load else ())
                continue
            for key, record in zip(own, records, strict=True):
                if record is not None and (for_load or record.kind is not OpKind.DELETE):
                    self._note(found, spec, key, record, layer)
        return found

    async def _pending(
        self, port: Port, spec: Spec, layer: Layer, keys: Sequence[str]
    ) -> Sequence[Record | None] | None:
        """Return what is pending of each key; None if the journal is not one of ours."""
        if not keys:
            return ()
        if self._l2 is None or not layer.journal.writes_entries:
            return layer.journal.pending(keys)
        try:
            records: Sequence[Record | None] = await self._l2.demand(
                port, layer.journal, "pending", keys
            )
        except StoreError:  # counted by L2; nothing will be kept there, either
            return [None] * len(keys)
        except JournalMismatch as error:
            self._mistrust(spec, layer, error)
            return None
        return records

    def _mistrust(self, spec: Spec, layer: Layer, error: JournalMismatch) -> None:
        spec.counters.store_errors += 1
        if layer.journal not in self._mistrusted:
            self._mistrusted.append(layer.journal)
            log.error("reads go to the database, and are not kept: %s", error)

    def _note(
        self, found: dict[str, Any], spec: Spec, key: str, record: Record, layer: Layer
    ) -> None:
        if record.kind is OpKind.DELETE:
            found[key] = layer.deleted
            return
        try:
            found[key] = self._codec.decode(key, payload_of(record), schema=spec.schema).value
        except DecodeError:
            spec.counters.decode_errors += 1
