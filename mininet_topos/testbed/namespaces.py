"""Network namespaces bound to files, and the processes in them.

A testbed's namespaces are bound below its own folder, so they outlive their processes, whoever died,
and can be found again. What runs in one of them belongs to the testbed, whoever started it: that is
how a later `down` finds every process, and no other.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def create(path: Path) -> None:
    """Make a namespace and bind it to the new file `path`; the caller stays where it is."""
    with _returning():
        _call("unshare", _libc.unshare(_CLONE_NEWNET))
        path.touch(exist_ok=False)
        bound = _libc.mount(_OWN.encode(), bytes(path), None, _MS_BIND, None)
        _call(f"bind {path}", bound)


def enter(path: Path) -> None:
    """Move the calling thread into the namespace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call(f"enter {path}", _libc.setns(descriptor, _CLONE_NEWNET))
    finally:
        os.close(descriptor)


@contextmanager
def entered(path: Path) -> Iterator[None]:
    """Be in the namespace for a while. Sockets opened meanwhile stay there."""
    with _returning():
        enter(path)
        yield


def remove(path: Path) -> None:
    """Unbind the namespace, which ends it once no process is in it, and remove the file."""
    while _libc.umount2(bytes(path), _MNT_DETACH) == 0:
        pass
    path.unlink(missing_ok=True)


def is_bound(path: Path) -> bool:
    """Say whether a namespace is bound to `path`, rather than the file being an ordinary one."""
    try:
        return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except FileNotFoundError:
        return False


def processes(paths: Collection[Path]) -> list[int]:
    """Return the processes that are in one of these namespaces, or have a thread in one."""
    wanted = {_identity(path) for path in paths if is_bound(path)}
    return [pid for pid in _pids() if pid != os.getpid() and _threads_in(pid, wanted)] if wanted else []


def halt(paths: Collection[Path]) -> None:
    """Have every process in these namespaces, but the caller, do nothing more; `kill` still ends them."""
    _signal_all(paths, signal.SIGSTOP)


def resume(paths: Collection[Path]) -> None:
    """Have every process in these namespaces go on after `halt`."""
    _signal_all(paths, signal.SIGCONT)


def _signal_all(paths: Collection[Path], number: signal.Signals) -> None:
    wanted = {_identity(path) for path in paths if is_bound(path)}
    for pid in processes(paths):
        descriptor = _signal(pid, wanted, number)
        if descriptor is not None:
            os.close(descriptor)


def kill(paths: Collection[Path], timeout_s: float) -> list[int]:
    """Kill every process in these namespaces, but not the caller; return those that did not end in time."""
    wanted = {_identity(path) for path in paths if is_bound(path)}
    deadline = time.monotonic() + timeout_s
    while alive := processes(paths):
        ending = [d for pid in alive if (d := _signal(pid, wanted, signal.SIGKILL)) is not None]
        try:
            _await_end(ending, deadline)
        finally:
            for descriptor in ending:
                os.close(descriptor)
        if time.monotonic() > deadline:
            return processes(paths)
    return []


def _signal(pid: int, wanted: Collection[tuple[int, int]], number: signal.Signals) -> int | None:
    """Signal a process that is still in a wanted namespace; return its pid file descriptor."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # From here on the number cannot be another process's without this failing.
    if not _threads_in(pid, wanted):
        os.close(descriptor)
        return None
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)
    return descriptor


def _await_end(descriptors: Collection[int], deadline: float) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left = len(descriptors)
    while left and (remaining := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(remaining * 1000):
            poll.unregister(descriptor)
            left -= 1


def _threads_in(pid: int, wanted: Collection[tuple[int, int]]) -> bool:
    try:
        return any(_identity(task / "ns/net") in wanted for task in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # It ended meanwhile, or is another user's, which none of ours is.


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextmanager
def _returning() -> Iterator[None]:
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _call("return to the own namespace", _libc.setns(own, _CLONE_NEWNET))
        os.close(own)


def _call(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")
