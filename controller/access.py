"""Who may ask the controller for what, and how much at once."""

from __future__ import annotations

from duet_p4.identity import Role
from duet_p4.reporter import HEALTH_REPORTS, PORT_REPORTS
from duet_p4.rest.access import Access
from duet_p4.rest.bounds import MIB, Bodies

ACCESS = Access(
    writes={
        HEALTH_REPORTS: frozenset({Role.SMUX, Role.SERVER}),
        PORT_REPORTS: frozenset({Role.SWITCH}),
    }
)
"""Operators and the controller's own modules write; agents report, each in its own name, and no more."""

BODIES = Bodies(
    by_path={
        "/v1/assignment": 64 * MIB,
        "/v1/assignment/plan": 64 * MIB,
        "/v1/assignments": 64 * MIB,
        "/v1/vips/apply": 64 * MIB,
    }
)
"""An assignment names up to a million VIPs."""
