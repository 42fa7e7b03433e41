"""Counts the eBPF instructions that a packet takes, by carrying them out one by one.

There is no other exact way: a virtual machine has no counter of instructions, and the kernel counts none.
What is carried out are the instructions as libbpf hands them to the kernel, on a copy of what the maps hold.
What a helper does inside the kernel is not counted, nor what the verifier puts in place of an array's lookup.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from duet_p4.bpf import Map, Object, clock

HEADROOM = 256
TAILROOM = 512
_LIMIT = 1_000_000
_STACK = 512
_WORD = (1 << 64) - 1
_HALF = (1 << 32) - 1
_REGION = 32
"""Bits of an address below the number of its region."""
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_PER_CPU_ARRAY, _ARRAYS = 6, (2, 6)
XDP_MD_DATA, XDP_MD_END, XDP_MD_META, XDP_MD_IFINDEX = 0, 4, 8, 12


class InterpretationError(Exception):
    """A program did what this does not know, or what the verifier would not have let pass."""


@dataclass(slots=True)
class Run:
    """What became of a packet, and what it took."""

    verdict: int
    frame: bytes
    instructions: int
    helpers: Counter[str] = field(default_factory=Counter)
    at: Counter[int] = field(default_factory=Counter)
    """How often each instruction was carried out, by its number."""


class _Region:
    """Bytes that a program may reach by addresses of their own."""

    def __init__(self, number: int, data: bytearray) -> None:
        self.base = number << _REGION
        self.data = data


class Machine:
    """Runs one program of a loaded object, with what its maps hold now; it changes none of them."""

    def __init__(self, loaded: Object, program: str, maps: Sequence[Map] = ()) -> None:
        """`maps` are those that the object shares with others."""
        self._code = [
            struct.unpack("=BBhi", loaded.instructions(program)[at : at + 8])
            for at in range(0, len(loaded.instructions(program)), 8)
        ]
        self._maps = {m.fd: m for m in (*loaded.maps(), *maps)}
        self._helpers: dict[int, tuple[str, Callable[..., int]]] = {
            1: ("map_lookup_elem", self._lookup),
            2: ("map_update_elem", self._update),
            3: ("map_delete_elem", self._delete),
            5: ("ktime_get_ns", self._now),
            7: ("get_prandom_u32", lambda *_: 4),
            8: ("get_smp_processor_id", lambda *_: 0),
            23: ("redirect", lambda *_: 4),
            44: ("xdp_adjust_head", self._adjust_head),
            51: ("redirect_map", self._redirect_map),
            65: ("xdp_adjust_tail", self._adjust_tail),
            93: ("spin_lock", lambda *_: 0),
            94: ("spin_unlock", lambda *_: 0),
            118: ("jiffies64", lambda *_: clock.jiffies()),
            125: ("ktime_get_boot_ns", self._now),
            160: ("ktime_get_coarse_ns", self._now),
        }

    def run(self, frame: bytes, ifindex: int = 1) -> Run:
        """Carry the program out on a frame that came in by an interface."""
        self._regions: list[_Region] = [_Region(0, bytearray())]
        self._values: dict[tuple[int, bytes], _Region] = {}
        self._arrays: dict[int, _Region] = {}
        self._packet = self._region(bytearray(HEADROOM) + frame + bytearray(TAILROOM))
        self._data, self._end = HEADROOM, HEADROOM + len(frame)
        self._context = self._region(bytearray(24))
        self._context.data[XDP_MD_IFINDEX : XDP_MD_IFINDEX + 4] = ifindex.to_bytes(4, "little")
        stack = self._region(bytearray(_STACK))
        registers = [0] * 11
        registers[1] = self._context.base
        registers[10] = stack.base + _STACK
        run = Run(0, b"", 0)
        run.verdict = self._execute(registers, run) & _HALF
        run.frame = bytes(self._packet.data[self._data : self._end])
        return run

    def _execute(self, r: list[int], run: Run) -> int:
        at, code = 0, self._code
        while run.instructions < _LIMIT:
            run.instructions += 1
            run.at[at] += 1
            op, registers, offset, imm = code[at]
            to, source = registers & 15, registers >> 4
            kind = op & 7
            at += 1
            if kind in (7, 4):
                r[to] = self._arithmetic(op, r[to], r[source] if op & 8 else imm, imm, kind == 7)
            elif kind == 1:
                r[to] = self._load(r[source] + offset, _SIZES[op & 0x18])
            elif kind in (2, 3):
                value = r[source] if kind == 3 else imm
                size = _SIZES[op & 0x18]
                if op & 0xE0 == 0xC0:
                    r[0 if imm == 0xF1 else source] = self._atomic(r[to] + offset, size, r, source, imm)
                else:
                    self._store(r[to] + offset, size, value)
            elif kind == 0:
                r[to] = self._immediate(source, imm, code[at][3])
                at += 1
            elif op == 0x95:
                return r[0]
            elif op == 0x85:
                if source:
                    raise InterpretationError("a call of a function of the program's own")
                name, helper = self._helper(imm)
                run.helpers[name] += 1
                r[0] = helper(*r[1:6]) & _WORD
            elif op in (0x05, 0x06):
                at += imm if op == 0x06 else offset
            elif self._jumps(op, r[to], r[source] if op & 8 else imm, kind == 5):
                at += offset
        raise InterpretationError(f"more than {_LIMIT} instructions")

    def _helper(self, number: int) -> tuple[str, Callable[..., int]]:
        if number not in self._helpers:
            raise InterpretationError(f"helper {number}")
        return self._helpers[number]

    def _region(self, data: bytearray) -> _Region:
        region = _Region(len(self._regions), data)
        self._regions.append(region)
        return region

    def _place(self, address: int, size: int) -> tuple[bytearray, int]:
        number, at = (address & _WORD) >> _REGION, address & _HALF
        if not 0 < number < len(self._regions):
            raise InterpretationError(f"address {address:#x}")
        data = self._regions[number].data
        if at + size > len(data):
            raise InterpretationError(f"{size} bytes at {address:#x}, behind the end")
        return data, at

    def _load(self, address: int, size: int) -> int:
        if address >> _REGION == self._context.base >> _REGION:
            place = address & _HALF
            if place in (XDP_MD_DATA, XDP_MD_META):
                return self._packet.base + self._data
            if place == XDP_MD_END:
                return self._packet.base + self._end
        data, at = self._place(address, size)
        return int.from_bytes(data[at : at + size], "little")

    def _store(self, address: int, size: int, value: int) -> None:
        data, at = self._place(address, size)
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _atomic(self, address: int, size: int, r: list[int], source: int, imm: int) -> int:
        held = self._load(address, size)
        if imm == 0xF1:
            if held == r[0] & (1 << 8 * size) - 1:
                self._store(address, size, r[source])
            return held
        if imm & ~1 == 0xE0:
            self._store(address, size, r[source])
            return held
        result = {
            0x00: held + r[source],
            0x40: held | r[source],
            0x50: held & r[source],
            0xA0: held ^ r[source],
        }
        self._store(address, size, result[imm & ~1])
        return held if imm & 1 else r[source]

    def _immediate(self, kind: int, imm: int, high: int) -> int:
        if kind == 0:
            return (imm & _HALF) | (high & _HALF) << 32
        if kind == 1:
            return imm & _HALF
        if kind == 2:
            return self._array(imm).base + high
        raise InterpretationError(f"an immediate of kind {kind}")

    def _array(self, fd: int) -> _Region:
        """Return the memory of an array map, copied when it is first met."""
        if fd not in self._arrays:
            held = self._maps[fd]
            stride = (held.value_size + 7) // 8 * 8
            if held.shape[0] == _PER_CPU_ARRAY:
                values = [held.split(raw)[0] for raw in self._whole(held)]
            else:
                values = self._whole(held)
            self._arrays[fd] = self._region(bytearray(b"".join(v.ljust(stride, b"\0") for v in values)))
        return self._arrays[fd]

    @staticmethod
    def _whole(held: Map) -> list[bytes]:
        if held.max_entries == 1:
            value = held.lookup(bytes(4))
            return [value or bytes(held.value_size)]
        raw = held.read(0, held.max_entries)
        size = len(raw) // held.max_entries
        return [raw[at : at + size] for at in range(0, len(raw), size)]

    def _lookup(self, fd: int, key: int, *_: int) -> int:
        held = self._maps[fd]
        data, at = self._place(key, held.key_size)
        name = bytes(data[at : at + held.key_size])
        if held.shape[0] in _ARRAYS:
            index = int.from_bytes(name, "little")
            if index >= held.max_entries:
                return 0
            return self._array(fd).base + index * ((held.value_size + 7) // 8 * 8)
        if (fd, name) not in self._values:
            value = held.lookup(name)
            if value is None:
                return 0
            self._values[fd, name] = self._region(bytearray(value[: held.value_size]))
        return self._values[fd, name].base

    def _update(self, fd: int, key: int, value: int, *_: int) -> int:
        held = self._maps[fd]
        data, at = self._place(key, held.key_size)
        taken, start = self._place(value, held.value_size)
        name = bytes(data[at : at + held.key_size])
        self._values[fd, name] = self._region(bytearray(taken[start : start + held.value_size]))
        return 0

    def _delete(self, fd: int, key: int, *_: int) -> int:
        held = self._maps[fd]
        data, at = self._place(key, held.key_size)
        self._values.pop((fd, bytes(data[at : at + held.key_size])), None)
        return 0

    def _redirect_map(self, fd: int, key: int, flags: int, *_: int) -> int:
        held = self._maps[fd]
        found = held.lookup((key & _HALF).to_bytes(4, "little"))
        return 4 if found is not None else flags & 3

    @staticmethod
    def _now(*_: int) -> int:
        return time.monotonic_ns()

    def _adjust_head(self, _: int, delta: int, *__: int) -> int:
        moved = self._data + _signed(delta, 32)
        if not 40 <= moved <= self._end - 14:
            return _WORD
        self._data = moved
        return 0

    def _adjust_tail(self, _: int, delta: int, *__: int) -> int:
        moved = self._end + _signed(delta, 32)
        if not self._data + 14 <= moved <= len(self._packet.data):
            return _WORD
        self._end = moved
        return 0

    @staticmethod
    def _arithmetic(op: int, left: int, right: int, imm: int, wide: bool) -> int:
        bits = 64 if wide else 32
        mask = (1 << bits) - 1
        a, b = left & mask, right & mask
        kind = op & 0xF0
        if kind == 0xD0:
            size = imm // 8
            raw = (left & (1 << imm) - 1).to_bytes(size, "little")
            return int.from_bytes(raw, "big" if op & 8 else "little")
        result = {
            0x00: lambda: a + b,
            0x10: lambda: a - b,
            0x20: lambda: a * b,
            0x30: lambda: a // b if b else 0,
            0x40: lambda: a | b,
            0x50: lambda: a & b,
            0x60: lambda: a << (b & bits - 1),
            0x70: lambda: a >> (b & bits - 1),
            0x80: lambda: -a,
            0x90: lambda: a % b if b else a,
            0xA0: lambda: a ^ b,
            0xB0: lambda: b,
            0xC0: lambda: _signed(a, bits) >> (b & bits - 1),
        }[kind]()
        return result & mask

    @staticmethod
    def _jumps(op: int, left: int, right: int, wide: bool) -> bool:
        bits = 64 if wide else 32
        mask = (1 << bits) - 1
        a, b = left & mask, right & mask
        signed_a, signed_b = _signed(a, bits), _signed(b, bits)
        return {
            0x10: a == b,
            0x20: a > b,
            0x30: a >= b,
            0x40: bool(a & b),
            0x50: a != b,
            0x60: signed_a > signed_b,
            0x70: signed_a >= signed_b,
            0xA0: a < b,
            0xB0: a <= b,
            0xC0: signed_a < signed_b,
            0xD0: signed_a <= signed_b,
        }[op & 0xF0]


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
