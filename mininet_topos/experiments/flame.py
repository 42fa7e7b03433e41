"""Flame graphs: stacks as bars on bars, each as wide as its share of the samples, in SVG."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

WIDTH, ROW = 1200, 16
PROGRAM = "bpf_prog_"
"""What names of BPF programs begin with."""
_MARGIN, _TITLE = 10, 34
_LETTER = 6.2
_LEAST = 0.3
"""Bars that are narrower than so many pixels are left out."""


@dataclass
class Frame:
    """A function in one place of a stack: what it and all that it called took, in samples."""

    name: str
    samples: float = 0.0
    within: dict[str, Frame] = field(default_factory=dict)

    def add(self, stack: tuple[str, ...], samples: float) -> None:
        """Add samples of a stack, the outermost function first."""
        at = self
        at.samples += samples
        for name in stack:
            at = at.within.setdefault(name, Frame(name))
            at.samples += samples

    @property
    def depth(self) -> int:
        """How many bars stand on each other."""
        return 1 + max((inner.depth for inner in self.within.values()), default=0)


def graph(stacks: Mapping[tuple[str, ...], float], title: str) -> str:
    """Return the SVG of stacks, each the names of functions from the outermost in, with its samples."""
    root = Frame("all")
    for stack, samples in stacks.items():
        root.add(stack, samples)
    height = _TITLE + ROW * root.depth + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="10">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="20" font-size="14">{escape(title)}</text>',
    ]
    scale = (WIDTH - 2 * _MARGIN) / max(root.samples, 1)
    lines += _bars(root, float(_MARGIN), height - _MARGIN - ROW, scale, max(root.samples, 1))
    return "\n".join([*lines, "</svg>", ""])


def _bars(frame: Frame, left: float, top: float, scale: float, total: float) -> Iterator[str]:
    width = frame.samples * scale
    if width < _LEAST:
        return
    share = f"{frame.name}: {100 * frame.samples / total:.1f}%"
    letters = int((width - 4) / _LETTER)
    shown = frame.name if len(frame.name) <= letters else f"{frame.name[: letters - 1]}…"
    yield f"<g><title>{escape(share)}</title>"
    place = f'x="{left:.1f}" y="{top:.0f}" width="{width:.1f}" height="{ROW - 1}"'
    yield f"<rect {place} fill={_colour(frame.name)}/>"
    if letters > 2:
        yield f'<text x="{left + 2:.1f}" y="{top + 11:.0f}">{escape(shown)}</text>'
    yield "</g>"
    for inner in sorted(frame.within.values(), key=lambda one: one.name):
        yield from _bars(inner, left, top - ROW, scale, total)
        left += inner.samples * scale


def _colour(name: str) -> str:
    """Return a colour that a name always has: BPF programs blue, the kernel's own green, all else warm."""
    shade = zlib.crc32(name.encode()) % 60
    if name.endswith("[k]"):
        return quoteattr(f"#{0x90 + shade:02x}e0{0x80 + shade:02x}")
    if name.startswith(PROGRAM):
        return quoteattr(f"#{0x70 + shade:02x}{0xA0 + shade:02x}ff")
    return quoteattr(f"#ff{0x90 + shade:02x}{0x50 + shade // 2:02x}")
