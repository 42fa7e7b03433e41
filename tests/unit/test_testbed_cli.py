"""What `duet testbed run` takes down, and what it must not."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mininet_topos.cli import main
from mininet_topos.testbed import cli as testbed_cli
from mininet_topos.testbed import folder as folder_module
from mininet_topos.testbed import lifecycle, operation, preflight
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.plan import Plan


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for testbeds, on a machine that could have one."""
    monkeypatch.setattr(folder_module, "ROOT", tmp_path / "duet")
    monkeypatch.setattr(lifecycle, "ROOT", tmp_path / "duet")
    for check in ("_kernel", "_capabilities", "_programs", "_memory"):
        monkeypatch.setattr(preflight, check, lambda *_: [])
    return tmp_path / "duet"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch a testbed that is a folder and nothing else."""
    monkeypatch.setattr(lifecycle, "launch", lambda folder, plan, tell: folder.create())


def run() -> Result:
    return CliRunner().invoke(main, ["testbed", "run", "--name", "dt", "--no-shell"])


def test_a_testbed_of_that_name_which_is_up_stays_up(root: Path) -> None:
    Folder("dt").create()
    result = run()
    assert result.exit_code == 1
    assert "there is a testbed named 'dt' already" in result.output
    assert "is down" not in result.output
    assert Folder("dt").configs.is_dir()


def test_one_that_came_up_meanwhile_stays_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check", lambda *_: Folder("dt").create())
    result = run()
    assert result.exit_code == 1
    assert "there is a testbed named 'dt' already" in result.output
    assert "is down" not in result.output
    assert Folder("dt").configs.is_dir()


def test_where_nothing_was_started_nothing_is_said_to_be_down(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_memory", lambda: ["only 3 MB of memory are free"])
    result = run()
    assert result.exit_code == 1
    assert "the testbed cannot start:\n  - only 3 MB of memory are free" in result.output
    assert "is down" not in result.output
    assert not root.exists()


@pytest.mark.usefixtures("launched")
def test_one_that_does_not_come_to_serve_is_taken_down(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def operate(*_: Any) -> None:
        raise TestbedError("BGP does not converge")

    monkeypatch.setattr(operation, "operate", operate)
    result = run()
    assert result.exit_code == 1
    assert "testbed 'dt' is down, nothing of it is left" in result.output
    assert "Error: BGP does not converge\n`duet testbed up --name dt` leaves it as it is" in result.output
    assert not root.exists()


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_and_kill_take_it_down(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    async def operate(*_: Any) -> None:
        os.kill(os.getpid(), number)
        await asyncio.sleep(5)

    monkeypatch.setattr(operation, "operate", operate)
    before = signal.signal(number, signal.SIG_DFL)  # Under nohup, a hang-up is ignored.
    try:
        result = run()
    finally:
        found = signal.signal(number, before)
    assert result.exit_code == 128 + number
    assert "testbed 'dt' is down, nothing of it is left" in result.output
    assert not root.exists()
    assert found is signal.SIG_DFL


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("ok", [True, False])
def test_the_verdict_is_the_exit_code(root: Path, monkeypatch: pytest.MonkeyPatch, ok: bool) -> None:
    async def operate(*_: Any) -> None:
        pass

    monkeypatch.setattr(operation, "operate", operate)
    monkeypatch.setattr(testbed_cli, "_check", lambda *_: ok)
    monkeypatch.setattr(testbed_cli, "_show", lambda _: None)
    result = run()
    assert result.exit_code == (0 if ok else 1)
    assert "testbed 'dt' is down, nothing of it is left" in result.output
    assert not root.exists()


def test_smuxes_are_on_those_of_the_first_three_tors_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def launch(folder: Folder, plan: Plan, tell: object) -> None:
        asked.append(plan.size.smux_tors)
        raise TestbedError("enough")

    monkeypatch.setattr(lifecycle, "launch", launch)
    for options in ([], ["--containers", "1"], ["--smux-tors", "4"], ["--smux-tors", ""]):
        CliRunner().invoke(main, ["testbed", "up", *options])
    assert asked == [(1, 2, 3), (1, 2), (4,), ()]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("1,a", "Invalid value for '--smux-tors': '1,a' is no list of numbers of ToRs"),
        ("5", "smux_tors: there is no ToR 5, the ToRs are 1..4"),
    ],
)
def test_a_wrong_tor_for_an_smux_is_named_with_its_option(given: str, says: str) -> None:
    result = CliRunner().invoke(main, ["testbed", "up", "--smux-tors", given])
    assert result.exit_code != 0
    assert says in result.output
