"""The one shape of a figure: what it needs, what it says, how it looks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.tasks import Placed, Task
from duet_p4.results import Estimate, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

S = TypeVar("S")
Cell = str | float | int | None
Row = dict[str, Cell]


class Figure(ABC, Generic[S]):
    """A figure: `S` is the dataclass of its summary, whose numbers the plot, the table and the docs show."""

    number: ClassVar[int | None]
    """In the paper; None for a figure of ours."""
    name: ClassVar[str]
    help: ClassVar[str]
    paper: ClassVar[Mapping[str, Any]]
    """What the paper, or its authors' talk, reports."""

    @abstractmethod
    def tasks(self, scale: Scale) -> Sequence[Task[Any]]:
        """Return the work that the figure needs."""

    @abstractmethod
    def summarize(self, scale: Scale, results: Results) -> S:
        """Turn results into the figure's numbers."""

    @abstractmethod
    def draw(self, summary: S) -> Drawing:
        """Draw it."""

    @abstractmethod
    def rows(self, summary: S) -> list[Row]:
        """Return its numbers as a table."""

    @abstractmethod
    def headline(self, summary: S) -> str:
        """Say what it shows in a sentence."""

    @property
    def file(self) -> str:
        """The name of its picture, without suffix."""
        return f"fig{self.number}_{self.name}" if self.number else f"sim_{self.name}"


def flat(value: Any) -> Row:
    """Return a dataclass as a row: estimates become two columns, lists none, others stay."""
    row: Row = {}
    for one in fields(value):
        item = getattr(value, one.name)
        if isinstance(item, Estimate):
            row[one.name], row[f"{one.name}_ci95"] = item.mean, item.ci95
        elif not isinstance(item, list):
            row[one.name] = item
    return row


ALL_PLACED = 0.99
"""Of the traffic; an assignment that leaves more to the SMuxes ended at a large VIP."""


@dataclass(frozen=True)
class Ended:
    """An assignment that ended early: of which seed, after how many /32 routes, with what share on HMuxes."""

    seed: int
    routes: int
    hmux_share: float

    @classmethod
    def among(cls, seeds: Sequence[int], found: Sequence[Placed]) -> list[Ended]:
        """Return those of these assignments that ended early."""
        return [
            cls(seed, one.routes, one.hmux_share)
            for seed, one in zip(seeds, found, strict=True)
            if one.hmux_share < ALL_PLACED
        ]


def series(
    at: Axes,
    x: Sequence[float],
    values: Sequence[Estimate],
    label: str,
    colour: str,
    marker: str | None = None,
    style: str = "-",
) -> None:
    """Draw estimates with their intervals."""
    at.errorbar(
        x,
        [v.mean for v in values],
        yerr=[v.ci95 for v in values],
        label=label,
        color=colour,
        marker=marker,
        linestyle=style,
        capsize=3,
    )


def percent(value: Estimate) -> Estimate:
    """Return a share in percent."""
    return Estimate(100 * value.mean, 100 * value.ci95, value.n)


def plain_ticks(at: Axes, ticks: Sequence[float], axis: str = "x") -> None:
    """Put ticks at these values, written out."""
    one = at.xaxis if axis == "x" else at.yaxis
    one.set_ticks(ticks, [f"{tick:g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])
    one.set_ticks([], minor=True)


__all__ = [
    "ALL_PLACED",
    "Cell",
    "Ended",
    "Estimate",
    "Figure",
    "Row",
    "estimate",
    "flat",
    "percent",
    "plain_ticks",
    "series",
]
