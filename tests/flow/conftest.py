"""What the tests of outcomes share."""

from __future__ import annotations

import pytest

from tests.flow.scripted import Scripted
from tests.kinds import Kind


@pytest.fixture
def source(kind: Kind) -> Scripted:
    """A loader that does as it is told."""
    return Scripted(kind)
