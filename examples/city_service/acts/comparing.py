"""The traffic of two acts, and how they compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from examples.city_service.tally import Tally
from examples.city_service.traffic import Traffic
from examples.city_service.worker import Worker

THREADS = 4  # clients of a threaded worker
TASKS = 8  # clients of an asyncio worker
_SEEDS = {"alone": 0, "serving": 1, "deploy": 2}


def traffic(worker: Worker, act: str) -> list[Traffic]:
    """Return a stream of requests for each client: in another act another one."""
    clients = TASKS if worker.plan.is_async else THREADS
    first = 1000 * _SEEDS[act] + 100 * worker.plan.number
    return [Traffic(worker.known, first + client) for client in range(clients)]


@dataclass(frozen=True, slots=True)
class Measured:
    """What is compared."""

    reads_per_second: float
    p50_s: float
    p99_s: float
    queries_per_second: float
    queries_per_1000_reads: float

    @classmethod
    def of(cls, seen: Tally, queries: int, seconds: float) -> Measured:
        """Return what clients have seen in so many seconds."""
        return cls(
            seen.reads / seconds,
            seen.percentile(0.50),
            seen.percentile(0.99),
            queries / seconds,
            1000 * queries / max(1, seen.reads),
        )

    def as_facts(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def table(without: Measured, cached: Measured) -> list[tuple[str, str, str]]:
    """Return rows of both beside each other."""
    return [(name, show(without), show(cached)) for name, show in _ROWS.items()]


def _latency(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.1f} ms"


_ROWS: dict[str, Callable[[Measured], str]] = {
    "reads per second": lambda of: f"{of.reads_per_second:,.0f}",
    "latency of a read, p50": lambda of: _latency(of.p50_s),
    "latency of a read, p99": lambda of: _latency(of.p99_s),
    "database queries per second": lambda of: f"{of.queries_per_second:,.0f}",
    "database queries per 1,000 reads": lambda of: f"{of.queries_per_1000_reads:,.1f}",
}
