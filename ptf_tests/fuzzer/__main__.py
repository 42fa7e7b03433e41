"""`python -m ptf_tests.fuzzer`: long runs on the xdp switch; status 0 where all answers are the model's."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from finsy.proto import p4i, p4r
from google.protobuf import text_format

from duet_p4.bench.line import BenchError
from duet_p4.bench.middleblock import compiled
from duet_p4.xdp_switch.cli import find_p4info
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.p4runtime.staging import stage
from ptf_tests.fuzzer.run import fuzz

ROOT = Path(__file__).parents[2]
PROGRAMS = [ROOT / "p4src/build/hmux.json", *sorted((ROOT / "tests/p4/build").glob("*.json"))]
SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz each program and print what differs."""
    parser = argparse.ArgumentParser(prog="python -m ptf_tests.fuzzer", description=__doc__)
    parser.add_argument("programs", nargs="*", type=Path, help="BMv2 JSON with its P4Info beside it")
    parser.add_argument("--p4", type=Path, help="a P4 program to fuzz beside these; p4c on PATH compiles it")
    parser.add_argument("--updates", type=int, default=400_000, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    programs = arguments.programs or PROGRAMS
    with tempfile.TemporaryDirectory(prefix="duet-fuzz-") as folder:
        if arguments.p4 is not None:
            try:
                compiled(arguments.p4, Path(folder))
            except BenchError as error:
                parser.error(str(error))
            programs = [*programs, *Path(folder).glob("*.json")]
        return _run(programs, arguments.updates, arguments.seed)


def _run(programs: Sequence[Path], updates: int, seed: int) -> int:
    each = -(-updates // len(programs))
    violations = 0
    for path in programs:
        began = time.monotonic()
        found = _fuzz(path, seed, each)
        for sentence in found:
            print(sentence)
        violations += len(found)
        print(
            f"{path.stem}: {each} updates, {len(found)} violations, {time.monotonic() - began:.1f} s",
            flush=True,
        )
    print(f"{each * len(programs)} updates, {violations} violations")
    return 1 if violations else 0


def _fuzz(path: Path, seed: int, updates: int) -> list[str]:
    info = text_format.Parse(find_p4info(path, None).read_text(), p4i.P4Info())
    config = p4r.ForwardingPipelineConfig(p4info=info, p4_device_config=path.read_bytes())
    device = XdpDevice()
    try:
        staged = asyncio.run(stage(device, config, {}))
        device.activate(staged.pipeline)
        return list(islice(fuzz(info, staged.forwarding, seed, updates), SHOWN))
    finally:
        device.close()


if __name__ == "__main__":
    sys.exit(main())
