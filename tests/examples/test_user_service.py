"""What the example of a user service promises, for both kinds, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from examples import user_service
from examples.user_service import AsyncUserService, User, Users, UserService
from tests.kinds import Blocking, Kind
from tiercache import Cache, SQLite

Service = UserService | AsyncUserService


@pytest.fixture
def users() -> Iterator[Users]:
    """A table with two users."""
    users = Users()
    users.insert("ada@example.org", "Ada", "engines")
    users.insert("grace@example.org", "Grace", "compilers")
    users.queries = 0
    yield users
    users.close()


@pytest.fixture
def service(kind: Kind, users: Users, cache: Cache) -> Service:
    """The service of this kind, on an empty cache."""
    return (UserService if isinstance(kind, Blocking) else AsyncUserService)(users, cache)


def queries(users: Users, action: Callable[[], object]) -> int:
    """Return how many queries an action takes."""
    before = users.queries
    action()
    return users.queries - before


def test_first_access_loads_second_hits(kind: Kind, users: Users, service: Service) -> None:
    """Of two reads the first asks the table and the second does not: a hit ratio of 50 %."""
    assert queries(users, lambda: kind.call(service.get, 1)) == 1
    assert queries(users, lambda: kind.call(service.get, 1)) == 0
    info = service.metrics()["get"]
    assert (info.hits_l1, info.misses, info.loads) == (1, 1, 1)
    assert info.hit_ratio == 0.5
    assert service.cache.stats().hit_ratio == 0.5


def test_ten_at_once_make_one_query(kind: Kind, users: Users, service: Service) -> None:
    """Ten concurrent requests for one user are answered by one query."""
    found: list[User] = []
    ask = lambda: found.extend(kind.side_by_side(service.get, [(1,)] * 10))  # noqa: E731
    assert queries(users, ask) == 1
    assert found == [User(1, "ada@example.org", "Ada", "engines")] * 10
    assert service.metrics()["get"].loads == 1


def test_update_is_seen_at_once(kind: Kind, service: Service) -> None:
    """After an update the next read, by id or by address, shows it."""
    kind.call(service.get, 1)
    kind.call(service.get_by_email, "ada@example.org")
    updated = kind.call(service.update, 1, name="Ada Lovelace")
    assert updated.name == "Ada Lovelace"
    assert kind.call(service.get, 1) == updated
    assert kind.call(service.get_by_email, "ada@example.org") == updated


def test_update_reaches_related_keys(kind: Kind, service: Service) -> None:
    """A change of address and team shows under the old ones and under the new ones."""
    for email in ("ada@example.org", "ada@new.example.org"):
        kind.call(service.get_by_email, email)
    for team in ("engines", "compilers"):
        kind.call(service.team, team)
    moved = kind.call(service.update, 1, email="ada@new.example.org", team="compilers")
    assert kind.call(service.get_by_email, "ada@example.org") is None
    assert kind.call(service.get_by_email, "ada@new.example.org") == moved
    assert kind.call(service.team, "engines") == []
    assert [user.name for user in kind.call(service.team, "compilers")] == ["Ada", "Grace"]


def test_create_replaces_a_remembered_none(kind: Kind, service: Service) -> None:
    """A user who was asked for before there was one is found once created."""
    assert kind.call(service.get, 3) is None
    assert kind.call(service.get_by_email, "alan@example.org") is None
    created = kind.call(service.create, "alan@example.org", "Alan", "engines")
    assert created.id == 3
    assert kind.call(service.get, 3) == created
    assert kind.call(service.get_by_email, "alan@example.org") == created


def test_deleted_user_is_gone(kind: Kind, service: Service) -> None:
    """After a deletion no read finds the user, nor does the team's list."""
    kind.call(service.get, 1)
    kind.call(service.team, "engines")
    kind.call(service.delete, 1)
    assert kind.call(service.get, 1) is None
    assert kind.call(service.team, "engines") == []


def test_batch_is_one_query(kind: Kind, users: Users, service: Service) -> None:
    """A batch asks for what is missing in one query, and for nothing when nothing is."""
    kind.call(service.get, 1)
    found: dict[int, User | None] = {}
    ask = lambda: found.update(kind.call(service.get_batch, [1, 2, 99]))  # noqa: E731
    assert queries(users, ask) == 1
    assert {key: user and user.name for key, user in found.items()} == {
        1: "Ada",
        2: "Grace",
        99: None,
    }
    assert queries(users, ask) == 0


def test_nobody_to_update(kind: Kind, service: Service) -> None:
    """An update or deletion of nobody is the service's own error, unchanged by the cache."""
    for change in (service.update, service.delete):
        with pytest.raises(LookupError, match="no user 99"):
            kind.call(change, 99)


def test_shared_by_two_processes_worth_of_caches(
    kind: Kind, users: Users, make_cache: Callable[..., Cache], tmp_path
) -> None:
    """With an L2 given, and nothing else changed, another cache has the user without a query."""
    make = UserService if isinstance(kind, Blocking) else AsyncUserService
    first, second = (
        make(users, make_cache("users", l2=SQLite(tmp_path / "l2", timeout=5))) for _ in "12"
    )
    user = kind.call(first.get, 1)
    assert queries(users, lambda: kind.call(second.get, 1)) == 0
    assert kind.call(second.get, 1) == user
    assert second.metrics()["get"].hits_l2 == 1


def test_runs_as_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m examples.user_service`` shows an update and prints its metrics."""
    user_service.main()
    printed = capsys.readouterr().out
    assert "of the team now: ['Ada', 'Grace']" in printed
    assert "get: 2 hits, 3 misses, 2 loads, hit ratio 40%" in printed
