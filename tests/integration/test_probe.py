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
from tests.integration.netns import inside

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


def probing(namespace: str, out: Path, *words: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mininet_topos.experiments.probe", "10.9.9.2", "--out", str(out), *words]
    with inside(namespace):
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds)


def test_what_others_of_the_same_node_are_answered_takes_no_room_from_a_prober(
    namespaces: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "samples.npz"
    ready, write = os.pipe()
    # Its next look at its socket is when others have had all their answers.
    seldom = ["--interval-ms", "4000", "--duration-s", "8", "--ready-fd", str(write)]
    with probing(namespaces[0], out, *seldom, pass_fds=(write,)) as prober:
        os.close(write)
        with os.fdopen(ready, "rb") as pipe:
            assert pipe.read(1)
        often = ["--interval-ms", "0.1", "--duration-s", "1.5"]
        with probing(namespaces[0], tmp_path / "others.npz", *often) as others:
            assert others.wait(timeout=60) == 0, others.communicate()[1]
        assert prober.wait(timeout=60) == 0, prober.communicate()[1]
    assert Samples.load(tmp_path / "others.npz").sent.size == 15_000
    assert Samples.load(out).sent.size == 2 and not Samples.load(out).lost.any()


def test_a_prober_that_has_no_room_for_an_answer_does_not_call_it_lost(
    namespaces: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "samples.npz"
    often = ["--interval-ms", "0.1", "--duration-s", "0.2", "--buffer-bytes", "4096"]
    with probing(namespaces[0], out, *often) as prober:
        _, said = prober.communicate(timeout=60)
    assert prober.returncode == 1 and "had no room for" in said and "answers" in said
    assert not out.exists()
