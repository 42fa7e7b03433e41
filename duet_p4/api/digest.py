"""Digests of what a device holds: two sides that agree on one need not compare entry by entry."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from pydantic import BaseModel, Field

from duet_p4.model import Model

_MODULUS = 1 << 256
_KEPT = 128

_texts: OrderedDict[int, tuple[BaseModel, bytes]] = OrderedDict()


def text_of(entry: BaseModel) -> bytes:
    """Return the JSON of an entry, which never changes.

    It is kept for a while: one change of an entry sends it to several devices, writes it down and digests it.
    """
    known = _texts.get(id(entry))
    if known is not None and known[0] is entry:
        return known[1]
    text = entry.model_dump_json().encode()
    _texts[id(entry)] = entry, text
    if len(_texts) > _KEPT:
        _texts.popitem(last=False)
    return text


def weight(entry: BaseModel, announced: bool) -> int:
    """Return what an entry adds to the digest of a set: the SHA-256 of its JSON and of `+` or `-`."""
    return int.from_bytes(hashlib.sha256(text_of(entry) + (b"+" if announced else b"-")).digest())


class SetDigest:
    """The digest of a set of entries, some of them announced: the sum of their weights modulo 2**256.

    A change costs the same however many entries there are, and their order does not matter.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, entry: BaseModel, announced: bool) -> None:
        """Have an entry in the set, which must not have it already."""
        self.shift(weight(entry, announced))

    def discard(self, entry: BaseModel, announced: bool) -> None:
        """Have an entry, stated as it was added, in the set no more."""
        self.shift(-weight(entry, announced))

    def shift(self, difference: int) -> None:
        """Add the difference between weights of entries that came and went."""
        self._sum = (self._sum + difference) % _MODULUS

    def hex(self) -> str:
        """Return the digest as 64 hexadecimal digits."""
        return f"{self._sum:064x}"


class Digest(Model):
    """What a device holds, in short: how many entries, how many of them announced.

    `term` is the highest that it has seen a write of.
    """

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    entries: int = Field(ge=0)
    announced: int = Field(ge=0)
    term: int = Field(ge=0)


class Synced(Model):
    """Says that a device holds what it should, where that has this digest."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
