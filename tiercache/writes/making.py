"""``cache.write_behind``: from its arguments to a WriteBehind that runs."""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING, Any

from tiercache.errors import ConfigurationError
from tiercache.key_template import KeyTemplate
from tiercache.writes.behind import WriteBehind
from tiercache.writes.options import checked_writer, options_of
from tiercache.writes.overlay import Overlay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiercache.cache import Cache
    from tiercache.spec import Spec
    from tiercache.writes.worker import Writer
    from tiercache.writing import Writing


def make_write_behind(
    cache: Cache,
    writing: Writing,
    others: Sequence[WriteBehind],
    writer: Writer,
    key: str,
    name: str | None,
    spec: Spec,
    **options: Any,
) -> WriteBehind:
    """Return a writer's WriteBehind, with its workers started.

    Raises:
        ConfigurationError: If an option is illegal, or another writer has the name or the keys.
    """
    chosen = options_of(**options)
    template = KeyTemplate(key)
    name = key if name is None else name
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"name must be a text, got {name!r}; it names the journal")
    twin = next((each for each in others if _shape(each.key.template) == _shape(key)), None)
    if twin is not None:
        raise ConfigurationError(
            f"cache {cache.name!r} has a write-behind of {key!r} already, named {twin.name!r}: "
            "two would write the same rows in no order; use that one"
        )
    if any(other.name == name for other in others):
        raise ConfigurationError(
            f"cache {cache.name!r} has a write-behind {name!r} already, and a journal has one "
            "writer; give this one another name="
        )
    overlay = cache.flow.overlay
    if not isinstance(overlay, Overlay):
        overlay = cache.flow.overlay = Overlay(cache.codec, cache.flow.l2)
    behind = WriteBehind(
        *(cache, writing, overlay, name, template, checked_writer(writer), spec, chosen)
    )
    if chosen.on_sigterm:
        from tiercache.writes.sigterm import close_on_sigterm

        close_on_sigterm(behind)
    behind.start()
    return behind


def _shape(template: str) -> list[tuple[str, str | None, str | None]]:
    """Return what a template makes of items, however it names their fields."""
    return [(text, spec, how) for text, _, spec, how in Formatter().parse(template)]
