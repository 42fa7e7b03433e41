"""How a measurement is kept: numbers as JSON and CSV, figures as PNG and SVG, and the machine it ran on.

Every benchmark, experiment and simulation writes through here, so that all results look alike and
two runs with the same numbers give the same files byte for byte.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import platform
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIBRARIES = ("numpy", "numba", "scipy", "networkx", "matplotlib", "finsy", "grpcio", "protobuf", "pyroute2")
"""Libraries whose versions may change a result."""

OURS = "#0b6e99"
"""Colour of this project's main series."""
PAPER = "#b3541e"
"""Colour of the paper's values, in every figure."""
GREY = "#6b7280"
"""Colour of baselines and reference lines."""
SERIES = (OURS, "#6a9a3b", "#8a5a9e", "#c99a2e", "#3f7f7a", GREY)
"""Colours of several series of ours, in order; none of them is the paper's."""

_NOTE_CHARACTERS_PER_INCH = 15

_STYLE: dict[str, Any] = {
    "figure.figsize": (6.4, 3.8),
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#374151",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.hashsalt": "duet-p4",
}


def machine() -> dict[str, Any]:
    """Describe what a result was measured on: CPU, memory, kernel, Python and library versions.

    Holds no host name, no user and no path. Values that cannot be read are null.
    """
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": _memory_mb(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "duet": _version("duet-p4"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON, atomically, and return the path.

    Dataclasses, enums, paths and numpy scalars and arrays are spelled out; NaN and infinities become null.
    """
    return _write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def to_json(value: Any) -> str:
    """Return `value` as one line of JSON: what a command prints last under `--json`."""
    return json.dumps(_plain(value), allow_nan=False)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Path:
    """Write rows as CSV with a header line, atomically, and return the path.

    `columns` defaults to the keys of the first row; a row with another key raises ValueError. An
    empty table needs `columns`.
    """
    kept = list(rows)
    if columns is None:
        if not kept:
            raise ValueError(f"{path.name}: a table without rows needs its columns stated")
        columns = list(kept[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(columns), lineterminator="\n")
            writer.writeheader()
            for row in kept:
                writer.writerow({key: _plain(value) for key, value in row.items()})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def figure(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes in the project's style; options go to `matplotlib.pyplot.subplots`.

    Needs no display.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import style

    style.use(_STYLE)
    options.setdefault("layout", "constrained")
    return plt.subplots(rows, columns, **options)


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as PNG and SVG beside each other, close it, and return both paths.

    The suffix of `path` is ignored. Ids and metadata are fixed: the same data gives the same bytes.
    """
    import matplotlib.pyplot as plt
    from matplotlib import style

    style.use(_STYLE)
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, metadata={"Software": None})
    figure.set_layout_engine("none")  # It stays as laid out for the first file.
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return [png, svg]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `n` runs and the half width of its 95% confidence interval (Student's t)."""

    mean: float
    ci95: float
    n: int


def estimate(values: Iterable[float]) -> Estimate:
    """Return the mean of the values with its interval; one value has none."""
    import numpy as np
    from scipy.stats import t as student

    array = np.asarray(list(values), np.float64)
    half = 0.0
    if array.size > 1:
        half = float(student.ppf(0.975, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return Estimate(float(array.mean()), half, int(array.size))


def note(figure: Figure, *parts: str) -> None:
    """Say under the plots what they rest on: runs, model, sources of error; a part begins a line."""
    width = int(_NOTE_CHARACTERS_PER_INCH * figure.get_figwidth())
    figure.supxlabel(
        "\n".join(textwrap.fill(part, width) for part in parts), fontsize=8, color=GREY, x=0.01, ha="left"
    )


def paper_line(axes: Axes, value: float, text: str, *, vertical: bool = False) -> None:
    """Mark a value the paper states: a dashed line in the paper's colour, labelled as the paper's."""
    draw = axes.axvline if vertical else axes.axhline
    draw(value, color=PAPER, linestyle="--", linewidth=1.4, label=f"paper: {text}", zorder=1.5)


def paper_points(axes: Axes, x: Sequence[float], y: Sequence[float], text: str) -> None:
    """Mark points the paper states: open diamonds in the paper's colour, labelled as the paper's."""
    axes.plot(
        x,
        y,
        linestyle="none",
        marker="D",
        markerfacecolor="none",
        markeredgecolor=PAPER,
        markeredgewidth=1.6,
        markersize=7,
        label=f"paper: {text}",
        zorder=4,
    )


def _plain(value: Any) -> Any:
    """Reduce a value to what JSON knows."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return _plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


def _write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _field(file: str, name: str) -> str | None:
    """Return the value of the first `name : value` line of a /proc file."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _memory_mb() -> int | None:
    total = _field("/proc/meminfo", "MemTotal")
    return int(total.split()[0]) // 1024 if total else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


__all__ = [
    "GREY",
    "OURS",
    "PAPER",
    "SERIES",
    "figure",
    "machine",
    "paper_line",
    "paper_points",
    "save_figure",
    "to_json",
    "write_csv",
    "write_json",
]
