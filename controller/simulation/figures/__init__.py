"""The figures of the evaluation, one module each: adding a figure is adding a file here with a `FIGURE`
in it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from controller.simulation.figures.base import Estimate, Figure, estimate


@cache
def figures() -> dict[str, Figure[Any]]:
    """Return every figure by name, in the order of their numbers."""
    found: list[Figure[Any]] = []
    for module in pkgutil.iter_modules(__path__):
        figure = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FIGURE", None)
        if figure is not None:
            found.append(figure)
    return {figure.name: figure for figure in sorted(found, key=lambda one: (one.number or 99, one.name))}


__all__ = ["Estimate", "Figure", "estimate", "figures"]
