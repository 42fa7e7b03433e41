"""What each process of a testbed may do: as data, and nowhere else.

None gets back what it has not, from no file and no program that it starts (`duet_p4.confinement`), or writes
outside of its own folders. Only the page's process is left as it is: an operator's shells in nodes are its.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import duet_p4
from duet_p4.agent import AgentConfig
from duet_p4.bpf.compile import OBJECTS, may_read
from duet_p4.confinement import Capability as Cap
from duet_p4.confinement import Rights
from mininet_topos.testbed.folder import CONTROLLER_USER, Folder

_NETWORK = (Cap.NET_ADMIN, Cap.NET_RAW)
_PROGRAMS = (Cap.BPF, Cap.PERFMON)
_BGP = (Cap.NET_BIND_SERVICE,)
_TMPFILE = Path("/tmp")  # glibc's P_tmpdir: TMPDIR changes nothing


def agent(config: AgentConfig, *, speaks_bgp: bool) -> Rights:
    """Interfaces, routes and BPF programs of its node; and BIRD's port, for the one that starts BIRD."""
    return Rights(
        capabilities=(*_NETWORK, *_PROGRAMS, *(_BGP if speaks_bgp else ())),
        inherited=True,
        writable=(config.state_dir, config.pin_folder()),
    )


def xdp_switch(folder: Folder, node: str) -> Rights:
    """BPF programs of its node; and what it takes to have clang, for a P4 program that is new, run as nobody.

    Programs that copy packets have ports in a namespace that the switch makes (SYS_ADMIN).
    """
    compiling = (Cap.CHOWN, Cap.DAC_OVERRIDE, Cap.SETGID, Cap.SETPCAP, Cap.SETUID)
    return Rights(
        capabilities=(*_NETWORK, *_PROGRAMS, Cap.SYS_ADMIN, *compiling),
        inherited=True,
        writable=(folder.state(node), folder.sockets, OBJECTS),
    )


def bmv2(folder: Folder, node: str) -> Rights:
    """Frames of its node's interfaces; and a temporary file, into which it puts a P4 program it is given."""
    writable = (folder.state(node), folder.sockets, _TMPFILE)
    return Rights(capabilities=_NETWORK, inherited=True, writable=writable)


def bird(state: Path) -> Rights:
    """Routes and BGP's port."""
    return Rights(capabilities=(*_NETWORK, *_BGP), inherited=True, writable=(state,))


def dip_server(state: Path) -> Rights:
    """Low ports, and nothing else."""
    return Rights(capabilities=_BGP, writable=(state,))


def controller(state: Path) -> Rights:
    """Nothing: a user that nobody else is, who can write what the controller, or its etcd, keeps."""
    return Rights(writable=(state,), user=CONTROLLER_USER if _others_may_read() else None)


def give(path: Path, user: int) -> None:
    """Have a folder with its files, or a file, belong to a user."""
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.chown(each, user, user)


@cache
def _others_may_read() -> bool:
    """Say whether a user without any rights could run this code; else root does, without capabilities."""
    code = (Path(os.__file__), Path(sys.prefix), Path(duet_p4.__file__))
    return all(may_read(path, CONTROLLER_USER) for path in code)
