"""Tests of hmux_tna.p4 for hmux.p4: as they are recorded, run on a switch, and judged.

Both programs have to treat the same packets alike. What differs is told by its row of the table in
docs/tofino.md, or is an error. Where the tests come from is in `testgen_tofino`.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from duet_p4.hmux import pipeline
from duet_p4.xdp_switch.stf import script
from duet_p4.xdp_switch.stf.interpreter import Interpreter
from ptf_tests.conformance import vectors

PATH = vectors.FOLDER / "hmux_tna.tests.xz"
"""Where the tests are: JSON lines under xz, the first about how they came about, then one for each test."""

ETHERNET_BYTES = 14
AGAIN_PORT = 68
"""That of pipe 0 by which packets to VIPs and TIPs come again on Tofino 1 (p4src/tna/again.p4)."""
_TOLD, _PADDING = 4, 7
"""What stands before a frame for the CPU: digits, in which the port is followed by so many bits."""


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


def row_of(test: Vector, left: Left) -> str:
    """Return the row of the differences that a test is of, given what leaves hmux.p4; empty where of none."""
    frame = bytes.fromhex(test.frame)
    packet = frame[ETHERNET_BYTES:]
    if test.port == pipeline.CPU_PORT or frame[12:14] != b"\x08\x00":
        return ""
    if _has_options(packet):
        return "IPv4 options"
    if test.leaves is None and len(left) == 1 and left[0][0] == test.port and _is_icmp_error(left[0][1]):
        return "ICMP errors"
    return "a packet to a VIP or TIP" if _came_again(test, left) else ""


def _came_again(test: Vector, left: Left) -> bool:
    """Whether the CPU got what came by twice, or would have, had it not been in a frame for a group."""
    if test.chip != "tofino1" or len(left) != 1 or left[0][0] != pipeline.CPU_PORT:
        return False
    if test.leaves is None:
        return bool(int(test.frame[:2], 16) & 1)
    told, digits = test.leaves[1][:_TOLD], test.leaves[1][_TOLD:]
    return (
        test.leaves[0] == pipeline.CPU_PORT
        and int(told, 16) >> _PADDING == AGAIN_PORT
        and script.agrees(digits, left[0][1][_TOLD // 2 :])
    )


def _has_options(packet: bytes) -> bool:
    """Whether the client's header, or that of a tunnel, has options."""
    tunneled = packet[0] == 0x45 and packet[9] == 4 and not int.from_bytes(packet[6:8]) & 0x3FFF
    first = packet[20] if tunneled else packet[0]
    return first >> 4 == 4 and first & 15 > 5


def _is_icmp_error(frame: bytes) -> bool:
    packet = frame[ETHERNET_BYTES:]
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
