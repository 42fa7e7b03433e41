"""The testbed's shell: what TAB offers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mininet_topos.testbed import shell as shell_module
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.protocol import Answer
from mininet_topos.testbed.shell import Shell


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(shell_module, "ask", lambda *_: Answer())
    monkeypatch.setattr(shell_module.CLI, "__init__", lambda *_: None)
    nodes = dict.fromkeys(("tor1", "core1", "server1", "client1"))
    switches = [SimpleNamespace(name="tor1"), SimpleNamespace(name="core1")]
    return Shell(SimpleNamespace(nameToNode=nodes, switches=switches), Folder("dt"))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vip mig", ["migrate"]),
        ("vip migrate ", []),
        ("vip migrate 10.0.0.1 ", ["core1", "tor1", "smux"]),
        ("vip migrate --json 10.0.0.1 t", ["tor1"]),
        ("testbed fail ", ["client1", "core1", "server1", "tor1"]),
        ("testbed logs s", ["server1"]),
    ],
)
def test_what_may_follow_is_offered(shell: Shell, line: str, offered: list[str]) -> None:
    begin = line.rindex(" ") + 1
    command = line.split()[0]
    assert getattr(shell, f"complete_{command}")(line[begin:], line, begin, len(line)) == offered
