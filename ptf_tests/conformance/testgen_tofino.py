"""Tests that p4testgen finds of hmux_tna.p4, for hmux.p4: both have to treat the same packets alike.

p4testgen executes the Tofino program symbolically, by its own model of the architecture, and says what
leaves. Its tests are translated (names, the CPU's port) and run on hmux.p4. What differs is told by its row
of the table in docs/tofino.md, or is an error.

p4testgen gets a copy of the program:
- It can neither check a checksum in a parser nor make one in a deparser. The copy does both in P4.
- What nobody has written is 0 for it only in structs that say so. On the chip it is, wherever it may be read:
  p4c-barefoot has the parser begin so.
- Assumptions keep it from searching where both programs are known to differ: groups have a power of two of
  slots, no header says that there is more than the frame holds, and packets leave by few ports.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from duet_p4.hmux import pipeline, tofino
from duet_p4.hmux.pipeline import P4_SOURCES
from duet_p4.xdp_switch.stf import script
from duet_p4.xdp_switch.stf.interpreter import Interpreter
from ptf_tests.conformance import testgen, vectors
from ptf_tests.conformance.testgen import COMMAND, Run, TestgenError

PATH = vectors.FOLDER / "hmux_tna.tests.xz"
"""Where the tests are: JSON lines under xz, the first about how they came about, then one for each test."""

_ETHERNET = 14
_FRAME_BYTES = 150
"""How long every frame is: long enough for whatever the parsers look at."""
_PORTS = (8, 12)

_ZEROED = ("struct metadata_t {", "struct headers_t {")
_FROM_CPU = "            SEND_AS_IT_IS(hdr.packet_out.egress_port);\n"
_BEGIN = "            SEND(DROP_PORT);\n"
_BALANCED = "            vips.apply(hdr, meta, TARGET);\n"
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


CHIPS = {
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
        return self not in (Kind.ALL, Kind.PLAIN)


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

RUNS = {
    "tofino2": (
        (Kind.ALL, Run(51, "GREEDY_STATEMENT_SEARCH", 120)),
        (Kind.ALL, Run(51, "RANDOM_BACKTRACK", 60)),
        (Kind.PLAIN, Run(52, "RANDOM_BACKTRACK", 120)),
        *((Kind.PASSING, Run(seed, "DEPTH_FIRST", 30)) for seed in range(60, 64)),
        *((kind, Run(seed, "DEPTH_FIRST", 70)) for kind in _WAYS for seed in range(60, 62)),
        (Kind.TO_VIP, Run(62, "DEPTH_FIRST", 70)),
    ),
}


@dataclass(frozen=True, slots=True)
class Vector:
    """A packet, what the tables hold, and what leaves by the Tofino program: (port, digits) or nothing."""

    entries: tuple[str, ...]
    port: int
    frame: str
    leaves: tuple[int, str] | None
    chip: str = "tofino2"
    row: str = ""
    """The row of the differences that it is of; empty where both programs do the same."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The committed tests: of which sources (`digest`), and statements that no test reaches."""

    digest: str
    missed: tuple[str, ...]
    tests: tuple[Vector, ...]


Left = list[tuple[int, bytes]]
"""What left hmux.p4, by which port."""


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


def generate(runs: Mapping[str, Sequence[tuple[Kind, Run]]] = RUNS) -> tuple[list[Vector], list[str]]:
    """Run p4testgen; return its tests, translated, each once, and what none reaches. Raises TestgenError."""
    testgen.require()
    tests: dict[Vector, None] = {}
    missed: list[str] = []
    for chip, own in runs.items():
        every = list(_found(chip, own))
        tests |= dict.fromkeys(translated(text, chip) for one in every for text in one.tests)
        left = frozenset.intersection(*(one.missed for one in every))
        missed += [f"{chip}: {line[:_LINE]}" for line in sorted(left)]
    return list(tests), missed


def _found(chip: str, runs: Iterable[tuple[Kind, Run]]) -> Iterator[testgen.Found]:
    """Run p4testgen; yield what each run found. One of passing packets may find none in its time."""
    for kind, run in runs:
        try:
            yield _run(run, chip, kind)
        except TestgenError:
            if not kind.passes:
                raise


def _run(run: Run, name: str, kind: Kind) -> testgen.Found:
    chip = CHIPS[name]
    with tempfile.TemporaryDirectory(prefix="duet-testgen-") as scratch:
        source, out = Path(scratch) / "p4src", Path(scratch) / "out"
        shutil.copytree(P4_SOURCES, source, ignore=shutil.ignore_patterns("build"))
        prepare(source, chip, kind)
        size = str(8 * _FRAME_BYTES)
        ranges = [f"{chip.cpu_port}:{chip.cpu_port}", f"{_PORTS[0]}:{_PORTS[1]}"]
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


def _includes() -> list[str]:
    """Return where Tofino's architectures are, if p4c-barefoot is on PATH: beside it."""
    compiler = shutil.which(tofino.COMPILER)
    return ["-I", str(Path(compiler).parents[1] / "share" / "p4c" / "p4include")] if compiler else []


def prepare(source: Path, chip: Chip, kind: Kind = Kind.ALL) -> None:
    """Change a copy of the sources into what p4testgen can execute, and what it is to find."""
    main = f"#include <{chip.architecture}.p4>\n"
    lengths = "".join(
        f"if (hdr.{header}.isValid()) {{\n"
        f"testgen_assume(hdr.{header}.total_len <= {_FRAME_BYTES - _ETHERNET});\n}}\n"
        for header in ("ipv4", "outer_ipv4")
    )
    _change(source / "hmux_tna.p4", main, main + "#include <testgen.p4>\n")
    begin = lengths
    if kind is not Kind.ALL:
        begin += "testgen_assume(meta.has_options == 0);\n"
    if kind.passes:
        begin += "testgen_assume(hdr.ethernet.dst_addr[40:40] == 0);\n"
        begin += "".join(
            f"if (hdr.{header}.isValid()) {{\ntestgen_assume(hdr.{header}.ttl > 1);\n}}\n"
            for header in ("ipv4", "outer_ipv4")
        )
        _change(source / "tna" / "target.p4", _DROP, f"{_DROP}; testgen_assume(false)")
    if kind in _WAYS:
        headers, balance = _WAYS[kind]
        begin += f"testgen_assume(hdr.ipv4.isValid() && {headers});\n"
        led = f"            testgen_assume(meta.balance == {balance});\n"
        _change(source / "hmux_tna.p4", _BALANCED, _BALANCED + led)
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
    few = f"        testgen_assume({{0}} >= {_PORTS[0]} && {{0}} <= {_PORTS[1]});\n"
    wide = "        testgen_assume(mtu >= 1500);\n" if kind.passes else ""
    _change(source / "include" / "routing.p4", _FORWARD, few.format("port") + wide + _FORWARD)
    from_cpu = "testgen_assume(false);\n" if kind.passes else few.format("hdr.packet_out.egress_port")
    _change(source / "hmux_tna.p4", _FROM_CPU, from_cpu + _FROM_CPU)
    path = source / "tna" / "parser.p4"
    text = _VERIFY.sub(_VERIFIED, path.read_text())
    text = _UPDATE.sub(_UPDATED, text)
    text = re.sub(r"    Checksum\(\) outer_checksum;\n", "    bit<20> sum;\n", text)
    text = re.sub(r"    Checksum\(\) checksum;\n", "", text)
    assert "hecksum." not in text.replace(".checksum", ""), f"{path.name} has another checksum"
    path.write_text(_SUM + text)


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has not one {old!r}"
    path.write_text(text.replace(old, new))


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


def row_of(test: Vector, left: Left) -> str:
    """Return the row of the differences that a test is of, given what leaves hmux.p4; empty where of none."""
    frame = bytes.fromhex(test.frame)
    packet = frame[_ETHERNET:]
    if test.port == pipeline.CPU_PORT or frame[12:14] != b"\x08\x00":
        return ""
    if _has_options(packet):
        return "IPv4 options"
    if test.leaves is None and len(left) == 1 and left[0][0] == test.port and _is_icmp_error(left[0][1]):
        return "ICMP errors"
    return ""


def _has_options(packet: bytes) -> bool:
    """Whether the client's header, or that of a tunnel, has options."""
    tunneled = packet[0] == 0x45 and packet[9] == 4 and not int.from_bytes(packet[6:8]) & 0x3FFF
    first = packet[20] if tunneled else packet[0]
    return first >> 4 == 4 and first & 15 > 5


def _is_icmp_error(frame: bytes) -> bool:
    packet = frame[_ETHERNET:]
    return packet[0] == 0x45 and packet[9] == 1 and packet[20] in (3, 11)


def agrees(test: Vector, left: Left) -> bool:
    """Whether what leaves hmux.p4 is what leaves the Tofino program, and nothing else."""
    if test.leaves is None:
        return not left
    return len(left) == 1 and left[0][0] == test.leaves[0] and script.agrees(test.leaves[1], left[0][1])


def replay(tests: Iterable[Vector], switch: Interpreter) -> Iterator[tuple[Vector, Left]]:
    """Run tests on hmux.p4; yield each with what left by which port. Raises ScriptError."""
    for test in tests:
        switch.reset()
        switch.sent.clear()
        for line in (*test.entries, f"packet {test.port} {test.frame}"):
            switch.run(next(script.read(line)))
        yield test, [(port, frame) for port, frames in switch.sent.items() for frame in frames]


def differences(judged: Iterable[tuple[Vector, Left]]) -> Iterator[str]:
    """Yield what is neither alike nor of the row that a test is recorded with."""
    for test, left in judged:
        row = row_of(test, left)
        if row == test.row and (row or agrees(test, left)):
            continue
        wanted = f"port {test.leaves[0]}: {test.leaves[1]}" if test.leaves else "nothing"
        shown = ", ".join(f"port {port}: {frame.hex().upper()}" for port, frame in left) or "nothing"
        asked = "\n".join((*test.entries, f"packet {test.port} {test.frame}"))
        yield (
            f"{asked}\nleaves hmux_tna.p4 as {wanted},\nhmux.p4 as {shown}"
            f" (recorded as: {test.row or 'the same'}; is: {row or 'no known difference'})"
        )


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


def summary(recorded: Recorded) -> dict[str, int]:
    """Return how many tests both programs pass alike, and how many there are of each difference."""
    rows = Counter(test.row or "the same" for test in recorded.tests)
    return dict(sorted(rows.items()))


def write(recorded: Recorded, path: Path = PATH) -> None:
    """Write the file of tests."""
    head = {"digest": recorded.digest, "missed": recorded.missed, "tests": summary(recorded)}
    lines = [head, *(asdict(test) for test in recorded.tests)]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def read(path: Path = PATH) -> Recorded:
    """Read the file of tests."""
    head, *lines = (json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines())
    return Recorded(head["digest"], tuple(head["missed"]), tuple(map(_test, lines)))


def _test(stated: dict[str, object]) -> Vector:
    leaves = stated["leaves"]
    assert isinstance(leaves, list | None)
    entries = stated["entries"]
    assert isinstance(entries, list)
    return Vector(
        tuple(entries),
        int(str(stated["port"])),
        str(stated["frame"]),
        (int(leaves[0]), str(leaves[1])) if leaves else None,
        str(stated["chip"]),
        str(stated["row"]),
    )
