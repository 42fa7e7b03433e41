"""What an agent has to know of the kind of P4 switch below it.

`xdp` and `bmv2` run hmux.p4. A Tofino runs hmux_tna.p4, which takes the same rows: but the slots of each
group are a power of two, there are no ICMP errors to limit, and the CPU port is a device of the driver's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finsy import P4Schema

from duet_p4.hmux import pipeline
from duet_p4.hmux.rows import Row
from duet_p4.hmux.tofino_config import pushable
from duet_p4.switch_agent.config import P4Config
from duet_p4.switch_agent.hostif import CPU_STACK


@dataclass(frozen=True)
class Target:
    """A P4 switch's program, the stack's end of its CPU port, and what the program leaves out."""

    schema: P4Schema
    cpu_interface: str = CPU_STACK
    masks_hashes: bool = False
    """Whether slots are picked by a mask, so that only a power of two of them does."""
    takes_back: bool = False
    """Whether a Write may ask for all or nothing: BMv2 answers UNIMPLEMENTED to ROLLBACK_ON_ERROR."""

    @property
    def answers(self) -> bool:
        """Whether it sends ICMP errors, which are metered."""
        return self.schema.meters.get("icmp_error_meter") is not None

    def sizes_of(self, rows: Iterable[type[Row]]) -> dict[str, int]:
        """Return how many entries there are for each class of rows, by `Row.table`."""
        return pipeline.sizes_of(rows, self.schema)


def target_of(config: P4Config) -> Target:
    """Return what the configuration says is below.

    Raises ValueError where a Tofino's program was not compiled from the sources that its P4Info is of, and
    OSError where its files are missing.
    """
    if config.tofino is None:
        return Target(pipeline.schema(), takes_back=config.target == "xdp")
    schema = pushable(config.target, config.tofino.conf, config.tofino.server)
    return Target(schema, config.tofino.cpu_interface, masks_hashes=True)
