"""STF on xdp: packets go through the program by test runs of the kernel, without ports."""

from __future__ import annotations

from collections.abc import Sequence

from finsy.proto import p4i

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.dataplane import Call, Count, MatchValues, MeterRates
from duet_p4.xdp_switch.pipeline import XdpPipeline
from duet_p4.xdp_switch.stf.interpreter import Interpreter, Replica

_DEVMAP, _ARRAY = 14, 2
_PORTS, _INTERFACES = 512, 65536
_PADDING = 64
"""Bytes behind each packet, so that it may have fewer than the 14 that the kernel wants."""


class Xdp(Interpreter):
    """A loaded program. Raises as `dataplane.Device.stage` does; needs root."""

    def __init__(self, config: bytes, info: p4i.P4Info) -> None:
        self._inserted: list[tuple[str, MatchValues, int]] = []
        self._changed: set[str] = set()
        self._shared = {
            "egress_ports": bpf.create_map(_DEVMAP, "egress_ports", 4, 4, _PORTS),
            "ingress_ports": bpf.create_map(_ARRAY, "ingress_ports", 4, 4, _INTERFACES),
        }
        try:
            self._pipeline = XdpPipeline(config, info, self._shared, replays=True, padding=_PADDING)
        except BaseException:
            self._close_shared()
            raise
        super().__init__(self._pipeline.compiled.program)

    def close(self) -> None:
        """Free the program."""
        self._pipeline.close()
        self._close_shared()

    def _close_shared(self) -> None:
        for shared in self._shared.values():
            shared.close()

    def packet(self, port: int, data: bytes) -> None:
        """Run a packet."""
        for egress, frame in self._pipeline.replay(data, port):
            self.sent.setdefault(egress, []).append(frame)

    def insert(self, table: ir.Table, key: MatchValues, priority: int, action: Call) -> None:
        """Add an entry."""
        self._pipeline.insert(table.name, key, priority, action)
        self._inserted.append((table.name, key, priority))

    def set_default(self, table: ir.Table, action: Call) -> None:
        """Set a default action."""
        self._pipeline.set_default(table.name, action)
        self._changed.add(table.name)

    def reset(self) -> None:
        """Take away what was added, and set defaults back."""
        for entry in self._inserted:
            self._pipeline.delete(*entry)
        for table in self._changed:
            self._pipeline.set_default(table, None)
        self._inserted.clear()
        self._changed.clear()

    def set_group(self, group: int, replicas: Sequence[Replica]) -> None:
        """Set a multicast group."""
        self._pipeline.multicast.put(group, replicas)

    def set_session(self, session: int, replicas: Sequence[Replica], group: int | None) -> None:
        """Set a clone session."""
        self._pipeline.clones.put(session, replicas)

    def remove_session(self, session: int) -> None:
        """Forget a clone session."""
        self._pipeline.clones.remove(session)

    def read_counter(self, counter: str, index: int) -> Count:
        """Return a cell of a counter array."""
        return self._pipeline.read_counter(counter, index, 1)[0]

    def read_direct(self, table: str, key: MatchValues, priority: int) -> Count:
        """Return the direct counter of an entry."""
        return self._pipeline.read_direct(table, [(key, priority)])[0]

    def write_counter(self, counter: str, index: int, count: Count) -> None:
        """Set a cell of a counter array."""
        self._pipeline.write_counter(counter, index, [count])

    def write_register(self, register: str, first: int, values: Sequence[int]) -> None:
        """Set cells of a register array."""
        self._pipeline.write_register(register, first, values)

    def configure_meter(self, meter: str, index: int, rates: MeterRates) -> None:
        """Set the rates of a meter."""
        self._pipeline.meters[meter].configure(index, rates)
