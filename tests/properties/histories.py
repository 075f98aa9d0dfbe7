"""Histories of a World: made at random from a seed, played again, and cut down to what matters.

Half of the histories are scheduled by priorities that change now and then, the others by throwing
dice at each step: the first find what needs one task to be late for long, the others what needs
many to be late for a little. (Burckhardt et al., "A randomized scheduler with probabilistic
guarantees of finding bugs", ASPLOS 2010.)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.properties.coherence_line import TROUBLES
from tests.properties.coherence_model import PREFIXES, ROWS, TAGS, WRITTEN, Violation
from tests.properties.coherence_world import World

Move = tuple[Any, ...]  # the name of a method of World, and its arguments

READS = ("call", "call", "call", "many", "get", "get_many", "peek", "load", "load_many")
UPDATES = ("delete", "delete", "delete", "expire", "tags", "clear", "refresh", "set")


@dataclass(frozen=True)
class Profile:
    """What may happen in a history."""

    name: str
    updates: bool = True
    cancels: bool = False
    troubles: bool = False
    freezes: bool = False  # leases that end while their holders load
    fails: bool = False  # loads
    reopens: bool = False  # buses
    blinds: bool = False
    rows: Sequence[str] = ROWS
    reads: Sequence[str] = READS
    read_share: float = 0.6  # of callers, where there are updates
    update_hows: Sequence[str] = UPDATES
    processes: Sequence[int] = (0, 1, 2)
    most_callers: int = 24
    options: dict[str, Any] = field(default_factory=dict)  # of the World


#: Updates after which no older value may be seen; what was expired may be served stale.
HARD_UPDATES = tuple(how for how in UPDATES if how != "expire")
#: A TTL that ends within most histories, and all that may be served past it, and refreshed.
STALENESS = {
    "ttl": 3.0,
    "refresh_ahead": 0.5,
    "stale_while_revalidate": 2.0,
    "stale_if_error": 4.0,
}

PROFILES = (
    Profile("only reads", updates=False),
    Profile("calm"),
    Profile("one row", rows=(ROWS[0],)),
    Profile("looking", rows=(ROWS[0],), reads=("call", "get"), processes=(0, 2), most_callers=40),
    Profile("two rows", rows=(ROWS[1], ROWS[6]), cancels=True),
    Profile("cancelling", cancels=True, fails=True, options={"sends_late": True}),
    Profile("failing", fails=True),
    Profile("freezing", freezes=True, reopens=True),
    Profile("forgetful", cancels=True, options={"log_length": 3, "is_forgetful": True}),
    Profile("blind", blinds=True, rows=(ROWS[1],), options={"log_length": 2}),
    Profile("troubled", troubles=True),
    Profile(
        "stale",
        cancels=True,
        fails=True,
        rows=(ROWS[0], ROWS[5]),
        read_share=0.8,
        update_hows=HARD_UPDATES,
        options={"staleness": STALENESS},
    ),
    Profile(
        "stale and troubled",
        troubles=True,
        freezes=True,
        fails=True,
        blinds=True,
        rows=(ROWS[0], ROWS[5]),
        read_share=0.8,
        update_hows=HARD_UPDATES,
        options={"staleness": STALENESS, "sends_late": True, "log_length": 3},
    ),
    Profile(
        "troubled and forgetful",
        troubles=True,
        blinds=True,
        options={"log_length": 3, "is_forgetful": True},
    ),
    Profile(
        "everything",
        cancels=True,
        troubles=True,
        freezes=True,
        fails=True,
        reopens=True,
        blinds=True,
        options={"sends_late": True, "is_big": False},
    ),
)


def play(seed: int, profile: Profile, moves: list[Move] | None = None) -> World:
    """Play one history to its end; add its moves to a list.

    Raises:
        Violation: If a promise was broken; it carries the history.
    """
    world = World(**profile.options)
    moves = [] if moves is None else moves

    def move(*what: Any) -> None:
        moves.append(what)
        getattr(world, what[0])(*what[1:])

    try:
        _Driver(random.Random(seed), profile, world, move).drive()
        world.finish()
    except Violation as violation:
        violation.moves = moves
        raise
    finally:
        world.close()
    return world


def violation_of(moves: Sequence[Move], profile: Profile) -> str:
    """Play given moves; return what was broken, or nothing."""
    world = World(**profile.options)
    try:
        for name, *args in moves:
            getattr(world, name)(*args)
        world.finish()
    except Violation as violation:
        return str(violation)
    finally:
        world.close()
    return ""


def shrunk(moves: Sequence[Move], breaks: Callable[[Sequence[Move]], bool]) -> list[Move]:
    """Return fewer moves that break a promise still, few of which can be left out."""
    moves = list(moves)
    if not breaks(moves):
        return moves
    size = len(moves) // 2
    while size:
        at = 0
        while at < len(moves):
            fewer = moves[:at] + moves[at + size :]
            if breaks(fewer):
                moves = fewer
            else:
                at += size
        size //= 2
    return moves


def tell(violation: Violation, profile: Profile) -> str:
    """Return what was broken, and by what: a shortest history that breaks the same promise."""
    kind = _kind(str(violation))
    moves = shrunk(violation.moves, lambda fewer: _kind(violation_of(fewer, profile)) == kind)
    return f"{violation}\n{_told(moves, profile)}"


def _kind(violation: str) -> str:
    """Return what is alike in violations of one kind."""
    return re.sub(r"\d+|'.+?'|\b[ABC]\b|[a-z]+:", "", violation)[:50]


def _told(moves: Sequence[Move], profile: Profile) -> str:
    """Return a history as text, each step with what it ran."""
    world = World(**profile.options)
    lines = [f"World({', '.join(f'{name}={value!r}' for name, value in profile.options.items())})"]
    try:
        for name, *args in moves:
            ready = world.show_ready()
            note = f"  # {ready[args[0] % len(ready)]}" if name == "step" and ready else ""
            lines.append(f"{name}({', '.join(map(repr, args))}){note}")
            getattr(world, name)(*args)
        lines.append("finish()")
        world.finish()
    except Violation as violation:
        lines.append(f"=> {violation}")
    finally:
        world.close()
    return "\n".join(lines)


class _Driver:
    """Makes moves at random, at rates that are drawn for each history."""

    def __init__(
        self, rng: random.Random, profile: Profile, world: World, move: Callable[..., None]
    ) -> None:
        self.rng = rng
        self.profile = profile
        self.world = world
        self.move = move
        self.priorities: dict[str, float] | None = {} if rng.random() < 0.5 else None
        self.haste = rng.choice((0.3, 0.1, 0.05, 0.02))  # of new callers, per move
        self.liveliness = rng.choice((0.01, 0.05, 0.2))  # of messages
        self.events = self._events()

    def _events(self) -> list[Callable[[], None]]:
        """Return what may befall this world now and then."""
        rng, move, profile = self.rng, self.move, self.profile
        events: list[Callable[[], None]] = [
            lambda: move("pass_time", rng.choice((0.05, 0.3, 1.0)), 7),
            *[lambda: move("deliver", rng.randrange(3), 100)] * 4,
        ]
        if profile.options.get("staleness"):
            events += [lambda: move("pass_time", rng.choice((0.5, 1.0, 2.0)), 7)] * 8
        if profile.cancels:
            events.append(lambda: move("cancel", rng.randrange(100)))
        if profile.troubles:
            events += [
                lambda: move("trouble", rng.randrange(3), rng.choice(("", "", *TROUBLES)))
            ] * 2
        if profile.blinds:
            events += [lambda: move("go_blind", rng.randrange(3))] * 2
        if profile.freezes:
            events.append(lambda: move("pass_time", rng.choice((1.0, 3.5)), rng.randrange(8)))
        if profile.fails:
            events.append(lambda: move("fail_loads", rng.randrange(3)))
        if profile.reopens:
            events.append(lambda: move("reopen", rng.randrange(3)))
        return events

    def drive(self) -> None:
        """Make moves until all callers have begun, and most are done."""
        rng, ready = self.rng, self.world.loop.ready
        callers = rng.randrange(3, self.profile.most_callers)
        while callers or (ready() and rng.random() > 0.002):
            if callers and (rng.random() < self.haste or not ready()):
                callers -= 1
                self._begin()
            elif rng.random() < self.liveliness or not ready():
                self.move("deliver", rng.randrange(3), rng.choice((1, 1, 2, 100)))
            elif rng.random() < 0.03:
                rng.choice(self.events)()
            else:
                self.move("step", self._pick())

    def _pick(self) -> int:
        """Choose what takes the next step: anything, or what is most important just now."""
        rng, names = self.rng, self.world.show_ready()
        if self.priorities is None:
            return rng.randrange(len(names))
        priorities = [self.priorities.setdefault(name, rng.random()) for name in names]
        pick = priorities.index(max(priorities))
        if rng.random() < 0.05:
            self.priorities[names[pick]] = -rng.random()
        return pick

    def _begin(self) -> None:
        """Have another caller begin."""
        rng, profile = self.rng, self.profile
        process, row = rng.choice(profile.processes), rng.choice(profile.rows)
        if not profile.updates or rng.random() < profile.read_share:
            self.move("read", process, rng.choice(profile.reads), row)
            return
        how = rng.choice(profile.update_hows)
        if how == "set" and row not in WRITTEN:
            row = rng.choice(sorted(WRITTEN))
        what = {"tags": " ".join(rng.choice(TAGS)), "clear": rng.choice(PREFIXES)}.get(how, row)
        if how != "refresh" and rng.random() < 0.25:
            picks = [rng.randrange(400) for _ in range(rng.randrange(12))]
            self.move("block", process, how, what, picks)
        else:
            self.move("update", process, how, what, rng.random() < 0.8)
