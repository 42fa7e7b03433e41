"""Bytestrings: big-endian, any length in, the shortest out (P4Runtime specification, "Bytestrings")."""

from __future__ import annotations

from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, out_of_range


def decode(data: bytes, width: int, what: str) -> int:
    """Return the unsigned value of a bytestring.

    Leading zeros are allowed. Raises OUT_OF_RANGE, naming `what`, where the string is empty or the
    value needs more than `width` bits.
    """
    value = int.from_bytes(data, "big")
    if not data or value >> width:
        raise range_error(data, width, what)
    return value


def encode(value: int) -> bytes:
    """Return the canonical bytestring: the shortest that holds the value, one byte for 0."""
    return value.to_bytes((value.bit_length() + 7) // 8 or 1, "big")


def decode_signed(data: bytes, width: int, what: str) -> int:
    """Return a two's complement value as the data plane holds it, `width` bits; raises as `decode` does."""
    value = int.from_bytes(data, "big", signed=True)
    if not data or not -1 << width - 1 <= value < 1 << width - 1:
        raise range_error(data, width, what)
    return value & (1 << width) - 1


def encode_signed(value: int, width: int) -> bytes:
    """Return the canonical bytestring of `width` bits of two's complement."""
    number = value - (value >> width - 1 << width)
    bits = (~number if number < 0 else number).bit_length() + 1
    return number.to_bytes((bits + 7) // 8, "big", signed=True)


def range_error(data: bytes, width: int, what: str) -> P4RuntimeError:
    """Return the error for a bytestring that does not fit."""
    if not data:
        return out_of_range(f"{what}: the value is empty")
    shown = data.hex() if len(data) <= 32 else f"{data[:32].hex()}... ({len(data)} bytes)"
    return out_of_range(f"{what}: 0x{shown} does not fit in {width} bits")
