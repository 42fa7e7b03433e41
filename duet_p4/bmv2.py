"""BMv2 as it is found on PATH: whether it is there, which version it is, and what its build can do.

Builds differ: Thrift, which `simple_switch_CLI` talks, and nanomsg can be left out.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from functools import cache

COMMAND, SHELL = "simple_switch_grpc", "simple_switch_CLI"
MISSING = f"{COMMAND} is not on PATH"


def is_installed() -> bool:
    """Whether BMv2 can run on this machine."""
    return shutil.which(COMMAND) is not None


def without_shell() -> str | None:
    """Say why BMv2's command line cannot talk to it, None where it can."""
    if not is_installed():
        return MISSING
    if not has("--thrift-port"):
        return f"{COMMAND} on PATH was built without Thrift, which {SHELL} talks"
    return None if shutil.which(SHELL) else f"{SHELL} is not on PATH"


def version() -> str | None:
    """Return the version of the BMv2 on PATH, None where there is none."""
    if not is_installed():
        return None
    return subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True).stdout.strip()


@cache
def has(option: str) -> bool:
    """Whether this build of BMv2 has an option."""
    shown = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=False)
    return option in shown.stdout + shown.stderr


def thrift_port() -> list[str]:
    """Return the option by which BMv2 has a TCP port of its own for Thrift: none where it has no Thrift.

    Left to itself, every BMv2 of a network namespace wants the same one.
    """
    if not has("--thrift-port"):
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ["--thrift-port", str(probe.getsockname()[1])]
