"""Python's collector of cycles, for services that keep very many objects for long."""

from __future__ import annotations

import gc


def relax() -> None:
    """Look for cycles rarely, and never among what is there now.

    Tables and records are many objects without cycles. By default a process that fills with them looks at all
    of them again and again, which costs a third of its time, and stalls it for as long as that takes.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
