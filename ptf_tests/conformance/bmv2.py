"""BMv2 as the oracle: `simple_switch_grpc` from PATH, its ports a gRPC stream instead of interfaces.

BMv2 says of each packet that leaves which one that came in it comes from, and ends a stream only when
nothing of it is left inside. So what a frame caused is known for certain, however malformed it was, and
neither namespaces nor root are needed. The CPU port is a port like the others here.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
from finsy.proto import p4r

from duet_p4.bmv2 import COMMAND, MISSING, is_installed, thrift_port
from duet_p4.xdp_switch.stf.bmv2_ports import PACKET_STREAM, Packet
from ptf_tests import network
from ptf_tests.conformance.program import Counters, Frame, Program, counter_queries, name_counters
from ptf_tests.p4runtime import P4Runtime

DEVICE_ID = 1
WINDOW = 48
"""Frames inside BMv2 at a time: its egress queues hold 64 packets, and drop the next ones."""

_START_SECONDS = 30.0
_ANSWER_SECONDS = 60.0


class OracleError(Exception):
    """BMv2 did not start, or ended; the message holds what it said."""


class SilentError(OracleError):
    """This build of BMv2 logs nothing of packets: its logging macros were left out."""


class Bmv2:
    """A running BMv2; see `program.Target`."""

    name = "bmv2"

    def __init__(self, program: Program, log_level: str = "error") -> None:
        self._program = program
        self._log_level = log_level
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not is_installed():
            raise OracleError(f"{MISSING}: install BMv2 to compare with it")
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duet-bmv2-")))
            control, ports = f"unix:{scratch}/p4runtime", f"unix:{scratch}/ports"
            log = stack.enter_context((scratch / "log").open("w+b"))
            self._process = stack.enter_context(_running(_command(control, ports, self._log_level), log))
            self._channel = stack.enter_context(grpc.insecure_channel(ports))
            self._log = log
            self._await_ports(log)
            self._stream = self._channel.stream_stream(
                PACKET_STREAM,
                request_serializer=Packet.SerializeToString,
                response_deserializer=Packet.FromString,
            )
            self._control = stack.enter_context(P4Runtime(control, self._program.schema, DEVICE_ID))
            self._control.push_pipeline()
            self._await_packets()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def empty(self) -> None:
        """Have it run the program anew, with empty tables."""
        self._control.push_pipeline()

    def write(self, updates: Sequence[p4r.Update]) -> None:
        """Write to the tables by P4Runtime."""
        self._control.write(updates)

    def send(self, frames: Sequence[Frame]) -> list[list[Frame]]:
        """Send frames one after the other, and return for each what left because of it."""
        left: list[list[Frame]] = [[] for _ in frames]
        for start in range(0, len(frames), WINDOW):
            packets = [
                Packet(id=number + 1, device_id=DEVICE_ID, port=port, packet=frame)
                for number, (port, frame) in enumerate(frames[start : start + WINDOW], start)
            ]
            try:
                # BMv2 ends the stream once all its packets have left or were dropped.
                for answer in self._stream(iter(packets), timeout=_ANSWER_SECONDS):
                    left[answer.id - 1].append((answer.port, answer.packet))
            except grpc.RpcError as error:
                raise OracleError(f"{COMMAND} stopped answering: {error.details()}") from error
        return left

    def counters(self) -> Counters:
        """Return every counter that is not zero."""
        entities = self._control.read(*counter_queries(self._program.schema))
        return name_counters(self._program.schema, entities)

    def end(self) -> str:
        """End it, and return what it logged."""
        self._process.terminate()
        self._process.wait()
        self._log.seek(0)
        return bytes(self._log.read()).decode(errors="replace")

    def _await_ports(self, log: Any) -> None:
        ready = grpc.channel_ready_future(self._channel)
        waited = 0.0
        while waited < _START_SECONDS and self._process.poll() is None:
            try:
                ready.result(timeout=0.2)
                return
            except grpc.FutureTimeoutError:
                waited += 0.2
        log.seek(0)
        raise OracleError(f"{COMMAND} does not start:\n{log.read().decode(errors='replace')}")

    def _await_packets(self) -> None:
        """Open streams until one is taken: BMv2 serves P4Runtime before it starts its ports."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                list(self._stream(iter(()), timeout=_ANSWER_SECONDS))
                return
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise OracleError(f"{COMMAND} takes no packets: {error.details()}") from error


def _command(control: str, ports: str, log_level: str) -> list[str]:
    return [
        *(COMMAND, "--no-p4", "--device-id", str(DEVICE_ID), "--log-console", "--log-level", log_level),
        *thrift_port(),
        *("--", "--grpc-server-addr", control, "--dp-grpc-server-addr", ports),
    ]


@contextlib.contextmanager
def _running(command: list[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=network.die_with_parent
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
