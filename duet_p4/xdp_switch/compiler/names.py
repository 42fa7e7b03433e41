"""C identifiers for P4 names: readable, and never one for two.

A P4 name may be a C keyword, and `a.b_c` and `a_b.c` may both be there. So a name's identifier is looked
up, not computed: within a kind of thing (tables, headers, ...) each name has an identifier of its own, and
in the C it stands behind a prefix of its kind, which no C keyword starts with.
"""

from __future__ import annotations

import re


class Names:
    """The identifiers of one program, made in the order in which they are asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._taken: set[tuple[str, str]] = set()

    def __call__(self, kind: str, name: str) -> str:
        """Return the identifier of a name among those of its kind, without a prefix."""
        known = self._known.get((kind, name))
        if known is not None:
            return known
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        chosen, number = plain, 2
        while (kind, chosen) in self._taken:
            chosen, number = f"{plain}_{number}", number + 1
        self._taken.add((kind, chosen))
        self._known[kind, name] = chosen
        return chosen
