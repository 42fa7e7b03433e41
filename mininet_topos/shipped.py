"""Compiles every eBPF object that the project itself loads: `python -m mininet_topos.shipped`, for set-up.

`--any-machine`, for `make wheel`, compiles hmux.p4 for machines of up to 256 possible CPUs, not only for as
many as this one has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import duet_p4
import mininet_topos
from duet_p4.bpf.compile import SHIPPED, ship
from duet_p4.bpf.errors import BpfError
from duet_p4.hmux import pipeline
from duet_p4.host_agent import datapath as host
from duet_p4.smux import xdp as smux
from duet_p4.switch_agent import hostif
from duet_p4.tracing.instrumented import TRACED
from duet_p4.xdp_switch.counters import rows
from duet_p4.xdp_switch.pipeline import SAMPLED, Make, build, translate

MOST_CPUS = 256

Job = Callable[[], Path]


def sources() -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Yield every eBPF program there is in C, with the defines of each variant."""
    packages = [Path(folder) for package in (duet_p4, mininet_topos) for folder in package.__path__]
    found = sorted(path for package in packages for path in package.glob("*/bpf/*.c"))
    for source in found:
        yield source, hostif.defines() if source == hostif.SOURCE else {}
    for source in (smux.SOURCE, host.SOURCE):
        yield source, TRACED


def programs(cpus: Sequence[int], make: Make) -> Iterator[Job]:
    """Yield what has each object made: of every C program, and of hmux.p4, for so many CPUs each."""
    for source, defines in sources():
        yield partial(make, source, (), defines)
    config, info = pipeline.DEVICE_CONFIG.read_bytes(), pipeline.schema().p4info
    for number, traced in product(cpus, (False, True)):
        compiled = translate(config, info, number, traced=traced)
        for defines in ({}, SAMPLED):
            yield partial(build, compiled, defines, make)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile what is missing, and remove what is no longer of use."""
    parser = argparse.ArgumentParser(prog="python -m mininet_topos.shipped", description=__doc__)
    parser.add_argument(
        "--any-machine", action="store_true", help="not only for as many CPUs as this one has"
    )
    asked = parser.parse_args(argv)
    sizes = [1 << bits for bits in range(MOST_CPUS.bit_length())] if asked.any_machine else [rows()]
    known = set(SHIPPED.glob("*.o"))
    wanted = set()
    try:
        with ThreadPoolExecutor() as pool:
            for path in pool.map(lambda job: job(), programs(sizes, ship)):
                wanted.add(path)
                if path not in known:
                    print(f"compiled {path.name}", flush=True)
    except BpfError as error:
        print(error, file=sys.stderr)
        return 1
    for path in SHIPPED.glob("*.o"):
        if path not in wanted:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
