"""Where tasks run: anything that is a `concurrent.futures.Executor`.

Here: processes of this machine, and the workers of a Dask cluster. MPI's `MPIPoolExecutor`, Ray's and SLURM's
equivalents fit as well: give one to `runner.run`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

_PR_SET_PDEATHSIG = 1
CONNECT_S = 20


class ClusterError(RuntimeError):
    """There is no cluster to compute on; the text says why."""


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Provide processes of this machine, which end with this one whatever happens to it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_die_with_parent) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def dask(address: str) -> Iterator[Executor]:
    """Provide the workers of the Dask cluster whose scheduler is at this address, such as
    `tcp://host:8786`.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError("--dask needs the package distributed: pip install 'duet-p4[cluster]'") from error
    try:
        client: Any = Client(address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler at {address}: {error}") from error
    with client:
        pool = client.get_executor(pure=False)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)


def _die_with_parent() -> None:
    """Have the kernel end this worker when the command is killed: nothing computes for nobody."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


__all__ = ["ClusterError", "dask", "processes"]
