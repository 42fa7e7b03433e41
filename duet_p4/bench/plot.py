"""The figure of `duet bench dataplane`: packets per second by frame size, for each subject."""

from __future__ import annotations

from pathlib import Path

from duet_p4 import results
from duet_p4.bench.dataplane import MAX_LOSS, Rate

_SUBJECTS = (
    ("floor", "one", "floor: encapsulate and redirect", results.GREY),
    ("xdp", "one", "hmux.p4 on xdp, 1 VIP", results.OURS),
    ("xdp", "full", "hmux.p4 on xdp, full tables", results.SERIES[1]),
    ("bmv2", "one", "hmux.p4 on bmv2, 1 VIP", results.SERIES[2]),
    ("bmv2", "full", "hmux.p4 on bmv2, full tables", results.SERIES[3]),
)


def draw(rates: list[Rate], path: Path) -> list[Path]:
    """Draw the rates as bars on a logarithmic scale and return the files."""
    sizes = sorted({rate.size for rate in rates})
    found = {(rate.subject, rate.fill, rate.size): rate for rate in rates}
    measured = {(rate.subject, rate.fill) for rate in rates}
    shown = [subject for subject in _SUBJECTS if subject[:2] in measured]
    figure, axes = results.figure()
    width = 0.8 / len(shown)
    for number, (subject, fill, label, colour) in enumerate(shown):
        offset = (number - (len(shown) - 1) / 2) * width
        there = [(place, size) for place, size in enumerate(sizes) if (subject, fill, size) in found]
        places = [place + offset for place, _ in there]
        heights = [found[subject, fill, size].pps / 1000 for _, size in there]
        bars = axes.bar(places, heights, width, color=colour, label=label)
        axes.bar_label(bars, fmt="{:.0f}", fontsize=7, padding=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(sizes)), [f"{size} bytes" for size in sizes])
    axes.set_ylabel(f"kpps, loss < {MAX_LOSS:.1%}")
    axes.set_title("HMux throughput")
    axes.margins(y=0.2)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    return results.save_figure(figure, path)
