"""What the packet tests have to know of a target: its program, its ports' numbers, its switch's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from finsy import P4Schema

from duet_p4.hmux import pipeline
from duet_p4.hmux.tofino_config import Server, pushable
from ptf_tests.numbering import Numbering

MODEL = "tofino-model"
TARGETS = ("xdp", "bmv2", MODEL)

DEVICE_ID = 1
"""What the switches are called that are started with a name."""

CHIP = "tofino2"
"""The model's chip, of `tofino.CHIPS`."""

FIRST_DEVICE_PORT = 8
"""The first port of a Tofino 2 with a cable; the tests call it 1."""


@dataclass(frozen=True)
class Target:
    """A switch under test."""

    name: str
    schema: P4Schema
    device_id: int = DEVICE_ID
    ports: Numbering = field(default_factory=Numbering)
    differs: bool = False
    """Whether it runs hmux_tna.p4, which differs from hmux.p4 by the rows of docs/tofino.md."""


def target_of(name: str, conf: Path | None = None) -> Target:
    """Return what a target is; `conf` is what the compiler wrote of a Tofino's program, for its driver.

    Raises ValueError where a Tofino has none, or one of other sources, and OSError where files are missing.
    """
    if name != MODEL:
        return Target(name, pipeline.schema())
    if conf is None:
        raise ValueError(f"{MODEL} runs a compiled program: say where its .conf is (docs/tofino.md, --conf)")
    schema = pushable(CHIP, conf, Server.BF_SWITCHD)
    numbering = Numbering.of(schema.p4info, FIRST_DEVICE_PORT - 1)
    return Target(name, schema, device_id=0, ports=numbering, differs=True)
