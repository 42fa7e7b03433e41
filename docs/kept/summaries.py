"""Summaries of figures and experiments as they are kept in docs/results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
TESTBED = RESULTS / "testbed"
"""Summaries of `duet experiment`, some of whose names are figures' of the simulation, too."""


def there(name: str, folder: Path = RESULTS) -> bool:
    """Whether a summary is kept."""
    return (folder / f"{name}.json").exists()


def summary(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return a summary."""
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return found


def shown(estimate: dict[str, float] | None, digits: int = 0, factor: float = 1.0) -> str:
    """Return `mean±ci`, or a dash."""
    if estimate is None:
        return "-"
    mean, half = factor * estimate["mean"], factor * estimate["ci95"]
    return f"{mean:,.{digits}f}" if estimate["n"] == 1 else f"{mean:,.{digits}f}±{half:,.{digits}f}"


def span(values: list[float], form: str = "{:.0f}") -> str:
    """Return `least to most`, or one number where both read the same."""
    least, most = form.format(min(values)), form.format(max(values))
    return least if least == most else f"{least} to {most}"


def listed(words: list[str]) -> str:
    """Return `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
