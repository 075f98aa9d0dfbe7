"""L1: entries in this process's memory, bounded.

What all have in common is in ``_memory.py``. A policy says which entry goes when one must:
``lru.py`` the least recently used; ``s3fifo.py`` one that has not been asked for again.
"""

from ._memory import Memory, Observer, Removed, hash_limit
from .lru import LRU
from .s3fifo import S3FIFO

__all__ = ["LRU", "S3FIFO", "Memory", "Observer", "Removed", "hash_limit"]
