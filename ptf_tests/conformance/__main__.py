"""`python -m ptf_tests.conformance record | replay | ways | fuzz | muxes | testgen | ...`: see --help.

Status 0: all agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from duet_p4.hmux import pipeline
from duet_p4.xdp_switch.stf.bmv2 import Bmv2
from duet_p4.xdp_switch.stf.script import ScriptError
from ptf_tests.conformance import kills, muxes, paths, testgen, testgen_tofino, tofino_tests, vectors
from ptf_tests.conformance.bmv2 import OracleError
from ptf_tests.conformance.fuzz import fuzz
from ptf_tests.conformance.program import Program
from ptf_tests.conformance.programs import PROGRAMS
from ptf_tests.conformance.record import record_to_file
from ptf_tests.conformance.replay import replay

SEED = 2014


def main() -> int:
    """Run a command; the exit status is its verdict."""
    parser = argparse.ArgumentParser(prog="python -m ptf_tests.conformance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "record": "record the vectors on the BMv2 on PATH; needs no root",
        "replay": "replay the vectors on xdp; needs root",
        "ways": "record the ways of the vectors through tables on BMv2, and compare xdp's traces; needs root",
        "fuzz": "send random frames to both the BMv2 on PATH and xdp; needs root",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}")
        if name in ("record", "fuzz"):
            command.add_argument("--seed", type=int, default=SEED)
        if name == "fuzz":
            command.add_argument(
                "--frames", type=int, default=100_000, help="per program; default: %(default)s"
            )
            command.add_argument("--json", action="store_true", help="end with one JSON object")
    _add_hmux_commands(commands)
    text = "send random frames to both muxes, hmux.p4 on xdp and the SMux, which hold the same; needs root"
    command = commands.add_parser("muxes", help=text, description=text)
    command.add_argument("--seed", type=int, default=SEED)
    command.add_argument("--frames", type=int, default=100_000, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.command in ("testgen", "testgen-tofino", "mutants"):
        return _of_hmux(arguments)
    if arguments.command == "muxes":
        return _muxes(arguments.frames, arguments.seed)
    unknown = [name for name in arguments.programs if name not in PROGRAMS]
    if unknown:
        parser.error(f"no program is called {unknown[0]!r}; there are {', '.join(PROGRAMS)}")
    default = ["hmux"] if arguments.command == "fuzz" else list(PROGRAMS)
    programs = [PROGRAMS[name] for name in arguments.programs or default]
    if arguments.command != "record" and os.geteuid() != 0:
        print("loading eBPF needs root", file=sys.stderr)
        return 2
    try:
        if arguments.command == "record":
            for program in programs:
                print(record_to_file(program, arguments.seed), flush=True)
            return 0
        if arguments.command == "replay":
            verdicts = [_replay(program) for program in programs]
        elif arguments.command == "ways":
            verdicts = [_ways(program) for program in programs if program.name not in paths.UNTRACED]
        else:
            verdicts = [_fuzz(p, arguments.frames, arguments.seed, arguments.json) for p in programs]
        return int(any(verdicts))
    except OracleError as error:
        print(error, file=sys.stderr)
        return 2


def _add_hmux_commands(commands: Any) -> None:
    text = "write the tests of hmux.p4 that p4testgen on PATH finds, which takes ten minutes; needs no root"
    commands.add_parser("testgen", help=text, description=text)
    text = (
        "record the tests of hmux_tna.p4 that p4testgen on PATH finds, where hmux.p4 passes them on the BMv2 "
        "on PATH; takes half an hour, needs no root"
    )
    commands.add_parser("testgen-tofino", help=text, description=text)
    text = (
        "see which mutants of hmux.p4 the vectors and p4testgen's tests tell from it, on BMv2; needs no root"
    )
    command = commands.add_parser("mutants", help=text, description=text)
    command.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th mutant")
    command.add_argument("--jobs", type=int, default=2, metavar="N", help="mutants at a time")
    command.add_argument("--out", type=Path, help="write the result, as JSON, to this file")


def _of_hmux(arguments: argparse.Namespace) -> int:
    """Carry out what there is for hmux.p4 only."""
    try:
        if arguments.command == "testgen":
            testgen.PATH.write_text(testgen.merged(testgen.generate()))
            print(testgen.PATH)
            return 0
        if arguments.command == "testgen-tofino":
            return _testgen_tofino()
        numbers = range(0, len(kills.all_mutants()), arguments.every)
        found = kills.summary(kills.judge_all(numbers, arguments.jobs, _tell))
    except (OracleError, OSError, ScriptError, testgen.TestgenError) as error:
        print(error, file=sys.stderr)
        return 2
    text = json.dumps(found, indent=2)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    print(text)
    return 0


def _testgen_tofino() -> int:
    """Record tests of the Tofino program; return whether any differs by what no row says."""
    switch = Bmv2(pipeline.DEVICE_CONFIG.read_bytes())
    try:
        recorded, differing = testgen_tofino.record(lambda tests: tofino_tests.replay(tests, switch))
    finally:
        switch.close()
    if differing:
        print(*differing, f"{len(differing)} tests differ", sep="\n\n")
        return 1
    tofino_tests.write(recorded)
    print(tofino_tests.PATH, tofino_tests.summary(recorded))
    print(*recorded.missed, sep="\n")
    return 0


def _tell(verdict: kills.Verdict) -> None:
    became = verdict.killed_by or (f"equal: {verdict.equal_because}" if verdict.equal_because else "SURVIVES")
    print(f"{verdict.operator}, {verdict.what}: {became}", file=sys.stderr, flush=True)


def _replay(program: Program) -> bool:
    """Replay a program's vectors; return whether anything differs."""
    recorded = vectors.read(vectors.path_of(program))
    if recorded.digest != program.digest():
        print(f"{program.name} was recorded from another compilation: record it again", file=sys.stderr)
        return True
    differs = False
    for recording in recorded.recordings:
        told = replay(program, recording)
        verdict = "differs" if told else "same"
        print(f"{program.name}, {recording.state.name}: {len(recording.cases)} vectors, {verdict}")
        print(*told, sep="\n\n", end="\n" if told else "")
        differs |= bool(told)
    return differs


def _ways(program: Program) -> bool:
    """Record the ways of a program's vectors, compare xdp's, and return whether any differs."""
    recorded = vectors.read(vectors.path_of(program))
    ways, traces = paths.record(program, recorded)
    paths.write(paths.path_of(program), ways)
    told = [
        line
        for recording in recorded.recordings
        for line in paths.compare(program, recording, ways, traces=traces[recording.state.name])
    ]
    number = sum(len(found) for found in ways.by_state.values())
    print(
        "\n".join([*told, f"{program.name}: {number} ways, {'some differ' if told else 'all agree'}"]),
        flush=True,
    )
    return bool(told)


def _fuzz(program: Program, frames: int, seed: int, as_json: bool) -> bool:
    """Fuzz a program; return whether anything differs."""
    summary = fuzz(program, frames, seed, lambda text: print(text, end="\n\n", flush=True))
    print(
        f"{summary.program}: {summary.frames} frames in {summary.states} states, {summary.differences} "
        f"frames and {summary.counter_differences} counters differ ({summary.seconds} s, seed {seed})"
    )
    if as_json:
        print(json.dumps(dataclasses.asdict(summary)), flush=True)
    return bool(summary.differences or summary.counter_differences)


def _muxes(frames: int, seed: int) -> int:
    """Fuzz the muxes; return whether anything differs."""
    if os.geteuid() != 0:
        print("loading eBPF needs root", file=sys.stderr)
        return 2
    summary = muxes.fuzz(frames, seed, lambda text: print(text, end="\n\n", flush=True))
    outcomes = ", ".join(f"{number} {how}" for how, number in sorted(summary.outcomes.items()))
    print(
        f"muxes: {summary.frames} frames in {summary.worlds} worlds ({outcomes}), {summary.differences} "
        f"differ ({summary.seconds} s, seed {seed})"
    )
    for name, number in sorted(summary.excepted.items()):
        print(f"  by design: {number} {name}")
    return int(bool(summary.differences))


if __name__ == "__main__":
    sys.exit(main())
