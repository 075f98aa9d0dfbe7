"""Values to bytes and back: exactly, and without trusting the bytes.

``envelope`` is the way in. ``wire`` has the format, ``head`` what stands before a value,
``scalars``, ``shapes``, ``records`` and ``models`` the types, ``registry`` what may be restored,
``schema`` what an annotation says, ``quick`` another way for long plain values.
"""

from __future__ import annotations

from tiercache.codec.envelope import Codec
from tiercache.codec.head import Decoded
from tiercache.codec.schema import Schema

__all__ = ["Codec", "Decoded", "Schema"]
