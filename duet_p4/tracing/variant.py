"""What all instrumented variants of a data path share: whose maps they use, whose packets they want."""

from __future__ import annotations

import struct
from collections.abc import Collection

from duet_p4 import bpf
from duet_p4.api.trace import TraceFlow

OWN_MAPS = ("trace_flows", "trace_records", "trace_lost")
"""The maps of bpf/include/trace_flow.h, which a variant has for itself."""

_FLOW = struct.Struct("=4s4sHHBB2xQ")


class Variant:
    """An instrumented variant that is loaded: whose packets it wants, and the ring of what it tells."""

    def __init__(self, loaded: bpf.Object) -> None:
        """Own a loaded object. Raises BpfError where it has no ring."""
        self._object = loaded
        self._ring = bpf.RingBuffer(loaded.map("trace_records"))

    def follow(self, flow: TraceFlow | None, packets: int) -> None:
        """Trace so many of the next packets of a flow, or of all packets where None."""
        self._object.map("trace_flows").update(bytes(4), packed(flow, packets))

    @property
    def lost(self) -> int:
        """Records that the ring had no room for."""
        return int.from_bytes(self._object.map("trace_lost").lookup(bytes(4)) or b"", "little")

    def close(self) -> None:
        """Free it; a link that it is on keeps it until it gets another program."""
        self._ring.close()
        self._object.close()


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
