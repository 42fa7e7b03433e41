"""Running tasks: on any executor, and resumable because every result is kept as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple, TypeVar

from controller.simulation.scale import Scale
from controller.simulation.tasks import Task
from duet_p4.results import to_json, write_json

R = TypeVar("R")
T = TypeVar("T", bound=Task[Any])

Done = Callable[[Task[Any], bool], None]
"""Told of every task that is done, and whether its result was there already."""


class VersionSkewError(RuntimeError):
    """A worker has other code or libraries than the one that asked it."""


class Computed(NamedTuple):
    """A result as JSON, and the CPU seconds that it took."""

    text: str
    cpu_s: float


class Results(Mapping[Task[Any], Any]):
    """Results by task; `results[task]` has the type that the task computes."""

    def __init__(self, found: dict[Task[Any], Any], cpu_s: dict[Task[Any], float], computed: int) -> None:
        """Keep the results, what each took, and how many were not there before."""
        self._found, self._cpu_s, self.computed = found, cpu_s, computed

    def __getitem__(self, task: Task[R]) -> R:
        """Return the result of a task."""
        result: R = self._found[task]
        return result

    def __iter__(self) -> Iterator[Task[Any]]:
        """Iterate over the tasks."""
        return iter(self._found)

    def __len__(self) -> int:
        """Return how many results there are."""
        return len(self._found)

    def cpu_s(self, tasks: Iterable[Task[Any]]) -> float:
        """Return the CPU seconds that these tasks took, whenever they were computed."""
        return sum(self._cpu_s[task] for task in dict.fromkeys(tasks))


def run(
    scale: Scale, tasks: Sequence[Task[Any]], out: Path, executor: Executor | None, done: Done
) -> Results:
    """Run tasks on an executor, or here without one, and return their results; `done` hears of each.

    A result is kept in `out`/raw with the digest of the set-up and of the code that computed it, and
    found there again by the same ones only. Raises VersionSkewError where a worker has other code.
    """
    folder = out / "raw"
    record = digest(scale)
    results: dict[Task[Any], Any] = {}
    cpu_s: dict[Task[Any], float] = {}
    missing = []
    for task in tasks:
        kept = _kept(folder / f"{task.slug}.json", record, task)
        if kept is None:
            missing.append(task)
        else:
            results[task], cpu_s[task] = kept
            done(task, True)
    for task, (text, took) in _computed(scale, _ordered(missing), executor):
        kept_as = {"digest": record, "task": task, "cpu_s": took, "result": json.loads(text)}
        write_json(folder / f"{task.slug}.json", kept_as)
        results[task], cpu_s[task] = task.parsed(text), took
        done(task, False)
    return Results(results, cpu_s, len(missing))


def _ordered(tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
    """Put tasks that share a trace together, and what takes long first, so that no worker is left with it."""

    def trace(task: Task[Any]) -> tuple[int, Any]:
        return task.seed, getattr(task, "settings", ())

    together: dict[tuple[int, Any], float] = {}
    for task in tasks:
        together[trace(task)] = together.get(trace(task), 0.0) + task.cost
    return sorted(tasks, key=lambda task: (-together[trace(task)], *trace(task), -task.cost))


def compute(expected: str, scale: Scale, task: Task[Any]) -> Computed:
    """Compute one task, on whatever machine.

    Raises VersionSkewError where this machine's code or libraries are not those of `expected`.
    """
    mine = code()
    if mine != expected:
        raise VersionSkewError(
            f"worker {socket.gethostname()} has code and libraries {mine[:16]}, this command has "
            f"{expected[:16]}: "
            "install the same version of duet-p4, numpy, scipy and numba on both"
        )
    began = process_time()
    return Computed(to_json(task.compute(scale)), process_time() - began)


def _computed(
    scale: Scale, tasks: Sequence[Task[Any]], executor: Executor | None
) -> Iterator[tuple[Task[Any], Computed]]:
    if executor is None:
        for task in tasks:
            yield task, compute(code(), scale, task)
        return
    running = {executor.submit(compute, code(), scale, task): task for task in tasks}
    try:
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


@cache
def code() -> str:
    """Return a digest of the code that computes results, and of the libraries that may change them."""
    here = Path(__file__).parent
    found = hashlib.sha256()
    for source in sorted(path for folder in _COMPUTING for path in here.parent.glob(folder)):
        if source.name not in _TELLS_ONLY:
            found.update(f"{source.relative_to(here.parent)}\0".encode() + source.read_bytes())
    for name in ("numpy", "scipy", "numba"):
        found.update(f"{name} {metadata.version(name)}".encode())
    return found.hexdigest()


_COMPUTING = ("engine/*.py", "engine/strategies/*.py", "simulation/*.py", "simulation/tasks/*.py")
_TELLS_ONLY = {
    "cli.py",
    "runner.py",
    "executors.py",
    "sweep.py",
    "bench.py",
    "kernels.py",
    "registry.py",
    "recognise.py",
    "__init__.py",
}
"""Modules that compute no result: a change in them leaves results valid."""


def digest(scale: Scale) -> str:
    """Return the digest of a set-up: of all that a result depends on but the task itself."""
    plain = replace(
        scale,
        seeds=(),
        rates_tbps=(),
        churn_seeds=0,
        assumption_seeds=0,
        curve_seeds=0,
        bound_seeds=0,
        name="",
    )
    found = hashlib.sha256(repr(plain).encode() + code().encode())
    if scale.trace_file:
        found.update(scale.trace_file.read_bytes())
    return found.hexdigest()


def named(what: object) -> str:
    """Return a short name for something by what it is: the same for equal things, another for others."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:8]


def _kept(path: Path, digest: str, task: Task[R]) -> tuple[R, float] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["digest"] != digest:
            return None
        return task.parsed(json.dumps(record["result"])), float(record["cpu_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


__all__ = ["Computed", "Results", "VersionSkewError", "code", "compute", "digest", "named", "run"]
