"""Every test of the codec runs twice: with ormsgpack wherever it may be tried, and without it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tiercache.codec import envelope


@pytest.fixture(autouse=True, scope="module", params=["ormsgpack", "msgpack"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Take the quick way for short values, too, or for none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "ormsgpack":
            pytest.importorskip("ormsgpack")
            patch.setattr(envelope, "LONG", 0)
        else:
            patch.setattr(envelope, "quick_way", lambda: None)
        yield request.param
