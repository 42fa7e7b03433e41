"""A profile of a process: what it does in Python, and what the kernel does for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from duet_p4.bench.packets import floor_program
from mininet_topos.experiments import profile
from mininet_topos.experiments.profile import profiled

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]

BUSY = """
import os, time
from duet_p4 import stacks
from duet_p4.title import set_title

def adds_up(until):
    while time.process_time() < until:
        sum(range(2000))

def asks_the_kernel(until):
    while time.process_time() < until:
        os.urandom(1 << 18)

set_title("busy12.agent", [])
samples = stacks.prepare("busy12.agent")
samples.begin()
adds_up(time.process_time() + 0.7)
asks_the_kernel(time.process_time() + 0.5)
"""


def names(graph: Path) -> set[str]:
    titles = ET.parse(graph).getroot().iter("{http://www.w3.org/2000/svg}title")
    return {(title.text or "").rpartition(":")[0] for title in titles}


def test_a_bpf_program_that_is_gone_by_the_end_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "LOOK_S", 0.1)
    target = tmp_path / "gone.profile.svg"
    with profiled(target, "a program") as clock, floor_program() as (_, program):
        deadline = time.monotonic() + 30
        while not any(name.endswith("_encapsulate") for name in clock.programs.found.values()):
            assert time.monotonic() < deadline, "nobody has looked"
            time.sleep(0.02)
        until = time.process_time() + 0.3
        while time.process_time() < until:
            program.test_run(bytes(64), repeat=1_000_000)
    assert "bpf_prog_encapsulate" in names(target)


def test_a_flame_graph_has_python_functions_and_the_kernels_by_the_kind_of_process(tmp_path: Path) -> None:
    target = tmp_path / "busy.profile.svg"
    with profiled(target, "a busy process"):
        subprocess.run([sys.executable, "-c", BUSY], check=True)
    told = names(target)
    assert {"busy.agent", "<string>.adds_up"} <= told, told
    assert any(name.endswith("[k]") for name in told), told
    assert "DUET_STACKS" not in os.environ
