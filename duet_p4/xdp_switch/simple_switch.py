"""The switch under the name of BMv2's: what `bin/simple_switch_grpc` starts."""

from __future__ import annotations

import sys
from pathlib import Path

from duet_p4.xdp_switch.__main__ import main

NAME = "simple_switch_grpc"


def run() -> int:
    """Run the switch such that scripts find and end it by BMv2's name."""
    Path("/proc/self/comm").write_text(NAME[:15])
    return main(compatible=True)


if __name__ == "__main__":
    sys.exit(run())
