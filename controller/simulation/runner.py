"""Running tasks: on any executor, and resumable because every result is kept as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from controller.simulation.scale import Scale
from controller.simulation.tasks import Task
from duet_p4.results import to_json, write_json

R = TypeVar("R")
T = TypeVar("T", bound=Task[Any])

Done = Callable[[Task[Any], bool], None]
"""Told of every task that is done, and whether its result was there already."""


class VersionSkewError(RuntimeError):
    """A worker has other code or libraries than the one that asked it."""


class Results(Mapping[Task[Any], Any]):
    """Results by task; `results[task]` has the type that the task computes."""

    def __init__(self, found: dict[Task[Any], Any]) -> None:
        """Keep the results."""
        self._found = found

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
    missing = []
    for task in tasks:
        kept = _kept(folder / f"{task.slug}.json", record, task)
        if kept is None:
            missing.append(task)
        else:
            results[task] = kept
            done(task, True)
    missing = _ordered(missing)
    for task, text in _computed(scale, missing, executor):
        write_json(folder / f"{task.slug}.json", {"digest": record, "task": task, "result": json.loads(text)})
        results[task] = task.parsed(text)
        done(task, False)
    return Results(results)


def _ordered(tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
    """Put tasks that share a trace together, and what takes long first, so that no worker is left with it."""

    def trace(task: Task[Any]) -> tuple[int, Any]:
        return task.seed, getattr(task, "settings", ())

    together: dict[tuple[int, Any], float] = {}
    for task in tasks:
        together[trace(task)] = together.get(trace(task), 0.0) + task.cost
    return sorted(tasks, key=lambda task: (-together[trace(task)], *trace(task), -task.cost))


def compute(expected: str, scale: Scale, task: Task[Any]) -> str:
    """Compute one task, on whatever machine, and return its result as JSON.

    Raises VersionSkewError where this machine's code or libraries are not those of `expected`.
    """
    mine = code()
    if mine != expected:
        raise VersionSkewError(
            f"worker {socket.gethostname()} has code and libraries {mine[:16]}, this command has "
            f"{expected[:16]}: "
            "install the same version of duet-p4, numpy, scipy and numba on both"
        )
    return to_json(task.compute(scale))


def _computed(
    scale: Scale, tasks: Sequence[Task[Any]], executor: Executor | None
) -> Iterator[tuple[Task[Any], str]]:
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
    plain = replace(scale, seeds=(), rates_tbps=(), churn_seeds=0, assumption_seeds=0, bound_seeds=0, name="")
    found = hashlib.sha256(repr(plain).encode() + code().encode())
    if scale.trace_file:
        found.update(scale.trace_file.read_bytes())
    return found.hexdigest()


def named(what: object) -> str:
    """Return a short name for something by what it is: the same for equal things, another for others."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:8]


def _kept(path: Path, digest: str, task: Task[R]) -> R | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return task.parsed(json.dumps(record["result"])) if record["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


__all__ = ["Results", "VersionSkewError", "code", "compute", "digest", "named", "run"]
