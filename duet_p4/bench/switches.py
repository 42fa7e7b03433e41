"""The switches that are measured, and a P4Runtime client that fills their tables."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from finsy import P4Schema, P4TableEntry
from finsy.proto import p4r, p4r_grpc

from duet_p4 import bmv2
from duet_p4.bench.line import BenchError, Line
from duet_p4.hmux import pipeline

BATCH = 500
START_SECONDS = 20.0
PUSH_SECONDS = 120.0
IN_PORT, OUT_PORT = 1, 2
_OPTIONS = [("grpc.max_metadata_size", 1 << 20), ("grpc.max_receive_message_length", 1 << 28)]


def available(target: str) -> bool:
    """Whether this target can run on this machine: bmv2 needs simple_switch_grpc on PATH."""
    return target == "xdp" or bmv2.is_installed()


class Switch:
    """A switch process in a line's middle, and its primary controller; entering starts both.

    Raises BenchError where it does not come up.
    """

    def __init__(self, target: str, line: Line, folder: Path, schema: P4Schema | None = None) -> None:
        """With a `schema`, it runs that program instead of hmux.p4."""
        self.target = target
        self._schema = schema or pipeline.schema()
        self._line = line
        self._socket = folder / f"{line.switch}.sock"
        self._log = folder / f"{line.switch}.log"

    def __enter__(self) -> Self:
        program = {
            "xdp": [sys.executable, "-m", "duet_p4.xdp_switch"],
            "bmv2": [bmv2.COMMAND, "-L", "off"],
        }[self.target]
        self._socket.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self._line.switch, *program, "--device-id", "1", "--no-p4"),
                    *("-i", f"{IN_PORT}@{self._line.switch_in}", "-i", f"{OUT_PORT}@{self._line.switch_out}"),
                    *("--", "--grpc-server-addr", f"unix:{self._socket}"),
                    *("--cpu-port", str(pipeline.CPU_PORT)),
                ],
                stdout=log,
                stderr=log,
            )
        self._channel = grpc.insecure_channel(f"unix:{self._socket}", _OPTIONS)
        self._stub = p4r_grpc.P4RuntimeStub(self._channel)
        try:
            self._wait()
            self.push()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def push(self) -> None:
        """Commit the program, which empties its tables."""
        request = p4r.SetForwardingPipelineConfigRequest(
            device_id=1, action=p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT
        )
        request.config.CopyFrom(self._schema.get_pipeline_config())
        self._stub.SetForwardingPipelineConfig(request, timeout=PUSH_SECONDS)

    def write(self, requests: Iterable[p4r.WriteRequest]) -> None:
        """Send Writes one after the other."""
        for request in requests:
            self._stub.Write(request, timeout=PUSH_SECONDS)

    def resident(self) -> int:
        """Return the bytes of memory that the switch's process has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        ready = grpc.channel_ready_future(self._channel)
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                ready.result(timeout=0.1)
                return
            except grpc.FutureTimeoutError:
                continue
        said = self._log.read_text(errors="replace").strip()[-500:]
        raise BenchError(f"the {self.target} switch did not start: {said or 'it says nothing'}")


def inserts(
    entries: Iterable[P4TableEntry], batch: int = BATCH, schema: P4Schema | None = None
) -> list[p4r.WriteRequest]:
    """Return Writes that insert these entries; default entries are modified, which is all they allow."""
    schema = schema or pipeline.schema()
    updates = [
        p4r.Update(
            type=p4r.Update.MODIFY if entry.is_default_action else p4r.Update.INSERT,
            entity=entry.encode(schema),
        )
        for entry in entries
    ]
    return writes(updates, batch)


def writes(updates: Sequence[p4r.Update], batch: int = BATCH) -> list[p4r.WriteRequest]:
    """Return updates in Writes of at most `batch`."""
    return [
        p4r.WriteRequest(device_id=1, updates=updates[first : first + batch])
        for first in range(0, len(updates), batch)
    ]


def deletes(requests: Iterable[p4r.WriteRequest]) -> list[p4r.WriteRequest]:
    """Return the Writes that take back inserts, the last first."""
    undone: list[p4r.WriteRequest] = []
    for request in requests:
        copy = p4r.WriteRequest()
        copy.CopyFrom(request)
        for update in copy.updates:
            update.type = p4r.Update.DELETE
        undone.insert(0, copy)
    return undone
