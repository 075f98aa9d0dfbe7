"""A city service: the main job of tiercache on real input. Run it by ``make demo``.

Four processes answer requests for real cities, drawn as the world's people are distributed. Two
serve from threads, two from asyncio; all share an L2. Read ``service.py`` first: it is all that the
cache takes.
"""
