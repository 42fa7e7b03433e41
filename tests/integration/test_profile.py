"""A profile of a process: what it does in Python, and what the kernel does for it."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

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


def test_a_flame_graph_has_python_functions_and_the_kernels_by_the_kind_of_process(tmp_path: Path) -> None:
    target = tmp_path / "busy.profile.svg"
    with profiled(target, "a busy process"):
        subprocess.run([sys.executable, "-c", BUSY], check=True)
    shown = ET.parse(target).getroot()
    told = {
        (title.text or "").rpartition(":")[0] for title in shown.iter("{http://www.w3.org/2000/svg}title")
    }
    assert {"busy.agent", "<string>.adds_up"} <= told, told
    assert any(name.endswith("[k]") for name in told), told
    assert "DUET_STACKS" not in os.environ
