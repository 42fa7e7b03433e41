"""STF on BMv2: `simple_switch_grpc` from PATH, its ports a gRPC stream, its tables by `simple_switch_CLI`."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import grpc

from duet_p4 import bmv2
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.reader import read
from duet_p4.xdp_switch.dataplane import Call, Count, FieldValue, MatchValues, MeterRates
from duet_p4.xdp_switch.stf.bmv2_ports import PACKET_STREAM, Packet
from duet_p4.xdp_switch.stf.interpreter import Interpreter, Replica
from duet_p4.xdp_switch.stf.script import ScriptError

_PROMPT = b"RuntimeCmd: "
_START_SECONDS = 30.0
_ANSWER_SECONDS = 30.0
_LOWEST = 10_000
"""BMv2's smallest priority wins, STF's greatest."""
_MILLION = 1_000_000


class Bmv2(Interpreter):
    """A running BMv2, with BMv2's own command line at its tables. Raises OSError where it does not start."""

    def __init__(self, config: bytes) -> None:
        super().__init__(read(config))
        if missing := bmv2.without_shell():
            raise OSError(missing)
        self._members: Counter[int] = Counter()
        self._made_nodes = 0
        self._handles: dict[tuple[str, MatchValues, int], int] = {}
        self._entries: Counter[str] = Counter()
        self._folder = tempfile.TemporaryDirectory(prefix="duet-stf-bmv2-")
        folder = Path(self._folder.name)
        program = folder / "program.json"
        program.write_bytes(config)
        thrift = bmv2.thrift_port()
        ports = f"unix:{folder}/ports"
        command = [bmv2.COMMAND, str(program), "--device-id", "0", *thrift, "--log-level", "off"]
        addresses = ["--", "--grpc-server-addr", f"unix:{folder}/p4runtime", "--dp-grpc-server-addr", ports]
        self._switch = subprocess.Popen(
            [*command, *addresses], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._channel = grpc.insecure_channel(ports)
        self._shell: subprocess.Popen[bytes] | None = None
        try:
            self._stream = self._channel.stream_stream(
                PACKET_STREAM,
                request_serializer=Packet.SerializeToString,
                response_deserializer=Packet.FromString,
            )
            self._await_ports()
            self._shell = subprocess.Popen(
                [bmv2.SHELL, *thrift],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self._answer()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End BMv2."""
        for process in (self._shell, self._switch):
            if process is not None:
                process.kill()
                process.wait()
        self._channel.close()
        self._folder.cleanup()

    def _await_ports(self) -> None:
        """Open streams until one is taken."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                list(self._stream(iter(()), timeout=_ANSWER_SECONDS))
                return
            except grpc.RpcError as error:
                if self._switch.poll() is not None or time.monotonic() > deadline:
                    raise OSError(f"{bmv2.COMMAND} does not start: {error.details()}") from error
                time.sleep(0.05)

    def _answer(self) -> str:
        """Return what the command line says up to its next prompt."""
        assert self._shell is not None and self._shell.stdout is not None
        said = b""
        while not said.endswith(_PROMPT):
            more = self._shell.stdout.read(1)
            if not more:
                raise OSError(f"{bmv2.SHELL} ended: {said.decode(errors='replace')}")
            said += more
        return said.removesuffix(_PROMPT).decode(errors="replace").strip()

    def _tell(self, *words: object) -> str:
        assert self._shell is not None and self._shell.stdin is not None
        line = " ".join(str(word) for word in words)
        self._shell.stdin.write(line.encode() + b"\n")
        self._shell.stdin.flush()
        said = self._answer()
        if re.search(r"\b(Invalid|Error|error|Unknown)\b", said):
            raise ScriptError(f"{bmv2.SHELL} says of {line!r}: {said}")
        return said

    def packet(self, port: int, data: bytes) -> None:
        """Send a packet, and wait until nothing of it is left in the switch."""
        try:
            for left in self._stream(iter([Packet(id=1, port=port, packet=data)]), timeout=_ANSWER_SECONDS):
                self.sent.setdefault(left.port, []).append(left.packet)
        except grpc.RpcError as error:
            raise ScriptError(f"{bmv2.COMMAND} stopped answering: {error.details()}") from error

    def insert(self, table: ir.Table, key: MatchValues, priority: int, action: Call) -> None:
        """Add an entry."""
        fields = [_field(k, value) for k, value in zip(table.keys, key, strict=True)]
        ranked = [_LOWEST - priority] if priority else []
        self._tell("table_add", table.name, action.action, *fields, "=>", *action.arguments, *ranked)
        self._handles[table.name, key, priority] = self._entries[table.name]
        self._entries[table.name] += 1

    def set_default(self, table: ir.Table, action: Call) -> None:
        """Set a default action."""
        self._tell("table_set_default", table.name, action.action, *action.arguments)

    def reset(self) -> None:
        """Have BMv2 forget its state, and the defaults that the program does not state itself."""
        self._tell("reset_state")
        self._handles.clear()
        self._entries.clear()

    def set_group(self, group: int, replicas: Sequence[Replica]) -> None:
        """Set a multicast group; one that is there only grows."""
        if group not in self._members:
            self._tell("mc_mgrp_create", group)
        for rid, members in groupby(replicas[self._members[group] :], key=lambda replica: replica[1]):
            self._tell("mc_node_create", rid, *(port for port, _ in members))
            self._tell("mc_node_associate", group, self._made_nodes)
            self._made_nodes += 1
        self._members[group] = len(replicas)

    def set_session(self, session: int, replicas: Sequence[Replica], group: int | None) -> None:
        """Set a clone session."""
        if group is not None:
            self._tell("mirroring_add_mc", session, group)
        else:
            self._tell("mirroring_add", session, replicas[0][0])

    def remove_session(self, session: int) -> None:
        """Forget a clone session."""
        self._tell("mirroring_delete", session)

    def read_counter(self, counter: str, index: int) -> Count:
        """Return a cell of a counter array."""
        said = self._tell("counter_read", counter, index)
        packets, size = (
            re.search(rf"(\d+) {name}|{name}\s*=\s*(\d+)", said) for name in ("packets", "bytes")
        )
        if packets is None or size is None:
            raise ScriptError(f"{bmv2.SHELL} says of counter {counter}[{index}]: {said}")
        return int(packets[1] or packets[2]), int(size[1] or size[2])

    def read_direct(self, table: str, key: MatchValues, priority: int) -> Count:
        """Return the direct counter of an entry."""
        counter = next((c.name for c in self._program.counters.values() if c.table == table), None)
        if counter is None:
            raise ScriptError(f"table {table} has no direct counter")
        return self.read_counter(counter, self._handles[table, key, priority])

    def write_counter(self, counter: str, index: int, count: Count) -> None:
        """Set a cell of a counter array."""
        self._tell("counter_write", counter, index, *count)

    def write_register(self, register: str, first: int, values: Sequence[int]) -> None:
        """Set cells of a register array."""
        if not any(values) and len(values) == self._program.registers[register].size:
            self._tell("register_reset", register)
            return
        for index, value in enumerate(values, first):
            self._tell("register_write", register, index, value)

    def configure_meter(self, meter: str, index: int, rates: MeterRates) -> None:
        """Set the rates of a meter."""
        committed = f"{rates.cir / _MILLION}:{rates.cburst}"
        self._tell("meter_set_rates", meter, index, committed, f"{rates.pir / _MILLION}:{rates.pburst}")


def _field(key: ir.KeyField, value: FieldValue) -> str:
    """Return a match field as BMv2's command line writes it."""
    if value is None:
        return "0&&&0"
    if isinstance(value, int):
        full = (1 << key.width) - 1
        return f"{value:#x}&&&{full:#x}" if key.kind == "optional" else f"{value:#x}"
    separator = {"lpm": "/", "range": "->"}.get(key.kind, "&&&")
    return f"{value[0]:#x}{separator}{value[1] if key.kind == 'lpm' else hex(value[1])}"
