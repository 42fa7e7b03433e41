"""Tests of hmux.p4 that p4testgen finds by symbolic execution: an oracle without code of BMv2 or ours.

p4testgen is of p4c, built apart. What it cannot do, it is spared:
- It does not know `truncate`, which cuts ICMP errors. So it gets the program twice: once where only packets
  that need no cut are answered, once without the cut, and then only packets too short to be cut.
- It finds no packet that has the two checksums of an ICMP error. In the second program the inner one is left
  open, and so it is in what is expected.
- Of a hash of a hash it takes the inner one from other bytes than it sends. So slots are picked among one.
Meters are green for it, as they are without rates.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from duet_p4.hmux.pipeline import P4_SOURCES

COMMAND = "p4testgen"
PATH = P4_SOURCES / "hmux.stf"
"""Where the tests are, beside the program."""
_CUT = re.compile(r"#define CUT_FRAME\(length\) .*")
_SHORT = "#define CUT_FRAME(length) testgen_assume(standard_metadata.packet_length + 28 <= (bit<32>)(length))"
_INNER_CHECKSUM = re.compile(r"\n\s*update_checksum\(hdr\.icmp_error\.isValid\(\),.*?\);", re.DOTALL)
_PICK = "    hash(slot, HashAlgorithm.identity, first, { hash_value }, count)"
_MAIN = "#include <v1model.p4>\n"
_COVERED = "Nodes covered: "
_MISSED = "Not covered program nodes:"


class TestgenError(Exception):
    """p4testgen is missing or failed; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of p4testgen: how it searches, for how long, and which of the two programs it gets."""

    seed: int
    policy: str
    seconds: int
    answers_are_cut: bool = True


RUNS = (
    Run(51, "RANDOM_BACKTRACK", 170, True),
    Run(53, "GREEDY_STATEMENT_SEARCH", 170, True),
    Run(61, "GREEDY_STATEMENT_SEARCH", 140, False),
    Run(71, "GREEDY_STATEMENT_SEARCH", 180, True),
    Run(72, "RANDOM_BACKTRACK", 180, True),
    Run(73, "RANDOM_BACKTRACK", 180, True),
)


@dataclass(frozen=True, slots=True)
class Found:
    """The tests of a run as STF, and the statements of the program that none of them reached."""

    tests: list[str]
    missed: frozenset[str]


def generate(runs: Sequence[Run] = RUNS) -> list[Found]:
    """Run p4testgen. Raises TestgenError."""
    require()
    return [_run(run) for run in runs]


def require() -> None:
    """Raise TestgenError where p4testgen is not on PATH."""
    if shutil.which(COMMAND) is None:
        raise TestgenError(f"{COMMAND} is not on PATH: it is built with p4c's ENABLE_TEST_TOOLS")


def search(source: Path, command: Sequence[str], seconds: int) -> str:
    """Run p4testgen in a folder of sources, for so long at most; return what it said."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=source, stdout=log, stderr=subprocess.STDOUT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.seek(0)
        return log.read()


def _run(run: Run) -> Found:
    with tempfile.TemporaryDirectory(prefix="duet-testgen-") as scratch:
        source, out = Path(scratch) / "p4src", Path(scratch) / "out"
        shutil.copytree(P4_SOURCES, source)
        _spare(source, run.answers_are_cut)
        size = "0:1200" if run.answers_are_cut else "0:336"
        command = [
            *(COMMAND, "--target", "bmv2", "--arch", "v1model", "--std", "p4-16", "--seed", str(run.seed)),
            *("--max-tests", "1000", "--only-covering-tests", "--track-coverage", "STATEMENTS"),
            *("--stop-metric", "MAX_NODE_COVERAGE", "--path-selection", run.policy, "--print-coverage"),
            *("--packet-size-range", size, "--port-ranges", "1:6,510:510"),
            *("--test-backend", "STF", "--out-dir", str(out), "hmux.p4"),
        ]
        said = search(source, command, run.seconds)
        return found(out, said)


def _spare(source: Path, answers_are_cut: bool) -> None:
    """Take out of the sources what p4testgen cannot do."""
    target, main = source / "include" / "v1model_target.p4", source / "hmux.p4"
    text = target.read_text()
    if answers_are_cut:
        text = _CUT.sub(_SHORT, text)
    else:
        text = _INNER_CHECKSUM.sub("", _CUT.sub("#define CUT_FRAME(length)", text))
    target.write_text(text.replace(_PICK, "    testgen_assume((count) <= 1); " + _PICK.strip()))
    main.write_text(main.read_text().replace(_MAIN, _MAIN + "#include <testgen.p4>\n"))


def found(folder: Path, said: str) -> Found:
    """Return what a run left in its folder and in its log. Raises TestgenError where it found nothing."""
    written = sorted(folder.glob("*.stf"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))
    if not written or _COVERED not in said:
        raise TestgenError(f"{COMMAND} found no test: {said.strip()[-500:]}")
    last = said.rsplit(_MISSED, 1)[1] if _MISSED in said else ""
    missed = frozenset(
        line.strip()
        for line in last.splitlines()
        if re.match(r"\t\S+\.p4\\\d+: ", line) and "testgen_assume" not in line
    )
    tests = ["\n".join(_commands(path.read_text())) for path in written]
    return Found(tests, missed)


def _commands(text: str) -> Iterator[str]:
    """Yield a test's commands, without what p4testgen says of its way there."""
    for line in text.splitlines():
        command = line.split("#", 1)[0].strip()
        if command:
            yield command


def merged(every: Sequence[Found]) -> str:
    """Return all tests as one, each with the tables that it wants and no others."""
    tests = list(dict.fromkeys(test for one in every for test in one.tests))
    missed = sorted(_plain(frozenset.intersection(*(one.missed for one in every))))
    head = [
        f"# {len(tests)} tests of hmux.p4, written by p4testgen (`python -m ptf_tests.conformance testgen`).",
        "# They reach every statement of it but these:",
        *(f"#   {line}" for line in missed),
    ]
    return "\n".join(head) + "\n\n" + "\n\nreset\n".join(tests) + "\n"


def _plain(missed: frozenset[str]) -> list[str]:
    """Return statements as one reads them: the file and line, and the code."""
    return [re.sub(r"^include/(\S+)\\(\d+): ", r"\1:\2 ", line) for line in missed]
