"""The logic of `duet bench control`: when switches forward, as their logs tell, and what a ping saw."""

from __future__ import annotations

import asyncio
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest

from mininet_topos.experiments import agent_logs, control
from mininet_topos.experiments.agent_logs import AgentLogs
from mininet_topos.experiments.probe import Samples
from mininet_topos.testbed.folder import Folder

VIP = IPv4Address("10.0.0.1")
DAY = "2026-01-02T03:04:05"


def line(ms: int, what: str) -> str:
    return f"{DAY}.{ms:03d}000 DEBUG   tor1 switch_agent.fib: mirrored {what}: 1 rows in 2.0 ms\n"


def forwarding(monkeypatch: pytest.MonkeyPatch, path: Path, logs: dict[str, str], carrier: str = "") -> float:
    """Return how many ms after `DAY` every switch forwards, for an order given 100 ms after it."""
    for name, text in logs.items():
        (path / f"{name}.agent.log").write_text(text)
    monkeypatch.setattr(Folder, "logs", path)
    logs_ = AgentLogs(Folder("any"), list(logs))
    start = datetime.fromisoformat(DAY).timestamp()
    return (asyncio.run(logs_.forwarding(VIP, start + 0.1, carrier)) - start) * 1e3


def test_the_last_switch_counts_with_its_first_route(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    early, other = line(90, f"{VIP}/32"), line(105, "10.0.0.11/32")
    logs = {
        "tor1": early + other + line(110, f"10.0.0.11/32, {VIP}/32") + line(190, f"{VIP}/32"),
        "tor2": early + line(120, f"{VIP}/32"),
        "agg1": "2026-01-02T03:04:05.101000 INFO    agg1 switch_agent.agent: serves\n",
    }
    assert forwarding(monkeypatch, tmp_path, logs, carrier="agg1") == pytest.approx(120, abs=0.1)


def test_a_switch_that_never_learns_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agent_logs, "TIMEOUT_S", 0.05)
    logs = {"tor1": line(110, f"{VIP}/32"), "tor2": line(90, f"{VIP}/32")}
    with pytest.raises(TimeoutError, match=r"tor2 do not learn of 10\.0\.0\.1"):
        forwarding(monkeypatch, tmp_path, logs)


def test_only_a_ping_sent_after_the_switches_forward_proves_the_hmux() -> None:
    sent = np.array([[1.0], [2.0], [3.0]])
    received = np.array([[1.1], [np.nan], [3.2]])
    samples = Samples((VIP,), 1.0, sent[:, 0], sent, received)
    assert control._answered(samples, 1.5) == 3.2
    with pytest.raises(RuntimeError, match="never answers"):
        control._answered(samples, 3.5)
