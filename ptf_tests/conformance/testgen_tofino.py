"""Tests that p4testgen finds of hmux_tna.p4, translated for hmux.p4 (`tofino_tests`: names, the CPU's port).

p4testgen executes the Tofino program symbolically, by its own model of the architecture, and says what
leaves.

p4testgen gets a copy of the program:
- It can neither check a checksum in a parser nor make one in a deparser. The copy does both in P4.
- What nobody has written is 0 for it only in structs that say so. On the chip it is, wherever it may be read:
  p4c-barefoot has the parser begin so.
- Assumptions keep it from searching where both programs are known to differ: groups have a power of two of
  slots, no header says that there is more than the frame holds, and packets leave by few ports.

Where a packet to a VIP or TIP comes by twice (Tofino 1), what a test of the first pass sends to be routed is
given to p4testgen once more (`Again`), and the test recorded is of both passes together.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from duet_p4.hmux import pipeline, tofino
from duet_p4.hmux.pipeline import P4_SOURCES
from duet_p4.xdp_switch.stf import script
from ptf_tests.conformance import testgen
from ptf_tests.conformance.testgen import COMMAND, Run, TestgenError
from ptf_tests.conformance.tofino_tests import (
    AGAIN_PORT,
    ETHERNET_BYTES,
    Left,
    Recorded,
    Vector,
    differences,
    row_of,
)

_FRAME_BYTES = 150
"""How long every frame is: long enough for whatever the parsers look at."""
_PORTS = (8, 12)

_ZEROED = ("struct metadata_t {", "struct headers_t {")
_FROM_FABRIC = "        packet.advance(PORT_METADATA_SIZE);\n"
_FROM_CPU = "            SEND_AS_IT_IS(hdr.packet_out.egress_port);\n"
_BEGIN = "            SEND(DROP_PORT);\n"
_BALANCED = "            vips.apply(hdr, meta, TARGET);\n"
_CONFIGURED = "        switch_table.apply();\n"
_ADMITTED = "        port_table.apply();\n"
_BACKSTOP = "            backstop_table.apply();\n"
_PICK = "        meta.nexthop_mask = count - 1"
_PICKED = "        DO(take_mask);\n"
_FORWARD = "        SEND(port);\n"
_PARSED = "#define PARSER_FAILED ig_prsr_md.parser_err != 0 || "
_DROP = "#define DROP(reason) hdr.bridge.reason = 1"
_SUM = """\
#define SUM(header) \\
    (bit<20>)(header.version ++ header.ihl ++ header.tos) + (bit<20>)header.total_len \\
    + (bit<20>)header.identification \\
    + (bit<20>)(header.reserved ++ header.dont_fragment ++ header.more_fragments ++ header.fragment_offset) \\
    + (bit<20>)(header.ttl ++ header.protocol) \\
    + (bit<20>)header.src_addr[31:16] + (bit<20>)header.src_addr[15:0] \\
    + (bit<20>)header.dst_addr[31:16] + (bit<20>)header.dst_addr[15:0]
#define FOLD(sum) ((bit<20>)sum[15:0] + (bit<20>)sum[19:16])
#define CHECKSUM(sum) (~(sum[15:0] + (bit<16>)sum[19:16]))
"""
_INCLUDE = re.compile(r'#include "(.*)"')
_COMMENT = re.compile(r"//.*|/\*.*?\*/")
_TWINS = ("v1model_target.p4", "flow_hash.p4")
"""What hmux_tna.p4 has its own of in place of those in `include/`."""

# What the checksum has to be: the solver finds that much sooner than a packet whose sum is what it has to be.
_VERIFY = re.compile(
    r"(outer_)?checksum\.add\(hdr\.((?:outer_)?ipv4)\);( *\\?\n) *meta\.((?:outer_)?checksum_error) = "
    r"(?:outer_)?checksum\.verify\(\)"
)
_VERIFIED = (
    r"sum = SUM(hdr.\2);\3        sum = FOLD(sum);\3"
    r"        meta.\4 = hdr.\2.checksum != CHECKSUM(sum)"
)
_UPDATE = re.compile(r"hdr\.outer_ipv4\.checksum = outer_checksum\.update\(\{.*?\}\);", re.DOTALL)
_UPDATED = """\
sum = SUM(hdr.outer_ipv4);
            sum = FOLD(sum);
            hdr.outer_ipv4.checksum = CHECKSUM(sum);"""


@dataclass(frozen=True, slots=True)
class Chip:
    """How p4testgen calls a chip of `tofino.CHIPS`, and which of its ports are special."""

    target: str
    architecture: str
    generation: int
    cpu_port: int
    again_port: int | None = None
    """By which packets to VIPs and TIPs come again, where they do."""


CHIPS = {
    "tofino1": Chip("tofino", "tna", 1, cpu_port=192, again_port=AGAIN_PORT),
    "tofino2": Chip("tofino2", "t2na", 2, cpu_port=0),
}


class Kind(Enum):
    """What a run is to find."""

    ALL = "all"
    PLAIN = "plain"
    """Packets without IPv4 options: with them there are many ways through a parser, all of one difference."""
    PASSING = "passing"
    """Plain packets that no reason drops. Most ways through the program end with one."""
    TO_VIP = "to a VIP"
    TO_TIP = "to a TIP"
    FRAGMENT = "a fragment to a VIP"

    @property
    def passes(self) -> bool:
        """Whether it is of packets that no reason drops: in general, or on one of the ways to a DIP."""
        return self is Kind.PASSING or self in _WAYS


_WAYS = {
    Kind.TO_VIP: ("!hdr.outer_ipv4.isValid()", "BALANCE_VIP"),
    Kind.TO_TIP: ("hdr.outer_ipv4.isValid()", "BALANCE_TIP"),
    Kind.FRAGMENT: ("!hdr.outer_ipv4.isValid() && hdr.ipv4.more_fragments == 1", "BALANCE_FRAGMENT"),
}
"""What takes a packet to a DIP: its headers, told before the search goes deep, and what they lead to."""

_LINE = 100
"""How much of a statement names it."""

_OF_A_RUN = 4
"""How many passing packets a run is to find: the next ones differ from them in what comes last only."""

_RUNS = (
    (Kind.ALL, Run(51, "GREEDY_STATEMENT_SEARCH", 120)),
    (Kind.ALL, Run(51, "RANDOM_BACKTRACK", 60)),
    (Kind.PLAIN, Run(52, "RANDOM_BACKTRACK", 120)),
    *((Kind.PASSING, Run(seed, "DEPTH_FIRST", 30)) for seed in range(60, 64)),
    *((kind, Run(seed, "DEPTH_FIRST", 70)) for kind in _WAYS for seed in range(60, 62)),
    (Kind.TO_VIP, Run(62, "DEPTH_FIRST", 70)),
)
_SECOND_RUNS = (
    (Kind.PASSING, Run(70, "DEPTH_FIRST", 30)),
    (Kind.PLAIN, Run(71, "RANDOM_BACKTRACK", 20)),
)
"""Those of a packet that comes again."""


@dataclass(frozen=True, slots=True)
class Again:
    """A packet that comes again: its frame as digits, and what its switch is configured with, by name."""

    frame: str
    configured: Mapping[str, str]


def digest() -> str:
    """Return the SHA-256 of what hmux_tna.p4 and the files that it includes say, their comments apart."""
    sha = hashlib.sha256()
    read: set[Path] = set()
    unread = [tofino.SOURCE]
    while unread:
        path = unread.pop()
        if path not in read | {P4_SOURCES / "include" / name for name in _TWINS}:
            read.add(path)
            text = _COMMENT.sub("", path.read_text())
            sha.update(f"{path.relative_to(P4_SOURCES)} {' '.join(text.split())}\n".encode())
            unread += [Path(os.path.normpath(path.parent / name)) for name in _INCLUDE.findall(text)]
    return sha.hexdigest()


def generate() -> tuple[list[Vector], list[str]]:
    """Run p4testgen, on every core; return its tests, translated, each once, and what none reaches.

    Raises TestgenError.
    """
    testgen.require()
    tests: dict[Vector, None] = {}
    missed: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chip in CHIPS:
            found = _found(pool, [(chip, kind, run, None) for kind, run in _RUNS])
            firsts = list(dict.fromkeys(translated(text, chip) for one in found for text in one.tests))
            tests |= dict.fromkeys(test for test in firsts if not _goes_again(test))
            for test in filter(_goes_again, firsts):
                again = again_of(test)
                seconds = _found(pool, [(chip, kind, run, again) for kind, run in _SECOND_RUNS])
                tests |= dict.fromkeys(
                    joined(test, translated(text, chip)) for one in seconds for text in one.tests
                )
                found += seconds
            left = frozenset.intersection(*(one.missed for one in found))
            missed += [f"{chip}: {line[:_LINE]}" for line in sorted(left)]
    return list(tests), missed


def _goes_again(test: Vector) -> bool:
    return test.leaves is not None and test.leaves[0] == CHIPS[test.chip].again_port


def _found(pool: Executor, runs: Sequence[tuple[str, Kind, Run, Again | None]]) -> list[testgen.Found]:
    """Return what each run found. One of passing packets, or of what comes again, may find nothing."""
    waited = [(run, pool.submit(_run, *run)) for run in runs]
    found = []
    for (_, kind, _, again), one in waited:
        try:
            found.append(one.result())
        except TestgenError:
            if not kind.passes and again is None:
                raise
    return found


def _run(name: str, kind: Kind, run: Run, again: Again | None) -> testgen.Found:
    chip = CHIPS[name]
    with tempfile.TemporaryDirectory(prefix="duet-testgen-") as scratch:
        source, out = Path(scratch) / "p4src", Path(scratch) / "out"
        shutil.copytree(P4_SOURCES, source, ignore=shutil.ignore_patterns("build"))
        prepare(source, chip, kind, again)
        size = 8 * _frame_bytes(again)
        special = [port for port in (chip.cpu_port, chip.again_port) if port is not None]
        ranges = [*(f"{port}:{port}" for port in special), f"{_PORTS[0]}:{_PORTS[1]}"]
        command = [
            *(COMMAND, "--target", chip.target, "--arch", chip.architecture, "--std", "p4-16"),
            *(f"-D__TARGET_TOFINO__={chip.generation}", *_includes()),
            *("--seed", str(run.seed)),
            *(
                ("--max-tests", str(_OF_A_RUN))
                if kind.passes
                else ("--max-tests", "1000", "--only-covering-tests")
            ),
            *("--track-coverage", "STATEMENTS", "--stop-metric", "MAX_NODE_COVERAGE"),
            *("--path-selection", run.policy, "--print-coverage", "--packet-size-range", f"{size}:{size}"),
            *("--port-ranges", ",".join(ranges)),
            *("--test-backend", "STF", "--out-dir", str(out), "hmux_tna.p4"),
        ]
        return testgen.found(out, testgen.search(source, command, run.seconds))


def _frame_bytes(again: Again | None) -> int:
    return _FRAME_BYTES if again is None else len(again.frame) // 2


def _includes() -> list[str]:
    """Return where Tofino's architectures are, if p4c-barefoot is on PATH: beside it."""
    compiler = shutil.which(tofino.COMPILER)
    return ["-I", str(Path(compiler).parents[1] / "share" / "p4c" / "p4include")] if compiler else []


def prepare(source: Path, chip: Chip, kind: Kind = Kind.ALL, again: Again | None = None) -> None:
    """Change a copy of the sources into what p4testgen can execute, and what it is to find.

    What differs between kinds leaves every statement on its line: by that it is known whether a test reaches
    it.
    """
    main = f"#include <{chip.architecture}.p4>\n"
    _change(source / "hmux_tna.p4", main, main + "#include <testgen.p4>\n")
    begin = "".join(
        f"if (hdr.{header}.isValid()) {{"
        f" testgen_assume(hdr.{header}.total_len <= {_frame_bytes(again) - ETHERNET_BYTES}); }} "
        for header in ("ipv4", "outer_ipv4")
    )
    if chip.again_port is not None:
        begin += f"testgen_assume(INGRESS_PORT {'!=' if again is None else '=='} {chip.again_port}); "
    if kind is not Kind.ALL:
        begin += "testgen_assume(meta.has_options == 0); "
    if kind.passes:
        begin += "testgen_assume(hdr.ethernet.dst_addr[40:40] == 0); "
        begin += "".join(
            f"if (hdr.{header}.isValid()) {{ testgen_assume(hdr.{header}.ttl > 1); }} "
            for header in ("ipv4", "outer_ipv4")
        )
        _change(source / "tna" / "target.p4", _DROP, f"{_DROP}; testgen_assume(false)")
    if kind in _WAYS:
        headers, balance = _WAYS[kind]
        begin += f"testgen_assume(hdr.ipv4.isValid() && {headers}); "
        _append(source / "hmux_tna.p4", _BALANCED, f"testgen_assume(meta.balance == {balance});")
    _change(source / "hmux_tna.p4", _BEGIN, begin + _BEGIN)
    for struct in _ZEROED:
        _change(source / "include" / "headers.p4", struct, f"@pa_auto_init_metadata {struct}")
    # Of frames as long as these the parser has no error, but p4testgen leaves open whether it has.
    _change(source / "tna" / "target.p4", _PARSED, "#define PARSER_FAILED ")
    powers = "        testgen_assume({0} != 0 && ({0} & ({0} - 1)) == 0);"
    _change(source / "tna" / "target.p4", _PICK, f"{powers.format('count')} \\\n{_PICK}")
    balanced = (
        f"if (meta.balance == BALANCE_TIP || meta.slot_count != 0) {{{powers.format('meta.slot_count')}}}"
    )
    _change(source / "tna" / "slots.p4", _PICKED, f"{balanced}\n{_PICKED}")
    few = f"testgen_assume({{0}} >= {_PORTS[0]} && {{0}} <= {_PORTS[1]}); "
    wide = "testgen_assume(mtu >= 1500); " if kind.passes else ""
    _change(source / "include" / "routing.p4", _FORWARD, few.format("port") + wide + _FORWARD)
    from_cpu = "testgen_assume(false); " if kind.passes else few.format("hdr.packet_out.egress_port")
    _change(source / "hmux_tna.p4", _FROM_CPU, from_cpu + _FROM_CPU)
    if again is not None:
        _come_again(source, again)
    path = source / "tna" / "parser.p4"
    text = _VERIFY.sub(_VERIFIED, path.read_text())
    text = _UPDATE.sub(_UPDATED, text)
    text = re.sub(r"    Checksum\(\) outer_checksum;\n", "    bit<20> sum;\n", text)
    text = re.sub(r"    Checksum\(\) checksum;\n", "", text)
    assert "hecksum." not in text.replace(".checksum", ""), f"{path.name} has another checksum"
    path.write_text(_SUM + text)


def _come_again(source: Path, again: Again) -> None:
    """Assume that it is the same packet and the same switch, which knows nothing of the port it comes by."""
    bits = 4 * len(again.frame)
    taken = f"testgen_assume(packet.lookahead<bit<{bits}>>() == {bits}w0x{again.frame});"
    _append(source / "tna" / "parser.p4", _FROM_FABRIC, taken)
    same = " ".join(f"testgen_assume(meta.{name} == {digits});" for name, digits in again.configured.items())
    _append(source / "include" / "admission.p4", _CONFIGURED, same)
    _append(
        source / "include" / "admission.p4",
        _ADMITTED,
        "testgen_assume(is_guarded == 0 && is_tunnel_free == 0);",
    )
    _change(source / "include" / "routing.p4", _BACKSTOP, "\n")


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has not one {old!r}"
    path.write_text(text.replace(old, new))


def _append(path: Path, line: str, statement: str) -> None:
    _change(path, line, f"{line.rstrip()} {statement}\n")


def again_of(first: Vector) -> Again:
    """Return the packet that a test of the first pass sends to come again. Raises TestgenError."""
    assert first.leaves is not None
    frame = first.leaves[1].removesuffix("$")
    called = (next(script.read(entry)).call for entry in first.entries)
    found = [call.arguments for call in called if call is not None and call.action.endswith(".configure")]
    if len(found) != 1 or "*" in frame:
        raise TestgenError(f"a switch that is configured and sends a known frame is wanted, not {first}")
    return Again(frame, found[0])


def joined(first: Vector, second: Vector) -> Vector:
    """Return the test of both passes: the second's routes, all else the first's. Raises TestgenError.

    Where the first routes a packet that comes again makes no difference, so its own routes are left out.
    """
    assert first.leaves is not None
    if second.frame != first.leaves[1].removesuffix("$"):
        raise TestgenError(f"the second pass got another frame than the first sent: {first}, {second}")
    entries = [entry for entry in first.entries if not _is_route(entry)]
    entries += [entry for entry in second.entries if _is_route(entry)]
    return replace(first, entries=tuple(entries), leaves=second.leaves)


def _is_route(entry: str) -> bool:
    return ".routing." in entry.split()[1]


def translated(text: str, name: str = "tofino2") -> Vector:
    """Return a test of the Tofino program as one of hmux.p4. Raises TestgenError for one of another form."""
    chip = CHIPS[name]
    entries: list[str] = []
    packet: tuple[str, ...] | None = None
    leaves: tuple[int, str] | None = None
    for line in text.splitlines():
        stripped = line.split("#", 1)[0].strip()
        if not stripped:
            continue
        command = next(script.read(stripped))
        if command.name in ("add", "setdefault"):
            if _is_shared(command):
                entries.append(re.sub(r"\bpipe\.", "", stripped))
        elif command.name == "packet" and packet is None:
            packet = command.words
        elif command.name == "expect" and leaves is None:
            leaves = (int(command.words[0]), command.words[1])
        else:
            raise TestgenError(f"a test with one packet is wanted, not {stripped}")
    if packet is None:
        raise TestgenError(f"a test has no packet: {text}")
    came = int(packet[0])
    if leaves is not None:
        leaves = (_port(leaves[0], chip), leaves[1])
    return Vector(tuple(entries), _port(came, chip), packet[1], leaves, name)


def _is_shared(command: script.Command) -> bool:
    """Whether hmux.p4 has an entry's table, too: steps of sums are tables without keys, of Tofino's only."""
    return command.words[0].rpartition(".")[2] in {table.alias for table in pipeline.schema().tables}


def _port(number: int, chip: Chip) -> int:
    return pipeline.CPU_PORT if number == chip.cpu_port else number


def record(
    replayed: Callable[[Sequence[Vector]], Iterable[tuple[Vector, Left]]],
) -> tuple[Recorded, list[str]]:
    """Make tests, run them on hmux.p4, and return them with their rows, and what differs beyond those.

    `replayed` runs tests on hmux.p4, as `replay` does. Raises TestgenError, ScriptError.
    """
    tests, missed = generate()
    judged = [(replace(test, row=row_of(test, left)), left) for test, left in replayed(tests)]
    recorded = Recorded(digest(), tuple(missed), tuple(test for test, _ in judged))
    return recorded, list(differences(judged))
