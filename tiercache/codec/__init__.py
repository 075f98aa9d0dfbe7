"""Values to bytes and back: exactly, and without trusting the bytes.

``envelope`` is the way in. ``wire`` has the format, ``scalars``, ``shapes``, ``records`` and
``models`` the types, ``registry`` what may be restored, ``schema`` what an annotation says.
"""

from __future__ import annotations

from tiercache.codec.envelope import Codec, Decoded
from tiercache.codec.schema import Schema

__all__ = ["Codec", "Decoded", "Schema"]
