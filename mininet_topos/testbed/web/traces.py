"""Traces on the page: `duet trace` by a click, and the sources whose lines the steps name."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

import duet_p4
from duet_p4.api.problems import UnknownError
from duet_p4.hmux.pipeline import P4_SOURCES
from duet_p4.model import Model
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.tracing import Journey
from mininet_topos.testbed.web import commands

Kind = Literal["switch", "smux", "server"]

_PACKAGE = Path(duet_p4.__file__).parent
_SOURCES: dict[Kind, tuple[tuple[Path, str], ...]] = {
    "switch": ((P4_SOURCES, "*.p4"), (P4_SOURCES / "include", "*.p4")),
    "smux": ((_PACKAGE / "smux" / "bpf", "*.[ch]"), (_PACKAGE / "bpf" / "include", "*.h")),
    "server": ((_PACKAGE / "host_agent" / "bpf", "*.[ch]"), (_PACKAGE / "bpf" / "include", "*.h")),
}


class TraceWanted(Model):
    """Which packet is sent and followed; the port says nothing of a ping."""

    client: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    vip: IPv4Address
    port: int = Field(default=80, ge=1, le=65535)
    protocol: Literal["tcp", "udp", "icmp"] = "tcp"


class Source(Model):
    """A file of a data path's program."""

    file: str
    lines: tuple[str, ...]


def router(folder: Folder) -> APIRouter:
    """Return the paths."""
    api = APIRouter(prefix="/testbed/v1")

    @api.post("/traces")
    async def trace(body: TraceWanted) -> Journey:
        """Send a real packet from a client to a VIP; return its way, there and back, step by step."""
        return Journey.model_validate_json(
            await commands.answer_of(
                *("trace", body.client, f"{body.vip}:{body.port}"),
                *("--protocol", body.protocol, "--name", folder.name, "--json"),
            )
        )

    @api.get("/sources/{kind}")
    async def get_source(kind: Kind, file: str) -> Source:
        """Return a file of a switch's, SMux's or server's program, as steps name it."""
        known = sources(kind)
        if file not in known:
            raise UnknownError(f"the program of a {kind} has no file {file!r}")
        return Source(file=file, lines=tuple(known[file].read_text(encoding="utf-8").splitlines()))

    return api


@cache
def sources(kind: Kind) -> dict[str, Path]:
    """Return the files of the program of a kind of device, by name: steps name no folder."""
    found: dict[str, Path] = {}
    for folder, pattern in _SOURCES[kind]:
        for path in sorted(folder.glob(pattern)):
            found.setdefault(path.name, path)
    return found
