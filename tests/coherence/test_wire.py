"""What goes over the wire to Redis: keys, frames, messages, the server's clock. No server here."""

from __future__ import annotations

import fnmatch
import random
import struct
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_plans import Plans
from tiercache.tiers.store import Kind, Message

GENERATION = b"generatn"
TOKENS = {"a": b"token--a", "b": b"token--b", "": b"token--0", "é": b"token--e"}

texts = st.text(st.characters(codec=None, categories=None), max_size=20)  # lone surrogates, too
caches = texts.filter(bool)  # a name is never empty


class Clock(wire.ServerClock):
    """A server's clock that stands still."""

    __slots__ = ("ms",)

    def __init__(self, ms=1_700_000_000_000.0):
        super().__init__()
        self.ms = ms

    def now_ms(self):
        return self.ms


@pytest.fixture
def clock():
    return Clock()


def frame(clock, payload=b"payload", ttl=60, tags=(), generation=GENERATION, tokens=TOKENS):
    head = wire.header(ttl, clock, tagged=bool(tags))
    return head + generation + wire.tag_block({tag: tokens[tag] for tag in tags}) + payload


def found(clock, *raws, generation=GENERATION, tokens=TOKENS):
    """Unpack frames; return what is valid, as payload and tags, None for the others."""
    result = wire.unpack(raws, generation, tokens, clock)
    return [None if each is None else (bytes(each.payload), each.tags) for each in result.found]


class TestKeys:
    @given(
        keys=st.lists(texts, min_size=1, max_size=5), tags=st.lists(texts, max_size=3), name=caches
    )
    @example(keys=["", "é", "a" * 300, "\ud800", "}{"], tags=["", "漢"], name="u")
    def test_the_read_command_is_what_pack_would_make(self, keys, tags, name):
        """Put together as text for speed, it is byte for byte the MGET of the keys."""
        space = wire.KeySpace("tc", name)
        names = [*map(space.entry, keys), space.generation, *map(space.token, tags)]
        assert space.pack_mget(keys, tags) == wire.pack(b"MGET", *names)

    @given(st.lists(st.tuples(texts, texts), min_size=2, max_size=2, unique=True))
    def test_no_two_keys_share(self, pairs):
        """Whatever is in the names of caches and in keys, no two entries have one Redis key."""
        first, second = (wire.KeySpace("tc", name).entry(key) for name, key in pairs)
        assert first != second

    @given(texts, texts, texts)
    def test_no_two_kinds_of_keys_share(self, name, key, other):
        """An entry is no lease, no token, no lock, and not what all entries share."""
        space = wire.KeySpace("tc", name)
        names = [
            *(space.entry(key), space.lease(key), space.token(other), space.lock(other)),
            *(space.generation, space.log, space.fence),
        ]
        assert len(set(names)) == len(names)

    @given(caches, texts)
    def test_entry_and_lease_are_in_one_slot(self, name, key):
        """So are a cache's log, generation, tokens and locks."""
        space = wire.KeySpace("tc", name)
        assert slot_text(space.entry(key)) == slot_text(space.lease(key))
        shared = [space.generation, space.log, space.fence, space.token(key), space.lock(key)]
        assert len(set(map(slot_text, shared))) == 1

    @pytest.mark.parametrize("prefix", ["", "user:", "*", "?", "[a-z]", "a\\", "^x", "{b}", "-"])
    def test_a_pattern_matches_what_begins_so(self, prefix):
        """And nothing else, however many characters of it have a meaning in a glob."""
        space = wire.KeySpace("tc", "u[1]")
        pattern = space.pattern(prefix).decode()
        others = ["user:1", "*", "?", "[a-z]", "a\\b", "^x1", "{b}c", "-", "za", "xuser:1"]
        for key in others:
            for name in (space.entry(key), space.lease(key)):
                assert glob(pattern, name.decode()) == key.startswith(prefix), key
        assert not glob(pattern, space.generation.decode())
        assert not glob(pattern, wire.KeySpace("tc", "u1").entry("user:1").decode())


def slot_text(name):
    """Return what decides the slot of a key, by the rule of Redis."""
    start = name.find(b"{")
    end = name.find(b"}", start + 1)
    return name[start + 1 : end] if start >= 0 and end > start + 1 else name


def glob(pattern, text):
    """Match as Redis does, which escapes by backslash; fnmatch escapes by brackets."""
    translated, at = "", 0
    while at < len(pattern):
        if pattern[at] == "\\" and at + 1 < len(pattern):
            at += 1
            translated += f"[{pattern[at]}]" if pattern[at] in "*?[" else pattern[at]
        else:
            translated += pattern[at]
        at += 1
    return fnmatch.fnmatchcase(text, translated)


class TestFrames:
    @pytest.mark.parametrize("tags", [(), ("a",), ("a", "b"), ("", "é")], ids=str)
    @pytest.mark.parametrize("size", [0, 1, 100, 5000])
    def test_a_frame_comes_back(self, clock, tags, size):
        """Payload, tags and remaining life, whatever their size."""
        payload = bytes(range(256)) * (size // 256 + 1)
        raw = frame(clock, payload[:size], 60, tags)
        result = wire.unpack([raw], GENERATION, TOKENS, clock)
        (stored,) = result.found
        assert bytes(stored.payload) == payload[:size]
        assert memoryview(stored.payload).readonly
        assert (stored.remaining, set(stored.tags)) == (60.0, set(tags))
        assert (result.foreign, result.unsure) == (0, set())

    @pytest.mark.parametrize("tags", [(), ("a",)], ids=str)
    def test_life(self, clock, tags):
        """By the server's clock; None has no end; a century is the most."""
        for ttl, passes, remaining in [(60, 59.0, 1.0), (0.001, 0, 0.001), (1e12, 0, None)]:
            raw = frame(clock, ttl=ttl, tags=tags)
            later = Clock(clock.ms + passes * 1000)
            (stored,) = wire.unpack([raw], GENERATION, TOKENS, later).found
            assert remaining is None or stored.remaining == pytest.approx(remaining)
            assert found(Clock(clock.ms + ttl * 1000), raw) == [None]
        raw = frame(clock, ttl=None, tags=tags)
        (stored,) = wire.unpack([raw], GENERATION, TOKENS, Clock(clock.ms + 1e15)).found
        assert stored.remaining is None

    @pytest.mark.parametrize("tags", [(), ("a",)], ids=str)
    def test_another_generation_is_not_valid(self, clock, tags):
        """Nor is any, where the generation is lost."""
        raw = frame(clock, tags=tags)
        assert found(clock, raw, generation=b"another!") == [None]
        assert found(clock, raw, generation=None) == [None]

    def test_tags(self, clock):
        """Each must have the token it was written under; a lost one invalidates."""
        raw = frame(clock, tags=("a", "b"))
        assert found(clock, raw) == [(b"payload", ("a", "b"))]
        for tag in ("a", "b"):
            assert found(clock, raw, tokens={**TOKENS, tag: b"another!"}) == [None]
            assert found(clock, raw, tokens={**TOKENS, tag: None}) == [None]

    def test_tags_that_are_not_known(self, clock):
        """Are asked for, unless one that is known has said no already."""
        raw = frame(clock, tags=("a", "b", ""))
        result = wire.unpack([raw], GENERATION, {"a": TOKENS["a"]}, clock)
        assert (result.found, result.unsure) == ([None], {"b", ""})
        result = wire.unpack([raw], GENERATION, {"a": b"another!"}, clock)
        assert (result.found, result.unsure) == ([None], set())

    def test_misses_and_foreign_values(self, clock):
        """A batch says of each whether it is there, and counts what no tiercache wrote."""
        good = frame(clock)
        too_late = struct.pack(">Q", (wire.PLAIN << 48) + (1 << 48) - 1) + GENERATION
        raws = [None, good, b"", b"x", b"x" * 200, good[:12], b"\x7c\x00" + good[2:], too_late]
        result = wire.unpack(raws, GENERATION, TOKENS, clock)
        assert [each is not None for each in result.found] == [raw is good for raw in raws]
        assert result.foreign == 6

    def test_the_fast_way_says_the_same(self, clock):
        """Batches of all sorts come out the same whether unpacked at once or one by one."""
        rng = random.Random(5)
        good = [frame(clock, rng.randbytes(n), ttl) for n in (0, 5, 3000) for ttl in (1, 60, None)]
        other = [frame(clock, generation=b"another!"), frame(clock, tags=("a",)), None, b"junk"]
        for _ in range(500):
            raws = rng.choices(good if rng.random() < 0.5 else good + other, k=rng.randrange(1, 6))
            at_once = wire.unpack(raws, GENERATION, TOKENS, clock)
            singly = [wire.unpack([raw], GENERATION, TOKENS, clock) for raw in raws]
            assert [_plain(each) for each in at_once.found] == [
                _plain(each.found[0]) for each in singly
            ]
            assert at_once.foreign == sum(each.foreign for each in singly)

    @given(st.data())
    def test_no_bytes_do_any_harm(self, data):
        """Cut, flipped or extended, a frame is valid, a miss, or foreign, and raises nothing."""
        clock = Clock()
        raw = bytearray(frame(clock, b"payload", 60, data.draw(st.sampled_from([(), ("a", "b")]))))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at] = data.draw(st.integers(0, 255))
        cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
        result = wire.unpack([cut, frame(clock)], GENERATION, TOKENS, clock)
        assert result.foreign in (0, 1)
        assert bytes(result.found[1].payload) == b"payload"

    def test_the_scripts_know_a_tagged_frame(self):
        """claim.lua tells one by the last byte of its mark, and knows where its tags begin."""
        assert (wire.TAGGED & 0xFF, wire.PLAIN & 0xFF) == (3, 2)
        assert wire.HEADER_BYTES == 16


def _plain(stored):
    return None if stored is None else (bytes(stored.payload), stored.remaining, stored.tags)


class TestMessages:
    @given(st.sampled_from(list(Kind)), texts, st.lists(texts, max_size=6))
    def test_a_message_comes_back(self, kind, origin, names):
        """Its kind, origin and names, in order; one without names says nothing."""
        packed = wire.pack_message(b"log", 100, wire.encode(origin), kind, names)
        fields = unpacked(packed)[6:]
        message = wire.read_message(fields)
        assert message == Message(kind if names else Kind.NEWS, origin, tuple(names))

    @pytest.mark.parametrize(
        "fields",
        [
            [],
            [b"x"],
            [b"x", b"y"],
            [b"o"],
            [b"o", b"me", b"z", b"key"],
            [b"o", b"me", b"d", b"key", b"t", b"tag"],
            [b"o", b"me", b"\xff", b"key"],
            [b"o", b"\xff\xfe", b"d", b"key"],
            [b"o", b"me", b"d", b"\xc3"],
            [None, None],
            None,
        ],
        ids=str,
    )
    def test_what_is_no_message_is_passed_over(self, fields):
        """Of another version, or somebody else's: None, and no exception."""
        assert wire.read_message(fields) is None


def unpacked(data):
    """Return the words of a packed command."""
    words, at = [], data.index(b"\r\n") + 2
    while at < len(data):
        end = data.index(b"\r\n", at)
        length = int(data[at + 1 : end])
        words.append(data[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
    return words


class TestServerClock:
    def test_it_learns(self, monkeypatch):
        """From TIME's reply and the moments around it; the error is half of the round trip."""
        now = [100.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        clock = wire.ServerClock()
        assert not clock.is_known
        assert clock.is_due()
        assert clock.is_due()  # nobody has brought it yet
        clock.learn([b"1700000000", b"500000"], 99.9, 100.1)
        assert clock.is_known
        assert clock.now_ms() == pytest.approx(1_700_000_000_500)
        assert not clock.is_due()
        now[0] += 10
        assert clock.now_ms() == pytest.approx(1_700_000_010_500)
        now[0] += wire.RESYNC_SECONDS
        assert clock.is_due()
        assert not clock.is_due()  # one of many callers is told

    @pytest.mark.parametrize("reply", [None, b"OK", [], [b"1"], [b"x", b"y"], [b"1", b"2", b"3"]])
    def test_what_is_not_a_time(self, reply):
        """Is refused, and what was known before still is."""
        clock = wire.ServerClock()
        clock.learn([b"1700000000", b"0"], 0.0, 0.0)
        before = clock.now_ms()
        with pytest.raises((ValueError, TypeError)):
            clock.learn(reply, 1.0, 1.0)
        assert clock.now_ms() == pytest.approx(before, abs=1000)


@pytest.mark.parametrize(
    ("ttl", "ms"), [(60, 60_000), (0.0001, 1), (0.0015, 2), (1e15, 100 * 365 * 86_400_000)]
)
def test_lives_in_milliseconds(ttl, ms):
    """At least one, and no more than a header can say."""
    assert wire.ttl_ms(ttl) == ms
    assert wire.life_arg(ttl) == b"%d" % ms
    assert wire.life_arg(None) == b""


def test_text_of_any_kind():
    """Lone surrogates, too, go out and come back."""
    for text in ("", "plain", "é漢🎈", "lone\ud800", "\0\r\n"):
        assert wire.decode(wire.encode(text)) == text


def test_an_entry_is_judged_by_the_generation_it_was_read_with():
    """What another thread has learnt meanwhile, from an older answer, makes nothing valid."""
    plans = Plans("redis", wire.KeySpace("tc", "c"), "me", 1000, is_cluster=False)
    plans.clock.learn([b"1000", b"0"], time.monotonic(), time.monotonic())
    frame = wire.header(60, plans.clock, tagged=False) + b"old-----" + b"payload"
    plan = plans.read(["k"], ())
    next(plan)
    plans._generation = b"old-----"  # an answer from before a clear, taken in late
    with pytest.raises(StopIteration) as end:
        plan.send([[frame, b"new-----"]])
    assert end.value.value == [None]


def test_an_answer_from_before_an_invalidation_teaches_nothing():
    """It would be believed for as long as nobody reads, and its claims would wait for the dead."""
    plans = Plans("redis", wire.KeySpace("tc", "c"), "me", 1000, is_cluster=False)
    plan = plans.read(["k"], ())
    next(plan)
    plans.heed([Message(Kind.CLEAR, "other", ("",))])
    with pytest.raises(StopIteration):
        plan.send([[None, b"old-----"]])
    assert plans._generation is None
