"""`python -m ptf_tests.conformance record | replay | ways | fuzz`: see --help. Status 0: all agree."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys

from ptf_tests.conformance import paths, vectors
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
    arguments = parser.parse_args()
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
    ways = paths.record(program, recorded)
    paths.write(paths.path_of(program), ways)
    told = [
        line
        for recording in recorded.recordings
        for line in paths.compare(program, recording, ways.by_state[recording.state.name])
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


if __name__ == "__main__":
    sys.exit(main())
