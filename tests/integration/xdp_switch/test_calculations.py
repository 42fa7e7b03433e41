"""Hashes and checksums, against plain Python."""

import os
import zlib

import pytest

from tests.integration.xdp_switch import programs
from tests.integration.xdp_switch.programs import Json

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]

INPUTS = [("a", 4), ("b", 12), ("c", 8), ("d", 48), ("e", 32), ("f", 24), ("g", 128)]
LISTS = {
    "aligned": ["b", "a", "c", "d", "e"],
    "in order": ["a", "b", "c", "d", "e", "f", "g"],
    "odd bits": ["a", "c", "d"],
    "long": ["g", "e", "a", "f"],
    "short": ["c"],
}
ALGORITHMS = ["crc32", "crc16", "csum16", "xor16", "identity"]
OUTPUTS = [(f"{algorithm}_{n}", 64) for algorithm in ALGORITHMS for n in range(len(LISTS))]


def crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def words(data: bytes) -> list[int]:
    padded = data + bytes(len(data) % 2)
    return [int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2)]


def csum16(data: bytes) -> int:
    total = sum(words(data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def xor16(data: bytes) -> int:
    result = 0
    for word in words(data):
        result ^= word
    return result


REFERENCE = {
    "crc32": zlib.crc32,
    "crc16": crc16,
    "csum16": csum16,
    "xor16": xor16,
    "identity": lambda data: int.from_bytes(data[:8], "big"),
}


def document(base: int, size: int) -> Json:
    calculations, steps = [], []
    for algorithm in ALGORITHMS:
        for number, names in enumerate(LISTS.values()):
            name = f"{algorithm}_{number}"
            inputs = [programs.field("input", field) for field in names]
            calculations.append({"name": name, "id": 0, "algo": algorithm, "input": inputs})
            steps.append(
                {
                    "op": "modify_field_with_hash_based_offset",
                    "parameters": [
                        programs.field("output", name),
                        programs.number(base),
                        {"type": "calculation", "value": name},
                        programs.number(size),
                    ],
                }
            )
    # The header must still be valid while it is hashed.
    tables = [programs.call("compute", 1, None)]
    result = programs.program(INPUTS, OUTPUTS, [programs.action(1, "compute", steps)], tables)
    result["actions"][0]["primitives"] = [
        p for p in result["actions"][0]["primitives"] if p["op"] != "remove_header"
    ]
    return {**result, "calculations": calculations}


@pytest.mark.parametrize(("base", "size"), [(0, 1 << 64), (0, 1 << 32), (7, 13), (1000, 1), (3, 4096)])
def test_hashes_equal_the_reference(base: int, size: int) -> None:
    widths = dict(INPUTS)
    with programs.running(document(base, size)) as pipeline:
        for seed in (0, 1, (1 << 256) - 1, 0x0123456789ABCDEF << 130 | 0xFEDCBA9876543210):
            values = {n: seed >> at * 11 & (1 << w) - 1 for at, (n, w) in enumerate(INPUTS)}
            sent = pipeline.replay(programs.pack(INPUTS, values) + bytes(20), 1)[0][1]
            got = programs.unpack(OUTPUTS, sent)
            for algorithm in ALGORITHMS:
                for number, (title, names) in enumerate(LISTS.items()):
                    bits = "".join(f"{values[n]:0{widths[n]}b}" for n in names)
                    bits += "0" * (-len(bits) % 8)
                    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
                    wanted = (REFERENCE[algorithm](data) % size + base) & (1 << 64) - 1
                    result = got[f"{algorithm}_{number}"]
                    assert result == wanted, (
                        f"{algorithm} of {title} {data.hex()}: {result:#x}, not {wanted:#x}"
                    )
