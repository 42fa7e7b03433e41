"""The ports of a switch, and the program that runs on them as native XDP.

Programs are attached by BPF links and the CPU port is not persistent, so however the process ends, the
ports go quiet and nothing stays behind. An interface may go and come again: its port stays, and gets the
program that runs then.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from finsy.proto import p4i

from duet_p4 import bpf
from duet_p4.bpf.attach import Mode
from duet_p4.bpf.errors import BpfError
from duet_p4.xdp_switch.cpu_port import CpuPort
from duet_p4.xdp_switch.dataplane import Pipeline
from duet_p4.xdp_switch.features import takes_redirects
from duet_p4.xdp_switch.pipeline import XdpPipeline
from duet_p4.xdp_switch.queues import DEPTH, Rate
from duet_p4.xdp_switch.tracer import Tracer

RunMode = Literal["native", "generic", "auto"]
MAX_PORT = 510
"""Ports are 0 to 510: 511 is BMv2's drop port."""

_MAX_IFINDEX = 65536
_DEVMAP, _ARRAY = 14, 2
_SIOCGIFFLAGS, _SIOCGIFINDEX, _IFF_UP, _IFF_RUNNING = 0x8913, 0x8933, 1, 0x40
_RTMGRP_LINK = 1
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Port:
    """A port: `ifindex` is that of its interface as the data plane has it, 0 while there is none."""

    interface: str
    ifindex: int = 0
    link: bpf.Link | None = None


class XdpDevice:
    """A switch's ports in this network namespace; see `dataplane.Device`."""

    def __init__(
        self,
        cpu_port: int | None = None,
        mode: RunMode = "native",
        *,
        replays: bool = False,
        rates: Mapping[int, Rate] | None = None,
        depth: int = DEPTH,
        sampling: int = 0,
    ) -> None:
        """Make a switch without ports, but with a CPU port where one is given; needs root.

        `mode` says how the program runs on its ports; with "auto", which looks at the ports there are when
        a program is staged, in the driver where all of them can take frames from it. Ports that have one of
        the `rates` send no faster, and `depth` packets at most wait for each. One that `replays` is
        for tests: its pipelines send nothing, but have `replay`. One frame in `sampling` that leaves is a
        sample; 0 is none.
        """
        self.sampling = sampling
        self._rates = dict(rates or {})
        self._depth = depth
        self._mode = mode
        self._replays = replays
        self._shared = {
            "egress_ports": bpf.create_map(_DEVMAP, "egress_ports", 4, 4, MAX_PORT + 2),
            "ingress_ports": bpf.create_map(_ARRAY, "ingress_ports", 4, 4, _MAX_IFINDEX),
        }
        self._ports: dict[int, _Port] = {}
        self._running: XdpPipeline | None = None
        self._tracer: Tracer | None = None
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._events.bind((0, _RTMGRP_LINK))
        self._cpu: CpuPort | None = None
        self._cpu_number = cpu_port
        if cpu_port is not None:
            self._cpu = CpuPort()
            self.add_port(cpu_port, self._cpu.interface)

    @property
    def shared(self) -> dict[str, bpf.Map]:
        """The maps of ports, which all programs of the switch share."""
        return self._shared

    @property
    def cpu_port(self) -> int | None:
        """The number of the CPU port, None without one."""
        return self._cpu_number

    @property
    def packet_in_fd(self) -> int | None:
        """Readable when a packet was sent to the CPU port; None without one."""
        return self._cpu.fd if self._cpu is not None else None

    @property
    def port_events_fd(self) -> int | None:
        """Readable when an interface came, went, or changed its state."""
        return self._events.fileno()

    def add_port(self, number: int, interface: str) -> None:
        """Add an interface of this network namespace as a port.

        Raises ValueError for a number in use or out of range, OSError where there is no such interface,
        BpfError where XDP cannot be attached to it.
        """
        if not 0 <= number <= MAX_PORT:
            raise ValueError(f"port {number} is out of range: ports are 0 to {MAX_PORT}")
        if number in self._ports:
            raise ValueError(f"port {number} is {self._ports[number].interface} already")
        if not self._ifindex(interface):
            raise OSError(errno.ENODEV, f"there is no interface {interface} for port {number}")
        port = _Port(interface)
        self._follow(number, port)
        try:
            if self._running is not None:
                port.link = self._attach(self._running, port)
        except BaseException:
            self._move(number, port, 0)
            raise
        self._ports[number] = port

    def stage(self, config: bytes, info: p4i.P4Info) -> XdpPipeline:
        """Compile, verify and fill a program that runs on no port yet."""
        self._decide_mode()
        mode: Mode = "skb" if self._mode == "generic" else "native"
        return XdpPipeline(
            config,
            info,
            self._shared,
            mode=mode,
            replays=self._replays,
            rates=self._rates,
            depth=self._depth,
            sampling=self.sampling,
        )

    def activate(self, pipeline: Pipeline, settle: Callable[[], None] | None = None) -> None:
        """Put a staged pipeline on all ports in place of the one before, or change nothing."""
        if not isinstance(pipeline, XdpPipeline):
            raise TypeError(f"{type(pipeline).__name__} is no pipeline of this device")
        if self._tracer is not None:
            self.end_trace(self._tracer)
        before = self._running
        changed: list[_Port] = []
        try:
            for number, port in self._ports.items():
                self._follow(number, port)
                if port.ifindex and self._put(pipeline, port):
                    changed.append(port)
        except BaseException:
            for port in changed:
                self._put_back(before, port)
            raise
        self._running = pipeline
        try:
            if settle is not None:
                settle()
        finally:
            if before is not None and before is not pipeline:
                before.close()

    @property
    def running(self) -> XdpPipeline | None:
        """The program on the ports."""
        return self._running

    def begin_trace(self, pipeline: XdpPipeline, tracer: Tracer) -> None:
        """Run the instrumented variant of the running pipeline in its place; the caller closes it in the end.

        Raises ValueError where another pipeline runs by now, or is traced already.
        """
        if pipeline is not self._running or self._tracer is not None:
            raise ValueError("the program of the switch was replaced meanwhile, or is traced already")
        self._tracer = tracer
        try:
            for port in self._ports.values():
                if port.link is not None:
                    self._put(pipeline, port)
        except BaseException:
            self.end_trace(tracer)
            raise

    def end_trace(self, tracer: Tracer) -> None:
        """Run the program itself again in place of this variant of it; nothing where it does already."""
        if self._tracer is not tracer:
            return
        self._tracer = None
        for port in self._ports.values():
            if port.link is not None:
                self._put_back(self._running, port)

    @property
    def tracer(self) -> Tracer | None:
        """What runs in place of the program, None where nobody traces."""
        return self._tracer

    def _in_force(self, pipeline: XdpPipeline) -> bpf.Program:
        if self._tracer is not None and pipeline is self._running:
            return self._tracer.program
        return pipeline.program

    def send(self, frame: bytes) -> None:
        """Run a frame as one that came in by the CPU port."""
        if self._cpu is None:
            raise ValueError("this switch has no CPU port: start it with one to send packets")
        self._cpu.send(frame)

    def receive(self) -> bytes | None:
        """Return the next packet-in, or None where there is none now."""
        if self._cpu is None:
            return None
        try:
            return self._cpu.receive()
        except OSError:
            assert self._cpu_number is not None
            self._ports[self._cpu_number].interface = self._cpu.interface
            self.port_states()
            raise

    def port_states(self) -> Mapping[int, bool]:
        """Take note of interfaces that came and went, and return which ports are up."""
        self._drain_events()
        for number, port in self._ports.items():
            try:
                self._follow(number, port)
                if port.ifindex and port.link is None and self._running is not None:
                    port.link = self._attach(self._running, port)
            except (BpfError, OSError, ValueError) as error:
                _log.error("port %d (%s) forwards nothing: %s", number, port.interface, error)
        return {number: self._is_up(port) for number, port in self._ports.items()}

    def close(self) -> None:
        """Detach from every port and free everything."""
        if self._tracer is not None:
            self.end_trace(self._tracer)
        for port in self._ports.values():
            _detach(port)
        self._ports.clear()
        if self._running is not None:
            self._running.close()
            self._running = None
        if self._cpu is not None:
            self._cpu.close()
            self._cpu = None
        self._events.close()
        self._control.close()
        for shared in self._shared.values():
            shared.close()

    def _drain_events(self) -> None:
        """Take what has been told; what happened is read from the interfaces, so lost messages matter not."""
        while True:
            try:
                self._events.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _follow(self, number: int, port: _Port) -> None:
        """Let the data plane know the interface that has the port's name now, if any."""
        ifindex = self._ifindex(port.interface)
        if ifindex != port.ifindex:
            if port.ifindex:
                _log.warning(
                    "port %d: interface %s %s",
                    number,
                    port.interface,
                    "is another one" if ifindex else "has gone",
                )
            self._move(number, port, ifindex)

    def _move(self, number: int, port: _Port, ifindex: int) -> None:
        """Give a port another interface, or none."""
        if ifindex >= _MAX_IFINDEX:
            raise ValueError(f"interface {port.interface} has index {ifindex}, above {_MAX_IFINDEX - 1}")
        _detach(port)
        ingress, egress = self._shared["ingress_ports"], self._shared["egress_ports"]
        if port.ifindex:
            ingress.update(_u32(port.ifindex), _u32(0))
            # The kernel takes an interface that has gone out of the map by itself.
            with suppress(OSError):
                egress.delete(_u32(number))
        port.ifindex = 0
        if ifindex:
            ingress.update(_u32(ifindex), _u32(number + 1))
            egress.update(_u32(number), _u32(ifindex))
            port.ifindex = ifindex

    def _decide_mode(self) -> None:
        """Settle how programs run, where that was left open."""
        unfit = [
            port.interface
            for port in self._ports.values()
            if port.ifindex and takes_redirects(port.ifindex) is False
        ]
        if not unfit:
            if self._mode == "auto":
                self._mode = "native"
            return
        if self._mode == "auto":
            self._mode = "generic"
            _log.warning(
                "runs generic XDP, which is slower: %s takes no frames from native XDP (its far end has "
                "neither GRO on, as by `ethtool -K INTERFACE gro on`, nor XDP)",
                ", ".join(unfit),
            )
        elif self._mode == "native":
            _log.warning(
                "nothing can leave by %s yet: its far end needs GRO (`ethtool -K INTERFACE gro on`) or XDP",
                ", ".join(unfit),
            )

    def _attach(self, pipeline: XdpPipeline, port: _Port) -> bpf.Link:
        if self._mode == "generic":
            return bpf.attach_xdp(self._in_force(pipeline), port.ifindex, "skb")
        try:
            return bpf.attach_xdp(self._in_force(pipeline), port.ifindex)
        except BpfError as error:
            reason = error.__cause__
            if not isinstance(reason, OSError) or reason.errno not in (errno.ERANGE, errno.EOPNOTSUPP):
                raise
            link = bpf.attach_xdp(self._in_force(pipeline), port.ifindex, "skb")
            why = (
                "its MTU is too large for native XDP"
                if reason.errno == errno.ERANGE
                else "it has no native XDP"
            )
            _log.warning("%s runs generic XDP, which is slower: %s", port.interface, why)
            return link

    def _put(self, pipeline: XdpPipeline, port: _Port) -> bool:
        """Run a pipeline on a port; False where the interface goes away at this very moment."""
        try:
            if port.link is None:
                port.link = self._attach(pipeline, port)
            else:
                port.link.update(self._in_force(pipeline))
        except (OSError, BpfError):
            if self._ifindex(port.interface) == port.ifindex:
                raise
            _detach(port)
            return False
        return True

    def _put_back(self, before: XdpPipeline | None, port: _Port) -> None:
        if before is None:
            _detach(port)
            return
        try:
            self._put(before, port)
        except (OSError, BpfError) as error:
            _log.error("%s cannot go back to the program before: %s", port.interface, error)

    def _ifindex(self, interface: str) -> int:
        """Return the index of an interface, 0 where there is none."""
        try:
            answer = fcntl.ioctl(self._control, _SIOCGIFINDEX, struct.pack("16si20x", interface.encode(), 0))
        except OSError:
            return 0
        return int(struct.unpack("16xi20x", answer)[0])

    def _is_up(self, port: _Port) -> bool:
        try:
            answer = fcntl.ioctl(
                self._control, _SIOCGIFFLAGS, struct.pack("16sH22x", port.interface.encode(), 0)
            )
        except OSError:
            return False
        (flags,) = struct.unpack("16xH22x", answer)
        return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


def _detach(port: _Port) -> None:
    if port.link is not None:
        port.link.close()
        port.link = None


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
