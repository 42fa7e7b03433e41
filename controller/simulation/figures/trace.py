"""Figure 15: the trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from controller.simulation.figures.base import Figure, Row
from controller.simulation.profile import TALK_BYTE_CDF
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.tasks import Describe, Traced
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


class Skew(Figure[Traced]):
    """Cumulative shares over VIPs, DIPs per VIP, and traffic over time."""

    number = 15
    name = "trace"
    help = "Figure 15: the trace, its skew and its drift."
    paper = {  # noqa: RUF012
        "stated": "heavily skewed across VIPs; CDFs of bytes, packets and DIPs over VIPs; top 10% VIPs "
        "carry 99%",
        "byte_cdf": TALK_BYTE_CDF,
    }

    def tasks(self, scale: Scale) -> Sequence[Describe]:
        """Return the work that the figure needs."""
        return [Describe(scale.seeds[0])]

    def summarize(self, scale: Scale, results: Results) -> Traced:
        """Return the trace of the first seed."""
        return results[self.tasks(scale)[0]]

    def draw(self, summary: Traced) -> Drawing:
        """Draw it."""
        fig, (skew, dips, time) = results.figure(1, 3, figsize=(12, 4.0))
        for values, label, colour in (
            (summary.bytes, "bytes", OURS),
            (summary.packets, "packets", SERIES[1]),
            (summary.dips, "DIPs", SERIES[2]),
        ):
            skew.plot(summary.vips, values, color=colour, label=label)
        results.paper_points(
            skew, [x for x, _ in TALK_BYTE_CDF], [y for _, y in TALK_BYTE_CDF], "bytes (talk)"
        )
        skew.set(
            xscale="log", xlabel="share of VIPs, largest first", ylabel="cumulative share", ylim=(0, 1.04)
        )
        skew.set_title("Skew across VIPs")
        skew.legend(loc="upper left", fontsize=8.5)
        counts = np.maximum(summary.dip_counts, 0.9)
        dips.plot(counts, np.linspace(0, 1, len(counts)), color=OURS)
        dips.axvline(512, color=GREY, linestyle=":", linewidth=1.4)
        dips.text(470, 0.04, "above 512:\nthrough TIPs", color=GREY, fontsize=8.5, ha="right")
        dips.set(xscale="log", xlabel="DIPs of a VIP", ylabel="share of VIPs", ylim=(0, 1.04))
        dips.set_title("DIPs per VIP")
        minutes = np.arange(len(summary.total_bps)) * 10
        total = np.array(summary.total_bps)
        time.plot(minutes, total / total.mean(), color=OURS, label="all VIPs", linewidth=2.4)
        for example, colour in zip(summary.examples, (SERIES[1], SERIES[2], SERIES[3]), strict=False):
            rates = np.array(example.bps)
            time.plot(
                minutes, rates / rates.mean(), color=colour, linewidth=1.3, label=f"rank {example.rank:,}"
            )
        time.set(xlabel="minutes", ylabel="traffic over its mean")
        time.set_ylim(0, time.get_ylim()[1] * 1.3)
        time.set_title("Drift and bursts")
        time.legend(loc="upper left", ncols=2, fontsize=8.5)
        results.note(
            fig, "One seed. The byte CDF is the talk's, point by point, and the same for every seed."
        )
        return fig

    def rows(self, summary: Traced) -> list[Row]:
        """Return the cumulative shares."""
        columns = (summary.vips, summary.bytes, summary.packets, summary.dips)
        return [{"vips": v, "bytes": b, "packets": p, "dips": d} for v, b, p, d in zip(*columns, strict=True)]

    def headline(self, summary: Traced) -> str:
        """Say what the largest VIPs carry."""
        top = summary.bytes[min(int(np.searchsorted(summary.vips, 0.10)), len(summary.bytes) - 1)]
        return f"10% of the VIPs carry {top:.1%} of the bytes, the largest alone {summary.bytes[0]:.1%}"


FIGURE = Skew()
