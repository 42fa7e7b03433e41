"""When agents have told their switches what leads around a port, as their logs say."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mininet_topos.experiments import agent_logs
from mininet_topos.experiments.agent_logs import AgentLogs
from mininet_topos.testbed.folder import Folder

VIP = IPv4Address("10.0.0.1")


def line(ago_s: float, what: str) -> str:
    at = datetime.fromtimestamp(time.time() - ago_s).isoformat(timespec="microseconds")
    return f"{at} DEBUG   agg1 switch_agent.fib: {what}\n"


MIRRORED = f"mirrored {VIP}/32, 10.0.0.2/32 and 148 more: 150 rows in 2.0 ms"
OTHER = "mirrored 172.30.0.1/32: 1 rows in 2.0 ms"
PREPARED = "detours are prepared: 166 rows in 5.0 ms"
NONE = "the switch prepares no detours: around a dead port leads this agent only"


@pytest.mark.parametrize(
    ("lines", "ready"),
    [
        ([], True),
        ([(3, MIRRORED), (2, PREPARED)], True),
        ([(3, MIRRORED), (2, PREPARED), (1, OTHER)], True),
        ([(4, NONE), (3, MIRRORED)], True),
        ([(3, PREPARED), (2, MIRRORED)], False),
        ([(3, MIRRORED), (-60, PREPARED)], False),
    ],
    ids=["nothing said", "prepared", "of no concern", "cannot be", "changed since", "not for long"],
)
def test_what_leads_around_a_port_is_prepared_once_nothing_has_changed_since(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: list[tuple[float, str]], ready: bool
) -> None:
    monkeypatch.setattr(agent_logs, "PREPARED_S", 0.05)
    monkeypatch.setattr(Folder, "logs", tmp_path)
    (tmp_path / "agg1.agent.log").write_text("".join(line(*one) for one in lines))
    with closing(AgentLogs(Folder("any"), ["agg1"])) as logs:
        if ready:
            logs.await_prepared(["agg1"], [VIP])
            return
        with pytest.raises(TimeoutError, match="agg1 prepares nothing"):
            logs.await_prepared(["agg1"], [VIP])
