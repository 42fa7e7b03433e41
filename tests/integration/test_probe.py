"""The prober against a real kernel: a veth pair between two namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mininet_topos.experiments.probe import Samples

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    names = (f"dtp{os.getpid()}a", f"dtp{os.getpid()}b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "v", "netns", names[0], "type", "veth", "peer", "name", "v", "netns", names[1])
        for name, address in zip(names, ("10.9.9.1/24", "10.9.9.2/24"), strict=True):
            ip("-n", name, "addr", "add", address, "dev", "v")
            ip("-n", name, "link", "set", "v", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_a_target_that_answers_is_timed_and_one_that_is_not_there_is_lost(
    namespaces: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "samples.npz"
    command = [sys.executable, "-m", "mininet_topos.experiments.probe", "10.9.9.2", "10.9.9.99"]
    command += ["--interval-ms", "3", "--duration-s", "0.6", "--out", str(out)]
    subprocess.run(["ip", "netns", "exec", namespaces[0], *command], check=True, timeout=60)
    samples = Samples.load(out)
    assert samples.sent.shape == (200, 2)
    assert not samples.lost[:, 0].any() and samples.lost[:, 1].all()
    assert np.nanmin(samples.rtt) > 0
    assert samples.outages(0) == []
    ((_, seconds),) = samples.outages(1)
    assert seconds == pytest.approx(0.6, abs=0.1)


def test_targets_take_turns_within_an_interval(namespaces: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "samples.npz"
    command = [sys.executable, "-m", "mininet_topos.experiments.probe", "10.9.9.2", "10.9.9.2", "10.9.9.2"]
    command += ["--interval-ms", "60", "--duration-s", "0.6", "--in-turn", "--out", str(out)]
    subprocess.run(["ip", "netns", "exec", namespaces[0], *command], check=True, timeout=60)
    samples = Samples.load(out)
    assert samples.sent.shape == (10, 3) and not samples.lost.any()
    assert samples.resolution_s == pytest.approx(0.02)
    assert (samples.lateness > -0.005).all(), "none before its turn"
