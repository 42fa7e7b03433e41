"""What is known of the health of DIPs."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Address

from duet_p4.model import VIP_CHECK, Checked, Model


class DipHealth(Model):
    """The health of a DIP as a VIP's check sees it.

    `up` is None until the first verdict: one success, or `fall` failures. `detail` says why the
    last check failed. A VIP without a check has no entry; `check` says whose it is, if not the VIP's own.
    """

    vip: IPv4Address
    dip: IPv4Address
    check: str = VIP_CHECK
    up: bool | None
    since: datetime
    checks: int
    detail: str = ""

    @property
    def checked(self) -> Checked:
        """What it is the health of."""
        return Checked(self.dip, self.check)


class HealthReport(Model):
    """The health of every DIP that a server, or an SMux, checks: `reporter` is its name."""

    reporter: str
    dips: tuple[DipHealth, ...]
