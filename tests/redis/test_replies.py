"""Replies parsed in Python: the same as hiredis, whatever pieces they come in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.tiers import _redis_replies
from tiercache.tiers._redis_replies import ReplyReader, new_reader

REPLIES = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda each: st.lists(each, max_size=5),
    max_leaves=20,
)


class Refusal(Exception):
    """An error reply."""

    def __eq__(self, other):
        return isinstance(other, Refusal) and other.args == self.args

    __hash__ = None


def written(reply):
    """Return a reply as a server sends it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))


def read_all(reader, pieces):
    """Return all replies in some pieces."""
    replies = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.gets()) is not False:
            replies.append(reply)
    return replies


@given(st.lists(REPLIES, max_size=4), st.lists(st.integers(0, 400), max_size=8))
def test_pieces_make_no_difference(replies, cuts):
    """Wherever the bytes are cut, the same replies come out, in order."""
    data = b"".join(map(written, replies))
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert read_all(ReplyReader(Refusal), pieces) == replies


def test_byte_by_byte():
    """Replies of every kind, a byte at a time."""
    data = (
        b"+OK\r\n-ERR no\r\n:-5\r\n$-1\r\n*-1\r\n*0\r\n$0\r\n\r\n*2\r\n-MOVED 1\r\n$4\r\na\r\nb\r\n"
    )
    pieces = [data[at : at + 1] for at in range(len(data))]
    expected = [b"OK", Refusal("ERR no"), -5, None, None, [], b"", [Refusal("MOVED 1"), b"a\r\nb"]]
    assert read_all(ReplyReader(Refusal), pieces) == expected


def test_as_hiredis_reads_them():
    """Where hiredis is installed it is used, and says the same."""
    pytest.importorskip("hiredis")
    data = b"+OK\r\n-ERR no\r\n:-5\r\n$-1\r\n*-1\r\n*0\r\n*2\r\n-MOVED 1\r\n$4\r\na\r\nb\r\n"
    reader = new_reader(Refusal)
    assert not isinstance(reader, ReplyReader)
    assert read_all(reader, [data]) == read_all(ReplyReader(Refusal), [data])


def test_without_hiredis(monkeypatch):
    """Where it is not, replies are parsed here."""
    monkeypatch.setattr(_redis_replies, "hiredis", None)
    assert isinstance(new_reader(Refusal), ReplyReader)


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"*x\r\n", b":x\r\n", b"*1\r\n" * 40, b"\r\n"]
)
def test_garbage_is_an_error(data):
    """What is no reply is refused, and so is a nesting that no answer of ours has."""
    with pytest.raises((ValueError, IndexError)):
        read_all(ReplyReader(Refusal), [data])


def test_a_long_reply_in_many_pieces_is_joined_once():
    """Bytes that are waited for are not looked through again with each piece."""
    reader = ReplyReader(Refusal)
    reader.feed(b"$%d\r\n" % (1 << 20))
    assert reader.gets() is False
    for _ in range(1024):
        reader.feed(b"x" * 1024)
        assert reader.gets() is False
        assert len(reader._data) < 20
    reader.feed(b"\r\n")
    assert reader.gets() == b"x" * (1 << 20)
