"""What a Tofino's P4Runtime server is pushed: the files of a compiled program in one message.

Two servers take such programs, each with a packing of its own. Neither has been tried here: what is packed,
and in which order, is what is documented of them.

- `bf_switchd --p4rt-server` of the SDE, which takes what p4c's own runner of PTF tests sends it
  (p4c, backends/tofino/bf-p4c, p4_tests' ptf_runner.py, `update_config`).
- Stratum (stratum/hal/lib/barefoot/bf.proto, `BfPipelineConfig`).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from finsy import P4Schema

from duet_p4.hmux import tofino

PIPES: Final = 4
"""How many pipes the largest Tofino has."""


class Server(StrEnum):
    """Who serves P4Runtime on a Tofino."""

    BF_SWITCHD = "bf_switchd"
    STRATUM = "stratum"


@dataclass(frozen=True)
class Profile:
    """A compiled pipeline, and the chip's pipes that run it."""

    name: str
    context: bytes
    """context.json: what the driver has to know of tables and registers."""
    binary: bytes
    """tofino.bin: what the chip's registers are filled with."""
    pipes: tuple[int, ...]


@dataclass(frozen=True)
class CompiledProgram:
    """A program as p4c and its assembler leave it."""

    name: str
    schema: bytes
    """bf-rt.json: its tables as BF Runtime knows them."""
    profiles: tuple[Profile, ...]

    @classmethod
    def read(cls, conf: Path) -> Self:
        """Read what a `.conf` of the compiler names; its paths are absolute, or from its own folder on.

        Raises ValueError, naming what is wrong, and OSError where a file is missing.
        """
        try:
            (device,) = json.loads(conf.read_text())["p4_devices"]
            (program,) = device["p4_programs"]
            return cls(
                name=str(program["program-name"]),
                schema=(conf.parent / program["bfrt-config"]).read_bytes(),
                profiles=tuple(_profile(conf.parent, one) for one in program["p4_pipelines"]),
            )
        except KeyError as error:
            raise ValueError(f"{conf} has no {error}: it is no configuration of bf_switchd") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{conf} is no configuration of one program for one Tofino: {error}") from error

    def tables(self) -> dict[str, int]:
        """Return the table ids by name, as P4Info has them: without the pipeline's own name in front."""
        tables = json.loads(self.schema)["tables"]
        return {
            table["name"].partition(".")[2]: table["id"]
            for table in tables
            if table["table_type"] == "MatchAction_Direct"
        }

    def packed(self, server: Server) -> bytes:
        """Return the `p4_device_config` for a server. Raises ValueError where it cannot take the program."""
        if server is Server.STRATUM:
            profiles = (
                _field(1, one.name.encode())
                + _field(2, one.context)
                + _field(3, one.binary)
                + _field(4, b"".join(map(_varint, one.pipes)))
                for one in self.profiles
            )
            return (
                _field(1, self.name.encode())
                + _field(2, self.schema)
                + b"".join(_field(3, profile) for profile in profiles)
            )
        if len(self.profiles) != 1:
            raise ValueError(f"bf_switchd takes one pipeline, {self.name} has {len(self.profiles)}")
        (profile,) = self.profiles
        parts = (self.name.encode(), profile.binary, profile.context)
        # In p4.tmp.P4DeviceConfig, whose `device_data` is its field 3.
        return _field(3, b"".join(struct.pack("<i", len(part)) + part for part in parts))


def pushable(chip: str, conf: Path, server: Server) -> P4Schema:
    """Return a program as it is pushed to a chip of `tofino.CHIPS`: its P4Info, and what `conf` names.

    Raises ValueError where it was not compiled from the sources that the committed P4Info is of, and OSError
    where files are missing.
    """
    program = CompiledProgram.read(conf)
    described = tofino.schema(chip)
    found = program.tables()
    for table in described.p4info.tables:
        name, number = table.preamble.name, table.preamble.id
        if found.get(name) != number:
            raise ValueError(
                f"{conf} is of other sources than {tofino.outputs(chip)}: "
                f"table {name} is {found.get(name)}, not {number}"
            )
    return P4Schema(described.p4info, program.packed(server))


def _profile(folder: Path, stated: dict[str, Any]) -> Profile:
    pipes = tuple(int(pipe) for pipe in stated["pipe_scope"])
    for pipe in pipes:
        if not 0 <= pipe < PIPES:
            raise ValueError(f"there is no pipe {pipe}")
    return Profile(
        name=str(stated["p4_pipeline_name"]),
        context=(folder / stated["context"]).read_bytes(),
        binary=(folder / stated["config"]).read_bytes(),
        pipes=pipes,
    )


def _field(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message that is a string, bytes, another message or packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    head = []
    while number > 0x7F:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*head, number])
