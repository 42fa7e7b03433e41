"""Running tasks: in parallel, and resumable because every result is kept as soon as it is there."""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.simulation.scale import Scale
from controller.simulation.tasks import KINDS, Task
from duet_p4.results import write_json

_PR_SET_PDEATHSIG = 1


def run(
    scale: Scale, tasks: Sequence[Task], out: Path, jobs: int, done: Callable[[Task, bool], None]
) -> dict[Task, dict[str, Any]]:
    """Run tasks in parallel and return their results; `done` hears of each, and whether it was kept.

    A result is kept in `out`/raw, under a digest of the set-up and of the code that computes it.
    """
    raw = out / "raw"
    digest = _digest(scale)
    results: dict[Task, dict[str, Any]] = {}
    missing = []
    for task in tasks:
        kept = _kept(raw / f"{task.slug}.json", digest)
        if kept is None:
            missing.append(task)
        else:
            results[task] = kept
            done(task, True)
    if not missing:
        return results
    # Long tasks first, so that no worker is left with one at the end.
    missing.sort(key=lambda task: (-["trace", "steady", "links", "migration"].index(task.kind), -task.rate))
    for task, result in _compute(scale, missing, jobs):
        write_json(raw / f"{task.slug}.json", {"digest": digest, "task": task, "result": result})
        results[task] = json.loads((raw / f"{task.slug}.json").read_text())["result"]
        done(task, False)
    return results


def _compute(scale: Scale, tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    if jobs == 1:
        for task in tasks:
            yield task, KINDS[task.kind](scale, task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_die_with_parent) as pool:
        running = {pool.submit(KINDS[task.kind], scale, task): task for task in tasks}
        try:
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """Have the kernel end this worker when the command is killed: nothing computes for nobody."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _digest(scale: Scale) -> str:
    here = Path(__file__).parent
    engine = here.parent / "engine"
    sources = [
        *sorted(engine.glob("*.py")),
        *sorted(engine.glob("strategies/*.py")),
        *(
            here / f"{name}.py"
            for name in ("latency", "provisioning", "scale", "tasks", "tracefile", "workload")
        ),
    ]
    # A task names its own seed and rate, so results are kept when others are added.
    digest = hashlib.sha256(repr(replace(scale, seeds=(), rates_tbps=(), link_seeds=0)).encode())
    for source in [*sources, *([scale.trace_file] if scale.trace_file else [])]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _kept(path: Path, digest: str) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("digest") != digest:
        return None
    result: dict[str, Any] = record["result"]
    return result


__all__ = ["run"]
