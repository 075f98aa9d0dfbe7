"""A city service: the whole of tiercache at work on real input. Run it by ``make demo``.

Four processes answer requests for real cities, drawn as the world's people are distributed. Two
serve from threads, two from asyncio; all share one Redis. Read ``service.py`` and ``caching.py``
first: they are all that the cache takes. ``acts/`` is what happens, one file per act.
"""
