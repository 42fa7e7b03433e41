"""What a testbed's processes find is planned without a trace, and written as it was planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from mininet_topos import fattree
from mininet_topos.fattree import FatTree
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.nodes import plan_processes
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.process_plan import File, ProcessPlan, StateFolder
from mininet_topos.testbed.routing import passwords

SMALL = FatTree(containers=1, tors=2, aggs=1, cores=1, servers=2, dip_servers=4, smux_tors=(1,))


@pytest.mark.parametrize("controllers", [0, 1, 3])
def test_a_plan_is_a_value_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, controllers: int
) -> None:
    monkeypatch.setattr("mininet_topos.testbed.folder.ROOT", tmp_path)
    graph = fattree.fattree(SMALL)
    keys = passwords(graph)
    folder, plan = Folder("planned"), Plan(size=SMALL, controllers=controllers)
    planned = plan_processes(graph, folder, plan, keys)
    assert planned == plan_processes(graph, folder, plan, keys)
    assert not any(tmp_path.iterdir())

    files = {file.path for file in planned.files}
    configured = [
        Path(process.arguments[1]) for process in planned.processes if process.arguments[0] == "--config"
    ]
    assert len(configured) == 4 + 1 + 4 + controllers and set(configured) <= files
    assert (folder.inventory in files) is bool(controllers)
    states = {state.path for state in planned.states}
    assert states >= {folder.state(name) for name in ("tor1", "agg1", "core1", "smux1", "server4")}
    assert len(planned.links) == controllers
    assert all(target.parent in states for _, target in planned.links)


def test_what_is_planned_is_written_and_private(tmp_path: Path) -> None:
    state, file, link = tmp_path / "state" / "tor1", tmp_path / "agent.json", tmp_path / "socket"
    plan = ProcessPlan((), (StateFolder(state),), (File(file, "{}"),), ((link, state / "socket"),))
    plan.write()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("{}", 0o600)
    assert state.is_dir() and state.stat().st_mode & 0o777 == 0o700
    assert link.readlink() == state / "socket"
