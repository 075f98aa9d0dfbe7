"""The parts of the demo: a real database, real traffic, and what is held against what."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.city_service.acts import ACTS
from examples.city_service.acts.traces import COLD, FAILING, JOINED
from examples.city_service.building import build
from examples.city_service.bulletin import Announced, Bulletin, Floor, Older, columns, lateness
from examples.city_service.caching import Caching, Tier
from examples.city_service.clients import Client, Tasks, Threads
from examples.city_service.database import (
    NEW_IDS,
    AsyncCityDatabase,
    CityDatabase,
    DatabaseDown,
    cities,
)
from examples.city_service.service import CityService, register_warmers
from examples.city_service.shared import Shared
from examples.city_service.spans import Span, Spans, lines
from examples.city_service.tally import Tally, total
from examples.city_service.traffic import Request, Traffic, cold_pages, known_pages
from examples.city_service.watch import Watch
from examples.city_service.weather import PACES, WeatherStation, pace_of
from tests.waiting import until
from tiercache import Cache, Event


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of real cities."""
    path = tmp_path_factory.mktemp("cities") / "cities.sqlite"
    build(path)
    return path


@pytest.fixture
def database(path: Path) -> Iterator[CityDatabase]:
    """Questions to it."""
    with closing(CityDatabase(path)) as database:
        yield database


def test_database_is_real(path: Path, database: CityDatabase) -> None:
    """Tens of thousands of cities, and answers that an atlas confirms."""
    known = cities(path)
    assert len(known) > 30_000
    tokyo = max((city for city in known if city.country == "JP"), key=lambda city: city.population)
    page = database.city(tokyo.id)
    assert page is not None
    assert page.name == "Tokyo"
    assert page.around > 100
    assert [neighbour.km for neighbour in page.nearest] == sorted(n.km for n in page.nearest)
    assert database.country("JP").place < 15
    assert database.world().largest[:2] == ("China", "India")
    assert database.crowded("US").city == "New York City"
    assert len(database.reported()) == 30 and {"CN", "IN", "US"} < set(database.reported())
    assert set(database.reported()) < set(database.countries())


def test_database_counts(database: CityDatabase) -> None:
    """A question counts, with its page, and one of a city that is not there finds nothing."""
    assert database.city(NEW_IDS - 1) is None
    assert database.counts["queries"] == 1
    assert database.pages == {NEW_IDS - 1: 1}
    assert next(database.ids()) in set(database.ids())


def test_database_is_down(path: Path) -> None:
    """While it is down every question fails, and is counted as refused."""
    switch = SimpleNamespace(is_down=True)
    with closing(CityDatabase(path, lambda: switch.is_down)) as database:
        with pytest.raises(DatabaseDown):
            database.weather("CN")
        switch.is_down = False
        assert database.weather("CN").celsius > 0
        assert (database.counts["queries"], database.counts["refused"]) == (2, 1)


def test_async_database_is_the_same(path: Path, database: CityDatabase) -> None:
    """Its questions have the answers, the names and the arguments of the blocking ones."""
    with ThreadPoolExecutor(1) as threads:
        asked = AsyncCityDatabase(database, threads)
        for name in ("city", "country", "world", "weather", "crowded", "set_population", "found"):
            blocking, awaited = getattr(database, name), getattr(asked, name)
            assert inspect.iscoroutinefunction(awaited)
            assert awaited.__qualname__ == blocking.__qualname__
            assert inspect.signature(awaited) == inspect.signature(blocking)
        assert asyncio.run(asked.country("FR")) == database.country("FR")
    assert database.counts["queries"] == 2


@pytest.fixture(params=["threads", "asyncio"])
def crew(request: pytest.FixtureRequest) -> Iterator[Threads | Tasks]:
    """Callers of both kinds."""
    crew = Threads() if request.param == "threads" else Tasks()
    yield crew
    crew.close()


@pytest.fixture
def asked(
    crew: Threads | Tasks, database: CityDatabase
) -> Iterator[CityDatabase | AsyncCityDatabase]:
    """The database, as they ask it."""
    with ThreadPoolExecutor(2) as threads:
        yield database if isinstance(crew, Threads) else AsyncCityDatabase(database, threads)


@pytest.fixture
def service(asked: CityDatabase, crew: Threads | Tasks) -> Iterator[CityService]:
    """The service, cached in this process."""
    cache = Cache("cities")
    yield CityService(asked, cache)
    crew.call(cache.close if isinstance(crew, Threads) else cache.aclose)


def test_update_shows_on_all_pages(path: Path, service: CityService, crew: Threads | Tasks) -> None:
    """After an update through the service the pages that it touches are new."""
    city = cities(path)[0]
    before = crew.call(service.country, city.country).people
    crew.call(service.city, city.id)
    crew.call(service.world)
    version = crew.call(service.set_population, city.id, city.country, city.population + 1000)
    page = crew.call(service.city, city.id)
    assert (page.population, page.version) == (city.population + 1000, version)
    country = crew.call(service.country, city.country)
    assert (country.people, country.version) == (before + 1000, version)
    assert crew.call(service.world).version == version
    crew.call(service.set_population, city.id, city.country, city.population)


def test_founded_city_shows(path: Path, service: CityService, crew: Threads | Tasks) -> None:
    """What is founded is there at once, though it was asked for before, and no real city."""
    new_id = NEW_IDS + 900_000 + (1 if isinstance(crew, Tasks) else 0)
    assert crew.call(service.city, new_id) is None
    crew.call(service.found, new_id, "IS", "New Reykjavík", 1_000)
    assert crew.call(service.city, new_id).name == "New Reykjavík"
    assert all(city.id < NEW_IDS for city in cities(path))


def test_warmers(path: Path, tmp_path: Path, database: CityDatabase) -> None:
    """They bring the largest cities, all countries and the weather; what is warm is not loaded."""
    caching = Caching(Tier(None, tmp_path / "l2.sqlite"), database.ids)
    with caching.cache as cache:
        service = CityService(database, cache)
        register_warmers(service, database, cache)
        report = cache.warm(progress=False)
        assert report.loaded == 500 + len(database.countries()) + len(database.reported())
        assert report.failed == 0
        largest = max(cities(path), key=lambda city: city.population)
        before = database.pages.copy()
        service.city(largest.id), service.country(largest.country)
        assert database.pages == before


def test_diary_keeps_breakers_events(tmp_path: Path) -> None:
    """It writes down what becomes of breakers, and nothing else."""
    caching = Caching(Tier(None, tmp_path / "l2.sqlite"), list)
    with caching.cache:
        for name in ("loaded", "breaker_opened", "breaker_closed"):
            caching.diary.on_event(Event(name, "cities", ""))
    assert [name for name, _ in caching.diary.events] == ["breaker_opened", "breaker_closed"]


def test_traffic_follows_population(path: Path) -> None:
    """Looks are in proportion to population, a few are updates, and a seed repeats them."""
    known = cities(path)
    drawn = list(islice(Traffic(known, 1), 40_000))
    people = sum(city.population for city in known)
    in_china = sum(city.population for city in known if city.country == "CN") / people
    looks = [request.args[0] for request in drawn if request.what == "country"]
    assert abs(looks.count("CN") / len(looks) - in_china) < 0.02
    updates = [request for request in drawn if request.what == "set_population"]
    assert 0.005 < len(updates) / len(looks) < 0.015
    assert list(islice(Traffic(known, 1), 100)) == drawn[:100]


def test_traffic_asks_for_what_is_not_there(path: Path) -> None:
    """A tenth of the visitors guess ids, no one's; what is founded is looked at next."""
    known = cities(path)
    ids = {city.id for city in known}
    drawn = list(islice(Traffic(known, 3), 40_000))
    guesses = [
        request
        for request in drawn
        if request.what == "city" and request.args[0] not in ids and not request.is_new
    ]
    visits = len(guesses) + sum(request.what == "country" for request in drawn)
    assert abs(len(guesses) / visits - 0.1) < 0.01
    assert all(request.args[0] < NEW_IDS for request in guesses)
    founded = [at for at, request in enumerate(drawn) if request.what == "found"]
    assert founded
    for at in founded[:-1]:
        assert drawn[at + 1] == Request("city", drawn[at].args[:1], is_new=True)


def test_new_ids_differ_by_seed(path: Path) -> None:
    """What two clients found never has one id."""
    known = cities(path)

    def founded(seed: int) -> set[int]:
        drawn = islice(Traffic(known, seed), 20_000)
        return {request.args[0] for request in drawn if request.what == "found"}

    assert founded(1) and founded(2) and not founded(1) & founded(2)


def test_outage_traffic(path: Path) -> None:
    """Known pages are those that were given; cold ones are of the smaller half of the cities."""
    known = cities(path)
    asked = list(islice(known_pages([1, 2], ["FR"], ["CN"], 0), 30))
    assert {request.what: request.args[0] for request in asked if request.what != "city"} == {
        "weather": "CN",
        "country": "FR",
    }
    assert {request.args[0] for request in asked if request.what == "city"} == {1, 2}
    median = sorted(city.population for city in known)[len(known) // 2]
    population = {city.id: city.population for city in known}
    cold = list(islice(cold_pages(known, 0), 100))
    assert all(population[request.args[0]] <= median for request in cold)


def test_tally_tells_stale_reads() -> None:
    """A read is held against the updates of its own process, and against later ones of others."""
    tally = Tally()
    for version, floor in ((3, (3, 3)), (2, (3, 3)), (4, (3, 4)), (3, (3, 4)), (0, (0, 4))):
        tally.check("CN", version, Floor(*floor), began=9.0)
    assert (tally.checked, tally.stale) == (4, 1)
    assert tally.checked_elsewhere == 3
    assert tally.older == [Older("CN", 3, 9.0), Older("CN", 0, 9.0)]


def test_tallies_add_up() -> None:
    """The total of several has all that each has, and the slowest error of all."""
    one, other = Tally(), Tally()
    for tally, seconds in ((one, 1), (other, 2)):
        tally.read(1_000)
        tally.failed(ValueError(), seconds * 10**9)
        tally.check_weather(1, 2)
        tally.check("CN", 1, Floor(2, 3), began=0.0)
    both = total([one, other])
    assert (both.reads, both.errors, both.slowest_error) == (2, {"ValueError": 2}, 2.0)
    assert (both.weather, both.outdated, both.checked, both.stale) == (2, 2, 2, 2)
    assert both.percentile(1.0) == pytest.approx(1e-6, rel=0.06)


def test_lateness() -> None:
    """An older read is late by the first announcement of what it should have seen."""
    announced = [Announced("CN", version, float(version)) for version in (4, 2, 3)]
    announced.append(Announced("IN", 1, 1.0))
    assert lateness([Older("CN", 2, 5.0), Older("CN", 1, 5.0)], announced) == [2.0, 3.0]


def test_bulletin_is_shared(path: Path) -> None:
    """What one process announces, of a city and its country, another reads; older is no news."""
    known = cities(path)
    shared = columns(known, 2)
    here, there = (Bulletin(known, shared, worker) for worker in range(2))
    city = known[0]
    assert here.floor(city.id) == Floor(0, 0)
    places = (city.id, city.country)
    assert [each.place for each in here.announce(places, 7)] == [city.id, city.country]
    here.announce(places, 6)
    assert here.floor(city.id) == Floor(7, 7)
    assert there.floor(city.country) == Floor(0, 7)
    assert [each.place for each in here.announce((NEW_IDS, city.country), 8)] == [city.country]
    assert here.floor(NEW_IDS) == Floor(0, 0)
    here.announce(("world",), 9)
    assert there.floor("world") == Floor(0, 9)


def test_tally_percentiles() -> None:
    """Percentiles of latencies are right to a few percent."""
    latencies = [random.Random(number).randrange(1_000, 10_000_000) for number in range(999)]
    tally = Tally()
    for nanoseconds in latencies:
        tally.read(nanoseconds)
    for share in (0.5, 0.99):
        exact = sorted(latencies)[round(share * 999)] / 1e9
        assert tally.percentile(share) == pytest.approx(exact, rel=0.06)


class Replies:
    """A service that answers what it is told to."""

    def __init__(self, *, is_async: bool, **answers: Any) -> None:
        for name, answer in answers.items():
            setattr(self, name, self._awaited(answer) if is_async else self._method(answer))

    def _method(self, answer: Any) -> Any:
        def method(*_: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return method

    def _awaited(self, answer: Any) -> Any:
        async def method(*_: Any) -> Any:
            return self._method(answer)()

        return method


def test_clients_watch_what_they_get(path: Path, crew: Threads | Tasks) -> None:
    """An answer that is too old, a lost city, an outdated weather and an error are all seen."""
    known = cities(path)
    city = known[0]
    bulletin, tally = Bulletin(known, columns(known, 1), 0), Tally()
    replies = Replies(
        is_async=isinstance(crew, Tasks),
        set_population=5,  # the version that it is
        found=6,
        country=SimpleNamespace(version=4),  # older than both
        city=None,
        weather=SimpleNamespace(version=1),
        crowded=ValueError(),
    )
    requests = [
        Request("set_population", (city.id, city.country, 1)),
        Request("country", (city.country,)),
        Request("found", (NEW_IDS, city.country, "New", 1)),
        Request("city", (NEW_IDS,), is_new=True),
        Request("city", (NEW_IDS + 1,)),
        Request("weather", ("CN",)),
        Request("crowded", ("CN",)),
    ]
    client = Client(requests, Watch(bulletin, lambda country: 2, tally))
    crew.serve(replies, [client], lambda: False)
    assert (tally.updates, tally.founded, tally.reads) == (1, 1, 4)
    assert (tally.checked, tally.stale) == (1, 1)
    assert (tally.absent, tally.lost) == (2, 1)
    assert (tally.weather, tally.outdated) == (1, 1)
    assert tally.errors == {"ValueError": 1}


def test_crews_handle_requests_together(crew: Threads | Tasks) -> None:
    """Answers of all come back, an error as one of them."""
    replies = Replies(is_async=isinstance(crew, Tasks), city=7, country=ValueError("no"))
    for name in ("city", "country"):
        getattr(replies, name).__name__ = name
    assert crew.together(replies.city, (1,), 3) == [7, 7, 7]
    (error,) = crew.together(replies.country, ("XX",), 1)
    assert isinstance(error, ValueError)


def test_weather_changes_at_its_pace(path: Path, database: CityDatabase) -> None:
    """What changes fast changes in the database and is told; what is settled does not."""
    reported = database.reported()
    shared = Shared.make(cities(path), reported, 1)
    by_pace = {pace_of(number): number for number in range(len(PACES))}
    stormy, settled = by_pace["stormy"], by_pace["settled"]
    with WeatherStation(path, reported, shared):
        until(lambda: shared.weather[stormy] >= 1)
        assert database.weather(reported[stormy]).version >= 1
    assert shared.weather[settled] == 0
    assert database.weather(reported[settled]).version == 0


def test_spans_are_printed_as_trees() -> None:
    """Each below its parent, with a link to another by its name, and an error."""

    def span(number: int, name: str, parent: int | None, **more: Any) -> Span:
        fields = {"attributes": {}, "error": "", "links": (), "ms": 1.0} | more
        return Span(name=name, id=number, parent=parent, began=number, **fields)

    tree = [
        span(1, "request", None, ms=3.0),
        span(2, "get", 1, attributes={"outcome": "loaded", "ttl_s": 9.6666}),
        span(3, "load", 2, error="Down"),
        span(4, "wait", 1, links=(3,)),
        span(5, "refresh", None, links=(99,)),
    ]
    assert lines(tree) == [
        "request  3.0 ms",
        "├── get outcome=loaded ttl_s=9.67  1.0 ms",
        "│   └── load error: Down  1.0 ms",
        "└── wait → link to load  1.0 ms",
        "refresh → link to another trace  1.0 ms",
    ]


def test_spans_are_counted_and_kept() -> None:
    """All of the cache's are counted; kept are those that end while somebody watches."""
    from opentelemetry.sdk.trace import TracerProvider

    spans, provider = Spans(), TracerProvider()
    provider.add_span_processor(spans)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("tiercache.get"):
        pass
    spans.watch()
    with tracer.start_as_current_span("request"), tracer.start_as_current_span("tiercache.get"):
        pass
    request, get = spans.taken("request")
    assert (request.name, get.name, get.parent) == ("request", "tiercache.get", request.id)
    assert spans.counts() == {"tiercache.get": 2}
    assert spans.taken() == []
    provider.shutdown()


def test_traced_pages_are_cold() -> None:
    """No act asks before for the pages that the last one needs to be cold."""
    from examples.city_service.acts.stampede import COUNTRIES

    assert not {COLD, JOINED, *FAILING} & set(COUNTRIES)
    assert list(ACTS)[-1] == "traces"
