"""What the data paths of SMuxes and servers count (bpf/include/traffic.h), and how packets leave them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from duet_p4.model import Model

TRAFFIC = struct.Struct("=QQ")
"""`struct traffic`."""


@dataclass
class Traffic:
    """Packets, and their bytes as they came, Ethernet header included."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(self.packets + other.packets, self.bytes + other.bytes)


class Exit(Model):
    """A way packets left a data path; `meaning` says whether that is normal."""

    name: str
    packets: int
    bytes: int
    meaning: str


def add_up(values: Iterable[bytes]) -> Traffic:
    """Add up the `struct traffic` of every CPU."""
    pairs = [TRAFFIC.unpack(value) for value in values]
    return Traffic(sum(packets for packets, _ in pairs), sum(size for _, size in pairs))


def add_up_each(raw: bytes, cpus: int) -> list[Traffic]:
    """Do the same of many values as they lie in the kernel (`Map.read`)."""
    values = struct.iter_unpack(f"={2 * cpus}Q", raw)
    return [Traffic(sum(value[::2]), sum(value[1::2])) for value in values]


def read_exits(counters: Path) -> dict[str, str]:
    """Return every exit that a `counters.h` lists, with its sentence, in table order."""
    return dict(re.findall(r'X\((\w+),\s*"([^"]+)"\)', counters.read_text(encoding="utf-8")))


def describe(exits: Mapping[str, Traffic], meanings: Mapping[str, str]) -> tuple[Exit, ...]:
    """Return what each exit counted, and what it means."""
    return tuple(
        Exit(name=name.lower(), packets=traffic.packets, bytes=traffic.bytes, meaning=meanings[name])
        for name, traffic in exits.items()
    )
