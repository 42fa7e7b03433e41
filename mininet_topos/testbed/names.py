"""What to say of a name that is none: those that look alike, or else which there are, in short."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_ALIKE = 3


def hint(name: str, names: Iterable[str]) -> str:
    """Return names like `name`, or else all names, of a series the first and last only."""
    known = sorted(names)
    if alike := difflib.get_close_matches(name, known, n=_ALIKE, cutoff=0.6):
        return f"did you mean {' or '.join(alike)}?"
    return f"there are {', '.join(_series(known))}"


def _series(names: Iterable[str]) -> list[str]:
    numbers: dict[str, list[int]] = {}
    for name in names:
        found = re.fullmatch(r"(.*?)(\d+)?", name)
        assert found is not None
        numbers.setdefault(found[1], []).extend([int(found[2])] if found[2] else [])
    said = []
    for stem, counted in numbers.items():
        if len(counted) > 2 and max(counted) - min(counted) + 1 == len(counted):
            said.append(f"{stem}{min(counted)} to {stem}{max(counted)}")
        else:
            said += [f"{stem}{number}" for number in sorted(counted)] or [stem]
    return said
