"""`duet simulate sweep`: any settings, all combinations, many seeds, one tidy table and a plot per pair."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.simulation.figures.base import Row, estimate
from controller.simulation.muxcount import CountRule
from controller.simulation.runner import Results
from controller.simulation.scale import SMUX_BPS, Scale
from controller.simulation.settings import Setting, with_settings
from controller.simulation.tasks import Follow, Place, Task, strategy
from duet_p4 import results
from duet_p4.results import SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

STRATEGY = "strategy"
TRAFFIC = "tbps"
"""Two settings that a task has itself, besides those of the set-up."""

STEADY = ("hmux_share", "text_share", "worst_share", "smuxes", "max_link")
OVER_TIME = ("mean_hmux_share", "shuffled_share")


@dataclass(frozen=True)
class Sweep:
    """Axes with their values, as text, in the order given; `migrations` follows the trace over time as
    well.
    """

    axes: tuple[tuple[str, tuple[str, ...]], ...]
    migrations: bool = False

    @classmethod
    def of(cls, settings: Sequence[str], scale: Scale, *, migrations: bool = False) -> Sweep:
        """Read `PATH=V1,V2` settings; ValueError names what is wrong with one, before anything runs."""
        axes: dict[str, tuple[str, ...]] = {}
        for text in settings:
            path, equals, values = text.partition("=")
            found = tuple(value for value in values.split(",") if value)
            if not equals or not path or not found:
                raise ValueError(f"{text!r} is not of the form PATH=VALUE,VALUE")
            if path in axes:
                raise ValueError(f"{path} is set twice")
            axes[path] = tuple(dict.fromkeys(found))
        for path, found in axes.items():
            for value in found:
                _check(scale, path, value)
        return cls(tuple(axes.items()), migrations)

    def points(self) -> list[tuple[Setting, ...]]:
        """Return every combination of values."""
        return [
            tuple(zip((path for path, _ in self.axes), values, strict=True))
            for values in itertools.product(*(values for _, values in self.axes))
        ]

    def tasks(self, scale: Scale) -> list[Task[Any]]:
        """Return the work."""
        return [
            task for point in self.points() for seed in scale.seeds for task in self._at(scale, point, seed)
        ]

    def table(self, scale: Scale, found: Results) -> list[Row]:
        """Return one row per combination and seed."""
        rows: list[Row] = []
        for point in self.points():
            for seed in scale.seeds:
                row: Row = {path: _number(value) for path, value in point}
                row["seed"] = seed
                for task in self._at(scale, point, seed):
                    row |= _measured(task, found)
                rows.append(row)
        return rows

    def draw(self, table: list[Row]) -> dict[str, Drawing]:
        """Return a plot per swept setting and measure: its mean over seeds and the other settings, by
        strategy.
        """
        measures = [*STEADY, *(OVER_TIME if self.migrations else ())]
        swept = [path for path, values in self.axes if len(values) > 1]
        return {
            f"{path}-{measure}": self._plot(table, path, measure) for path in swept for measure in measures
        }

    def _plot(self, table: list[Row], path: str, measure: str) -> Drawing:
        fig, at = results.figure(figsize=(6.4, 4.0))
        values = dict(self.axes)[path]
        lines = dict(self.axes).get(STRATEGY, ("duet",)) if path != STRATEGY else ("",)
        numeric = all(isinstance(_number(value), float) for value in values)
        x: Any = [_number(value) for value in values] if numeric else range(len(values))
        for i, line in enumerate(lines):
            means = [
                estimate(
                    float(row[measure] or 0)
                    for row in table
                    if row[path] == _number(value) and (not line or row.get(STRATEGY, line) == line)
                )
                for value in values
            ]
            at.errorbar(
                x,
                [v.mean for v in means],
                yerr=[v.ci95 for v in means],
                color=SERIES[i % len(SERIES)],
                marker="o",
                capsize=3,
                label=line or None,
            )
        if not numeric:
            at.set_xticks(list(x), list(values))
        at.set(xlabel=path, ylabel=measure.replace("_", " "))
        at.set_title(f"{measure.replace('_', ' ')} against {path}")
        if lines != ("",):
            at.legend(fontsize=8.5)
        return fig

    def _at(self, scale: Scale, point: tuple[Setting, ...], seed: int) -> list[Task[Any]]:
        own = dict(point)
        name = own.pop(STRATEGY, "duet")
        rate = float(own.pop(TRAFFIC, max(scale.rates_tbps)))
        settings = tuple(own.items())
        found: list[Task[Any]] = [Place(seed, rate, name, settings)]
        return [*found, Follow(seed, rate, name, settings)] if self.migrations else found


def write(table: list[Row], folder: Path, name: str) -> list[Path]:
    """Write a table as CSV, and as Parquet where pyarrow is installed; return the paths."""
    paths = [results.write_csv(folder / f"{name}.csv", table)]
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        return paths
    path = folder / f"{name}.parquet"
    parquet.write_table(pa.Table.from_pylist(table), path)
    return [*paths, path]


def _check(scale: Scale, path: str, value: str) -> None:
    if path == STRATEGY:
        strategy(value, 0)
    elif path == TRAFFIC:
        try:
            rate = float(value)
        except ValueError:
            raise ValueError(f"{TRAFFIC}: {value!r} is no number") from None
        if not rate > 0:
            raise ValueError(f"{TRAFFIC} must be positive, not {value}")
    else:
        with_settings(replace(scale), ((path, value),)).topology()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _measured(task: Task[Any], found: Results) -> Row:
    if isinstance(task, Place):
        placed = found[task]
        counts: Row = {
            f"smuxes_{capacity / 1e9:g}g_{rule}": placed.smuxes(capacity / 1e9, rule)
            for capacity in SMUX_BPS
            for rule in CountRule
        }
        return {
            "total_bps": placed.total_bps,
            "hmux_share": placed.hmux_share,
            "routes": placed.routes,
            "text_share": placed.text_bps / placed.total_bps,
            "worst_share": placed.worst_bps / placed.total_bps,
            "smuxes": placed.smuxes(3.6, CountRule.PLACED),
            "max_link": placed.max_link,
            "seconds": placed.seconds,
            **counts,
        }
    followed = found[task]
    return {"mean_hmux_share": followed.hmux(), "shuffled_share": followed.shuffled()}


__all__ = ["STRATEGY", "TRAFFIC", "Sweep", "write"]
