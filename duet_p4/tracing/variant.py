"""What all instrumented variants of a data path share: whose maps they use, whose packets they want."""

from __future__ import annotations

import struct
from collections.abc import Collection

from duet_p4 import bpf
from duet_p4.api.trace import TraceFlow

_FLOW = struct.Struct("=4s4sHHBB2xQ")


def packed(flow: TraceFlow | None, packets: int) -> bytes:
    """Return `struct trace_flow` for so many of the next packets of a flow, or of all packets where None."""
    wanted = flow or TraceFlow()
    ends = [address.packed if address else bytes(4) for address in (wanted.source, wanted.destination)]
    ports = [
        struct.unpack("=H", struct.pack("!H", port or 0))[0]
        for port in (wanted.source_port, wanted.destination_port)
    ]
    return _FLOW.pack(*ends, *ports, wanted.protocol or 0, flow is None, packets)


def shared_maps(running: bpf.Object, variant: bpf.Object, own: Collection[str]) -> dict[str, bpf.Map]:
    """Return the running program's maps by the names that the variant has for them, but for its `own`.

    Raises BpfError where they do not fit.
    """

    def plain(name: str) -> str:
        # libbpf puts the object's name before the section of global variables.
        return name[name.index(".") :] if "." in name else name

    maps = {plain(one.name): one for one in running.maps()}
    shared = {}
    for one in variant.maps():
        name, shape = plain(one.name), one.shape
        if name in own or name.startswith(".rodata"):
            continue
        # The flags are the kernel's to add to, and entries may be configured: they say nothing of what fits.
        if name not in maps or maps[name].shape[:3] != shape[:3]:
            raise bpf.BpfError(f"the instrumented variant has another map {name} than the program")
        shared[one.name] = maps[name]
    for name, place in variant.variables(".bss").items():
        if running.variables(".bss").get(name) != place:
            raise bpf.BpfError(f"the instrumented variant has {name} elsewhere than the program")
    return shared
