"""What newcomers stumbled over: each is one clean line now.

What takes a network to see is elsewhere: a cut cable in `duet status` and on the page (`test_links.py`, the
journey `test_a_cut_cable_is_seen`), Ctrl-C in a capture and a node that is not there (`test_testbed.py`).
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from controller.cli import session as sessions
from controller.cli.render import where
from controller.cli.session import Session
from controller.config import ControllerConfig
from controller.records import VipRecord
from duet_p4.model import Dip, Group, MuxVip, Vip
from duet_p4.rest.client import UnansweredError
from mininet_topos.cli import main
from mininet_topos.testbed import cli as testbed_cli
from mininet_topos.testbed import folder as folder_module
from mininet_topos.testbed import namespaces, protocol, tables
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.names import hint
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Answer, Request, ask
from mininet_topos.testbed.supervisor import Crash

NODES = [*(f"tor{n}" for n in range(1, 5)), *(f"server{n}" for n in range(1, 61)), "agg1", "agg2", "root"]


class Closed:
    """A socket that root alone may connect."""

    def __init__(self, *_: object) -> None: ...
    def __enter__(self) -> Closed:
        return self

    def __exit__(self, *_: object) -> None: ...
    def settimeout(self, _: float) -> None: ...
    def connect(self, _: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")


def test_an_unknown_node_is_answered_with_those_that_look_alike() -> None:
    assert hint("tor9", NODES).startswith("did you mean tor")
    assert hint("server61", NODES).startswith("did you mean server")
    assert hint("xyz", NODES) == "there are agg1, agg2, root, server1 to server60, tor1 to tor4"


def test_a_dip_is_spelt_alike_in_yaml_json_and_on_the_command_line() -> None:
    spec = Vip.model_validate_json('{"address": "10.0.0.9", "dips": ["100.1.1.17", "100.1.2.17*3"]}')
    assert spec.dips == (
        Dip(address=IPv4Address("100.1.1.17")),
        Dip(address=IPv4Address("100.1.2.17"), weight=3),
    )
    for wrong in ("100.1.1", "100.1.1.17*", "100.1.1.17*x", "100.1.1.17*256", "", "100.1.1.17*1*1"):
        with pytest.raises(ValidationError):
            Dip.model_validate(wrong)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Invalid JSON"),
        ('{"database": "x", "inventory": "y", "misses": 0}', "misses: Input should be greater than or equal"),
        ("[]", "Input should be"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "controller.json"
    path.write_text(text)
    result = CliRunner().invoke(main, ["controller", "--config", str(path)])
    assert result.exit_code == 1
    assert f"{path} holds no valid {ControllerConfig.__name__}: " in result.output
    assert says in result.output
    assert "errors.pydantic.dev" not in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_configuration_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(main, ["controller", "--config", "/nonexistent/c.json"])
    assert result.output == "Error: /nonexistent/c.json: No such file or directory\n"


@pytest.mark.parametrize(
    "words",
    [
        "testbed exec tor1 true",
        "testbed logs tor1",
        "testbed down",
        "testbed check",
        "testbed shell",
        "testbed status",
        "testbed capture tor1 eth1",
        "testbed fail tor1",
        "testbed restore",
        "trace client1 10.0.0.1",
        "certificates list",
        "certificates rotate",
        "web",
        "status",
        "drain smux1",
        "flows",
    ],
)
def test_without_root_a_testbed_says_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def refusing(looks: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Path, *more: Any, **options: Any) -> Any:
            if tmp_path / "paper" in path.parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return looks(path, *more, **options)

        return look

    (tmp_path / "paper").mkdir()
    monkeypatch.setattr(folder_module, "ROOT", tmp_path)
    monkeypatch.setattr(sessions, "RUN", tmp_path / "paper")
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(protocol, "socket", SimpleNamespace(**vars(socket) | {"socket": Closed}))
    for looks in ("stat", "open"):
        monkeypatch.setattr(Path, looks, refusing(getattr(Path, looks)))
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 1, result.output
    assert "use sudo" in result.output
    assert len(result.output.strip().splitlines()) == 1, result.output


def test_in_a_node_that_has_failed_nothing_is_run_and_it_is_said_how_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "ROOT", tmp_path)
    monkeypatch.setattr(namespaces, "is_bound", lambda _: True)
    monkeypatch.setattr(namespaces, "enter", lambda _: pytest.fail("it was entered"))
    monkeypatch.setattr(testbed_cli, "ask", lambda *_: Answer(failed=("client1",)))
    result = CliRunner().invoke(main, ["testbed", "exec", "client1", "true"])
    assert result.exit_code == 1
    assert result.output == (
        "Error: client1 has failed, so nothing runs there: `duet testbed restore client1` brings it back\n"
    )


def test_what_ended_long_ago_does_not_stand_in_the_status_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(process: str, ago_s: float) -> Crash:
        at = time.time() - ago_s
        log = Path(f"root.{process}.log")
        return Crash(node="root", process=process, exit="killed by SIGKILL", at=at, tail=(), log=log)

    async def seen(_: Folder, graph: nx.Graph, launcher: Answer) -> tables.View:
        return tables.View(graph, {}, (), launcher)

    folder = Folder("dt")
    monkeypatch.setattr(folder_module, "ROOT", tmp_path)
    folder.path.mkdir()
    folder.plan.write_text(Plan().model_dump_json())
    told = Answer(crashes=(crash("controller", 600), crash("etcd", 3)))
    monkeypatch.setattr(testbed_cli, "ask", lambda *_: told)
    monkeypatch.setattr(tables, "view", seen)
    result = CliRunner().invoke(main, ["testbed", "status", "--name", "dt"])
    assert result.exit_code == 0, result.output
    assert "etcd ended by itself" in result.output
    assert "controller ended by itself" not in result.output


def test_a_launcher_that_may_not_be_asked_is_not_said_to_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "socket", SimpleNamespace(**vars(socket) | {"socket": Closed}))
    with pytest.raises(TestbedError, match=r"testbed 'paper' is root's: use sudo"):
        ask(Folder("paper"), Request(do="status"))


def test_the_controllers_socket_of_another_says_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Session) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", "/run/duet/paper/controller.sock")

    monkeypatch.setattr(sessions.Session, "client", refused)
    result = CliRunner().invoke(main, ["vip", "list"])
    assert result.exit_code == 1
    assert "controller.sock is the operator's alone: use sudo" in result.output


@pytest.mark.parametrize(("method", "goes_on"), [("POST", True), ("GET", False)])
def test_a_change_that_was_not_answered_in_time_says_that_it_may_go_on(
    monkeypatch: pytest.MonkeyPatch, method: str, goes_on: bool
) -> None:
    def unanswered(_: Session) -> Any:
        raise UnansweredError(f"{method} http://controller/v1/vips", method, 10.0)

    monkeypatch.setattr(sessions.Session, "client", unanswered)
    result = CliRunner().invoke(main, ["vip", "migrate", "10.0.0.1", "tor1"])
    assert result.exit_code == 1
    assert "no answer in 10.0 s" in result.output
    assert ("duet why ADDRESS --wait" in result.output) is goes_on


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "mininet_topos.cli", "simulate", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "Error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["change", "10.0.0.8"], "nothing is to be changed: give --dip, --add, --drop, --name or --file"),
        (["add"], "give either an address with --dip, or --file"),
        (["change"], "give either an address, or --file"),
    ],
)
def test_a_change_of_nothing_says_what_can_be_changed(words: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["vip", *words])
    assert result.exit_code == 2
    assert says in result.output


def test_a_vip_that_waits_for_its_switch_is_told_from_one_of_the_smuxes() -> None:
    spec = Vip(address=IPv4Address("10.0.0.8"), dips=(Dip(address=IPv4Address("100.1.1.17")),))
    layout = MuxVip(address=spec.address, group=Group.of(spec.dips))
    there = VipRecord(spec=spec, layout=layout, switch=None)
    assert where(there) == "SMuxes"
    assert where(there.model_copy(update={"returning": "tor1"})) == "SMuxes (waiting for tor1)"
