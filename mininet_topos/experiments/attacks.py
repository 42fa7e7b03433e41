"""`duet experiment attacks`: every attack on the paper's testbed, as a table of what stopped it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from duet_p4 import results
from mininet_topos import fattree
from mininet_topos.attacks.run import Tried
from mininet_topos.attacks.run import run as run_attacks
from mininet_topos.experiments import setting
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.plan import Plan

_SWITCHES = ("tor1", "agg1", "core1", None)
"""Who carries the VIPs; the SMuxes have the last."""


def run(
    testbed: str | None,
    name: str,
    out: Path,
    say: Callable[[str], None],
    small: bool,
    only: Iterable[str],
) -> dict[str, Any]:
    """Try all attacks, or `only` some, on a running testbed or on one of their own; returns the summary.

    Writes `attacks.json` to `out`.
    """
    if testbed is not None:
        folder = Folder(testbed)
        plan = Plan.load(folder)
        found = run_attacks(folder, fattree.fattree(plan.size), say, small=small, only=only)
    else:
        with setting.running(name, list(_SWITCHES), controller=True, say=say) as running:
            found = run_attacks(running.folder, running.graph, say, small=small, only=only)
    rows = [_row(tried) for tried in found]
    summary = {"attacks": rows, "tried": len(rows), "succeeded": sum(row["succeeded"] for row in rows)}
    out.mkdir(parents=True, exist_ok=True)
    results.write_json(out / "attacks.json", summary)
    return summary


def _row(tried: Tried) -> dict[str, Any]:
    attack = tried.attack
    return {
        "name": attack.name,
        "tried": attack.tried,
        "defence": attack.defence,
        "succeeded": tried.succeeded,
        "failed": tried.failed,
        "seen": tried.seen,
        "seconds": round(tried.seconds, 2),
    }
