"""The worker processes, as their parent sees them."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection

from examples.city_service import worker
from examples.city_service.shared import Shared
from examples.city_service.worker import Job, Outcome, Plan

JOIN_SECONDS = 15.0


class WorkerDied(RuntimeError):
    """A worker process has ended before it was told to; what it wrote last says why."""


class Fleet:
    """Processes that do jobs; ``close`` ends them."""

    def __init__(self, plans: Sequence[Plan], shared: Shared) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.log: list[str] = []  # what the caches logged
        self._pipes: list[Connection] = []
        self._processes = []
        for plan in plans:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=worker.main, args=(plan, shared, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self._pipes.append(ours)
            self._processes.append(process)

    def close(self) -> None:
        """End the processes, in order where that can be."""
        for pipe in self._pipes:
            pipe.close()  # a worker that reads on finds the end
        for process in self._processes:
            process.join(JOIN_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def all(self, job: Job) -> list[Outcome]:
        """Have every worker do a job; return the outcomes in the order of the workers."""
        self.begin(job)
        return self.end()

    def begin(self, job: Job) -> None:
        """Have every worker begin a job."""
        for pipe in self._pipes:
            pipe.send(job)

    def end(self) -> list[Outcome]:
        """Wait until every worker has done what it began."""
        return [self._received(number) for number in range(len(self._pipes))]

    def one(self, number: int, job: Job) -> Outcome:
        """Have one worker do a job."""
        self._pipes[number].send(job)
        return self._received(number)

    def _received(self, number: int) -> Outcome:
        try:
            outcome: Outcome = self._pipes[number].recv()
        except EOFError:
            raise WorkerDied(f"process {number} has ended; see above why") from None
        self.log += [f"process {number}: {line}" for line in outcome.log]
        return outcome


def summed(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Return what all workers counted together."""
    return sum((outcome.counts for outcome in outcomes), Counter())
