"""Profiles: whose samples they are, what they are called, and how a flame graph shows them."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from duet_p4.stacks import Stacks
from mininet_topos.experiments import flame, profile

SVG = "{http://www.w3.org/2000/svg}"
KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81000800 t bpf_prog_load
ffffffff81001000 t veth_xmit	[veth]
ffffffff81002000 D jiffies
ffffffffc0001000 t bpf_prog_6deef7357e7b4530_pipeline	[bpf]
ffffffffc0002000 t bpf_prog_6deef7357e7b4530	[bpf]
"""


def test_kernel_functions_and_bpf_programs_have_their_names() -> None:
    symbols = profile.Symbols(KALLSYMS, {0xFFFFFFFFC0003000: "bpf_prog_6deef7357e7b4530_smux"})
    assert symbols.name(0xFFFFFFFF81000810) == "bpf_prog_load [k]"
    assert symbols.name(0xFFFFFFFF81001010) == "veth_xmit [k]"
    assert symbols.name(0xFFFFFFFF81002010) == "veth_xmit [k]"
    assert symbols.name(0xFFFFFFFFC0001FFF) == "bpf_prog_pipeline"
    assert symbols.name(0xFFFFFFFFC0002000) == "bpf_prog_"
    assert symbols.name(0xFFFFFFFFC0003010) == "bpf_prog_smux", "it is there no more, but was"
    assert symbols.name(0x1000) == "?"


def test_a_processs_own_time_is_shared_out_as_its_samples_say() -> None:
    clock = Counter({("tor.agent",): 30, ("tor.agent", "read [k]"): 5, ("bird",): 7})
    own = {"tor.agent": Counter({("main", "write"): 2, ("main",): 1})}
    assert profile.merged(clock, own) == {
        ("tor.agent", "main", "write"): 20,
        ("tor.agent", "main"): 10,
        ("tor.agent", "read [k]"): 5,
        ("bird",): 7,
    }


def test_processes_of_a_kind_are_one(tmp_path: Path) -> None:
    (tmp_path / "tor1.agent-812").write_text("a.main;a.write 3\n")
    (tmp_path / "tor2.agent-9").write_text("a.main;a.write 1\na.main 2\n")
    (tmp_path / "controller1.controller-10").write_text("c.main 1\n")
    assert profile.own_stacks(tmp_path) == {
        "tor.agent": {("a.main", "a.write"): 4, ("a.main",): 2},
        # The kernel has the first 15 letters of "controller1.controller".
        profile.kind("controller1.con"): {("c.main",): 1},
    }


def test_bars_are_as_wide_as_their_share_and_stand_on_their_callers() -> None:
    shown = ET.fromstring(flame.graph({("agent", "a<b"): 30.0, ("agent",): 10.0, ("bird",): 40.0}, "test"))
    bars = {}
    for group in shown.iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None and title.text is not None and box is not None
        bars[title.text] = {key: float(box.get(key) or 0) for key in ("x", "y", "width")}
    assert set(bars) == {"all: 100.0%", "agent: 50.0%", "a<b: 37.5%", "bird: 50.0%"}
    whole, agent, inner = bars["all: 100.0%"], bars["agent: 50.0%"], bars["a<b: 37.5%"]
    assert agent["width"] * 2 == whole["width"] == flame.WIDTH - 20
    assert inner["x"] == agent["x"] and inner["y"] + flame.ROW == agent["y"] == whole["y"] - flame.ROW


def test_a_file_of_samples_is_whole_after_each_write(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    samples = Stacks(descriptor)
    try:
        for number in range(1, 130):
            samples._sample(0, None)
            ((stack, count),) = [line.rpartition(" ")[::2] for line in path.read_text().splitlines()]
            assert stack == ""
            assert 0.85 * number <= int(count) <= number, "whoever is killed loses little"
        samples.write()
        assert path.read_text() == " 129\n"
    finally:
        os.close(descriptor)
