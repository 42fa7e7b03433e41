"""What a process may still do once it is set up: no more than its work needs, and never more again.

Three parts, each the kernel's: capabilities, of which the bounding set and the secure bits keep what is not
named away from every program started later, by root too; no-new-privileges, so that no file gives any back;
and Landlock (Linux 5.13), by which files are written only where that was said.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

from duet_p4.model import Model


class Capability(IntEnum):
    """Capabilities that processes of this project have a use for, by their numbers in Linux."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYS_NICE = 23
    SYS_RESOURCE = 24
    PERFMON = 38
    BPF = 39


class Rights(Model):
    """What a process may do.

    The programs that it starts have its capabilities if these are `inherited`, and else none. It writes below
    `writable` only, folders that are made where they are missing; temporary files are in the first. None:
    wherever its user may. As another `user` than root it has no capabilities.
    """

    capabilities: tuple[Capability, ...] = ()
    inherited: bool = False
    writable: tuple[Path, ...] | None = None
    user: int | None = None


_NO_NEW_PRIVS, _CAPBSET_READ, _CAPBSET_DROP, _SET_SECUREBITS, _CAP_AMBIENT = 38, 23, 24, 28, 47
_AMBIENT_RAISE = 2
_NOROOT_LOCKED = 0b11
_CAPABILITY_VERSION = 0x20080522
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_WRITES = (_WRITE_FILE | sum(1 << bit for bit in range(4, 13)), 1 << 13, _TRUNCATE)
"""Rights to write, make and remove, by the version of Landlock that brought them: links and renames from one
folder to another (2), truncation (3)."""
_SYSTEM = (Path("/dev"), Path("/proc"))
"""What everybody may open for writing: devices such as /dev/null, and the settings of one's own network."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Ruleset(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def confine(rights: Rights) -> None:
    """Have this process, which must have one thread, and all that it starts, no other rights from now on.

    Raises OSError where the kernel refuses. A kernel without Landlock writes wherever the user may.
    """
    _prctl(_NO_NEW_PRIVS, 1)
    if rights.writable is not None:
        for path in rights.writable:
            path.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(rights.writable[0])
        tempfile.tempdir = None
        _write_only_below((*rights.writable, *_SYSTEM))
    _keep(rights)


def landlock_version() -> int:
    """Return the version of Landlock that this kernel has, 0 for none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def _write_only_below(paths: Iterable[Path]) -> None:
    version = landlock_version()
    if not version:
        return
    handled = sum(_WRITES[:version])
    ruleset = _Ruleset(handled)
    made = _call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(ctypes.sizeof(ruleset)), 0)
    try:
        for path in paths:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = _Beneath(handled, parent)
            try:
                _call(_ADD_RULE, made, _PATH_BENEATH, ctypes.byref(rule), 0)
            finally:
                os.close(parent)
        _call(_RESTRICT_SELF, made, 0)
    finally:
        os.close(made)


def _keep(rights: Rights) -> None:
    """Keep no other capabilities; then be another user, if that is wanted."""
    wanted = frozenset(rights.capabilities) & _permitted()
    _prctl(_SET_SECUREBITS, _NOROOT_LOCKED)
    number = 0
    while (there := _libc.prctl(_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if there and number not in wanted:
            _prctl(_CAPBSET_DROP, number)
        number += 1
    if rights.user is not None:
        os.setgroups([])
        os.setresgid(rights.user, rights.user, rights.user)
        os.setresuid(rights.user, rights.user, rights.user)
    mask = 0 if rights.user else sum(1 << capability for capability in wanted)
    _set_capabilities(mask, mask if rights.inherited else 0)
    if rights.inherited:
        for capability in sorted(wanted):
            _prctl(_CAP_AMBIENT, _AMBIENT_RAISE, capability)


def _permitted() -> frozenset[int]:
    """Return the capabilities that this process has: a container may have been given few."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    mask = int(next(line for line in status.splitlines() if line.startswith("CapPrm:")).split()[1], 16)
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def _set_capabilities(effective: int, inheritable: int) -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    words = [part >> shift & 0xFFFFFFFF for shift in (0, 32) for part in (effective, effective, inheritable)]
    if _libc.capset(header, (ctypes.c_uint32 * 6)(*words)):
        raise _failure("set capabilities")


def _prctl(option: int, value: int, more: int = 0) -> None:
    arguments = [ctypes.c_ulong(word) for word in (value, more, 0, 0)]
    if _libc.prctl(option, *arguments):
        raise _failure(f"prctl {option}, {value}")


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise _failure(f"system call {number}")
    return result


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"cannot confine the process: {what}: {os.strerror(code)}")
