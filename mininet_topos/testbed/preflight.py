"""What must be there before anything is built."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from duet_p4 import bmv2
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.plan import Plan, Target

# Debian 12's, the oldest whose verifier was seen to take hmux.p4, the SMux and the host agent
# (tests/integration/test_loading.py). Before 6.6, which has TCX, the host agent attaches a clsact filter. The
# helpers would be there from 5.18 on.
_MIN_KERNEL = (6, 1)
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
_PROGRAMS = {
    "bird": "bird2",
    "mnexec": "mininet",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
}
_MIN_FREE_MB = 1500


def check(folder: Folder, plan: Plan) -> None:
    """Raise `TestbedError` with everything that is missing, and how to get it."""
    problems = [*_kernel(), *_capabilities(), *_programs(plan), *_memory(), *_name(folder)]
    if problems:
        raise TestbedError(
            "the testbed cannot start:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )


def _kernel() -> list[str]:
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < _MIN_KERNEL:
        wanted = ".".join(map(str, _MIN_KERNEL))
        return [
            f"kernel {release} is too old: the eBPF programs need {wanted} or later (Debian 12 and Ubuntu "
            "24.04 have it, Ubuntu 22.04 in its HWE packages)"
        ]
    return []


def _capabilities() -> list[str]:
    status = Path("/proc/self/status").read_text()
    effective = int(re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if not missing:
        return []
    how = "run it with sudo" if os.geteuid() else "this container or sandbox must be given them"
    return [f"no {', '.join(missing)}: network namespaces and BPF programs need them; {how}"]


def _programs(plan: Plan) -> list[str]:
    wanted = dict(_PROGRAMS)
    if plan.controllers > 1:
        wanted["etcd"] = "etcd-server"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    problems = [
        f"{program} is not on PATH: install the package {package} (`make setup` does)"
        for program, package in wanted.items()
        if shutil.which(program, path=path) is None
    ]
    if plan.target is Target.BMV2 and shutil.which(bmv2.COMMAND, path=path) is None:
        problems.append(
            f"{bmv2.MISSING}: build BMv2 with P4Runtime, or use `--target xdp`, which needs nothing"
        )
    return problems


def _memory() -> list[str]:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    free_mb = int(found[1]) // 1024 if found else _MIN_FREE_MB
    if free_mb < _MIN_FREE_MB:
        return [f"only {free_mb} MB of memory are free: a testbed needs about {_MIN_FREE_MB} MB"]
    return []


def _name(folder: Folder) -> list[str]:
    return [folder.in_use()] if folder.path.exists() else []
