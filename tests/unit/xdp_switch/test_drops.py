"""The reasons to drop a packet are those that the program counts."""

from __future__ import annotations

import re

from duet_p4.xdp_switch.drop_reasons import COUNTED
from duet_p4.xdp_switch.pipeline import INCLUDE


def test_reasons_are_those_of_the_programs_counters() -> None:
    stated = re.findall(r"^ +DROP_(\w+),", (INCLUDE / "packet.h").read_text(), re.MULTILINE)
    assert [name.lower() for name in stated] == [*COUNTED, "reasons"]
