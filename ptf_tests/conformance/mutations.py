"""Breaks frames: each mutation takes a good frame and returns one that a network would rather not see."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ptf_tests.conformance.headers import repair
from ptf_tests.conformance.program import MAX_FRAME, MIN_FRAME

Mutation = Callable[[random.Random, bytes], bytes]

_EDGES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF, 0x04, 0x45, 0x46, 0x4F, 0x06, 0x11)
_HEADERS = 90
"""Most mutations hit the headers: within the first bytes of a frame."""


def flip_bits(rng: random.Random, frame: bytes) -> bytes:
    """Flip one to four bits."""
    changed = bytearray(frame)
    for _ in range(rng.randint(1, 4)):
        changed[_place(rng, frame)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(rng: random.Random, frame: bytes) -> bytes:
    """Set one to three bytes to values where things change."""
    changed = bytearray(frame)
    for _ in range(rng.randint(1, 3)):
        changed[_place(rng, frame)] = rng.choice(_EDGES)
    return bytes(changed)


def set_word(rng: random.Random, frame: bytes) -> bytes:
    """Set a 16-bit word to a small, a large or a random number."""
    at = _place(rng, frame) & ~1
    word = rng.choice(
        (rng.randrange(64), 0xFFFF - rng.randrange(64), rng.randrange(0x10000), len(frame) - 14)
    )
    return frame[:at] + word.to_bytes(2, "big") + frame[at + 2 :]


def truncate(rng: random.Random, frame: bytes) -> bytes:
    """Cut the frame anywhere, most often within its headers."""
    end = len(frame) if rng.random() < 0.2 else min(len(frame), _HEADERS)
    return frame[: rng.randint(MIN_FRAME, end)]


def extend(rng: random.Random, frame: bytes) -> bytes:
    """Append padding."""
    return frame + bytes(rng.randint(1, 64))


def remove(rng: random.Random, frame: bytes) -> bytes:
    """Take some bytes out of the middle."""
    at = _place(rng, frame)
    return frame[:at] + frame[at + rng.randint(1, 24) :]


def insert(rng: random.Random, frame: bytes) -> bytes:
    """Put some random bytes into the middle."""
    at = _place(rng, frame)
    return frame[:at] + rng.randbytes(rng.randint(1, 24)) + frame[at:]


def repeat(rng: random.Random, frame: bytes) -> bytes:
    """Have a piece of the frame twice, as when headers nest."""
    at, end = sorted((_place(rng, frame), _place(rng, frame)))
    return frame[:end] + frame[at:]


MUTATIONS: Sequence[Mutation] = (flip_bits, set_bytes, set_word, truncate, extend, remove, insert, repeat)


def mutate(rng: random.Random, frame: bytes) -> tuple[str, bytes]:
    """Return the names of one to three mutations and the frame that they leave.

    Half of them have their checksum repaired, or else nothing behind the checksum would ever be tried.
    """
    chosen = [rng.choice(MUTATIONS) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for mutation in chosen:
        frame = mutation(rng, frame).ljust(MIN_FRAME, b"\0")[:MAX_FRAME]
    names = [mutation.__name__ for mutation in chosen]
    if rng.random() < 0.5:
        return " ".join([*names, "repaired"]), repair(frame)
    return " ".join(names), frame


def _place(rng: random.Random, frame: bytes) -> int:
    end = len(frame) if rng.random() < 0.1 else min(len(frame), _HEADERS)
    first = 12 if rng.random() < 0.9 else 0
    return rng.randrange(min(first, end - 1), end)
