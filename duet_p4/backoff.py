"""How long to wait before something that failed is tried again."""

from __future__ import annotations


class Backoff:
    """Waits that double from `first_s` to `longest_s`, until a success."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def failed(self) -> float:
        """Return how long to wait now that it failed again."""
        wait_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return wait_s

    def succeeded(self) -> None:
        """Begin anew."""
        self._next_s = self._first_s
