"""One piece of work: what every task of the simulation is."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import TypeAdapter

from controller.simulation.scale import Scale

R = TypeVar("R")


@dataclass(frozen=True)
class Task(ABC, Generic[R]):
    """One piece of work, of seconds to minutes; the same task on the same set-up has the same result."""

    kind: ClassVar[str]
    result: ClassVar[type[Any]]
    cost: ClassVar[float] = 1.0
    """How long it takes, roughly, in seconds at the paper's size: long tasks start first."""
    seed: int

    @property
    def slug(self) -> str:
        """The name of its result file."""
        parts = [self.kind]
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "rate":
                parts.append(f"{value:g}T")
            elif one.name == "settings":
                parts += [hashlib.sha256(repr(value).encode()).hexdigest()[:8]] if value else []
            elif one.name != "seed" and value != "":
                parts.append(str(value))
        return re.sub(r"[^A-Za-z0-9.@+-]+", "_", "-".join([*parts, f"seed{self.seed}"]))

    @abstractmethod
    def compute(self, scale: Scale) -> R:
        """Do the work."""

    def parsed(self, json: bytes | str) -> R:
        """Read a result back."""
        found: R = _adapter(type(self)).validate_json(json)
        return found


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(kind.result)  # type: ignore[attr-defined]


__all__ = ["Task"]
