"""VIP records as text: JSON in which the slot tables, most of a large VIP, are packed.

A record that a later version wrote may have fields that this one does not know: they are left out.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

from controller.records import VipRecord

_NARROW, _WIDE = "b", "w"
"""How a packed table begins: one byte a slot, or two, the lower first."""


def encode(record: VipRecord) -> str:
    """Return a record as text."""
    plain = record.model_dump(mode="json", exclude_defaults=True)
    for group in _groups(plain):
        group["slots"] = _pack(group["slots"])
    return json.dumps(plain, separators=(",", ":"))


def decode(text: str) -> VipRecord:
    """Return the record of a text. Raises ValueError."""
    plain = json.loads(text)
    for group in _groups(plain):
        if isinstance(group["slots"], str):
            group["slots"] = _unpack(group["slots"])
    return VipRecord.model_validate(plain, extra="ignore")


def _groups(plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    layout = plain["layout"]
    if layout.get("group"):
        yield layout["group"]
    yield from (port["group"] for port in layout.get("ports", ()))
    yield from (placed["tip"]["group"] for placed in plain.get("tips", ()))


def _pack(slots: list[int]) -> str:
    kind = _NARROW if max(slots) < 256 else _WIDE
    packed = bytes(slots) if kind == _NARROW else struct.pack(f"<{len(slots)}H", *slots)
    return kind + base64.b64encode(packed).decode()


def _unpack(text: str) -> list[int]:
    packed = base64.b64decode(text[1:], validate=True)
    if text[0] == _NARROW:
        return list(packed)
    if text[0] != _WIDE or len(packed) % 2:
        raise ValueError(f"no packed slot table: {text[:20]!r}")
    return list(struct.unpack(f"<{len(packed) // 2}H", packed))
