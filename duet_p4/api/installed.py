"""Who has put something into a table, and when."""

from __future__ import annotations

from duet_p4.model import Model


class Installed(Model):
    """Who has put an entry there as it is (`by`), and when (`at`, Unix seconds); None where nobody knows."""

    at: float | None = None
    by: str | None = None
