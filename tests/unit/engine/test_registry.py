"""Strategies by name: ours, and those of packages that are installed beside us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller.engine import Greedy, Random, Sticky, make_strategy, strategy_names


def test_the_strategies_of_the_engine_are_known_by_name_and_options() -> None:
    assert {"all-smux", "balanced", "greedy", "one-time", "random", "sticky"} <= set(strategy_names())
    assert make_strategy("greedy") == Greedy()
    assert make_strategy("sticky", delta=0.2) == Sticky(delta=0.2)
    assert make_strategy("sticky", delta=1) == Sticky(delta=1.0)
    assert make_strategy("random", seed=7) == Random(seed=7)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nearest", {}, r"no strategy 'nearest'; there are .*greedy"),
        ("greedy", {"delta": 0.1}, r"strategy greedy has no option 'delta'; it has none"),
        ("sticky", {"dleta": 0.1}, r"strategy sticky has no option 'dleta'; it has delta"),
        ("sticky", {"delta": "much"}, r"option delta is 'much', which is no float"),
        ("random", {"seed": 0.5}, r"option seed is 0\.5, which is no int"),
        ("random", {"seed": True}, r"option seed is True, which is no int"),
    ],
)
def test_a_wrong_name_or_option_is_refused_by_name(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_strategy(name, **options)


def test_a_strategy_of_another_package_needs_no_edit_of_ours(tmp_path: Path) -> None:
    (tmp_path / "my_strategies.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class FirstSwitch:\n"
        "    number: int = 0\n"
        "    name: str = 'first-switch'\n"
        "    def begin(self, topology, demands, previous):\n"
        "        return lambda candidates: self.number\n"
    )
    info = tmp_path / "my_strategies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-strategies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[duet.strategies]\nfirst-switch = my_strategies:FirstSwitch\n")
    code = (
        "from controller.engine import *\n"
        "from controller.config import ControllerConfig\n"
        "assert 'first-switch' in strategy_names() and 'greedy' in strategy_names()\n"
        "ControllerConfig(database='d', inventory='i', strategy='first-switch', insecure=True)\n"
        "t = Topology.fat_tree(FatTreeShape(2, 2, 2, 1))\n"
        "d = Demand('v', 1e9, {'tor1.1': 1.0}, {'tor2.1': 1.0}, TableUse(1, 8, 1))\n"
        "chosen = make_strategy('first-switch', number=5)\n"
        "print(assign(t, Demands.of([d], t), chosen).placement()['v'] == t.names[5])\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.stdout == "True\n", run.stderr
