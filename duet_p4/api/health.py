"""What is known of the health of DIPs."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Address

from duet_p4.model import Model


class DipHealth(Model):
    """The health of a DIP as a VIP's check sees it.

    `up` is None until the first verdict: one success, or `fall` failures. `detail` says why the
    last check failed. A VIP without a check has no entry.
    """

    vip: IPv4Address
    dip: IPv4Address
    up: bool | None
    since: datetime
    checks: int
    detail: str = ""


class HealthReport(Model):
    """The health of every DIP that a server, or an SMux, checks: `reporter` is its name."""

    reporter: str
    dips: tuple[DipHealth, ...]
